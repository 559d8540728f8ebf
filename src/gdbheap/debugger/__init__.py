"""gdbheap inside GDB: the only package that imports gdb."""

from __future__ import annotations

import gdb

PREFIX = "gdbheap"
#: The short name of PREFIX, where no other extension has it.
SHORT_PREFIX = "heap"

_loaded = False


def load() -> None:
    """Define the commands, the functions, the settings and the rest; do nothing where that was done before."""
    global _loaded
    if _loaded:
        return
    from gdbheap.debugger import functions, mi, printers, settings
    from gdbheap.debugger.manual import manual

    taken = settings.is_defined(SHORT_PREFIX)
    if taken:
        gdb.write(
            f"The command '{SHORT_PREFIX}' belongs to another extension, so it is left alone: "
            f"gdbheap's commands are under '{PREFIX}' (such as '{PREFIX} why-grow').\n"
        )
    from gdbheap.debugger.commands.arenas import HeapArenas
    from gdbheap.debugger.commands.base import HeapCommand
    from gdbheap.debugger.commands.bins import HeapBins
    from gdbheap.debugger.commands.catch import HeapCatch
    from gdbheap.debugger.commands.check import HeapCheck
    from gdbheap.debugger.commands.chunk import HeapChunk
    from gdbheap.debugger.commands.chunks import HeapChunks
    from gdbheap.debugger.commands.events import HeapEvents
    from gdbheap.debugger.commands.find import HeapFind
    from gdbheap.debugger.commands.map import HeapMap
    from gdbheap.debugger.commands.overview import Heap
    from gdbheap.debugger.commands.params import HeapParams
    from gdbheap.debugger.commands.predict import HeapPredict
    from gdbheap.debugger.commands.refs import HeapRefs
    from gdbheap.debugger.commands.tcache import HeapTcache
    from gdbheap.debugger.commands.timeline import HeapTimeline
    from gdbheap.debugger.commands.top import HeapTop
    from gdbheap.debugger.commands.trace import HeapTrace
    from gdbheap.debugger.commands.what_if import HeapWhatIf
    from gdbheap.debugger.commands.why_grow import HeapWhyGrow

    commands = (
        *(HeapArenas, HeapTop, HeapParams, HeapChunks, HeapMap),
        *(HeapChunk, HeapBins, HeapTcache, HeapFind, HeapRefs),
        *(HeapCatch, HeapEvents, HeapTimeline, HeapWhyGrow, HeapTrace, HeapPredict, HeapWhatIf, HeapCheck),
    )
    settings.define([PREFIX] if taken else [PREFIX, SHORT_PREFIX])
    shown = PREFIX if taken else SHORT_PREFIX
    named_functions = [(function.usage, function.summary) for function in functions.FUNCTIONS]
    named = [(f"set {shown} {item.word}", f"Set {item.subject}.") for item in settings.SETTINGS]
    made: list[HeapCommand] = [Heap(PREFIX, shown, manual(shown, (Heap, *commands), named_functions, named))]
    made += [command(PREFIX, shown) for command in commands]
    if not taken:
        # An extension that comes later may refuse to load where GDB lists a command of a name that it defines, as
        # pwndbg does. An alias that is marked as an abbreviation is not listed, and gives way to a command.
        gdb.execute(f"alias -a {SHORT_PREFIX} = {PREFIX}")
    functions.define()
    printers.define()
    mi.define(made)
    _loaded = True
