"""heap top: the top chunk of each arena, and how far it goes."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand
from gdbheap.debugger.options import Parsed


class HeapTop(HeapCommand):
    """Show the top chunks."""

    word = "top"
    shows_heap = True
    summary = "Show each arena's top chunk: what is left in it, and which request will need the kernel again."
    options = (JSON,)
    examples = ("heap top",)

    def answer(self, parsed: Parsed) -> Answer:
        """Return the top chunk of every arena."""
        from gdbheap.debugger.model import read_state
        from gdbheap.render.json_state import top_object
        from gdbheap.render.state import top_lines

        state = read_state()
        return Answer(
            lambda: {"arenas": [top_object(state, arena) for arena in state.ring.arenas]},
            lambda style: top_lines(state, style),
        )
