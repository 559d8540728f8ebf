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

from array import array
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import gdb

from gdbheap.debugger.frame_slots import NotSimple, register_of, saved_registers
from gdbheap.debugger.frames import FrameReader, Stack
from gdbheap.debugger.syscalls import register
from gdbheap.growth.event import Frame
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi

#: The registers, beside pc and sp, that frames or variables may depend on where a function is under way (x86-64).
_KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")

_ABI = Abi(8)
_WORD = 0xFFFFFFFFFFFFFFFF
_LARGEST = 16 << 10  # bytes of stack that are compared at most
_SHAPES = 8  # stacks that are kept for one program counter and stack pointer
_KEYS = 4096  # such pairs that are kept
#: Functions that GDB's unwinding ends at for good; a stack that ended otherwise may go on another time.
_OUTERMOST = frozenset({"main", "_start", "_dl_start_user", "clone", "__clone", "clone3", "__clone3"})


class _Unlearnable(Exception):
    """A stack that cannot be recognised by its bytes alone."""


class Held(NamedTuple):
    """Where the value of a variable is: in a ``register``, else in the word of the stack at ``word``; plus ``more``.

    ``place`` is that of its frame, ``name`` its own.
    """

    place: int
    name: str
    register: str | None
    word: int
    more: int

    def now(self, words: Sequence[int]) -> int:
        """Return the value, where ``words`` are those of the stack."""
        held = words[self.word] if self.register is None else register(self.register)
        return (held + self.more) & _WORD


class Shape:
    """One stack that was learnt.

    ``registers`` are names with their values, ``slots`` takes words of the stack out of all and ``values`` is what it
    took.
    """

    def __init__(self, stack: Stack, size: int) -> None:
        self.frames = tuple(stack.frames)
        self.more = stack.more
        self.size = size
        self.registers: list[tuple[str, int]] = []
        self.slots: Any = None
        self.values: Any = None
        self.variables: list[Held] = []
        #: For whoever uses the cache: what it worked out of this stack's code, and of values of its variables.
        self.notes: dict[Any, Any] = {}
        self.made: dict[tuple[int, ...], Any] = {}

    def matches(self, words: Sequence[int]) -> bool:
        """Return whether this is the stack again."""
        return self.slots(words) == self.values and all(register(name) == value for name, value in self.registers)

    def variables_now(self, words: Sequence[int]) -> tuple[int, ...]:
        """Return the values of ``variables``, in their order."""
        return tuple([held.now(words) for held in self.variables])

    def frames_with(self, values: Sequence[int]) -> tuple[Frame, ...]:
        """Return the frames with these values of their variables."""
        if not values:
            return self.frames
        found: dict[int, dict[str, int]] = {}
        for held, value in zip(self.variables, values):
            found.setdefault(held.place, {})[held.name] = value
        frames = list(self.frames)
        for place, variables in found.items():
            frames[place] = Frame(*frames[place][:-1], {**frames[place].variables, **variables})
        return tuple(frames)

    def variable(self, place: int, name: str) -> int | None:
        """Return which of ``variables`` this one is, None where it is none of them."""
        names = [(held.place, held.name) for held in self.variables]
        return names.index((place, name)) if (place, name) in names else None


class UnwoundStacks:
    """Reads stacks as FrameReader does, each anew: for machines whose stacks are not recognised."""

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader

    def forget(self) -> None:
        """Drop what is remembered: object files came or went."""
        self._reader.forget()

    def recognise(self, pc: int, sp: int) -> tuple[Shape, tuple[int, ...]] | None:
        """Return None: no stack is learnt."""
        return None

    def read(self, pc: int, sp: int) -> Stack:
        """Return the stack of the selected thread, unwound by GDB."""
        return self._reader.read()


