"""heap: the overview."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand
from gdbheap.debugger.options import Parsed

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.render.style import Plain


class Heap(HeapCommand):
    """Show the whole heap in one table."""

    summary = "Show the heap of the program, arena by arena; the subcommands look closer and explain."
    details = (
        "Each arena's memory from the kernel (system_mem) is the sum of what is used, what is free, the top chunk and\n"
        "malloc's own overhead.\n"
        "\n"
        "See:      heap, heap arenas, heap chunks, heap top, heap params\n"
        "Explain:  heap catch (record), heap events (what was recorded), heap timeline (the same, drawn),\n"
        "          heap why-grow (why the heap grew)"
    )
    options = (JSON,)
    examples = ("heap", "heap why-grow")

    def answer(self, parsed: Parsed) -> Answer:
        """Return the totals of every arena."""
        from gdbheap.debugger.interposed import other_malloc
        from gdbheap.debugger.model import read_account
        from gdbheap.render.account import account_lines, account_object
        from gdbheap.render.escape import printable

        account = read_account()

        def lines(style: Plain) -> Iterator[str]:
            yield from account_lines(account, style)
            other = other_malloc()
            if other is not None:
                yield (
                    f"This program's malloc is that of {printable(other)}, not glibc's: here is only what was asked of "
                    "glibc's own."
                )

        return Answer(lambda: account_object(account), lines)
