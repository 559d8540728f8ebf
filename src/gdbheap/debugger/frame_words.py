"""Which frame of the selected thread, and which of its variables, a word of the stack or a register belongs to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import gdb

from gdbheap.debugger.frame_slots import NotSimple, base_offset, register_of, saved_registers
from gdbheap.debugger.member_paths import member_path, pointed_path
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.refs import FrameWord, Unknown

#: What x86-64 keeps below its stack pointer (the red zone), in bytes; no other machine has more.
RED_ZONE = 128
_REFERENCES = (gdb.TYPE_CODE_REF, getattr(gdb, "TYPE_CODE_RVALUE_REF", gdb.TYPE_CODE_REF))
#: How many frames' pointers are asked for what they point to.
_ASKED = 64


@contextmanager
def whole_stacks() -> Iterator[None]:
    """Let GDB show each stack up to its first frame: main's callers too, and however many there are."""
    past_main, limit = gdb.parameter("backtrace past-main"), gdb.parameter("backtrace limit")
    if past_main and limit is None:
        yield
        return
    gdb.execute("set backtrace past-main on")
    gdb.execute("set backtrace limit unlimited")
    try:
        yield
    finally:
        gdb.execute(f"set backtrace past-main {'on' if past_main else 'off'}")
        gdb.execute(f"set backtrace limit {'unlimited' if limit is None else limit}")


class _Variable(NamedTuple):
    """A variable of a frame: in memory from ``start`` on, or in a ``register``; else where is not known."""

    name: str
    type: gdb.Type
    start: int | None
    size: int
    register: str | None
    value: gdb.Value


@dataclass
class _Level:
    """One frame as GDB counts them, with its variables: ``exact`` is whether its pc is that of the next instruction."""

    level: int
    frame: gdb.Frame
    exact: bool

    @property
    def function(self) -> str | None:
        """The function's name, None where no symbol tells it."""
        if self.frame.type() == gdb.SIGTRAMP_FRAME:
            return "<signal handler called>"
        return self.frame.name()

    @cached_property
    def variables(self) -> list[_Variable] | None:
        """The variables that are in scope, None where no debug information describes the function."""
        try:
            block: gdb.Block | None = self.frame.block()
        except (RuntimeError, gdb.error):
            return None
        found = []
        names: set[str] = set()
        while block is not None and not block.is_static and not block.is_global:
            for symbol in block:
                if not (symbol.is_variable or symbol.is_argument) or symbol.addr_class == gdb.SYMBOL_LOC_STATIC:
                    continue
                with suppress(gdb.error, RuntimeError, ValueError):
                    found.append(self._variable(symbol, symbol.name in names))
                names.add(symbol.name)
            if block.function is not None:
                break
            block = block.superblock
        return found

    @cached_property
    def out_of_scope(self) -> list[_Variable]:
        """The variables of the function's blocks that are not being executed: what is left of them is still there."""
        found = []
        try:
            block: gdb.Block | None = self.frame.block()
            table = self.frame.find_sal().symtab
            while block is not None and block.function is None:
                block = block.superblock
            if block is None or table is None:
                return []
            lines = {line.pc for line in table.linetable() if block.start <= line.pc < block.end}
            blocks = {(inner.start, inner.end): inner for inner in map(gdb.block_for_pc, lines) if inner is not None}
            for inner in blocks.values():
                if inner.function is None and not inner.start <= self.frame.pc() < inner.end:
                    for symbol in inner:
                        if symbol.is_variable and symbol.addr_class != gdb.SYMBOL_LOC_STATIC:
                            with suppress(gdb.error, RuntimeError, ValueError):
                                found.append(self._variable(symbol, True))
        except (RuntimeError, gdb.error):
            return []
        return found

    def _variable(self, symbol: gdb.Symbol, hidden: bool) -> _Variable:
        """Return a variable; a ``hidden`` one is one whose name means another in an inner block."""
        value = self.frame.read_var(symbol)
        kind = value.type
        register = None
        start = None if value.address is None or kind.strip_typedefs().code in _REFERENCES else int(value.address)
        if start is None and not hidden and kind.strip_typedefs().code not in _REFERENCES:
            with suppress(NotSimple, gdb.error):
                found = register_of(self.frame, symbol.name, self.exact)
                register = found[0] if found is not None and not found[1] else None
        return _Variable(symbol.name, kind, start, kind.sizeof, register, value)


