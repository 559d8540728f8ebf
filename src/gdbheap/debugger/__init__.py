"""gdbheap inside GDB: the only package that imports gdb."""

from __future__ import annotations

import gdb

PREFIX = "heap"
#: Our prefix where another extension holds PREFIX; always there, so that a script can rely on it.
SECOND_PREFIX = "gdbheap"

_loaded = False

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable


def load(look_again: Callable[[], str] | None = None) -> None:
    """Define the commands, the functions, the settings and the rest; do nothing where that was done before.

    Where packages are missing ``look_again`` looks for them once more, and says in a sentence what to do.
    """
    global _loaded
    if _loaded:
        return
    from gdbheap.debugger import errors, functions, mi, printers, settings
    from gdbheap.debugger.manual import manual

    prefixes = [SECOND_PREFIX]
    if settings.is_defined(PREFIX):
        gdb.write(
            f"The command '{PREFIX}' belongs to another extension, so it is left alone: "
            f"gdbheap's commands are under '{SECOND_PREFIX}' (such as '{SECOND_PREFIX} why-grow').\n"
        )
    else:
        prefixes.append(PREFIX)
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
    settings.define(prefixes)
    named_functions = [(function.usage, function.summary) for function in functions.FUNCTIONS]
    made: list[HeapCommand] = []
    for prefix in prefixes:
        named = [(f"set {prefix} {item.word}", f"Set {item.subject}.") for item in settings.SETTINGS]
        made = [Heap(prefix, manual(prefix, (Heap, *commands), named_functions, named))]
        made += [command(prefix) for command in commands]
    if look_again is not None:
        errors.set_look_again(look_again)
    functions.define()
    printers.define()
    mi.define(made)
    _loaded = True
