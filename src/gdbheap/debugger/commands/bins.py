"""heap bins: the free lists of arenas and threads."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand
from gdbheap.debugger.commands.tcache import COUNT, THREAD, chunk_limit, complete_threads, threads_of
from gdbheap.debugger.options import Option, Parsed, UsageError, awaited

#: What a user calls a kind of list, and what it is called in malloc's own words where that differs.
_KINDS = {"tcache": "tcache", "fast": "fastbin", "unsorted": "unsorted", "small": "small", "large": "large"}

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.ptmalloc.lists import ChunkList, ListRow
    from gdbheap.render.style import Plain


def _kinds(words: list[str]) -> list[str]:
    for word in words:
        if word not in _KINDS:
            raise UsageError(f"'{word}' is no kind of list: they are {', '.join(_KINDS)}.")
    return [_KINDS[word] for word in words or _KINDS]


class HeapBins(HeapCommand):
    """Show free lists."""

    word = "bins"
    shows_heap = True
    summary = "Show the free lists: which chunks are on each, in its order, and how many it may have."
    details = (
        "KIND is tcache (a thread's own lists), or fast, unsorted, small or large (an arena's); the default is all.\n"
        "For each list: the sizes that belong on it, its chunks from the front on, and their links. Links of tcache\n"
        "and fastbins are shown as they are stored (from glibc 2.32 on hidden by safe-linking) and as what they mean."
    )
    operands = "[KIND...]"
    options = (
        Option("arena", "N", "Only the lists of this arena: its number (0 is main_arena) or address."),
        THREAD,
        COUNT,
        Option("all", "", "The tcaches of all threads, and every chunk of each list."),
        JSON,
    )
    examples = ("heap bins", "heap bins fast unsorted -arena 1", "heap bins tcache -thread 2", "heap bins -all")

    def completions(self, text: str, word: str) -> list[str]:
        """Return the options, the numbers of threads, or the kinds of lists."""
        threads = complete_threads(text, word)
        if threads is not None:
            return threads
        last = "" if not text or text[-1].isspace() else text.split()[-1]
        option = awaited(text, self.options)
        if last.startswith("-") or (option is not None and not option.optional):
            return super().completions(text, word)
        return [kind for kind in _KINDS if kind.startswith(word)]

    def answer(self, parsed: Parsed) -> Answer:
        """Return the lists that are asked for."""
        from gdbheap.debugger.free_lists import FreeListReader
        from gdbheap.debugger.model import chosen_arenas, read_state
        from gdbheap.debugger.tcaches import thread_numbers
        from gdbheap.render.bins import arena_lists_lines, arena_lists_object, tcache_lines, tcache_object
        from gdbheap.render.units import count_of

        kinds = _kinds(parsed.words)
        # An option that narrows one sort of list down is not about the other.
        of_arenas = bool(set(kinds) - {"tcache"}) and (parsed.given("arena") or not parsed.given("thread"))
        of_threads = "tcache" in kinds and (parsed.given("thread") or not parsed.given("arena"))
        if not of_arenas and not of_threads:
            given = "-thread" if parsed.given("thread") else "-arena"
            raise UsageError(
                f"{given} does not go with these kinds of lists: tcache is a thread's, the others an arena's."
            )
        limit = chunk_limit(parsed)
        state = read_state()
        reader = FreeListReader(state)
        arenas = chosen_arenas(state, parsed.text("arena")) if of_arenas else ()
        tcaches = reader.of_threads(threads_of(parsed)) if of_threads else []
        others = 0 if not of_threads or parsed.given("thread") else len(thread_numbers()) - len(tcaches)

        def rows(item: ChunkList) -> tuple[ListRow, ...]:
            return reader.rows(item, limit)

        def body() -> dict[str, object]:
            return {
                "tcaches": [tcache_object(item, rows) for item in tcaches],
                "threads_left_out": others,
                "arenas": [arena_lists_object(reader.of_arena(arena), kinds, rows) for arena in arenas],
                "problem": state.ring.problem,
            }

        def lines(style: Plain) -> Iterator[str]:
            for item in tcaches:
                yield from tcache_lines(item, rows, style)
            if others:
                yield f"{count_of(others, 'other thread')} left out: -all shows every thread's tcache."
            for arena in arenas:
                yield from arena_lists_lines(reader.of_arena(arena), kinds, rows, style)
            if state.ring.problem:
                yield style.paint("bad", state.ring.problem)

        return Answer(body, lines)
