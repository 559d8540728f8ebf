"""The callers of a system call, read from GDB once and kept as plain records."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.images import is_another_build
from gdbheap.debugger.processes import mapped_file
from gdbheap.debugger.target import GdbMemory, is_libc, is_runtime, program_file
from gdbheap.growth.called import called_function
from gdbheap.growth.event import FRAME_VARIABLES, Frame, plain_name
from gdbheap.growth.names import in_libc
from gdbheap.memory import MemoryFault

#: How many callers are kept of one event.
DEPTH = 64
#: No code is in the lowest page. GDB goes on behind the loader's first function all the same, where the number of
#: arguments lies in place of a return address.
_LOWEST_CODE = 4096


class _Misread(NamedTuple):
    """Code of a library that GDB takes for another build: its public ``name`` as memory tells it, and its ``file``.

    ``blind`` is whether GDB cannot tell its callers either.
    """

    name: str | None
    file: str
    blind: bool


class _Place:
    """What GDB knows of a code address: the same each time, so it is asked once.

    ``misread`` is whether it is in a libc that GDB takes for another build, so that only what is in memory names it;
    ``blind`` whether what GDB says of its callers is then nothing to go by.
    """

    __slots__ = ("blind", "frame", "misread", "variables")
    variables: tuple[str, ...]

    def __init__(self, frame: gdb.Frame, pc: int, misread: _Misread | None) -> None:
        self.misread = misread is not None
        self.blind = misread is not None and misread.blind
        if misread is not None:
            self.frame, self.variables = Frame(misread.name, None, None, misread.file, pc), ()
            return
        objfile = gdb.solib_name(pc)
        function = frame.name()
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
        self.blind = False  # GDB cannot tell what called the last of them


class FrameReader:
    """Reads the stack of the selected thread, with a memory of the code addresses that it has seen."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int, bool], _Place] = {}
        self._others: dict[str, bool] = {}  # whether what is loaded is of another build than the file of that path
        self._called: dict[tuple[int, int], Frame] = {}  # by the pc of a frame without a name, and its caller's

    def forget(self) -> None:
        """Drop what is remembered: object files came or went, so an address may mean something else."""
        self._places.clear()
        self._others.clear()
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
                place = self._places[key] = _Place(frame, pc, self._misread(pc, newest))
            if not place.misread or place.blind or frame.type() != gdb.INLINE_FRAME:
                stack.frames.append(_with_variables(place, frame) if place.variables else place.frame)
                stack.of_gdb.append(frame)
            if place.blind:
                stack.blind = True
                break
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

    def _misread(self, pc: int, newest: bool) -> _Misread | None:
        """Return what is known of ``pc`` where it is in a libc or loader whose symbols GDB has wrong, or not at all."""
        objfile = gdb.solib_name(pc)
        if objfile is not None and not is_runtime(objfile):
            return None
        if objfile is not None and not is_libc(os.path.basename(objfile)):
            if objfile not in self._others:
                own = [item for item in gdb.objfiles() if item.filename == objfile and item.owner is None]
                self._others[objfile] = any(is_another_build(GdbMemory(), item) for item in own)
            return _Misread(None, objfile, True) if self._others[objfile] else None
        try:
            found = session.target()
        except (TargetError, MemoryFault):
            return None
        known = found.identified
        if not known.warning or known.image is None or not known.image.holds(pc):
            return None
        name = None if known.located is None else known.located.function_at(pc if newest else pc - 1)
        return _Misread(name, found.libc, not known.unwinds)

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
