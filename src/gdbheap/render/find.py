"""Chunks that were found: as rows, as groups, as sums, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.chunk import STATES
from gdbheap.ptmalloc.counts import Counts
from gdbheap.ptmalloc.scan import Unreadable
from gdbheap.ptmalloc.search import FoundChunk, Group
from gdbheap.ptmalloc.whole import Missing
from gdbheap.render.chunks import BEHIND_TEXT, chunk_object, state_text
from gdbheap.render.escape import preview, printable
from gdbheap.render.style import DOUBT, Plain
from gdbheap.render.tables import table
from gdbheap.render.units import count_of, hex_size

_PREVIEW = 32


@dataclass(frozen=True)
class Wholeness:
    """What an answer does not cover: parts of the heap that were ``missing``, content that was ``unreadable``.

    ``problems`` are what is not sound in what was covered. ``changing`` is whether threads run, or are inside malloc.
    """

    missing: Sequence[Missing]
    unreadable: Sequence[Unreadable]
    problems: Sequence[str]
    changing: bool = False

    @property
    def complete(self) -> bool:
        """Whether everything that was to be looked at could be, and stood still."""
        return not self.missing and not self.unreadable and not self.changing


def found_line(found: Counts, whole: Wholeness) -> str:
    """Return how much was found: chunks, bytes, and both by state."""
    least = DOUBT if whole.changing else "" if whole.complete else "at least "
    if not found.chunks:
        return f"{least}no chunk was found" if whole.complete else "no chunk was found in what could be looked at"
    return f"{least}{count_of(found.chunks, 'chunk')}, {hex_size(found.bytes)}: {_states(found)}"


def _states(found: Counts) -> str:
    return ", ".join(f"{state} {count:,} ({size:#x})" for state, (count, size) in found.by_state().items())


def wholeness_lines(whole: Wholeness, style: Plain) -> Iterator[str]:
    """Yield what the answer does not cover, and what is not sound."""
    for part in whole.missing:
        yield style.paint("bad", f"not looked at: {_of(part)}{part.why}")
    for hole in whole.unreadable:
        text = f"not looked at: the contents from {hole.start:#x} to {hole.end:#x} cannot be read: {hole.reason}."
        yield style.paint("bad", text)
    said = {part.why for part in whole.missing} | {_of(part) + part.why for part in whole.missing}
    for problem in whole.problems:
        if problem not in said:
            yield style.paint("bad", problem)


def _of(part: Missing) -> str:
    if part.arena is None:
        return ""
    if part.end is None:
        return f"{part.arena}: "
    start = "an unknown address" if part.start is None else f"{part.start:#x}"
    return f"{part.arena} from {start} to {part.end:#x}: "


def row_lines(rows: Sequence[FoundChunk], content: Callable[[int, int], bytes], searched: bool) -> Iterator[str]:
    """Yield the heading and a row for each chunk.

    ``content`` reads bytes at an address. ``searched`` adds where in the user data the content is that was looked
    for; the preview then begins there. The arenas are named where any chunk is not in main_arena.
    """
    several_arenas = any(row.arena != "main_arena" for row in rows)
    arena_head = f" {'arena':<10}" if several_arenas else ""
    at_head = f" {'at':<8}" if searched else ""
    yield (f"{'address':<18} {'pointer':<18} {'size':>10} {'request':>10} {'state':<9}{arena_head}{at_head} content")
    for row in rows:
        chunk = row.chunk
        start = chunk.pointer if row.hit is None else row.hit
        room = max(chunk.pointer + chunk.request_max - start, 0)
        text = preview(content(start, min(_PREVIEW, room)), _PREVIEW)
        if row.class_name is not None:
            text = f"{printable(row.class_name)}  {text}"
        arena = f" {row.arena or 'mmapped':<10}" if several_arenas else ""
        at = f" {start - chunk.pointer:<+#8x}" if searched else ""
        yield (
            f"{chunk.address:<#18x} {chunk.pointer:<#18x} {chunk.size:>#10x} {chunk.request_max:>10} "
            f"{state_text(chunk):<9}{arena}{at} {text}"
        ).rstrip()
    if any(row.chunk.behind_damage for row in rows):
        yield BEHIND_TEXT


def group_lines(groups: Sequence[Group], total: Counts, abi: Abi, limit: int | None) -> Iterator[str]:
    """Yield the groups as a table for the classes, if any, and one for the sizes; ``limit`` is for each of them."""
    classes = [group for group in groups if group.class_name is not None]
    sizes = [group for group in groups if group.class_name is None]
    whole = max(total.bytes, 1)
    rows: list[tuple[str, ...]]
    if classes:
        rows = [(printable(group.class_name or ""), *_figures(group, whole)) for group in classes[:limit]]
        rows += _rest(classes, limit, "other class", "other classes", whole, ())
        yield from table(("class", "chunks ", "bytes ", "share ", "states"), rows)
        yield ""
        if sizes:
            untyped = _sum(sizes)
            yield f"no class known: {count_of(untyped.chunks, 'chunk')}, {hex_size(untyped.bytes)}"
            yield ""
    if sizes:
        rows = [(f"{group.size:#x}", _requests(abi, group), *_figures(group, whole)) for group in sizes[:limit]]
        rows += _rest(sizes, limit, "other size", "other sizes", whole, ("",))
        yield from table(("size ", "requests ", "chunks ", "bytes ", "share ", "states"), rows)
        yield ""


def _requests(abi: Abi, group: Group) -> str:
    """Return the requests in bytes that get chunks of the group's size."""
    size = group.size or 0
    if group.mmapped:
        return "mmapped"
    if size == abi.min_size:
        return f"0-{abi.max_request(size)}"
    return f"{abi.max_request(size) - abi.alignment + 1}-{abi.max_request(size)}"


