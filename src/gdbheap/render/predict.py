"""What malloc would do next, as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gdbheap.render.calls import call_text, sum_lines
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, hex_size
from gdbheap.simulate.calls import Call, refused
from gdbheap.simulate.comparison import Comparison, ListChange, ValueChange, compare
from gdbheap.simulate.linux import is_placeholder
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import KINDS, Prediction
from gdbheap.simulate.outlook import Outlook, SizeClass
from gdbheap.simulate.trace import SOURCES, Step

_LABEL = 14


@dataclass(frozen=True)
class Setting:
    """For whom a prediction is made: sentences that say which thread, and what cannot be known."""

    thread: str
    limits: tuple[str, ...]


def _section(style: Plain, label: str, lines: Iterable[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        head = style.paint("heading", f"{label:<{_LABEL}}") if index == 0 else " " * _LABEL
        yield (head + line).rstrip()


def place(machine: Machine, address: int) -> str:
    """Return an address as it is shown: one that the kernel would choose has a name that says so."""
    if is_placeholder(machine.word_size, address):
        return f"an address that the kernel chooses (here {address:#x})"
    return f"{address:#x}"


def prediction_lines(
    found: Sequence[Prediction], setting: Setting, style: Plain, steps: bool, after: bool
) -> Iterator[str]:
    """Yield what each operation of a sequence does, and at the end what cannot be known."""
    yield setting.thread
    for number, item in enumerate(found, 1):
        yield ""
        name = f"${number} = " if KINDS[item.operation.name].returns == "pointer" and len(found) > 1 else ""
        yield style.paint("heading", f"{name}{item.operation.text()}")
        yield from _prediction(item, style, steps, after)
    yield ""
    for text in setting.limits:
        yield style.paint("dim", text)


def _prediction(item: Prediction, style: Plain, steps: bool, after: bool) -> Iterator[str]:
    yield from _section(style, _headings(item), _end(item, style))
    if item.end == "chunk" and item.source:
        yield from _section(style, "from", [SOURCES[item.source]])
    if steps:
        yield from _section(style, "steps", _steps(item.steps, style))
    else:
        looked = dict.fromkeys(step.text for step in item.steps if step.role == "look")  # each once
        yield from _section(style, "looked at", looked)
        yield from _section(style, "decided", [step.text for step in item.steps if step.role in ("take", "fail")])
        yield from _section(style, "moves", [step.text for step in item.steps if step.role == "move"])
    yield from _section(style, "system calls", _calls(item))
    yield from _section(style, "afterwards", _afterwards(item))
    if after:
        yield from _section(style, "changes", _changes(item, compare(item.before, item.after)))


def _headings(item: Prediction) -> str:
    return {"abort": "aborts", "crash": "crashes", "unknown": "unknown"}.get(item.end, "returns")


def _end(item: Prediction, style: Plain) -> Iterator[str]:
    machine = item.after
    if item.end == "chunk":
        assert item.result is not None
        assert item.chunk is not None
        stored = "0, and stores " if item.operation.name == "posix_memalign" else ""
        yield (
            f"{stored}{style.paint('address', place(machine, item.result))}: the chunk at "
            f"{place(machine, item.chunk)} of {item.chunk_size:#x} bytes, {item.usable:,} of them usable"
        )
    elif item.end == "null":
        if item.operation.name == "posix_memalign":
            yield f"{item.errno}, and stores no pointer"
        else:
            yield f"NULL, with errno {item.errno}" if item.errno else "NULL"
    elif item.end == "done":
        yield "nothing" if item.result is None else str(item.result)
    elif item.end == "abort":
        yield style.paint("bad", item.message or "")
    elif item.end == "crash":
        yield style.paint("bad", f"the program gets a SIGSEGV. {item.message}")
    else:
        yield style.paint("bad", f"from here on: {item.message}")


def _steps(steps: Sequence[Step], style: Plain) -> Iterator[str]:
    width = max((len(step.function) for step in steps), default=0)
    for number, step in enumerate(steps, 1):
        text = style.paint("bad", step.text) if step.role == "fail" else step.text
        yield f"{number:>3}  {step.role:<5}  {step.function:<{width}}  {text}"


def _calls(item: Prediction) -> Iterator[str]:
    if not item.calls:
        yield "none" if item.goes_on else "none up to there"
    for call, answer in item.calls:
        yield f"{call_text(call.syscall, call.args)}   {call.source}, path {call.path}"
        yield from (f"    {line}" for line in sum_lines(call))
        if refused(call, answer):
            yield "    The kernel refuses it: that is more than memory and swap together, or than there are addresses."
        elif call.syscall in ("mmap", "mremap") and is_placeholder(item.after.word_size, answer):
            yield "    Where it goes is for the kernel to choose."


def _afterwards(item: Prediction) -> Iterator[str]:
    machine = item.after
    arenas = [machine.main_arena]
    if machine.thread.arena and machine.thread.arena != machine.main_arena:
        arenas = [machine.thread.arena]
    for arena in arenas:
        top = machine.words[arena + machine.top_at]
        size = machine.size(top) if top else 0
        if size:
            yield f"the top chunk of {machine.name(arena)} is at {place(machine, top)} and has {hex_size(size)}"
        else:
            yield f"{machine.name(arena)} has no top chunk"


def _changes(item: Prediction, found: Comparison) -> Iterator[str]:
    if not found.lists and not found.values:
        yield "nothing"
    for change in found.lists:
        yield f"{_list_name(item.after, change)}: {_chunks(change.before, change.before_more)}"
        yield f"    -> {_chunks(change.after, change.after_more)}"
    for value in found.values:
        owner = "" if value.arena is None else f"{item.after.name(value.arena)}: "
        yield f"{owner}{value.name} {value.before:#x} -> {value.after:#x}"


def _list_name(machine: Machine, change: ListChange) -> str:
    owner = f" of {machine.name(change.arena)}" if change.arena is not None else ""
    kind = {"tcache": "tcache bin", "fastbin": "fastbin", "unsorted": "unsorted list"}.get(
        change.kind, f"{change.kind} bin"
    )
    return f"{kind}{owner}" if change.kind == "unsorted" else f"{kind} {change.index}{owner}"


def _chunks(chunks: Sequence[tuple[int, int]], more: bool) -> str:
    if not chunks:
        return "empty"
    return ", ".join(f"{address:#x} ({size:#x})" for address, size in chunks) + (", ..." if more else "")


def outlook_lines(found: Outlook, machine: Machine, setting: Setting, style: Plain) -> Iterator[str]:
    """Yield what can still be asked for without a system call."""
    yield setting.thread
    yield ""
    arena = machine.thread.arena or machine.main_arena
    if found.beyond:
        yield f"Of requests from {found.largest + 1:,} bytes on it is not known whether they need a system call:"
        yield f"  {found.beyond}"
    elif found.largest < 0:
        yield "No request can be served without a system call."
    else:
        yield f"The largest request that needs no system call now: {found.largest:,} bytes."
    if found.largest >= 0:
        yield (
            f"From the top chunk of {machine.name(arena)} {hex_size(found.top)} can be cut, as chunks; each chunk has "
            f"a header of {machine.word_size} bytes and is a multiple of {machine.align_mask + 1}."
        )
    least = "" if found.complete else "at least "
    yield (
        f"Its free chunks have {least}{hex_size(found.free)} besides, and those of the thread's tcache "
        f"{hex_size(found.cached)}."
    )
    yield ""
    yield f"{'chunk size':<22}  {'the next malloc':>15}  takes"
    for group in _groups(found.classes):
        first, last = group[0], group[-1]
        high = "and more" if last.high is None else f"to {last.high:#x}"
        sizes = f"{first.low:#x}" if first.low == last.high else f"{first.low:#x} {high}"
        asked = f"malloc({first.request})"
        yield f"{sizes:<22}  {asked:>15}  {_takes(first, len(group))}"
    if found.ends:
        yield f"Larger chunks ({count_of(found.ends, 'further class')} of sizes) need a system call.".replace(
            "further classs", "further classes"
        )
    yield ""
    for text in setting.limits:
        yield style.paint("dim", text)


def _groups(classes: Sequence[SizeClass]) -> Iterator[list[SizeClass]]:
    """Yield classes that follow each other and are served alike: from the same chunk, by the same means."""
    group: list[SizeClass] = []
    for item in classes:
        if group and _alike(group[-1], item):
            group.append(item)
            continue
        if group:
            yield group
        group = [item]
    if group:
        yield group


def _alike(one: SizeClass, other: SizeClass) -> bool:
    first, second = one.prediction, other.prediction
    return (first.end, first.source, first.chunk, first.message) == (
        second.end,
        second.source,
        second.chunk,
        second.message,
    )


def _takes(item: SizeClass, count: int) -> str:
    found = item.prediction
    if found.end != "chunk" or found.chunk is None:
        return f"{_headings(found)}: {found.message or 'NULL'}"
    return f"{place(found.after, found.chunk)}  {SOURCES[found.source]}"


def prediction_object(item: Prediction) -> dict[str, object]:
    """Return a prediction as JSON has it."""
    machine = item.after
    chosen = item.end == "chunk" and is_placeholder(machine.word_size, item.result or 0)
    return {
        "operation": item.operation.text(),
        "end": item.end,
        "result": item.result,
        "chosen_by_kernel": chosen,
        "source": item.source or None,
        "chunk": item.chunk,
        "size": item.chunk_size,
        "usable": item.usable,
        "errno": item.errno or None,
        "message": item.message,
        "steps": [_step_object(step) for step in item.steps],
        "calls": [_call_object(call, answer) for call, answer in item.calls],
        "notes": list(item.changes),
        **_comparison_object(compare(item.before, item.after)),
    }


def _step_object(step: Step) -> dict[str, object]:
    return {"role": step.role, "function": step.function, "text": step.text, "address": step.address}


def _call_object(call: Call, answer: int) -> dict[str, object]:
    return {
        "syscall": call.syscall,
        "args": list(call.args),
        "path": call.path,
        "terms": [{"name": term.name, "value": term.value} for term in call.terms],
        "total": call.total,
        "rounded": call.rounded,
        "multiple": call.multiple,
        "why": list(call.why),
        "source": call.source,
        "answer": answer,
    }


def _comparison_object(found: Comparison) -> dict[str, object]:
    return {
        "lists": [_list_object(change) for change in found.lists],
        "values": [_value_object(change) for change in found.values],
    }


def _list_object(change: ListChange) -> dict[str, object]:
    def chunks(items: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
        return [{"address": address, "size": size} for address, size in items]

    return {
        "kind": change.kind,
        "index": change.index,
        "arena": change.arena,
        "before": chunks(change.before),
        "before_more": change.before_more,
        "after": chunks(change.after),
        "after_more": change.after_more,
    }


def _value_object(change: ValueChange) -> dict[str, object]:
    return {"name": change.name, "arena": change.arena, "before": change.before, "after": change.after}


def setting_object(setting: Setting, machine: Machine) -> dict[str, object]:
    """Return for whom predictions are made, as JSON has it."""
    return {
        "thread": machine.thread.number,
        "arena": machine.thread.arena,
        "tcache": machine.thread.tcache,
        "limits": list(setting.limits),
    }


def outlook_object(found: Outlook) -> dict[str, object]:
    """Return what can still be asked for, as JSON has it."""
    return {
        "largest_request": found.largest,
        "top_bytes": found.top,
        "free_bytes": found.free,
        "tcache_bytes": found.cached,
        "complete": found.complete,
        "classes": [
            {
                "low": item.low,
                "high": item.high,
                "request": item.request,
                "end": item.prediction.end,
                "source": item.prediction.source or None,
                "chunk": item.prediction.chunk,
                "size": item.prediction.chunk_size,
            }
            for item in found.classes
        ],
        "classes_with_system_call": found.ends,
    }
