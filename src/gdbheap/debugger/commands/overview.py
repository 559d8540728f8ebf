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

    shows_heap = True
    summary = "Show the heap of the program, arena by arena; the subcommands look closer and explain."
    options = (JSON,)
    examples = (
        "heap",
        "heap catch                         then 'run' or 'continue', and: heap why-grow",
        "heap chunks -state used -min-size 4096",
        "heap -json heap.json",
    )

    def __init__(self, prefix: str, shown: str, manual: str) -> None:
        self.details = (
            "Each arena's memory from the kernel (system_mem) is the sum of what is used, what is free (in tcaches,\n"
            "fastbins and bins), the top chunk and malloc's own overhead. Large chunks have mappings of their own.\n"
            "Below, what malloc counts stands beside what the kernel has mapped, and what else is mapped is named.\n"
            f"{manual}"
        )
        super().__init__(prefix, shown)

    def answer(self, parsed: Parsed) -> Answer:
        """Return the totals of every arena."""
        from gdbheap.debugger.copies import count_of_libcs
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
            copies = count_of_libcs()
            if copies > 1:
                yield (
                    f"There are {copies} copies of libc, each with a malloc and arenas of its own: these are the "
                    "program's. 'set heap main-arena' and 'set heap mp' take the addresses of another copy's."
                )

        return Answer(lambda: account_object(account), lines)
