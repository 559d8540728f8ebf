"""heap: the overview."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand
from gdbheap.debugger.options import Parsed


class Heap(HeapCommand):
    """Show the whole heap in one table."""

    summary = "Show the heap of the program, arena by arena; the subcommands look closer and explain."
    options = (JSON,)
    examples = (
        "heap",
        "heap catch                         then 'run' or 'continue', and: heap why-grow",
        "heap chunks -state used -min-size 4096",
        "heap -json heap.json",
    )

    def __init__(self, prefix: str, manual: str) -> None:
        self.details = (
            "Each arena's memory from the kernel (system_mem) is the sum of what is used, what is free (in tcaches,\n"
            "fastbins and bins), the top chunk and malloc's own overhead. Large chunks have mappings of their own.\n"
            "Below, what malloc counts stands beside what the kernel has mapped; what is not malloc's is left out by\n"
            "name.\n"
            f"{manual}"
        )
        super().__init__(prefix)

    def answer(self, parsed: Parsed) -> Answer:
        """Return the totals of every arena."""
        from gdbheap.debugger.model import read_account
        from gdbheap.render.account import account_lines, account_object

        account = read_account()
        return Answer(lambda: account_object(account), lambda style: account_lines(account, style))
