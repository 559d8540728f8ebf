"""gdbheap inside GDB: the only package that imports gdb."""

from __future__ import annotations

import gdb

PREFIX = "heap"
#: Our prefix where another extension holds PREFIX; always there, so that a script can rely on it.
SECOND_PREFIX = "gdbheap"

_loaded = False


def _is_taken(name: str) -> bool:
    try:
        gdb.execute(f"help {name}", to_string=True)
    except gdb.error:
        return False
    return True


def load() -> None:
    """Define the commands, the functions and the settings; do nothing where that was done before."""
    global _loaded
    if _loaded:
        return
    prefixes = [SECOND_PREFIX]
    if _is_taken(PREFIX):
        gdb.write(
            f"The command '{PREFIX}' belongs to another extension, so it is left alone: "
            f"gdbheap's commands are under '{SECOND_PREFIX}' (such as '{SECOND_PREFIX} why-grow').\n"
        )
    else:
        prefixes.append(PREFIX)
    from gdbheap.debugger.commands.arenas import HeapArenas
    from gdbheap.debugger.commands.bins import HeapBins
    from gdbheap.debugger.commands.catch import HeapCatch
    from gdbheap.debugger.commands.check import HeapCheck
    from gdbheap.debugger.commands.chunk import HeapChunk
    from gdbheap.debugger.commands.chunks import HeapChunks
    from gdbheap.debugger.commands.events import HeapEvents
    from gdbheap.debugger.commands.find import HeapFind
    from gdbheap.debugger.commands.overview import Heap
    from gdbheap.debugger.commands.params import HeapParams
    from gdbheap.debugger.commands.refs import HeapRefs
    from gdbheap.debugger.commands.tcache import HeapTcache
    from gdbheap.debugger.commands.timeline import HeapTimeline
    from gdbheap.debugger.commands.top import HeapTop
    from gdbheap.debugger.commands.trace import HeapTrace
    from gdbheap.debugger.commands.why_grow import HeapWhyGrow

    for prefix in prefixes:
        for command in (
            *(Heap, HeapArenas, HeapTop, HeapParams, HeapChunks, HeapFind, HeapRefs),
            *(HeapChunk, HeapBins, HeapTcache, HeapCheck),
            *(HeapCatch, HeapEvents, HeapTimeline, HeapWhyGrow, HeapTrace),
        ):
            command(prefix)
    _loaded = True
