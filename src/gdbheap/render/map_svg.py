"""Arenas drawn to scale as one SVG file: cells that are filled by what is in them, and tell it under the mouse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from gdbheap.ptmalloc.extent import Area, common_cell
from gdbheap.render.cells import (
    GROUPS,
    Scene,
    area_heading,
    by_group,
    cell_text,
    entries,
    facts,
    heading,
    problems,
)
from gdbheap.render.lines import wrapped
from gdbheap.render.svg_elements import LINE_HEIGHT, MOST_TEXT, document, number, text_element, tooltip
from gdbheap.render.units import hex_size

_IN_ROW = 256
_ROWS = 64
_LEAST_ROWS = 8
#: The most cells that are drawn of one region.
MOST_CELLS = _IN_ROW * _ROWS

_LEFT = 140
_CELL_WIDTH = 4
_CELL_HEIGHT, _ROW_HEIGHT = 12, 15
#: What there is of a group is never drawn thinner than this, or it would not be seen.
_LEAST_HEIGHT = 2

_STYLE = """
.address { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 11px; fill: #555555; }
.heading { font-weight: bold; }
.bad { fill: #bb0000; }
g.cells:hover { opacity: 0.6; }
"""


def map_svg(scenes: Sequence[Scene], general_problems: Sequence[str]) -> str:
    """Return the picture as the text of an SVG file; the problems are those that are of no arena in particular."""
    page = _Page()
    page.text("The heap, to scale", "title", step=26)
    page.text(
        "A cell that holds several kinds of bytes is filled with each as far as there is of it, the used ones at its "
        "foot; the mouse tells how much."
    )
    page.y += LINE_HEIGHT / 2
    rows = max(_LEAST_ROWS, _ROWS // max(1, len(scenes)))
    for scene in scenes:
        _draw(page, scene, rows)
    for problem in general_problems:
        page.text(problem, "bad")
    title = "; ".join(heading(scene) for scene in scenes[:4])
    return document(f"The heap, to scale: {title}", int(page.y) + 10, _STYLE, page.body)


class _Page:
    """The elements so far, and how far down they reach."""

    def __init__(self) -> None:
        self.body: list[str] = []
        self.y = 32.0

    def text(self, text: str, kind: str = "", *, x: float = 20, step: float = LINE_HEIGHT) -> None:
        """Add a text in as many lines as it takes."""
        for line in wrapped(text, MOST_TEXT):
            self.body.append(text_element(x, self.y, line, kind))
            self.y += step


def _draw(page: _Page, scene: Scene, rows: int) -> None:
    areas = scene.drawn.areas
    page.text(heading(scene), "heading")
    if areas:
        cell = common_cell(areas, _IN_ROW, rows)
        page.text(f"A cell stands for {cell_text(cell)}, a row for {cell_text(cell * _IN_ROW)}.")
        for area in areas:
            text = area_heading(scene, area)
            if text is not None:
                page.text(text)
            _rows(page, area, cell)
        page.y += LINE_HEIGHT
        for entry in entries(areas):
            group = GROUPS[entry.group]
            page.body.append(_rect(20, page.y - 10, 12, 12, group.fill))
            meaning = f" ({group.meaning})" if group.meaning else ""
            page.text(f"{group.name}: {entry.text}{meaning}", x=40)
        for word, text in facts(scene):
            page.text(f"{word}: {text}")
    for problem in problems(scene):
        page.text(problem, "bad")
    page.y += LINE_HEIGHT


def _rows(page: _Page, area: Area, cell: int) -> None:
    cells = [by_group(sizes) for sizes in area.grid.coarsened(cell).cells()]
    for first in range(0, len(cells), _IN_ROW):
        address = area.grid.origin + first * cell
        page.body.append(text_element(_LEFT - 8, page.y + _CELL_HEIGHT - 2, f"{address:#x}", "address", "end"))
        page.body += _row(cells[first : first + _IN_ROW], address, cell, page.y, area)
        page.y += _ROW_HEIGHT


def _row(cells: Sequence[tuple[int, ...]], address: int, cell: int, y: float, area: Area) -> Iterator[str]:
    """Yield a row: the cells that look the same and follow each other are one element."""
    place = 0
    for heights, alike in groupby(cells, _heights):
        run = list(alike)
        count, sums = len(run), map(sum, zip(*run))
        if any(heights):
            start, end = address + place * cell, address + (place + count) * cell
            shown = f"{max(start, area.start):#x} to {min(end, area.end):#x}"
            parts = [f"{group.name} {hex_size(size)}" for group, size in zip(GROUPS, sums) if size]
            yield f'<g class="cells">{tooltip([shown, *parts])}'
            yield from _stack(heights, _LEFT + place * _CELL_WIDTH, y, count * _CELL_WIDTH)
            yield "</g>"
        place += count


def _heights(parts: Sequence[int]) -> tuple[int, ...]:
    """Return how high each group is drawn in a cell; together they fill it."""
    total = sum(parts)
    if not total:
        return (0,) * len(parts)
    heights = [max(_LEAST_HEIGHT, size * _CELL_HEIGHT // total) if size else 0 for size in parts]
    heights[max(range(len(parts)), key=parts.__getitem__)] += _CELL_HEIGHT - sum(heights)
    return tuple(heights)


def _stack(heights: Sequence[int], x: float, y: float, width: float) -> Iterator[str]:
    """Yield the parts of a cell, the first group at its foot."""
    foot = y + _CELL_HEIGHT
    for group, height in zip(GROUPS, heights):
        if height:
            foot -= height
            yield _rect(x, foot, width, height, group.fill)


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" fill="{fill}"/>'
