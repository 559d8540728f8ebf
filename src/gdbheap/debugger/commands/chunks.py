"""heap chunks: every chunk of an arena."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, HeapCommand
from gdbheap.debugger.options import Option, Parsed


class HeapChunks(HeapCommand):
    word = "chunks"
    options = (JSON,)

    def run(self, parsed: Parsed) -> None:
        pass
