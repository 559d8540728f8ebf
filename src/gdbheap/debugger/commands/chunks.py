"""heap chunks: every chunk of an arena, or of all."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, HeapCommand, evaluate, number
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.options import Option, Parsed, UsageError

_LIMIT = 200
_PREVIEW = 32
# As gdbheap.ptmalloc.chunk has them; that module is not imported before it is needed.
_STATES = ("used", "tcache", "fastbin", "unsorted", "small", "large", "free", "top", "fencepost")

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.ptmalloc.arena import Arena
    from gdbheap.ptmalloc.chunk import Chunk
    from gdbheap.ptmalloc.rows import Wanted


class HeapChunks(HeapCommand):
    """List chunks."""

    word = "chunks"
    summary = "List the chunks of the heap: address, pointer, size, request that fits, flags, state and a preview."
    details = (
        "Flags: P the chunk before it is in use, M mmapped, A not in main_arena. States: used; on a free list, as\n"
        "tcache, fastbin, unsorted, small or large; free by its flags but on no list; top; fencepost."
    )
    options = (
        Option("arena", "N", "Only this arena: its number (0 is main_arena) or address."),
        Option("min-size", "BYTES", "Only chunks of at least this size."),
        Option("max-size", "BYTES", "Only chunks of at most this size."),
        Option("state", "STATE", f"Only chunks in this state: {', '.join(_STATES)}.", choices=_STATES),
        Option("start", "ADDRESS", "Begin with the chunk that has this address or user pointer."),
        Option("count", "N", f"At most N rows (default {_LIMIT})."),
        Option("all", "", "Every row."),
        JSON,
    )
    examples = ("heap chunks", "heap chunks -arena 1 -state used -min-size 0x1000", "heap chunks -start p -count 5")

    def run(self, parsed: Parsed) -> None:
        """Walk the chosen arenas and show the chunks that are asked for."""
        from gdbheap.debugger import model, session
        from gdbheap.debugger.output import write_json, write_lines
        from gdbheap.memory import MemoryFault, PageCache
        from gdbheap.render.chunks import HEADER, ShownTotals, chunk_object, chunk_rows, totals_line
        from gdbheap.render.units import count_of

        state = model.read_state()
        arenas = model.chosen_arenas(state, parsed.text("arena"))
        walk = _Walk(parsed)
        path = parsed.text("json")
        if path is not None:
            objects = [
                {
                    "name": arena.name,
                    "address": arena.address,
                    "chunks": [chunk_object(chunk) for chunk in walk.chunks(arena)],
                    "problems": walk.take_problems(),
                }
                for arena in arenas
            ]
            walk.require_start()
            write_json("heap chunks", {"arenas": objects, "left_out": walk.left_out}, path)
            if not path:
                return
            walk = _Walk(parsed)
        memory = PageCache(session.target().memory)

        def content(chunk: Chunk) -> bytes:
            try:
                return memory.read(chunk.pointer, min(_PREVIEW, chunk.request_max))
            except MemoryFault:
                return b""

        shown = ShownTotals()
        for arena in arenas:
            rows = chunk_rows(walk.chunks(arena), content, _PREVIEW, shown)
            first = next(rows, None)
            if first is not None:
                write_lines([f"{arena.name} at {arena.address:#x}", HEADER, first])
                write_lines(rows)
            write_lines(f"{arena.name}: {problem}" for problem in walk.take_problems())
        walk.require_start()
        write_lines([totals_line(shown)])
        if walk.left_out:
            write_lines([f"{count_of(walk.left_out, 'more chunk')} left out: -count N or -all shows them."])


class _Walk:
    """The chunks of one arena after another, counted against one limit."""

    def __init__(self, parsed: Parsed) -> None:
        from gdbheap.debugger import model, session
        from gdbheap.ptmalloc.rows import Wanted

        state = parsed.text("state")
        start = parsed.text("start")
        self._start = None if start is None else evaluate(start, "-start")
        self._wanted: Wanted = Wanted(
            min_size=number(parsed, "min-size", 0),
            max_size=number(parsed, "max-size", 0) if parsed.given("max-size") else None,
            states=None if state is None else frozenset((state,)),
            start=self._start or 0,
        )
        if self._wanted.max_size is not None and self._wanted.max_size < self._wanted.min_size:
            raise UsageError("-max-size is less than -min-size, so no chunk can be meant.")
        unlimited = parsed.given("all") or (parsed.given("json") and not parsed.given("count"))
        self._limit = None if unlimited else number(parsed, "count", _LIMIT)
        self._state = model.read_state()
        self._facts = model.free_facts()
        self._memory = session.target().memory
        self._start_seen = self._start is None
        self._problems = list(self._facts.problems)
        self.left_out = 0

    def chunks(self, arena: Arena) -> Iterator[Chunk]:
        """Yield the chunks of ``arena`` that are asked for."""
        from gdbheap.ptmalloc.account import plan_arena
        from gdbheap.ptmalloc.rows import Rows
        from gdbheap.ptmalloc.walk import Block, walk_arena

        plan, free = plan_arena(self._memory, self._state, arena, self._facts)
        self._problems += [*plan.problems, *free.problems]

        def seen(block: Block) -> None:
            self._problems.extend(block.problems)
            if block.gap is not None:
                self._problems.append(block.gap.why)
            self._look_for_start(block)

        blocks = walk_arena(self._memory, self._state.abi, plan, free)
        rows = Rows(self._state.abi, blocks, self._wanted, self._limit, seen)
        for chunk in rows:
            if self._limit is not None:
                self._limit -= 1
            yield chunk
        self.left_out += rows.left_out

    def _look_for_start(self, block: object) -> None:
        """Raise TargetError where -start is inside a chunk of this block, rather than at one."""
        from gdbheap.ptmalloc.walk import Block

        assert isinstance(block, Block)
        start, columns = self._start, block.columns
        if self._start_seen or start is None or not columns.addresses:
            return
        if not columns.addresses[0] <= start < columns.addresses[-1] + columns.sizes[-1]:
            return
        from bisect import bisect_right

        place = bisect_right(columns.addresses, start) - 1
        address, size = columns.addresses[place], columns.sizes[place]
        if start not in (address, address + self._state.abi.header):
            raise TargetError(
                f"{start:#x} is no chunk: it is inside the chunk at {address:#x} of {size:#x} bytes "
                f"(user pointer {address + self._state.abi.header:#x})."
            )
        self._start_seen = True

    def require_start(self) -> None:
        """Raise TargetError where no chunk was met that -start names."""
        if not self._start_seen:
            raise TargetError(f"{self._start:#x} is in no chunk of the arenas that were walked: 'heap' shows them.")

    def take_problems(self) -> list[str]:
        """Return what was found to be wrong since the last call."""
        problems, self._problems = self._problems, []
        return problems
