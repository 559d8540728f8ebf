"""heap: the overview."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, HeapCommand
from gdbheap.debugger.options import Parsed


class Heap(HeapCommand):
    """Show the whole heap in one table."""

    summary = "Show the heap of the program, arena by arena; the subcommands look closer and explain."
    details = (
        "Each arena's memory from the kernel (system_mem) is the sum of what is used, what is free, the top chunk and\n"
        "malloc's own overhead.\n"
        "\n"
        "See:      heap, heap arenas, heap chunks, heap top, heap params\n"
        "Explain:  heap catch (record), heap events (what was recorded), heap why-grow (why the heap grew)"
    )
    options = (JSON,)
    examples = ("heap", "heap why-grow")

    def run(self, parsed: Parsed) -> None:
        """Walk every arena and show the totals."""
        from gdbheap.debugger.model import read_account
        from gdbheap.debugger.output import style, write_json, write_lines
        from gdbheap.render.account import account_lines, account_object

        account = read_account()
        path = parsed.text("json")
        if path is not None:
            write_json("heap", account_object(account), path)
            if not path:
                return
        write_lines(account_lines(account, style()))
