"""heap: the overview."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand
from gdbheap.debugger.options import Parsed


class Heap(HeapCommand):
    """Show the whole heap in one table."""

    summary = "Show the heap of the program, arena by arena; the subcommands look closer and explain."
    details = (
        "Each arena's memory from the kernel (system_mem) is the sum of what is used, what is free (in tcaches,\n"
        "fastbins and bins), the top chunk and malloc's own overhead. Large chunks have mappings of their own. Below,\n"
        "what malloc counts stands beside what the kernel has mapped; what is not malloc's is left out by name.\n"
        "\n"
        "See:      heap, heap arenas, heap chunks, heap chunk, heap bins, heap tcache, heap top, heap params\n"
        "Explain:  heap catch (record), heap events (what was recorded), heap timeline (the same, drawn),\n"
        "          heap why-grow (why the heap grew)"
    )
    options = (JSON,)
    examples = ("heap", "heap why-grow")

    def answer(self, parsed: Parsed) -> Answer:
        """Return the totals of every arena."""
        from gdbheap.debugger.model import read_account
        from gdbheap.render.account import account_lines, account_object

        account = read_account()
        return Answer(lambda: account_object(account), lambda style: account_lines(account, style))
