"""A timeline as one SVG file: nothing in it comes from elsewhere, and its text can be selected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gdbheap.render.columns import (
    NAMES,
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
from gdbheap.render.events import amount_text
from gdbheap.render.svg_elements import LINE_HEIGHT, WIDTH, document, number, text_element, tooltip
from gdbheap.render.units import count_of, human_size, signed_size

_LEFT, _RIGHT = 90, 30
_TOP = 84
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, 400
_LINES = 8
#: More than any character of the fonts that a browser may choose is wide, at the sizes used here.
_CHARACTER = 8.4

_FILLS = {"break": "#4477aa", "arenas": "#ccbb44", "mmapped": "#ee6677", "rest": "#bbbbbb"}
_MOVED = "#222222"

_STYLE = """
.mark { font-weight: bold; }
.grid { stroke: #dddddd; stroke-width: 1; }
.axis, .tick { stroke: #555555; stroke-width: 1; }
.hover { fill: #000000; fill-opacity: 0; }
.hover:hover { fill-opacity: 0.12; }
"""


def timeline_svg(drawn: Picture, count: int) -> str:
    """Return the picture as the text of an SVG file; the largest ``count`` growths and shrinks are listed in it."""
    body: list[str] = []
    bottom = _TOP + _PLOT_HEIGHT
    body.append(text_element(_LEFT, 32, "How the heap grew", "title"))
    body.append(text_element(_LEFT, 54, heading(drawn)))
    if drawn.shown:
        columns = _columns(drawn)
        body += _plot(drawn, columns, count)
        bottom += 64
    else:
        columns = []
        bottom = _TOP
    for line, fill, indent in _below(drawn, columns, count):
        if fill:
            body.append(f'<rect x="{_LEFT}" y="{bottom - 11}" width="13" height="13" fill="{fill}"/>')
        body.append(text_element(_LEFT + indent, bottom, line))
        bottom += LINE_HEIGHT
    return document(f"How the heap grew: {heading(drawn)}", bottom + 10, _STYLE, body)


def _columns(drawn: Picture) -> list[Column]:
    """Return a column for each event, or for each pixel where there are more events or time is what counts."""
    if drawn.by == "time":
        return drawn.columns(_PLOT_WIDTH)
    return drawn.columns(min(_PLOT_WIDTH, len(drawn.levels) + 1))


def _plot(drawn: Picture, columns: Sequence[Column], count: int) -> Iterator[str]:
    unit = round_unit(max(1, drawn.highest) / _LINES)
    lines = -(-max(1, drawn.highest) // unit)
    sizes = [line * unit for line in range(lines + 1)]
    scale = _Scale(len(columns), sizes[-1])
    for size, label in zip(sizes, axis_labels(sizes)):
        y = number(scale.y(size))
        yield f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{WIDTH - _RIGHT}" y2="{y}"/>'
        yield text_element(_LEFT - 8, scale.y(size) + 4, label, "size", "end")
    yield from _areas(drawn, columns, scale)
    yield from _tooltips(drawn, columns, scale)
    axis = scale.y(0)
    yield f'<line class="axis" x1="{_LEFT}" y1="{axis}" x2="{WIDTH - _RIGHT}" y2="{axis}"/>'
    yield f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{axis}"/>'
    yield from _x_axis(columns, scale)
    yield from _marks(drawn, columns, scale, count)


class _Scale:
    """Where a column and a size are in the picture."""

    def __init__(self, columns: int, highest: int) -> None:
        self._step = _PLOT_WIDTH / columns
        self._highest = highest

    def x(self, column: int) -> float:
        """Return where a column begins."""
        return _LEFT + column * self._step

    def y(self, size: float) -> float:
        """Return how high a size is."""
        return _TOP + _PLOT_HEIGHT * (1 - size / self._highest)


def _areas(drawn: Picture, columns: Sequence[Column], scale: _Scale) -> Iterator[str]:
    """Yield an area for each series, on top of the one before it; and what the total moved through within columns."""
    below = [0] * len(columns)
    for place, name in enumerate(drawn.names):
        # Where the total moved within a column, it is filled up to its lowest.
        above = [min(low + column.parts[place], column.low) for low, column in zip(below, columns)]
        if any(high > low for low, high in zip(below, above)):
            yield f'<path fill="{_FILLS[name]}" d="{_outline(below, above, scale)}"/>'
        below = above
    moved = [column.high for column in columns]
    if any(high > low for low, high in zip(below, moved)):
        yield f'<path fill="{_MOVED}" fill-opacity="0.45" d="{_outline(below, moved, scale)}"/>'


def _outline(below: Sequence[int], above: Sequence[int], scale: _Scale) -> str:
    """Return the path around what lies between two step functions."""
    upper: list[str] = []
    lower: list[str] = []
    for edges, values in ((upper, above), (lower, below)):
        for column, value in enumerate(values):
            if not column or value != values[column - 1]:
                if column:
                    edges.append(f"{number(scale.x(column))},{number(scale.y(values[column - 1]))}")
                edges.append(f"{number(scale.x(column))},{number(scale.y(value))}")
        edges.append(f"{number(scale.x(len(values)))},{number(scale.y(values[-1]))}")
    return f"M{' '.join(upper)} L{' '.join(reversed(lower))} Z"


def _tooltips(drawn: Picture, columns: Sequence[Column], scale: _Scale) -> Iterator[str]:
    """Yield, for each column in which something changed, a rectangle up to the next one that tells what."""
    changed = [place for place, column in enumerate(columns) if column.levels]
    for place, behind in zip(changed, [*changed[1:], len(columns)]):
        x, end = scale.x(place), scale.x(behind)
        yield (
            f'<rect class="hover" x="{number(x)}" y="{_TOP}" width="{number(end - x)}" height="{_PLOT_HEIGHT}">'
            f"{tooltip(_tooltip(drawn, columns[place]))}</rect>"
        )


def _tooltip(drawn: Picture, column: Column) -> list[str]:
    """Return the lines on what happened in a column: its event, or the largest of them."""
    level = column.largest
    event = level.event
    what = [f"#{event.id} {event.syscall} {amount_text(event)} at {time_text(event.time)}", step_text(level)]
    if len(column.levels) == 1:
        parts = [f"{NAMES[name]} {human_size(value)}" for name, value in zip(drawn.names, level.values) if value]
        return [*what, f"after it: {', '.join(parts) or 'nothing'}"]
    events = f"{count_of(len(column.levels), 'event')}, #{column.levels[0].event.id} to #{column.levels[-1].event.id}"
    total = f"total from {human_size(column.low)} to {human_size(column.high)}"
    return [f"{events}: {total}; the largest:", *what]


def _x_axis(columns: Sequence[Column], scale: _Scale) -> Iterator[str]:
    """Yield ticks where something changed, and the numbers and times that have room, the largest steps first."""
    axis = scale.y(0)
    changed = [place for place, column in enumerate(columns) if column.levels]
    ends = [changed[0], changed[-1]] if changed else []
    wanted = [*ends, *sorted(changed, key=lambda place: -abs(columns[place].largest.delta))]
    for place in changed:
        x = number(scale.x(place))
        yield f'<line class="tick" x1="{x}" y1="{axis}" x2="{x}" y2="{axis + 4}"/>'
    for kind, y in (("number", axis + 18), ("time", axis + 34)):
        taken: list[tuple[float, float]] = []
        for place in wanted:
            event = columns[place].largest.event
            text = f"#{event.id}" if kind == "number" else time_text(event.time)
            room = len(text) * _CHARACTER
            start = min(scale.x(place), WIDTH - room - 4)
            if all(start > end + 4 or start + room + 4 < begin for begin, end in taken):
                taken.append((start, start + room))
                yield text_element(start, y, text, f"{kind} small" if kind == "time" else kind)


def _marks(drawn: Picture, columns: Sequence[Column], scale: _Scale, count: int) -> Iterator[str]:
    """Yield the peak and the numbers of the largest steps, above the columns where there is room."""
    changed = [place for place, column in enumerate(columns) if column.levels]
    changed.sort(key=lambda place: -abs(columns[place].largest.delta))
    wanted = [(place, f"#{columns[place].largest.event.id}") for place in changed[: 2 * count]]
    peak = drawn.peak
    if peak is not None:
        top = next(place for place, column in enumerate(columns) if peak in column.levels)
        text = f"peak {human_size(drawn.highest)} #{peak.event.id}"
        wanted = [(top, text), *(item for item in wanted if columns[item[0]].largest is not peak)]
    taken: list[tuple[float, float, float]] = []
    for place, text in wanted:
        room = len(text) * _CHARACTER + 6
        y = scale.y(columns[place].high) - 5
        # A growth has room before it, a shrink behind it.
        for start, anchor in ((scale.x(place) - room, "end"), (scale.x(place), "start")):
            if start < _LEFT or start + room > WIDTH - _RIGHT or _covered(columns, scale, start, start + room, y):
                continue
            if all(
                start > end or start + room < begin or abs(y - other) > LINE_HEIGHT - 4 for begin, end, other in taken
            ):
                taken.append((start, start + room, y))
                yield text_element(scale.x(place) + (3 if anchor == "start" else -3), y, text, "mark", anchor)
                break


def _covered(columns: Sequence[Column], scale: _Scale, start: float, end: float, y: float) -> bool:
    """Whether any column between two places is higher than the foot of a text at ``y``."""
    step = scale.x(1) - scale.x(0)
    first, last = int((start - _LEFT) / step), int((end - _LEFT) / step)
    return any(scale.y(column.high) < y for column in columns[first : last + 1])


def _below(drawn: Picture, columns: Sequence[Column], count: int) -> Iterator[tuple[str, str, int]]:
    """Yield the lines below the plot, each with the colour that it explains, if any, and how far it is indented."""
    if not drawn.shown:
        yield NOTHING, "", 0
    for series in drawn.shown:
        yield series_text(series), _FILLS[series.name], 20
    crowded = crowded_text(columns, "column one pixel wide")
    if crowded is not None:
        yield f"{crowded} Grey is what it moved through.", "", 0
    for largest in largest_steps(drawn, count):
        yield largest.heading, "", 0
        for level in largest.listed:
            yield f"#{level.event.id}: {signed_size(level.delta)}, {step_text(level)}", "", 20
        if largest.others:
            yield largest.others, "", 20
    for note in notes(drawn):
        yield note, "", 0
