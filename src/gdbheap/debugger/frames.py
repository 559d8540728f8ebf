"""The callers of a system call, read from GDB once and kept as plain records."""

from __future__ import annotations

from typing import Any

import gdb

from gdbheap.debugger.processes import mapped_file
from gdbheap.debugger.target import is_runtime
from gdbheap.growth.event import FRAME_VARIABLES, Frame, plain_name

#: How many callers are kept of one event.
DEPTH = 64


class _Place:
    """What GDB knows of a code address: the same each time, so it is asked once."""

    __slots__ = ("file", "function", "line", "objfile", "variables")

    def __init__(self, frame: gdb.Frame, pc: int) -> None:
        self.function = frame.name()
        self.objfile = gdb.solib_name(pc)
        location = frame.find_sal()
        self.file: str | None = None
        self.line: int | None = None
        if self.objfile is None:
            known = self.function is not None or location.symtab is not None
            self.objfile = gdb.current_progspace().filename if known else mapped_file(pc)
        if location.symtab is not None:
            # The full name is looked for on disk: worth it for the user's sources, not for the C library's.
            runtime = self.objfile is not None and is_runtime(self.objfile)
            self.file = location.symtab.filename if runtime else location.symtab.fullname()
            self.line = location.line or None
        self.variables = FRAME_VARIABLES.get(plain_name(self.function), ()) if self.function else ()


class FrameReader:
    """Reads the stack of the selected thread, with a memory of the code addresses that it has seen."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int, bool], _Place] = {}
        self._frames: dict[tuple[int, int, bool], Frame] = {}

    def forget(self) -> None:
        """Drop what is remembered: object files came or went, so an address may mean something else."""
        self._places.clear()
        self._frames.clear()

    def read(self) -> tuple[tuple[Frame, ...], bool]:
        """Return the newest DEPTH frames of the selected thread, newest first, and whether older ones were left."""
        frames: list[Frame] = []
        frame: gdb.Frame | None = gdb.newest_frame()
        newest = True
        inlined = 0  # how many inlined frames came before at this very pc
        while frame is not None:
            pc = frame.pc()
            if pc == 0:
                break
            if len(frames) == DEPTH:
                return tuple(frames), True
            key = (pc, inlined, newest)
            known = self._frames.get(key)
            if known is None:
                known = self._read_frame(frame, key)
            elif self._places[key].variables:
                known = _frame(self._places[key], pc, frame)
            frames.append(known)
            if known.function == "_start":
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
        return tuple(frames), False

    def _read_frame(self, frame: gdb.Frame, key: tuple[int, int, bool]) -> Frame:
        place = self._places[key] = _Place(frame, key[0])
        read = self._frames[key] = _frame(place, key[0], frame)
        return read


def _frame(place: _Place, pc: int, frame: gdb.Frame) -> Frame:
    variables: dict[str, int] = {}
    for name in place.variables:
        value = _variable(frame, name)
        if value is not None:
            variables[name] = value
    return Frame(place.function, place.file, place.line, place.objfile, pc, variables)


def _variable(frame: gdb.Frame, name: str) -> int | None:
    try:
        value: Any = frame.read_var(name)
        return None if value.is_optimized_out else int(value)
    except (gdb.error, ValueError, RuntimeError):
        return None
