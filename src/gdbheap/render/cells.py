"""What the two drawings of an arena share: what a cell looks like, and the lines that explain the drawing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gdbheap.ptmalloc.chunk import FASTBIN, FENCEPOST, FREE, LARGE, SMALL, TCACHE, TOP, UNSORTED, USED
from gdbheap.ptmalloc.extent import ALIGNMENT, FOREIGN, HEADER, KINDS, UNKNOWN, Area, ArenaMap, Spot, Window
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.render.escape import preview
from gdbheap.render.units import count_of, hex_size, human_size

PREVIEW = 24
#: A preview that is worth showing: text, not a stray letter or two.
_TELLING = re.compile(r"[^.]{4}")


@dataclass(frozen=True)
class Group:
    """Kinds of bytes that look the same: ``letter`` where a cell has no used bytes, ``mixed`` where it has some.

    ``role`` is the colour in a terminal and ``fill`` that in a picture. ``counted`` is whether they are chunks.
    """

    name: str
    kinds: tuple[int, ...]
    letter: str
    mixed: str
    role: str
    fill: str
    meaning: str
    counted: bool = True


GROUPS = (
    Group("used", (USED,), "", "", "used", "#4477aa", ""),
    Group("tcache", (TCACHE,), "T", "t", "tcache", "#66ccee", "free, in a thread's tcache"),
    Group("fastbin", (FASTBIN,), "F", "f", "fastbin", "#228833", "free, in a fastbin"),
    Group("unsorted", (UNSORTED,), "U", "u", "unsorted", "#aa3377", "free, not sorted into a bin yet"),
    Group("small", (SMALL,), "S", "s", "small", "#ccbb44", "free, in a small bin"),
    Group("large", (LARGE,), "L", "l", "large", "#ee8833", "free, in a large bin"),
    Group("free", (FREE,), "N", "n", "free", "#ee3344", "free, but on no list"),
    Group("top", (TOP,), ".", ":", "top", "#e4e4e4", "free, the top chunk"),
    Group("overhead", (FENCEPOST, HEADER, ALIGNMENT), "-", "", "name", "#777777", "malloc's own", counted=False),
    Group("foreign", (FOREIGN,), "x", "", "dim", "#bbaa99", "not malloc's", counted=False),
    Group("unknown", (UNKNOWN,), "?", "", "bad", "#000000", "not known: the walk stopped", counted=False),
)
_GROUP_OF = {kind: place for place, group in enumerate(GROUPS) for kind in group.kinds}
_BY_KIND = tuple(_GROUP_OF[kind] for kind in range(len(KINDS)))
_USED, _TOP, _UNKNOWN = 0, 7, 10
_IDLE = range(1, _TOP + 1)

#: How much of a cell is free, where some of it is used: nothing, up to a quarter, up to a half, more.
ONLY, SOME, MUCH, MOSTLY = range(4)


def by_group(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return sums by kind as sums by group, in the order of GROUPS."""
    found = [0] * len(GROUPS)
    for place, size in zip(_BY_KIND, sizes):
        found[place] += size
    return tuple(found)


def look_of(parts: Sequence[int]) -> tuple[int, int] | None:
    """Return what a cell looks like: the group (its place in GROUPS) that it shows, and how much of it is free.

    ``parts`` are its bytes by group. Nothing that matters is outvoted: any unknown byte makes it unknown, any used
    byte shows, and so does any free one beside it; the group is then the free one with the most bytes. None is for a
    cell that holds nothing.
    """
    if parts[_UNKNOWN]:
        return _UNKNOWN, ONLY
    used = parts[_USED]
    idle = sum(parts[place] for place in _IDLE)
    if not used:
        most = max(range(len(parts)), key=parts.__getitem__)
        return (most, ONLY) if parts[most] else None
    if not idle:
        return _USED, ONLY
    most = max(_IDLE, key=parts.__getitem__)
    share = idle / (idle + used)
    return most, SOME if share <= 0.25 else MUCH if share <= 0.5 else MOSTLY


@dataclass(frozen=True)
class Scene:
    """What is drawn of an arena, and what else is told about it.

    ``heaps`` are the heap_infos by address. ``content`` reads the first bytes of a chunk's user data, as many as it is
    asked for and as there are.
    """

    drawn: ArenaMap
    window: Window
    heaps: Mapping[int, HeapInfo]
    content: Callable[[Spot, int], bytes]

    @property
    def narrowed(self) -> bool:
        """Whether only a part of the arena is looked at."""
        return self.window != Window()


