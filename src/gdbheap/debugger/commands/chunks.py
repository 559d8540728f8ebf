"""heap chunks: every chunk of an arena, or of all."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, evaluate, number, row_limit
from gdbheap.debugger.options import Option, Parsed, UsageError

# As gdbheap.ptmalloc.chunk has them; that module is not imported before it is needed.
_STATES = ("used", "tcache", "fastbin", "unsorted", "small", "large", "free", "top", "fencepost")

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.debugger.chunk_walk import ChunkWalk
    from gdbheap.render.style import Plain


class HeapChunks(HeapCommand):
    """List chunks."""

    word = "chunks"
    shows_heap = True
    summary = "List the chunks of the heap: address, pointer, size, request that fits, flags, state and a preview."
    details = (
        "Flags: P the chunk before it is in use, M mmapped, A not in main_arena. States: used; on a free list, as\n"
        "tcache, fastbin, unsorted, small or large; free by its flags but on no list; top; fencepost.\n"
        "Chunks that have mappings of their own come last.\n"
        "A state with a ! is that of a chunk behind damage: the walk stopped before it, and went on from a chunk\n"
        "that a free list holds."
    )
    options = (
        Option("arena", "N", "Only this arena: its number (0 is main_arena) or address."),
        Option("min-size", "BYTES", "Only chunks of at least this size."),
        Option("max-size", "BYTES", "Only chunks of at most this size."),
        Option("state", "STATE", f"Only chunks in this state: {', '.join(_STATES)}.", choices=_STATES),
        Option("start", "ADDRESS", "Begin with the chunk that has this address or user pointer."),
        Option("count", "N", "At most N rows (default: as 'set heap limit' says, 200)."),
        Option("all", "", "Every row."),
        JSON,
    )
    examples = ("heap chunks", "heap chunks -arena 1 -state used -min-size 0x1000", "heap chunks -start p -count 5")

    def answer(self, parsed: Parsed) -> Answer:
        """Return the chunks that are asked for, of the chosen arenas."""
        from gdbheap.debugger import settings
        from gdbheap.render.chunks import (
            BEHIND_TEXT,
            HEADER,
            BlockRows,
            ShownTotals,
            chunk_object,
            chunk_rows,
            totals_line,
        )
        from gdbheap.render.units import count_of

        walk = _walk(parsed)
        arenas = walk.arenas(parsed.text("arena"))

        def body() -> dict[str, object]:
            objects = [
                {
                    "name": arena.name,
                    "address": arena.address,
                    "chunks": [chunk_object(chunk) for chunk in walk.chunks(arena)],
                    "problems": walk.take_problems(),
                }
                for arena in arenas
            ]
            mapped = [] if parsed.given("arena") else [chunk_object(chunk) for chunk in walk.mmapped()]
            walk.require_start()
            mmapped = {"chunks": mapped, "problems": walk.take_problems()}
            return {"arenas": objects, "mmapped": mmapped, "left_out": walk.left_out}

        def lines(style: Plain) -> Iterator[str]:
            walk = _walk(parsed)
            shown = ShownTotals()
            width = settings.preview()
            made = BlockRows(walk.abi, walk.read, width, shown)
            groups = [
                (arena.name, f"{arena.name} at {arena.address:#x}", made.rows(walk.blocks(arena))) for arena in arenas
            ]
            if not parsed.given("arena"):
                rows = chunk_rows(walk.mmapped(), lambda chunk: walk.content(chunk, width), width, shown)
                groups.append(("mmapped", "chunks with mappings of their own", rows))
            for name, title, rows in groups:
                first = next(rows, None)
                if first is not None:
                    yield from (title, HEADER, first)
                    yield from rows
                yield from (style.paint("bad", f"{name}: {problem}") for problem in walk.take_problems())
            walk.require_start()
            if shown.behind_damage:
                yield style.paint("bad", BEHIND_TEXT)
            yield totals_line(shown)
            if walk.left_out:
                yield f"{count_of(walk.left_out, 'more chunk')} left out: -count N or -all shows them."

        return Answer(body, lines)


def _walk(parsed: Parsed) -> ChunkWalk:
    """Return a walk over the chunks that the command line asks for; raise UsageError where it cannot be meant."""
    from gdbheap.debugger.chunk_walk import ChunkWalk
    from gdbheap.ptmalloc.rows import Wanted

    state, typed = parsed.text("state"), parsed.text("start")
    start = None if typed is None else evaluate(typed, "-start")
    low = number(parsed, "min-size", 0)
    high = number(parsed, "max-size", 0) if parsed.given("max-size") else None
    if high is not None and high < low:
        raise UsageError("-max-size is less than -min-size, so no chunk can be meant.")
    wanted = Wanted(low, high, None if state is None else frozenset((state,)), start or 0)
    unlimited = parsed.given("json") and not parsed.given("count")
    return ChunkWalk(wanted, None if unlimited else row_limit(parsed), start)
