"""What a pointer that the program passed points to: a chunk, its inside, a function's variable, a static one."""

from __future__ import annotations

import gdb

from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.frame_words import ThreadFrames, whole_stacks
from gdbheap.debugger.inspector import Inspector
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.static_variables import static_at
from gdbheap.debugger.target import Target, each_thread
from gdbheap.debugger.whereabouts import elsewhere
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.inspection import Inspection
from gdbheap.ptmalloc.placed import Placed, PlaceKind


def placed_at(target: Target, address: int) -> Placed:
    """Return what is at ``address``, as `heap chunk` finds it; also where malloc has no heap yet."""
    try:
        found = Inspector().inspect(address, 0)
    except (TargetError, MemoryFault):
        found = elsewhere(mapped_ranges(), address)
    if isinstance(found, Inspection):
        offset = address - found.chunk.pointer
        kind = PlaceKind.INSIDE if offset else PlaceKind.POINTER
        arena = None if found.arena is None else found.arena.name
        return Placed(kind, address, found.chunk, offset, arena)
    if found.thread is not None:
        for thread in each_thread():
            if thread.num == found.thread:
                with whole_stacks():
                    try:
                        frame = ThreadFrames(target.memory, target.abi).words([address]).get(address)
                    except gdb.error:
                        frame = None
                return Placed(PlaceKind.STACK, address, thread=found.thread, frame=frame, text=found.text)
    variable = static_at(address, target.abi.word_size)
    if variable is not None and variable.is_data:
        return Placed(
            PlaceKind.VARIABLE, address, variable=variable.path, is_array=variable.is_array, text=found.text,
            is_static=variable.is_static,
        )  # fmt: skip
    return Placed(PlaceKind.ELSEWHERE, address, text=found.text)
