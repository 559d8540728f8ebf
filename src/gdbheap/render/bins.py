"""Free lists as lines and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gdbheap.ptmalloc.lists import ArenaLists, ChunkList, ListRow, TcacheLists, empty_lists
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, hex_size

#: Reads the rows of a list that are shown.
Rows = Callable[[ChunkList], Sequence[ListRow]]

_PLACE = f"    {'#':>5}  {'chunk':<14}  {'pointer':<14}  {'size':>8}"
_SINGLE = f"{_PLACE}  {'link as stored':<18}  leads to"
_DOUBLE = f"{_PLACE}  {'fd':<14}  bk"
_PLURALS = {
    "tcache": "tcache bin",
    "fastbin": "fastbin",
    "unsorted": "unsorted list",
    "small": "small bin",
    "large": "large bin",
}


def arena_lists_lines(found: ArenaLists, kinds: Sequence[str], rows: Rows, style: Plain) -> Iterator[str]:
    """Yield the lists of an arena that are of these ``kinds``."""
    yield f"{found.arena.name} at {style.paint('address', f'{found.arena.address:#x}')}"
    if found.arena.mutex:
        yield "  A thread holds its lock: the lists may be in the middle of a change."
    yield from _lists_lines([item for item in found.lists if item.kind in kinds], rows, style)
    yield from _empty_line(found.lists, found.totals, kinds)


def tcache_lines(found: TcacheLists, rows: Rows, style: Plain) -> Iterator[str]:
    """Yield the tcache of a thread, or why there is none."""
    if found.tcache is None:
        yield found.why if found.known else style.paint("bad", found.why)
        return
    address = style.paint("address", f"{found.tcache.address:#x}")
    yield f"tcache of thread {found.thread} at {address}, in the chunk at {found.tcache.chunk:#x}"
    yield from _lists_lines(found.lists, rows, style)
    yield from _empty_line(found.lists, found.totals, ("tcache",))


def _lists_lines(lists: Sequence[ChunkList], rows: Rows, style: Plain) -> Iterator[str]:
    header = ""
    for item in lists:
        yield f"  {style.paint('name', item.name)}, {range_text(item)}: {_amount(item)}; {limit_text(item)}"
        shown = rows(item)
        if shown and header != (header := _SINGLE if item.is_single else _DOUBLE):
            yield header
        for row in shown:
            yield _row(row, item.is_single)
        left_out = len(item.addresses) - len(shown)
        if left_out:
            yield f"    {count_of(left_out, 'more chunk')} left out: -count N or -all shows them."
        yield from (style.paint("bad", f"    {problem}") for problem in item.problems)
        if not item.complete:
            yield style.paint(
                "bad", "    The list could not be followed any further, so there may be more chunks on it."
            )


def _row(row: ListRow, single: bool) -> str:
    size = f"{row.size:#x}" if row.size else "?"
    place = f"    {row.position:>5}  {row.address:<#14x}  {row.pointer:<#14x}  {size:>8}"
    if single:
        following = "the end" if row.next == 0 else _link(row.next)
        return f"{place}  {_link(row.stored):<18}  {following}"
    return f"{place}  {_link(row.stored):<14}  {_link(row.back)}"


def _link(value: int | None) -> str:
    return "unreadable" if value is None else f"{value:#x}"


def range_text(item: ChunkList) -> str:
    """Return which chunks belong on a list."""
    if item.kind == "unsorted":
        return "chunks of any size"
    if item.high is None:
        return f"chunks of {item.low:#x} and more"
    return f"chunks of {item.low:#x}" if item.low == item.high else f"chunks of {item.low:#x} to {item.high:#x}"


def _amount(item: ChunkList) -> str:
    return f"{count_of(len(item.addresses), 'chunk')}, {hex_size(sum(item.sizes))}"


def limit_text(item: ChunkList) -> str:
    """Return how many chunks a list may have."""
    if item.limit is None:
        return "no limit"
    if not item.places:
        return f"full (at most {item.limit:,})"
    return f"room for {item.places:,} more (at most {item.limit:,})"


def _empty_line(lists: Sequence[ChunkList], totals: Mapping[str, int], kinds: Sequence[str]) -> Iterator[str]:
    parts = []
    for kind, empty in empty_lists(lists, totals, kinds).items():
        if empty:
            total = totals[kind]
            of_all = f"{empty} of {count_of(total, _PLURALS[kind])}" if empty < total else _every(kind, total)
            parts.append(of_all)
    if parts:
        yield f"  empty: {', '.join(parts)}"


def _every(kind: str, total: int) -> str:
    return f"the {_PLURALS[kind]}" if total == 1 else f"all {count_of(total, _PLURALS[kind])}"


def list_object(item: ChunkList, rows: Rows) -> dict[str, object]:
    """Return a list as JSON has it."""
    shown = rows(item)
    return {
        "kind": item.kind,
        "index": item.index,
        "low": item.low,
        "high": item.high,
        "count": len(item.addresses),
        "bytes": sum(item.sizes),
        "limit": item.limit,
        "places": item.places,
        "members": [
            {
                "position": row.position,
                "address": row.address,
                "pointer": row.pointer,
                "size": row.size,
                "stored": row.stored,
                "next": row.next,
                "back": row.back,
            }
            for row in shown
        ],
        "left_out": len(item.addresses) - len(shown),
        "complete": item.complete,
        "problems": list(item.problems),
    }


def _empty_object(
    lists: Sequence[ChunkList], totals: Mapping[str, int], kinds: Sequence[str]
) -> list[dict[str, object]]:
    return [{"kind": kind, "count": count} for kind, count in empty_lists(lists, totals, kinds).items()]


def arena_lists_object(found: ArenaLists, kinds: Sequence[str], rows: Rows) -> dict[str, object]:
    """Return the lists of an arena as JSON has them."""
    return {
        "name": found.arena.name,
        "address": found.arena.address,
        "locked": bool(found.arena.mutex),
        "lists": [list_object(item, rows) for item in found.lists if item.kind in kinds],
        "empty": _empty_object(found.lists, found.totals, kinds),
    }


def tcache_object(found: TcacheLists, rows: Rows) -> dict[str, object]:
    """Return the tcache of a thread as JSON has it."""
    return {
        "thread": found.thread,
        "address": None if found.tcache is None else found.tcache.address,
        "chunk": None if found.tcache is None else found.tcache.chunk,
        "known": found.known,
        "why": found.why or None,
        "lists": [list_object(item, rows) for item in found.lists],
        "empty": _empty_object(found.lists, found.totals, ("tcache",)),
    }