@dataclass
class _Group:
    """The frames that share a part of the stack: a function and what was inlined into it, the innermost first.

    The part begins at ``start`` and ends at ``end``.
    """

    levels: list[_Level]
    start: int
    end: int
    _saved: dict[str, int] | None = field(default=None, repr=False)

    @property
    def own(self) -> _Level:
        """The function itself."""
        return self.levels[-1]

    @property
    def saved(self) -> dict[str, int]:
        """Where the function saved its caller's registers, by their names."""
        if self._saved is None:
            try:
                self._saved = saved_registers(self.own.level)[1]
            except (NotSimple, gdb.error):
                self._saved = {}
        return self._saved


class ThreadFrames:
    """The frames of the selected thread, unwound as far as they are asked for."""

    def __init__(self, memory: Memory, abi: Abi) -> None:
        self._memory = memory
        self._abi = abi
        self._groups: list[_Group] = []
        self._walk = self._unwind()

    def words(self, addresses: Sequence[int]) -> dict[int, FrameWord]:
        """Return whose the words at ``addresses`` of the stack are; those that are in no frame are left out."""
        found: dict[int, FrameWord] = {}
        left = set(addresses)
        for place, group in enumerate(self._each()):
            low = group.start - (RED_ZONE if place == 0 else 0)
            inside = [address for address in left if low <= address < group.end]
            for address in inside:
                found[address] = self._word(place, address)
            left.difference_update(inside)
            if not left:
                break
        return found

    def registers(self, names: Sequence[str]) -> dict[str, FrameWord]:
        """Return whose variables the registers of the newest frame hold; those that hold none are left out."""
        found = {}
        for name in names:
            owner = self._owner(name, 0)
            if owner is not None and owner.variable is not None:
                found[name] = owner
        return found

    def path_into(self, chunk: int, offset: int) -> FrameWord | None:
        """Return how a variable of a frame leads to the word ``offset`` bytes after the user pointer ``chunk``."""
        for level, name, kind in self._pointers.get(chunk, ()):
            path = pointed_path(name, kind, offset, self._abi.word_size)
            if path is not None:
                return FrameWord(level.level, level.function, path)
        return None

    @cached_property
    def _pointers(self) -> dict[int, list[tuple[_Level, str, gdb.Type]]]:
        """The newest frames' variables that are pointers, with what they point to, by their values."""
        found: dict[int, list[tuple[_Level, str, gdb.Type]]] = {}
        for group in self._first():
            for level in group.levels:
                for variable in level.variables or ():
                    kind = variable.type.strip_typedefs()
                    if kind.code == gdb.TYPE_CODE_PTR:
                        with suppress(gdb.error, RuntimeError, ValueError, OverflowError):
                            value = int(variable.value) % (1 << 64)
                            found.setdefault(value, []).append((level, variable.name, kind.target()))
        return found

    def stacks(self) -> list[int]:
        """Return the stack pointer of each stack that the newest frames are on: a signal's handler may have its own."""
        found: list[int] = []
        interrupted = True
        for group in self._first():
            if interrupted or group.start < found[-1]:
                found.append(group.start)
            interrupted = group.own.frame.type() == gdb.SIGTRAMP_FRAME
        return found

    # --- unwinding --------------------------------------------------------------------------------------------------

    def _first(self) -> Iterator[_Group]:
        for place, group in enumerate(self._each()):
            if place == _ASKED:
                return
            yield group

    def _each(self) -> Iterator[_Group]:
        place = 0
        while True:
            if place == len(self._groups):
                group = next(self._walk, None)
                if group is None:
                    return
                self._groups.append(group)
            yield self._groups[place]
            place += 1

    def _unwind(self) -> Iterator[_Group]:
        levels: list[_Level] = []
        frame: gdb.Frame | None = gdb.newest_frame()
        exact = True
        number = 0
        while frame is not None:
            levels.append(_Level(number, frame, exact))
            number += 1
            try:
                older = frame.older()
            except gdb.error:  # a stack that cannot be followed any further
                older = None
            kind = frame.type()
            if kind != gdb.INLINE_FRAME:
                start = _stack_pointer(frame)
                if start is None:
                    return
                end = None if older is None else _stack_pointer(older)
                if end is None:
                    with suppress(NotSimple, gdb.error):
                        end = saved_registers(number - 1)[0]
                if end is None or end < start:  # the last of its stack, which may go on above
                    end = max((slot + self._abi.word_size for slot in self._saved(number - 1)), default=start)
                yield _Group(levels, start, end)
                levels = []
                exact = kind == gdb.SIGTRAMP_FRAME  # a signal's handler is called between two instructions
            frame = older

    @staticmethod
    def _saved(level: int) -> Collection[int]:
        try:
            return saved_registers(level)[1].values()
        except (NotSimple, gdb.error):
            return ()

    # --- whose ------------------------------------------------------------------------------------------------------

    def _word(self, place: int, address: int) -> FrameWord:
        group = self._groups[place]
        callee = self._groups[place - 1].levels[-1:] if place else []  # what does not fit registers lies above it
        for level in (*group.levels, *callee):
            for variable in level.variables or ():
                start = variable.start
                if start is None and variable.type.strip_typedefs().code in _REFERENCES:
                    start = self._slot(level, variable, place if level in group.levels else place - 1)
                    if start == address:
                        return FrameWord(level.level, level.function, variable.name)
                elif start is not None and start <= address < start + variable.size:
                    path = member_path(variable.type, address - start, self._abi.word_size)
                    return FrameWord(level.level, level.function, variable.name + path)
        why = _why(group)
        # Optimised code may use the place of a variable that is out of scope for something else.
        for level in group.levels if why is Unknown.NO_VARIABLE else ():
            for variable in level.out_of_scope:
                if variable.start is not None and variable.start <= address < variable.start + variable.size:
                    name = variable.name + member_path(variable.type, address - variable.start, self._abi.word_size)
                    return FrameWord(level.level, level.function, name, in_scope=False)
        for register, slot in group.saved.items():
            if slot == address:
                owner = self._owner(register, place + 1)
                by = (group.own.level, group.own.function)
                if owner is None:
                    return FrameWord(*by, None, register, by)
                return FrameWord(owner.level, owner.function, owner.variable, register, by, owner.unknown)
        if address < group.start:
            why = Unknown.RED_ZONE
        return FrameWord(group.own.level, group.own.function, None, unknown=why)

    def _slot(self, level: _Level, variable: _Variable, place: int) -> int | None:
        """Return where a C++ reference itself lies: GDB tells the address of what it refers to only."""
        end = self._groups[place].end
        try:
            offset = base_offset(level.frame, variable.name)
            if offset is None:
                return None
            # The frame's base is its end where the compiler says so (DW_OP_call_frame_cfa); the word must agree.
            aim = variable.value.referenced_value().address
            if aim is None or self._abi.read_word(self._memory, end + offset) != int(aim):
                return None
            return end + offset
        except (gdb.error, MemoryFault, TypeError, RuntimeError):
            return None

    def _owner(self, register: str, first: int) -> FrameWord | None:
        """Return whose value a register has in the frame at ``first``: a frame that does not save it leaves it alone.

        None where GDB cannot tell the frames that far.
        """
        for place, group in enumerate(self._each()):
            if place < first:
                continue
            for level in group.levels:
                for variable in level.variables or ():
                    if variable.register == register:
                        return FrameWord(level.level, level.function, variable.name, register)
            if register in group.saved:
                return FrameWord(group.own.level, group.own.function, None, register, unknown=_why(group))
        return None


def _why(group: _Group) -> Unknown:
    """Return why no variable of a function is known for a word."""
    lists = [level.variables for level in group.levels]
    if lists[-1] is None:
        return Unknown.NO_SYMBOLS
    if any(item.start is None for found in lists for item in found or ()):
        return Unknown.OPTIMISED
    return Unknown.NO_VARIABLE


def _stack_pointer(frame: gdb.Frame) -> int | None:
    try:
        return int(frame.read_register("sp")) % (1 << 64)
    except (gdb.error, ValueError):
        return None
