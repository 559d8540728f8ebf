"""A timeline drawn with characters: the memory over the events, what each character means, and the largest steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from gdbheap.growth.timeline import Level
from gdbheap.render.callers import caller_parts
from gdbheap.render.columns import (
    NOTHING,
    Column,
    Picture,
    axis_labels,
    crowded_text,
    heading,
    largest_steps,
    notes,
    round_unit,
    series_text,
    step_text,
    time_text,
)
from gdbheap.render.lines import wrapped
from gdbheap.render.style import Plain
from gdbheap.render.units import human_size, signed_size

#: How narrow and low a drawing can be, and how wide and high.
LEAST_WIDTH, MOST_WIDTH = 40, 1000
LEAST_HEIGHT, MOST_HEIGHT = 4, 200

_LABEL_EVERY = 4
_ROLES = {"break": "address", "arenas": "good", "mmapped": "name", "rest": "dim"}


@dataclass(frozen=True)
class Signs:
    """The characters of a drawing: a fill for each series, and lines.

    ``eighths`` are the fills of a cell of the lowest series from one eighth on, empty where there are none.
    """

    fills: tuple[str, ...]
    moved: str
    eighths: str
    side: str
    mark: str
    corner: str
    floor: str
    tick: str


UNICODE = Signs(("█", "▓", "▒", "░"), "│", "▁▂▃▄▅▆▇█", "│", "┤", "└", "─", "┴")
ASCII = Signs(("%", "o", "=", "."), ":", "", "|", "+", "+", "-", "+")


def timeline_lines(
    drawn: Picture, style: Plain, *, width: int, height: int, count: int, ascii_only: bool
) -> Iterator[str]:
    """Yield the drawing and its legend in lines of at most ``width`` columns.

    ``height`` is the number of rows from the x axis to the top; ``count`` is how many growths and how many shrinks are
    listed at most.
    """
    signs = ASCII if ascii_only else UNICODE
    yield from wrapped(heading(drawn), width)
    if not drawn.shown:
        yield from wrapped(NOTHING, width)
    else:
        yield from _drawing(drawn, style, signs, width, height, count)
        yield ""
        for series in drawn.shown:
            fill = style.paint(_ROLES[series.name], signs.fills[drawn.names.index(series.name)])
            for place, line in enumerate(wrapped(series_text(series), width - 2)):
                yield f"{fill if not place else ' '} {line}"
        yield from _steps(drawn, style, width, count)
    for note in notes(drawn):
        yield from wrapped(note, width)


def _drawing(drawn: Picture, style: Plain, signs: Signs, width: int, height: int, count: int) -> Iterator[str]:
    unit = round_unit(max(1, drawn.highest) / height)
    rows = -(-max(1, drawn.highest) // unit)
    # The row above is for the labels of the highest steps.
    marked = range(0, rows + 1, _LABEL_EVERY)
    # A label is at the row that its value reaches the top of, so that of 0 is at the axis.
    labels = {row - 1: text for row, text in zip(marked, axis_labels([row * unit for row in marked]))}
    margin = max(map(len, labels.values())) + 1
    columns = drawn.columns(width - margin - 1)
    cells = [_column_cells(column, unit, rows, signs) for column in columns]
    texts = _place_labels(drawn, columns, [_rows_of(column.high, unit) for column in columns], rows, count)
    roles = dict(zip(signs.fills, (_ROLES[name] for name in drawn.names)))
    for row in range(rows, -1, -1):
        side = signs.mark if row in labels else signs.side
        line = _painted([column[row] for column in cells], texts.get(row, ()), style, roles)
        yield f"{labels.get(row, ''):>{margin - 1}} {side}{line}".rstrip()
    ticks = {place for place, column in enumerate(columns) if column.levels}
    line = "".join(signs.tick if place in ticks else signs.floor for place in range(len(columns)))
    yield f"{labels[-1]:>{margin - 1}} {signs.corner}{line}"
    yield from (" " * (margin + 1) + text for text in _axis_texts(drawn, columns))
    crowded = crowded_text(columns, "column")
    if crowded is not None:
        yield from wrapped(f"{crowded} ({signs.moved} is what it moved through.)", width)


def _rows_of(size: int, unit: int) -> int:
    return -(-size // unit)


def _column_cells(column: Column, unit: int, rows: int, signs: Signs) -> list[str]:
    """Return the characters of a column, the lowest first, and one more that is blank."""
    cells = [" "] * (rows + 1)
    tops = list(accumulate(column.parts))
    solid = _rows_of(column.low, unit)
    series = 0
    for row in range(_rows_of(column.high, unit)):
        while tops[series] <= row * unit:
            series += 1
        cells[row] = signs.fills[series] if row < solid or column.low == column.high else signs.moved
    left = column.high % unit
    # Only the solid block has parts; a cell that another series begins in is that one's.
    if signs.eighths and column.low == column.high and left and column.high == tops[0]:
        cells[column.high // unit] = signs.eighths[-(-left * 8 // unit) - 1]
    return cells


def _painted(cells: Sequence[str], texts: Iterable[tuple[int, str]], style: Plain, roles: dict[str, str]) -> str:
    """Return a row, each run of one character painted as its series, with the texts put over its blanks."""
    line: list[tuple[str, str]] = []  # role and character
    for cell in cells:
        role = roles.get(cell, "" if cell == " " else _ROLES["break"])
        line.append((role, cell))
    for place, text in texts:
        line[place : place + len(text)] = [("heading", character) for character in text]
    found, run = "", ""
    role = ""
    for place, (wanted, character) in enumerate(line):
        if place and wanted != role:
            found += style.paint(role, run) if role else run
            run = ""
        role, run = wanted, run + character
    return found + (style.paint(role, run) if role else run)


def _place_labels(
    drawn: Picture, columns: Sequence[Column], heights: Sequence[int], rows: int, count: int
) -> dict[int, list[tuple[int, str]]]:
    """Return the labels of the peak and of the largest steps, by row, each with the column where it begins.

    Each is in the row right above its column, where there is room; those that mean more come first.
    """
    taken: dict[int, list[tuple[int, str]]] = {}
    wanted = [place for place, column in enumerate(columns) if column.levels]
    wanted.sort(key=lambda place: -abs(columns[place].largest.delta))
    wanted = wanted[: 2 * count]
    peak = drawn.peak
    if peak is not None:
        top = next(place for place, column in enumerate(columns) if peak in column.levels)
        _put(taken, heights, top, f"peak {human_size(drawn.highest)} #{peak.event.id}", rows)
        wanted = [place for place in wanted if columns[place].largest is not peak]
    for place in wanted:
        _put(taken, heights, place, f"#{columns[place].largest.event.id}", rows)
    return taken


def _put(taken: dict[int, list[tuple[int, str]]], heights: Sequence[int], column: int, text: str, rows: int) -> None:
    row = heights[column]
    for start in (column, column - len(text) + 1):
        end = start + len(text)
        if start < 0 or end > len(heights) or row > rows or max(heights[start:end]) > row:
            continue
        if all(end < other or other + len(label) < start for other, label in taken.get(row, [])):
            taken.setdefault(row, []).append((start, text))
            return


def _axis_texts(drawn: Picture, columns: Sequence[Column]) -> Iterator[str]:
    """Yield two lines: the numbers of the events and their times, as many as have room, the largest steps first."""
    places = [place for place, column in enumerate(columns) if column.levels]
    places.sort(key=lambda place: -abs(columns[place].largest.delta))
    if not places:
        return
    # The two ends are always wanted: they say what the axis runs through.
    ends = [min(places), max(places)]
    ordered = [*ends, *(place for place in places if place not in ends)]
    for text_of in (_number_text, lambda level: time_text(level.event.time)):
        line = [" "] * len(columns)
        for place in ordered:
            text = text_of(columns[place].largest)
            start = min(place, len(columns) - len(text))
            if start >= 0 and not "".join(line[max(0, start - 1) : start + len(text) + 1]).strip():
                line[start : start + len(text)] = text
        yield "".join(line).rstrip()


def _number_text(level: Level) -> str:
    return f"#{level.event.id}"


def _steps(drawn: Picture, style: Plain, width: int, count: int) -> Iterator[str]:
    for largest in largest_steps(drawn, count):
        yield from wrapped(largest.heading, width)
        numbers = max((len(_number_text(level)) for level in largest.listed), default=0)
        sizes = max((len(signed_size(level.delta)) for level in largest.listed), default=0)
        margin = numbers + sizes + 6
        for level in largest.listed:
            number = style.paint("heading", f"{_number_text(level):>{numbers}}")
            first, *more = _step_lines(level, width - margin)
            yield f"  {number}  {signed_size(level.delta):>{sizes}}  {first}"
            yield from (" " * margin + line for line in more)
        if largest.others:
            yield from (f"  {line}" for line in wrapped(largest.others, width - 2))


def _step_lines(level: Level, width: int) -> Iterator[str]:
    """Yield what ``step_text`` returns: in one line where it is enough to leave out callers in the middle."""
    text = step_text(level)
    callers = caller_parts(level.event) if level.event.requester.kind == "malloc" else []
    for left_out in range(1, len(callers) - 1):
        if len(text) <= width:
            break
        text = " > ".join([callers[0], f"({left_out} more)", *callers[left_out + 1 :]])
    return wrapped(text if len(text) <= width else step_text(level), width)
