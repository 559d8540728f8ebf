"""Recorded events by who made them, as a table and as JSON has them."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from gdbheap.growth.groups import Group
from gdbheap.render.callers import place_text
from gdbheap.render.escape import printable
from gdbheap.render.tables import table
from gdbheap.render.units import count_of, hex_size
from gdbheap.simulate.calls import SYSCALLS


def group_name(group: Group) -> str:
    """Return what the events of a group share."""
    return printable(group.name) if group.place is None else place_text(group.place)


def group_lines(groups: Sequence[Group], by: str, caught: Container[str], limit: int | None = None) -> Iterator[str]:
    """Yield the groups as a table, ``limit`` of them (None: all) and the rest in one row, and a row of sums.

    ``caught`` are the system calls that were always recorded.
    """
    shown = groups if limit is None else groups[:limit]
    rest = groups[len(shown) :]
    rows = [(group_name(group), *_figures([group])) for group in shown]
    if rest:
        rows.append((f"({len(rest):,} more)", *_figures(rest)))
    if len(groups) > 1:
        rows.append(("all", *_figures(groups)))
    yield from table((by, "events ", "got ", "gave back ", "still holds "), rows)
    unknown = sum(group.unknown for group in groups)
    if unknown:
        yield f"Of {count_of(unknown, 'event')} the amount is not known: what they got or gave back is not counted."
    missing = [name for name in SYSCALLS if name not in caught and name != "madvise"]
    if missing:
        yield f"Calls of {', '.join(missing)} were not recorded: what they got or gave back is not counted."


def _figures(groups: Sequence[Group]) -> tuple[str, ...]:
    events = sum(len(group.events) for group in groups)
    sums = (sum(getattr(group, name) for group in groups) for name in ("got", "gave_back", "holds"))
    return (f"{events:,}", *map(hex_size, sums))


def group_object(group: Group) -> dict[str, object]:
    """Return a group as JSON has it."""
    return {
        "name": group_name(group),
        "events": [event.id for event in group.events],
        "got": group.got,
        "gave_back": group.gave_back,
        "holds": group.holds,
        "unknown": group.unknown,
        "largest": group.largest,
    }