def cell_text(cell: int) -> str:
    """Return the size of a cell: ``16 bytes``, ``4 KiB``."""
    return human_size(cell)


def heading(scene: Scene) -> str:
    """Return a line on the arena, and on what part of it is drawn."""
    arena = scene.drawn.arena
    text = f"{arena.name} at {arena.address:#x}: {hex_size(arena.system_mem)} from the kernel"
    if scene.narrowed and scene.drawn.areas:
        areas = scene.drawn.areas
        text += f", drawn from {areas[0].start:#x} to {areas[-1].end:#x}"
    return text


def area_heading(scene: Scene, area: Area) -> str | None:
    """Return a line on a region, None where the arena's own says enough."""
    size = hex_size(area.end - area.start)
    heap = scene.heaps.get(area.address)
    if area.kind == "brk" or heap is None:
        if len(scene.drawn.areas) < 2:
            return None
        if area.behind_damage:
            return f"behind damage, known again from {area.start:#x} on, to {area.end:#x}: {size}"
        return f"region from {area.start:#x} to {area.end:#x}: {size}"
    spare = heap.mprotect_size - heap.size
    more = f", {human_size(spare)} more are accessible" if spare > 0 else ""
    return f"heap from {area.start:#x} to {area.end:#x}: {size} of {human_size(heap.max_size)} that are reserved{more}"


@dataclass(frozen=True)
class Entry:
    """A line of the legend: a group (its place in GROUPS) with its bytes and its chunks in what is drawn."""

    group: int
    size: int
    chunks: int

    @property
    def text(self) -> str:
        """The bytes, and the number of chunks where the group has any."""
        if not GROUPS[self.group].counted:
            return hex_size(self.size)
        return f"{hex_size(self.size)}, {count_of(self.chunks, 'chunk')}"


def entries(areas: Sequence[Area]) -> list[Entry]:
    """Return the legend of what is there."""
    sizes = by_group([sum(area.sizes[kind] for area in areas) for kind in range(len(KINDS))])
    counts = by_group([sum(area.counts[kind] for area in areas) for kind in range(len(KINDS))])
    return [Entry(place, size, count) for place, (size, count) in enumerate(zip(sizes, counts)) if size]


_GROUP_BY_NAME = {name: GROUPS[_BY_KIND[place]] for place, name in enumerate(KINDS)}


def facts(scene: Scene) -> Iterator[tuple[str, str]]:
    """Yield a word and a sentence for each thing that the drawing means: how fragmented it is, what keeps it long."""
    drawn = scene.drawn
    largest, last, below = drawn.largest, drawn.last_used, drawn.below_top
    complete = drawn.totals.complete
    if largest is None:
        yield "free", "no chunk is free." if complete else "no chunk is free as far as the arena could be walked."
    else:
        yield (
            "free",
            f"{hex_size(drawn.free)} in all without the top chunk{'' if complete else ', as far as could be walked'}; "
            f"the largest free chunk has {hex_size(largest.size)}, at {largest.address:#x} "
            f"({_GROUP_BY_NAME[largest.state].name}).",
        )
    if not complete:
        yield "last used", "not known, because not all of the arena could be walked."
    if last is None or drawn.free_below is None:
        return
    if drawn.free:
        share = f"{100 * drawn.free_below // drawn.free}%"
        yield (
            "below",
            f"{hex_size(drawn.free_below)} of that ({share}) lies below the last used chunk, so it cannot become part "
            "of the top chunk.",
        )
    text = preview(scene.content(last, PREVIEW), PREVIEW)
    content = f" Its first bytes: {text}" if _TELLING.search(text) else ""
    yield "last used", f"{last.address:#x}, {hex_size(last.size)}: the heap cannot end before it.{content}"
    if below is not None and below.address > last.address:
        yield (
            "below top",
            f"{below.address:#x}, {hex_size(below.size)}, {below.state}: it is free, but malloc keeps it apart, so it "
            "is not part of the top chunk.",
        )


def problems(scene: Scene) -> Iterator[str]:
    """Yield what is not sound in the arena, and what could not be walked."""
    name, found = scene.drawn.arena.name, scene.drawn.totals
    for problem in (*found.problems, *(gap.why for gap in found.gaps)):
        yield f"{name}: {problem}"
