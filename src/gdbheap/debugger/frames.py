"""The callers of a system call, read from GDB once and kept as plain records."""

from __future__ import annotations

from typing import Any

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.processes import mapped_file
from gdbheap.debugger.target import is_runtime, program_file
from gdbheap.growth.called import called_function
from gdbheap.growth.event import FRAME_VARIABLES, Frame, plain_name
from gdbheap.growth.names import in_libc

#: How many callers are kept of one event.
DEPTH = 64
#: No code is in the lowest page. GDB goes on behind the loader's first function all the same, where the number of
#: arguments lies in place of a return address.
_LOWEST_CODE = 4096


class _Place:
    """What GDB knows of a code address: the same each time, so it is asked once."""

    __slots__ = ("frame", "variables")

    def __init__(self, frame: gdb.Frame, pc: int) -> None:
        function = frame.name()
        objfile = gdb.solib_name(pc)
        location = frame.find_sal()
        if objfile is None:
            known = function is not None or location.symtab is not None
            objfile = program_file() if known else mapped_file(pc)
        file = None
        line = None
        if location.symtab is not None:
            # The full name is looked for on disk: worth it for the user's sources, not for the C library's.
            runtime = objfile is not None and is_runtime(objfile)
            file = location.symtab.filename if runtime else location.symtab.fullname()
            line = location.line or None
        self.frame = Frame(function, file, line, objfile, pc)
        self.variables = FRAME_VARIABLES.get(plain_name(function), ()) if function else ()


class Stack:
    """The callers of one stop, newest first: as records, and as GDB's own objects while the thread stays stopped."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.of_gdb: list[gdb.Frame] = []
        self.more = False  # older ones were left out


class FrameReader:
    """Reads the stack of the selected thread, with a memory of the code addresses that it has seen."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int, bool], _Place] = {}
        self._called: dict[tuple[int, int], Frame] = {}  # by the pc of a frame without a name, and its caller's

    def forget(self) -> None:
        """Drop what is remembered: object files came or went, so an address may mean something else."""
        self._places.clear()
        self._called.clear()

    def read(self) -> Stack:
        """Return the newest DEPTH frames of the selected thread."""
        stack = Stack()
        frame: gdb.Frame | None = gdb.newest_frame()
        newest = True
        inlined = 0  # how many inlined frames came before at this very pc
        while frame is not None:
            pc = frame.pc()
            if pc < _LOWEST_CODE:
                break
            if len(stack.frames) == DEPTH:
                stack.more = True
                break
            key = (pc, inlined, newest)
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = _Place(frame, pc)
            stack.frames.append(_with_variables(place, frame) if place.variables else place.frame)
            stack.of_gdb.append(frame)
            if place.frame.function == "_start":
                break
            if frame.type() == gdb.INLINE_FRAME:
                inlined += 1
            else:
                inlined = 0
                newest = False
            try:
                frame = frame.older()
            except gdb.error:  # a stack that cannot be followed any further
                break
        for index, (called, caller) in enumerate(zip(stack.frames, stack.frames[1:])):
            if not called.function and in_libc(called):
                stack.frames[index] = self._by_call(called, caller.pc)
        return stack

    def _by_call(self, frame: Frame, return_address: int) -> Frame:
        """Return a frame without a name by that of the public function of malloc's that was called, if it was one.

        That one has left the stack to the function of the frame: it jumped there.
        """
        known = self._called.get((frame.pc, return_address))
        if known is None:
            try:
                target = session.target()
                name = called_function(target.memory, target.abi, return_address, target.malloc_entries)
            except TargetError:  # malloc cannot be found yet
                return frame
            known = self._called[frame.pc, return_address] = frame._replace(function=name)
        return known


def _with_variables(place: _Place, frame: gdb.Frame) -> Frame:
    known = place.frame
    variables: dict[str, int] = {}
    for name in place.variables:
        try:
            value: Any = frame.read_var(name)
            if not value.is_optimized_out:
                variables[name] = int(value)
        except (gdb.error, ValueError, RuntimeError):
            continue
    return known._replace(variables=variables)