def _figures(group: Counts, whole: int) -> tuple[str, str, str, str]:
    states = ", ".join(
        state if len(group.by_state()) == 1 else f"{state} {count:,}" for state, (count, _) in group.by_state().items()
    )
    return f"{group.chunks:,}", hex_size(group.bytes), f"{100 * group.bytes / whole:.1f}%", states


def _sum(groups: Sequence[Group]) -> Counts:
    total = Counts()
    for group in groups:
        for state, (count, size) in enumerate(zip(group.counts, group.sizes)):
            total.add(state, count, size)
    return total


def _rest(
    groups: Sequence[Group], limit: int | None, one: str, several: str, whole: int, empty: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """Return the last row of a table, which sums up the groups behind the limit; none where all are shown."""
    rest = groups[limit:] if limit is not None else ()
    if not rest:
        return []
    name = f"{len(rest):,} {one if len(rest) == 1 else several}"
    return [(name, *empty, *_figures(_sum(rest), whole))]


def unresolved_line(unresolved: int) -> str:
    """Return what is to be said of first words that may be those of objects whose class no symbol tells."""
    point = "points" if unresolved == 1 else "point"
    return (
        f"{count_of(unresolved, 'different first word')} {point} into data of the program or of a library, but into no "
        f"vtable that a symbol names: whether objects are there, and of which class, is not known"
    )


def find_object(
    found: Counts,
    whole: Wholeness,
    by: str | None,
    groups: Sequence[Group],
    rows: Sequence[FoundChunk],
    limit: int | None,
    unresolved: int,
) -> dict[str, object]:
    """Return what was found as JSON has it. ``limit`` is how many groups are kept of each kind."""
    classes = [group for group in groups if group.class_name is not None]
    sizes = [group for group in groups if group.class_name is None]
    kept = [*classes[:limit], *sizes[:limit]]
    listed = by is None and bool(rows)
    return {
        "found": _counts_object(found),
        "by": by,
        "groups": [
            {"class": group.class_name, "size": group.size, "mmapped": group.mmapped, **_counts_object(group)}
            for group in kept
        ],
        "groups_left_out": len(groups) - len(kept),
        "chunks": [
            {
                **chunk_object(row.chunk),
                "arena": row.arena,
                "class": row.class_name,
                "hit": row.hit,
            }
            for row in rows
        ],
        "left_out": found.chunks - len(rows) if listed else 0,
        "unresolved": unresolved,
        **wholeness_object(whole),
    }


def wholeness_object(whole: Wholeness) -> dict[str, object]:
    """Return what an answer does not cover as JSON has it."""
    return {
        "complete": whole.complete,
        "missing": [
            {"arena": part.arena, "start": part.start, "end": part.end, "why": part.why} for part in whole.missing
        ],
        "unreadable": [{"start": hole.start, "end": hole.end, "why": hole.reason} for hole in whole.unreadable],
        "problems": list(whole.problems),
    }


def _counts_object(counts: Counts) -> dict[str, object]:
    return {
        "chunks": counts.chunks,
        "bytes": counts.bytes,
        "states": {
            state: {"chunks": count, "bytes": size} for state, count, size in zip(STATES, counts.counts, counts.sizes)
        },
    }
