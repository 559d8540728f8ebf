"""heap arenas: each arena and what it is made of."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand
from gdbheap.debugger.options import Parsed


class HeapArenas(HeapCommand):
    """List the arenas."""

    word = "arenas"
    shows_heap = True
    summary = "List the arenas: address, heaps, memory from the kernel, lock, and the threads that use each."
    details = (
        "Where a lock is held, who holds it and who waits for it is told by the frames of all threads: malloc's locks\n"
        "note no owner."
    )
    options = (JSON,)
    examples = ("heap arenas",)

    def answer(self, parsed: Parsed) -> Answer:
        """Return every arena of the ring."""
        from gdbheap.debugger.model import read_state, threads_of_arenas
        from gdbheap.render.json_state import arena_object
        from gdbheap.render.state import arenas_lines

        state = read_state()
        threads = threads_of_arenas(state)
        locks = () if self.unsettled is None else self.unsettled.locks
        return Answer(
            lambda: {
                "arenas": [arena_object(state, arena, threads, locks) for arena in state.ring.arenas],
                "problem": state.ring.problem,
            },
            lambda style: arenas_lines(state, threads, locks, style),
        )
