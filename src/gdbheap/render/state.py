"""malloc's own variables as lines: parameters, top chunks, arenas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.params import ParamFact, Params
from gdbheap.ptmalloc.provenance import Provenance
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.unsettled import Lock
from gdbheap.render.escape import printable
from gdbheap.render.style import Plain
from gdbheap.render.tables import table
from gdbheap.render.units import count_of, hex_size, human_size
from gdbheap.render.unsettled import lock_lines


def _value(fact: ParamFact) -> str:
    if fact.unit == "bytes":
        return hex_size(fact.value)
    return f"{fact.value:#x}" if fact.unit == "address" else f"{fact.value}"


def _standing(fact: ParamFact) -> str:
    if fact.is_default is None:
        return "counter" if fact.unit != "address" else "address"
    if fact.is_default:
        return "default"
    default = f"{fact.default:#x}" if fact.unit == "bytes" and fact.default is not None else f"{fact.default}"
    return ("moved by malloc" if fact.dynamic else "set") + f", default {default}"


def params_lines(
    params: Params, facts: Sequence[ParamFact], how: Sequence[Provenance] | None, style: Plain
) -> Iterator[str]:
    """Yield mp_ field by field: its value, whether that is the default, and what sets it; then how it was found."""
    yield f"malloc_par mp_ at {style.paint('address', f'{params.address:#x}')}"
    rows = [
        (fact.name, _value(fact), _standing(fact), ", ".join(filter(None, (fact.mallopt, fact.tunable))) or "-")
        for fact in facts
    ]
    yield from table(("field", "value ", "", "set by"), rows)
    notes = [f"{fact.name}: {fact.note}" for fact in facts if fact.note]
    if notes:
        yield ""
        yield from notes
    if how is not None:
        yield ""
        yield from how_lines(how, style)


def how_lines(how: Sequence[Provenance], style: Plain) -> Iterator[str]:
    """Yield for each thing of glibc's where it is, and how that was found."""
    for item in how:
        whose = "" if item.thread is None else f" of thread {item.thread}"
        where = printable(item.text)
        if item.address is not None:
            where = f"at {style.paint('address', f'{item.address:#x}')}"
        yield f"{item.name}{whose}: {where}; {printable(item.how)}"


def largest_request(state: HeapState, arena: Arena) -> int | None:
    """Return the largest request, in bytes, that the arena's top serves without the kernel; None where none does."""
    if arena.top_size is None or not arena.has_top(state.abi):
        return None
    # use_top: top must hold the chunk and still be MINSIZE.
    largest = state.abi.max_request(arena.top_size - state.abi.min_size)
    return largest if largest >= 0 else None


def top_lines(state: HeapState, style: Plain) -> Iterator[str]:
    """Yield for each arena where its top chunk is, what is left in it and how far that goes."""
    rows = []
    for arena in state.ring.arenas:
        if not arena.has_top(state.abi):
            rows.append((arena.name, "none yet", "-", "-", "-"))
            continue
        size = arena.top_size
        largest = largest_request(state, arena)
        rows.append(
            (
                arena.name,
                f"{arena.top:#x}",
                "unreadable" if size is None else f"{size:#x} ({human_size(size)})",
                "unknown" if size is None else f"{arena.top + size:#x}",
                "none" if largest is None else f"{largest:,} bytes",
            )
        )
    yield from table(("arena", "top", "size ", "end", "largest request without the kernel "), rows)
    if state.ring.problem:
        yield style.paint("bad", state.ring.problem)


def arenas_lines(
    state: HeapState, threads: Mapping[int, Sequence[int]], locks: Sequence[Lock], style: Plain
) -> Iterator[str]:
    """Yield the arenas as a table; ``threads`` are GDB's thread numbers by the address of the arena they use.

    Below are the ``locks`` that are held: who holds each, and who waits for it.
    """
    rows = []
    problems = [state.ring.problem] if state.ring.problem else []
    for arena in state.ring.arenas:
        chain = state.heaps.get(arena.address)
        if chain is not None and chain.problem:
            problems.append(chain.problem)
        users = threads.get(arena.address, ())
        rows.append(
            (
                arena.name,
                f"{arena.address:#x}",
                kind_text(state, arena),
                f"{arena.system_mem:#x} ({human_size(arena.system_mem)})",
                f"{arena.max_system_mem:#x}",
                "held" if arena.mutex else "free",
                str(arena.attached_threads),
                " ".join(str(number) for number in users) or "-",
            )
        )
    yield from table(("arena", "address", "kind", "system_mem ", "at most ", "lock", "attached ", "threads"), rows)
    # The others stand above the table: what is out of the ordinary is said before it.
    yield from lock_lines([lock for lock in locks if not lock.is_conspicuous])
    for problem in problems:
        yield style.paint("bad", problem)


def kind_text(state: HeapState, arena: Arena) -> str:
    """Return what an arena's memory is: the break area, or mapped heaps."""
    if arena.is_main:
        return "brk" if arena.contiguous else "brk, not contiguous"
    chain = state.heaps.get(arena.address)
    return count_of(len(chain.heaps), "heap") if chain is not None else "heaps"
