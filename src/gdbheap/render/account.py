"""The account of a heap as a table, as sums, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from gdbheap.ptmalloc.account import Account
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import STATES
from gdbheap.ptmalloc.totals import ArenaTotals
from gdbheap.render.state import kind_text, table
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, hex_size

_LISTED = ("tcache", "fastbin", "unsorted", "small", "large", "free")


def free_bytes(totals: ArenaTotals) -> int:
    """Return the bytes of free chunks, those in a tcache included, the top chunk not."""
    return sum(totals.sizes[state] for state in _LISTED)


def chunk_count(totals: ArenaTotals) -> int:
    """Return the number of chunks, the top chunk included, fenceposts not."""
    return sum(totals.counts.values()) - totals.counts["fencepost"]


def account_lines(account: Account, style: Plain) -> Iterator[str]:
    """Yield the overview: the arenas as a table, what is free by list, the mmapped chunks, and what is not sound."""
    rows = []
    for arena, totals in account.arenas:
        rows.append(
            (
                arena.name,
                f"{arena.address:#x}",
                kind_text(account.state, arena),
                f"{arena.system_mem:#x}",
                f"{totals.sizes['used']:#x}",
                f"{free_bytes(totals):#x}",
                f"{totals.sizes['top']:#x}",
                f"{totals.overhead:#x}",
                f"{totals.unaccounted:#x}" if totals.unaccounted else "-",
                f"{chunk_count(totals):,}",
            )
        )
    headers = ("arena", "address", "kind", "system_mem ", "used ", "free ", "top ", "overhead ", "unknown ", "chunks ")
    yield from table(headers, rows)
    yield ""
    counts = {state: sum(totals.counts[state] for _, totals in account.arenas) for state in STATES}
    sizes = {state: sum(totals.sizes[state] for _, totals in account.arenas) for state in STATES}
    yield f"used      {count_of(counts['used'], 'chunk')}, {_bytes(sizes['used'])}"
    listed = [f"{state} {counts[state]:,} ({sizes[state]:#x})" for state in _LISTED if counts[state]]
    total = sum(sizes[state] for state in _LISTED)
    yield f"free      {_bytes(total)}" + (f": {', '.join(listed)}" if listed else "")
    yield f"top       {_bytes(sizes['top'])}"
    params = account.state.params
    mmapped = count_of(params.get("n_mmaps"), "chunk")
    yield f"mmapped   {mmapped}, {_bytes(params.get('mmapped_mem'))} outside the arenas"
    for arena, totals in account.arenas:
        for gap in totals.gaps:
            start = "an unknown address" if gap.start is None else f"{gap.start:#x}"
            yield style.paint("bad", f"{arena.name}: not walked from {start} to {gap.end:#x}: {gap.why}")
        for problem in totals.problems:
            yield style.paint("bad", f"{arena.name}: {problem}")
    for problem in account.problems:
        yield style.paint("bad", problem)


def _bytes(size: int) -> str:
    return f"{hex_size(size)} bytes" if not size else hex_size(size)


def account_object(account: Account) -> dict[str, object]:
    """Return the account as JSON has it."""
    params = account.state.params
    return {
        "arenas": [_arena_object(account, arena, totals) for arena, totals in account.arenas],
        "mmapped": {"chunks": params.get("n_mmaps"), "bytes": params.get("mmapped_mem")},
        "mallinfo2": dict(account.mallinfo),
        "problems": list(account.problems),
    }


def _arena_object(account: Account, arena: Arena, totals: ArenaTotals) -> dict[str, object]:
    return {
        "name": arena.name,
        "address": arena.address,
        "kind": "brk" if arena.is_main else "heaps",
        "system_mem": arena.system_mem,
        "max_system_mem": arena.max_system_mem,
        "used": totals.sizes["used"],
        "free": free_bytes(totals),
        "top": totals.sizes["top"],
        "overhead": totals.overhead,
        "unaccounted": totals.unaccounted,
        "chunks": chunk_count(totals),
        "states": {state: {"chunks": totals.counts[state], "bytes": totals.sizes[state]} for state in STATES},
        "gaps": [{"start": gap.start, "end": gap.end, "why": gap.why} for gap in totals.gaps],
        "complete": totals.complete,
        "problems": list(totals.problems),
    }
