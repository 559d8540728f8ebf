"""Stacks that were seen before, recognised from the bytes of the stack instead of being unwound again.

Unwinding costs GDB about as much as the whole rest of a stop at a system call. Its result is a function of the
registers, of the code, and of the words that it reads from the stack: return addresses, and saved registers that frame
addresses are computed from. Those are the words that point into code at the frames' return slots and the words that
point into the stack itself. So a stack is the one that was learnt if its program counter and stack pointer are the
same, and so is each register and each word of it that pointed into the stack, and each return address. Anything else
that differs (a counter, a size, a heap pointer) takes no part in unwinding.

The variables that a recorder wants (``nb``, ``av`` ...) do change: for those the register or the stack slot that holds
them is learnt from GDB's own words, and read anew each time. Where GDB's words are not that simple, the stack is
unwound each time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import gdb

from gdbheap.debugger.frames import FrameReader, Stack
from gdbheap.growth.event import FRAME_VARIABLES, Frame
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi

#: The registers that a stack is recognised by on x86-64, in the order in which ``StackCache.read`` takes them.
REGISTERS = ("rip", "rsp", "rbx", "rbp", "r12", "r13", "r14", "r15")

_ABI = Abi(8)
_LARGEST = 16 << 10  # bytes of stack that are compared at most
_SHAPES = 8  # stacks that are kept for one program counter and stack pointer
_KEYS = 4096  # such pairs that are kept
#: Functions that GDB's unwinding ends at for good; a stack that ended otherwise may go on another time.
_OUTERMOST = frozenset({"main", "_start", "clone", "__clone", "clone3", "__clone3"})
_SAVED = re.compile(r"\b(\w+) at (0x[0-9a-f]+)")
_RANGE = re.compile(r"Range (0x[0-9a-f]+)-(0x[0-9a-f]+): a variable in \$(\w+)$", re.MULTILINE)
_SINGLE = re.compile(r'^Symbol "\w+" is a variable in \$(\w+)\.$', re.MULTILINE)


class _Unlearnable(Exception):
    """A stack that cannot be recognised by its bytes alone."""


class _Shape:
    """One stack that was learnt.

    ``registers`` are (place in REGISTERS, value), ``slots`` places of words of the stack with their ``values``.
    ``variables`` are (place of the frame, name, whether in a register, place of that register or word).
    """

    def __init__(self, stack: Stack, size: int) -> None:
        self.frames = tuple(stack.frames)
        self.more = stack.more
        self.size = size
        self.registers: list[tuple[int, int]] = []
        self.slots: Any = None
        self.values: Any = None
        self.variables: list[tuple[int, str, bool, int]] = []

    def matches(self, registers: Sequence[int], words: Sequence[int]) -> bool:
        """Return whether this is the stack again."""
        return self.slots(words) == self.values and all(registers[place] == value for place, value in self.registers)

    def read(self, registers: Sequence[int], words: Sequence[int]) -> tuple[Frame, ...]:
        """Return its frames with the variables that they have now."""
        if not self.variables:
            return self.frames
        found: dict[int, dict[str, int]] = {}
        for place, name, in_register, where in self.variables:
            found.setdefault(place, {})[name] = registers[where] if in_register else words[where]
        frames = list(self.frames)
        for place, variables in found.items():
            known = frames[place]
            frames[place] = Frame(known.function, known.file, known.line, known.objfile, known.pc, variables)
        return tuple(frames)


class StackCache:
    """Reads stacks as FrameReader does, and recognises those that it has seen twice."""

    def __init__(self, reader: FrameReader, memory: Memory) -> None:
        self._reader = reader
        self._memory = memory
        self._shapes: dict[tuple[int, int], list[_Shape]] = {}
        self._seen: dict[tuple[int, int], int] = {}

    def forget(self) -> None:
        """Drop what is remembered: object files came or went, so the same bytes may mean another stack."""
        self._shapes.clear()
        self._seen.clear()
        self._reader.forget()

    def read(self, registers: Sequence[int]) -> tuple[tuple[Frame, ...], bool]:
        """Return the frames of the selected thread, newest first, and whether older ones were left out.

        ``registers`` are the values of REGISTERS in the thread's newest frame.
        """
        key = (registers[0], registers[1])
        for shape in self._shapes.get(key, ()):
            try:
                words = _ABI.words(self._memory.read(registers[1], shape.size))
            except MemoryFault:
                continue
            if shape.matches(registers, words):
                return shape.read(registers, words), shape.more
        stack = self._reader.read()
        self._consider(key, stack, registers)
        return tuple(stack.frames), stack.more

    def _consider(self, key: tuple[int, int], stack: Stack, registers: Sequence[int]) -> None:
        """Learn a stack whose program counter and stack pointer come for the second time."""
        seen = self._seen.get(key, 0)
        if len(self._seen) >= _KEYS:
            self._seen.clear()
            self._shapes.clear()
        self._seen[key] = seen + 1
        shapes = self._shapes.setdefault(key, [])
        # Paths that differ each time are not worth learning: give up on them after some tries.
        if not seen or seen > 2 * _SHAPES or len(shapes) >= _SHAPES:
            return
        try:
            shapes.append(_learn(stack, registers, self._memory))
        except (_Unlearnable, MemoryFault, gdb.error):
            self._seen[key] = 2 * _SHAPES + 1


def _learn(stack: Stack, registers: Sequence[int], memory: Memory) -> _Shape:
    last = stack.frames[-1] if stack.frames else None
    if last is None or not (stack.more or last.name in _OUTERMOST):
        raise _Unlearnable
    start = registers[1]
    saved: list[dict[str, int]] = []  # by frame: where it saved its caller's registers
    returns: dict[int, int] = {}  # the slots of return addresses
    end = start
    for place, frame in enumerate(stack.of_gdb):
        if frame.type() not in (gdb.NORMAL_FRAME, gdb.INLINE_FRAME):
            raise _Unlearnable
        if place + 1 == len(stack.of_gdb):
            saved.append({})
            break
        slots = _saved_registers(place) if frame.type() == gdb.NORMAL_FRAME else {}
        saved.append(slots)
        if frame.type() == gdb.NORMAL_FRAME:
            if "rip" not in slots:
                raise _Unlearnable
            returns[slots["rip"]] = stack.frames[place + 1].pc
            end = max(end, slots["rip"] + 8)
    if not start <= end <= start + _LARGEST or any(not start <= slot < end or slot % 8 for slot in returns):
        raise _Unlearnable
    shape = _Shape(stack, end - start)
    words = _ABI.words(memory.read(start, shape.size))
    if any(words[(slot - start) // 8] != pc for slot, pc in returns.items()):
        raise _Unlearnable
    kept = [
        place
        for place, word in enumerate(words)
        if start <= word <= end + 0x1000 or start + 8 * place in returns
    ]
    if len(kept) < 2:  # itemgetter answers a tuple only from two on; a stack has as many
        raise _Unlearnable
    shape.slots = itemgetter(*kept)
    shape.values = shape.slots(words)
    shape.registers = [
        (place, value) for place, value in enumerate(registers) if place > 1 and start <= value <= end + 0x1000
    ]
    for place, frame in enumerate(stack.frames):
        for name in FRAME_VARIABLES.get(frame.name, ()) if frame.function else ():
            if name in frame.variables:
                in_register, where = _location(stack, place, name, saved, start, end)
                found = registers[where] if in_register else words[where]
                if found != frame.variables[name]:
                    raise _Unlearnable
                shape.variables.append((place, name, in_register, where))
    return shape


def _saved_registers(level: int) -> dict[str, int]:
    """Return where the frame at ``level`` saved its caller's registers, by name, as GDB says."""
    text = gdb.execute(f"info frame level {level}", to_string=True)
    _, _, listed = text.partition("Saved registers:")
    return {name: int(address, 16) for name, address in _SAVED.findall(listed)}


