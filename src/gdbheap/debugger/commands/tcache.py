"""heap tcache: the free chunks that a thread keeps for itself."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, row_limit
from gdbheap.debugger.options import Option, Parsed, UsageError

#: Chunks of a list that are shown at most, unless a command says otherwise.
LIMIT = 16

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.ptmalloc.lists import ChunkList, ListRow
    from gdbheap.render.style import Plain

THREAD = Option("thread", "T", "The tcache of this thread, by GDB's number (default: the selected thread).")
COUNT = Option("count", "N", f"At most N chunks of each list (default: 'set heap limit', else {LIMIT}).")


def chunk_limit(parsed: Parsed) -> int | None:
    """Return how many chunks of each list are asked for, None for all; with -json alone that is all."""
    return None if parsed.given("json") and not parsed.given("count") else row_limit(parsed, LIMIT)


def threads_of(parsed: Parsed) -> list[int]:
    """Return the threads that a command line names; raise UsageError where it names them twice."""
    from gdbheap.debugger.tcaches import chosen_threads

    if parsed.given("thread") and parsed.given("all"):
        raise UsageError("-thread names one thread and -all means every thread: give one of the two.")
    return chosen_threads(parsed.text("thread"), parsed.given("all"))


def complete_threads(text: str, word: str) -> list[str] | None:
    """Return the numbers of threads that can follow -thread; None where something else is being typed."""
    from gdbheap.debugger.tcaches import thread_numbers

    typed = text.split()
    before = typed[-1] if text[-1:].isspace() else typed[-2] if len(typed) > 1 else ""
    if not (len(before) > 1 and "-thread".startswith(before)):
        return None
    return [str(found) for found in thread_numbers() if str(found).startswith(word)]


class HeapTcache(HeapCommand):
    """Show tcaches."""

    word = "tcache"
    shows_heap = True
    summary = "Show a thread's tcache: the freed chunks that it keeps for itself, bin by bin."
    details = (
        "free puts a small chunk there first, and malloc takes the first one of the right size from there. Each bin\n"
        "has a limit; the links between the chunks are shown as they are stored (from glibc 2.32 on hidden by\n"
        "safe-linking) and as what they mean."
    )
    options = (THREAD, COUNT, Option("all", "", "The tcaches of all threads, and every chunk of each bin."), JSON)
    examples = ("heap tcache", "heap tcache -thread 2", "heap tcache -all -count 3")

    def completions(self, text: str, word: str) -> list[str]:
        """Return the options, or the numbers of threads."""
        threads = complete_threads(text, word)
        return super().completions(text, word) if threads is None else threads

    def answer(self, parsed: Parsed) -> Answer:
        """Return the tcaches of the chosen threads."""
        from gdbheap.debugger.free_lists import FreeListReader
        from gdbheap.debugger.model import read_state
        from gdbheap.render.bins import tcache_lines, tcache_object

        limit = chunk_limit(parsed)
        reader = FreeListReader(read_state())
        found = reader.of_threads(threads_of(parsed))

        def rows(item: ChunkList) -> tuple[ListRow, ...]:
            return reader.rows(item, limit)

        def lines(style: Plain) -> Iterator[str]:
            for item in found:
                yield from tcache_lines(item, rows, style)

        return Answer(lambda: {"tcaches": [tcache_object(item, rows) for item in found]}, lines)