class StackCache:
    """Reads stacks as FrameReader does, and recognises those that it has seen twice."""

    def __init__(self, reader: FrameReader, memory: Memory) -> None:
        self._reader = reader
        self._memory = memory
        self._shapes: dict[tuple[int, int], list[Shape]] = {}
        self._seen: dict[tuple[int, int], int] = {}

    def forget(self) -> None:
        """Drop what is remembered: object files came or went, so the same bytes may mean another stack."""
        self._shapes.clear()
        self._seen.clear()
        self._reader.forget()

    def recognise(self, pc: int, sp: int) -> tuple[Shape, tuple[int, ...]] | None:
        """Return the stack that the selected thread has, with its variables, where it is one that was learnt.

        ``pc`` and ``sp`` are those of the thread's newest frame.
        """
        for shape in self._shapes.get((pc, sp), ()):
            try:
                words = array("Q", self._memory.read(sp, shape.size))
            except MemoryFault:
                continue
            if shape.matches(words):
                return shape, shape.variables_now(words)
        return None

    def read(self, pc: int, sp: int) -> Stack:
        """Return the stack of the selected thread, unwound by GDB; learn it where it comes for the second time."""
        stack = self._reader.read()
        self._consider(pc, sp, stack)
        return stack

    def _consider(self, pc: int, sp: int, stack: Stack) -> None:
        """Learn a stack whose program counter and stack pointer come for the second time."""
        key = (pc, sp)
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
            shapes.append(_learn(stack, sp, self._memory))
        except (_Unlearnable, NotSimple, MemoryFault, gdb.error):
            self._seen[key] = 2 * _SHAPES + 1


def _learn(stack: Stack, start: int, memory: Memory) -> Shape:
    last = stack.frames[-1] if stack.frames else None
    if last is None or not (stack.more or last.name in _OUTERMOST):
        raise _Unlearnable
    saved: list[dict[str, int]] = []  # by frame: where it saved its caller's registers
    returns: dict[int, int] = {}  # the slots of return addresses
    end = start
    for place, frame in enumerate(stack.of_gdb):
        if frame.type() not in (gdb.NORMAL_FRAME, gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            raise _Unlearnable
        outermost = place + 1 == len(stack.of_gdb)
        slots = {} if outermost or frame.type() != gdb.NORMAL_FRAME else _saved_registers(place)
        saved.append(slots)
        if slots:
            # GDB works out from the code alone which functions a tail call has gone through.
            behind = range(place + 1, len(stack.of_gdb))
            caller = next((at for at in behind if stack.of_gdb[at].type() != gdb.TAILCALL_FRAME), None)
            if caller is None:
                raise _Unlearnable
            returns[slots["rip"]] = stack.frames[caller].pc
            end = max(end, slots["rip"] + 8)
    if not start <= end <= start + _LARGEST or any(not start <= slot < end or slot % 8 for slot in returns):
        raise _Unlearnable
    shape = Shape(stack, end - start)
    words = _ABI.words(memory.read(start, shape.size))
    if any(words[(slot - start) // 8] != pc for slot, pc in returns.items()):
        raise _Unlearnable
    highest = end + _ABI.page_size  # frames are computed from addresses of the stack, also a little above
    kept = [place for place, word in enumerate(words) if start <= word <= highest or start + 8 * place in returns]
    if len(kept) < 2:  # itemgetter answers a tuple only from two on; a stack has as many
        raise _Unlearnable
    shape.slots = itemgetter(*kept)
    shape.values = shape.slots(words)
    shape.registers = [(name, value) for name in _KEPT if start <= (value := register(name)) <= highest]
    for place, seen in enumerate(stack.frames):
        for name, value in seen.variables.items():
            held = _location(stack, place, name, saved, start, end)
            if held is not None:
                if held.now(words) != value & _WORD:
                    raise _Unlearnable
                shape.variables.append(held)
    return shape


def _saved_registers(level: int) -> dict[str, int]:
    """Return where the frame at ``level`` saved its caller's registers, by name, as GDB says.

    The return address is in the frame's last word, also where GDB leaves that out: before a tail call.
    """
    end, slots = saved_registers(level)
    return {"rip": end - _ABI.word_size, **slots}


def _location(
    stack: Stack, place: int, name: str, saved: Sequence[dict[str, int]], start: int, end: int
) -> Held | None:
    """Return where a variable of a frame is, None where it is a constant in this code."""
    frame = stack.of_gdb[place]
    value = frame.read_var(name)
    if value.type.sizeof != _ABI.word_size:
        raise _Unlearnable
    if value.address is not None:
        return Held(place, name, None, _word_place(int(value.address), start, end), 0)
    found = register_of(frame, name, newest=place == 0)
    if found is None:
        return None
    held_in, more = found
    for newer in range(place - 1, -1, -1):
        slot = saved[newer].get(held_in)
        if slot is not None:
            return Held(place, name, None, _word_place(slot, start, end), more)
    if held_in not in _KEPT:
        raise _Unlearnable
    return Held(place, name, held_in, 0, more)


def _word_place(address: int, start: int, end: int) -> int:
    if not start <= address < end or address % _ABI.word_size:
        raise _Unlearnable
    return (address - start) // _ABI.word_size
