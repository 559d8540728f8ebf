"""heap map: the arenas drawn to scale, or their chunks word by word."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, evaluate, number, row_limit, within
from gdbheap.debugger.options import Option, Parsed, UsageError

_ROWS = 40
_WORD_ROWS = 8
_CHUNKS = 10
_RUNS = 10_000

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.debugger.map_view import MapView
    from gdbheap.ptmalloc.extent import Window
    from gdbheap.render.style import Plain


class HeapMap(HeapCommand):
    """Draw arenas."""

    word = "map"
    shows_heap = True
    summary = "Draw the arenas to scale, a character for so many bytes, so that one sees how fragmented they are."
    details = (
        "Each cell shows what its bytes are: used, free and on which list, the top chunk, malloc's own. A legend says\n"
        "what the characters mean, how much there is of each, and what keeps the heap from becoming shorter.\n"
        "-words shows single chunks close up: every word, and what it is."
    )
    options = (
        Option("arena", "N", "Only this arena: its number (0 is main_arena) or address."),
        Option("start", "ADDRESS", "Draw from here to the end of this region; with -words, begin with this chunk."),
        Option("end", "ADDRESS", "Draw up to here."),
        Option("size", "BYTES", "Draw so many bytes from -start on."),
        Option("width", "N", "Characters in a line (default: those of the terminal, else 80)."),
        Option(
            "rows",
            "N",
            f"Rows of an arena's drawing at most (default {_ROWS}); with -words, of a chunk ({_WORD_ROWS}).",
        ),
        Option("words", "", "Show the words of chunks instead."),
        Option(
            "count",
            "N",
            f"At most N chunks with -words (default: 'set heap limit', else {_CHUNKS}), N runs of a region with -json.",
        ),
        Option("all", "", "Every chunk with -words."),
        Option("ascii", "", "Draw with ASCII alone (default where the host charset is not UTF-8)."),
        Option("svg", "FILE", "Write a picture into FILE besides, for a browser."),
        JSON,
    )
    examples = (
        "heap map",
        "heap map -arena 0 -start p -size 0x1000",
        "heap map -svg heap.svg",
        "heap map -words -start p -count 3",
    )

    def answer(self, parsed: Parsed) -> Answer:
        """Return the drawing; a picture is written before anything is shown."""
        from gdbheap.debugger.output import encodes_unicode, line_width
        from gdbheap.render.map import LEAST_ROWS, LEAST_WIDTH, MOST_ROWS, MOST_WIDTH

        width = within(parsed, "width", LEAST_WIDTH, MOST_WIDTH)
        if width is None:
            width = min(max(line_width(), LEAST_WIDTH), MOST_WIDTH)
        rows = within(parsed, "rows", LEAST_ROWS, MOST_ROWS)
        ascii_only = parsed.given("ascii") or not encodes_unicode()
        if parsed.given("words"):
            return _words(parsed, width, rows or _WORD_ROWS, ascii_only=ascii_only)
        return _map(parsed, width, rows or _ROWS, ascii_only=ascii_only)


def _map(parsed: Parsed, width: int, rows: int, *, ascii_only: bool) -> Answer:
    from gdbheap.debugger.errors import TargetError
    from gdbheap.debugger.map_view import MapView
    from gdbheap.debugger.output import write_file
    from gdbheap.render.json_map import map_object
    from gdbheap.render.lines import wrapped
    from gdbheap.render.map import cells_in_row, map_lines
    from gdbheap.render.units import count_of, hex_size

    view = MapView(parsed.text("arena"))
    window = _window(parsed, view)
    path = parsed.text("svg")
    cells = rows * cells_in_row(width)
    if path is not None:
        from gdbheap.render.map_svg import MOST_CELLS, map_svg

        cells = max(cells, MOST_CELLS)
    runs = number(parsed, "count", _RUNS) if parsed.given("json") else 0
    scenes = list(view.scenes(window, most_cells=cells, most_runs=runs))
    if parsed.given("start"):
        scenes = [scene for scene in scenes if scene.drawn.areas]
        if not scenes:
            raise TargetError("There is nothing of the chosen arenas between these addresses; 'heap map' draws all.")
    if path is not None:
        write_file(path, map_svg(scenes, view.problems), parsed.given("force"))

    def lines(style: Plain) -> Iterator[str]:
        yield from map_lines(scenes, style, width=width, rows=rows, ascii_only=ascii_only)
        chunks, size = view.mmapped
        if chunks:
            text = f"Not drawn: {count_of(chunks, 'mmapped chunk')}, {hex_size(size)}, outside the arenas."
            yield from wrapped(text, width)
        yield from (style.paint("bad", problem) for problem in view.problems)

    def body() -> dict[str, object]:
        chunks, size = view.mmapped
        return {
            "arenas": [map_object(scene) for scene in scenes],
            "closeup": None,
            "mmapped": {"chunks": chunks, "bytes": size},
            "problems": list(view.problems),
        }

    return Answer(body, lines)


def _window(parsed: Parsed, view: MapView) -> Window:
    """Return which addresses are to be drawn; raise UsageError where that cannot be meant."""
    from gdbheap.ptmalloc.extent import Window

    if not parsed.given("start"):
        for name in ("end", "size"):
            if parsed.given(name):
                raise UsageError(f"-{name} needs a -start: say where the drawing begins.")
        return Window()
    if parsed.given("end") and parsed.given("size"):
        raise UsageError("-end and -size are two ways to say the same: give one of them.")
    start = evaluate(parsed.text("start") or "", "-start")
    if parsed.given("end"):
        end = evaluate(parsed.text("end") or "", "-end")
    elif parsed.given("size"):
        end = start + number(parsed, "size", 0)
    else:
        end = view.region_at(start)[2]
    if end <= start:
        raise UsageError(f"The drawing would begin at {start:#x} and end at {end:#x}: nothing is between them.")
    return Window(start, end)


def _words(parsed: Parsed, width: int, rows: int, *, ascii_only: bool) -> Answer:
    from gdbheap.debugger.map_view import MapView
    from gdbheap.render.lines import wrapped
    from gdbheap.render.units import count_of
    from gdbheap.render.words import words_lines, words_object

    for name in ("svg", "end", "size"):
        if parsed.given(name):
            raise UsageError(f"-{name} is for the drawing of an arena, not for -words.")
    view = MapView(parsed.text("arena"))
    start = evaluate(parsed.text("start") or "", "-start") if parsed.given("start") else None
    shown = view.closeups(start, row_limit(parsed, _CHUNKS), rows)

    def lines(style: Plain) -> Iterator[str]:
        yield from words_lines(
            shown.closeups, shown.places, shown.heads, style,
            word_size=view.abi.word_size, width=width, ascii_only=ascii_only,
        )  # fmt: skip
        if shown.left_out:
            yield from wrapped(
                f"{count_of(shown.left_out, 'more chunk')} left out: -count N or -all shows them.", width
            )
        yield from (style.paint("bad", problem) for problem in shown.problems)

    def body() -> dict[str, object]:
        chunks, size = view.mmapped
        return {
            "arenas": [],
            "closeup": words_object(shown.closeups, shown.places, shown.left_out),
            "mmapped": {"chunks": chunks, "bytes": size},
            "problems": shown.problems,
        }

    return Answer(body, lines)
