"""An arena drawn to scale with characters, and what the characters mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from gdbheap.ptmalloc.extent import Area, common_cell
from gdbheap.render.cells import (
    GROUPS,
    MOSTLY,
    MUCH,
    ONLY,
    SOME,
    Scene,
    area_heading,
    by_group,
    cell_text,
    entries,
    facts,
    heading,
    look_of,
    problems,
)
from gdbheap.render.lines import wrapped
from gdbheap.render.style import Plain

#: How narrow and low a drawing can be, and how wide and high.
LEAST_WIDTH, MOST_WIDTH = 40, 1000
LEAST_ROWS, MOST_ROWS = 1, 1000
_USED = 0
_MARGIN = 10


@dataclass(frozen=True)
class Signs:
    """The characters of cells with used bytes: with no free ones, with up to a quarter, up to a half.

    ``shades`` is whether they let as much of the background through as is free.
    """

    only: str
    some: str
    much: str
    shades: bool


UNICODE = Signs("█", "▓", "▒", True)
ASCII = Signs("#", "%", "+", False)


def cells_in_row(width: int) -> int:
    """Return how many cells a row of ``width`` characters has: a power of two, so that rows begin at round addresses.

    The rest is for an address of 48 bits.
    """
    cells = 1
    while 2 * cells + len(f"{1 << 47:#x} ") <= width:
        cells *= 2
    return cells


def map_lines(scenes: Sequence[Scene], style: Plain, *, width: int, rows: int, ascii_only: bool) -> Iterator[str]:
    """Yield the drawings of arenas with their legends, in lines of at most ``width`` characters.

    ``rows`` is the most rows that a drawing has, but for an arena with more regions than that.
    """
    signs = ASCII if ascii_only else UNICODE
    for place, scene in enumerate(scenes):
        if place:
            yield ""
        yield from _arena(scene, style, signs, width, rows)
    if any(scene.drawn.areas for scene in scenes):
        yield ""
        yield from wrapped(
            f"Used, and some of it free: {signs.some} up to a quarter, {signs.much} up to a half, a small letter (: "
            "for top) more. The letter and the colour are those of the largest free part.",
            width,
        )


def _arena(scene: Scene, style: Plain, signs: Signs, width: int, rows: int) -> Iterator[str]:
    drawn = scene.drawn
    yield from (style.paint("heading", line) for line in wrapped(heading(scene), width))
    if drawn.areas:
        in_row = cells_in_row(width)
        cell = common_cell(drawn.areas, in_row, rows)
        yield from wrapped(f"a character stands for {cell_text(cell)}, a row for {cell_text(cell * in_row)}", width)
        for area in drawn.areas:
            text = area_heading(scene, area)
            if text is not None:
                yield from wrapped(text, width)
            yield from _rows(area, style, signs, cell, in_row)
        yield ""
        yield from _legend(scene, style, signs, width)
        for word, text in facts(scene):
            yield from _hanging(word, text, width)
    elif not scene.narrowed:
        yield from wrapped("It has no memory yet.", width)
    for problem in problems(scene):
        yield from (style.paint("bad", line) for line in wrapped(problem, width))


def _rows(area: Area, style: Plain, signs: Signs, cell: int, in_row: int) -> Iterator[str]:
    looks = [look_of(by_group(sizes)) for sizes in area.grid.coarsened(cell).cells()]
    for first in range(0, len(looks), in_row):
        address = area.grid.origin + first * cell
        painted = "".join(
            style.paint(role, text) if role else text for role, text in _runs(looks[first : first + in_row], signs)
        )
        yield f"{style.paint('address', f'{address:#014x}')} {painted}"


def _runs(looks: Sequence[tuple[int, int] | None], signs: Signs) -> Iterator[tuple[str, str]]:
    for look, alike in groupby(looks):
        length = sum(1 for _ in alike)
        if look is None:
            yield "", " " * length
        else:
            group, level = look
            role = GROUPS[group].role
            shaded = signs.shades and level in (SOME, MUCH)
            yield f"used on {role}" if shaded else role, sign_of(look, signs) * length


def sign_of(look: tuple[int, int], signs: Signs) -> str:
    """Return the character of a cell."""
    group, level = look
    if group == _USED:
        return signs.only
    if level == ONLY:
        return GROUPS[group].letter
    return {SOME: signs.some, MUCH: signs.much, MOSTLY: GROUPS[group].mixed}[level]


def _legend(scene: Scene, style: Plain, signs: Signs, width: int) -> Iterator[str]:
    shown = entries(scene.drawn.areas)
    if scene.narrowed:
        yield from wrapped("in what is drawn (chunks that are only partly in it are counted too):", width)
    for entry in shown:
        group = GROUPS[entry.group]
        letters = signs.only if entry.group == _USED else " ".join(filter(None, (group.letter, group.mixed)))
        meaning = f" ({group.meaning})" if group.meaning else ""
        sign = style.paint(group.role, letters) + " " * (3 - len(letters))
        first, *more = wrapped(f"{entry.text}{meaning}", width - 4 - _MARGIN)
        yield f"{sign} {group.name:<{_MARGIN - 1}} {first}"
        yield from (" " * (4 + _MARGIN) + line for line in more)


def _hanging(word: str, text: str, width: int) -> Iterator[str]:
    first, *more = wrapped(text, width - _MARGIN)
    yield f"{word:<{_MARGIN - 1}} {first}"
    yield from (" " * _MARGIN + line for line in more)