def _location(
    stack: Stack, place: int, name: str, saved: Sequence[dict[str, int]], start: int, end: int
) -> tuple[bool, int]:
    """Return where a variable of a frame is: (True, place in REGISTERS) or (False, place of a word of the stack)."""
    frame = stack.of_gdb[place]
    value = frame.read_var(name)
    if value.type.sizeof != 8:
        raise _Unlearnable
    if value.address is not None:
        address = int(value.address)
        if not start <= address < end or address % 8:
            raise _Unlearnable
        return False, (address - start) // 8
    register = _register_of(frame, name, newest=place == 0)
    for newer in range(place - 1, -1, -1):
        slot = saved[newer].get(register)
        if slot is not None:
            if not start <= slot < end or slot % 8:
                raise _Unlearnable
            return False, (slot - start) // 8
    if register not in REGISTERS:
        raise _Unlearnable
    return True, REGISTERS.index(register)


def _register_of(frame: gdb.Frame, name: str, newest: bool) -> str:
    selected = gdb.selected_frame()
    frame.select()
    try:
        text = gdb.execute(f"info address {name}", to_string=True)
    finally:
        selected.select()
    single = _SINGLE.search(text)
    if single is not None:
        return single.group(1)
    # A caller's pc is behind its call, which may be the end of the range.
    pc = frame.pc() - (0 if newest else 1)
    for low, high, register in _RANGE.findall(text):
        if int(low, 16) <= pc < int(high, 16):
            return str(register)
    raise _Unlearnable
