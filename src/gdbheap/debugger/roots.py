"""What can keep a chunk alive from outside the heap: registers, stacks, thread-local and global variables."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import gdb

from gdbheap.debugger.frame_words import RED_ZONE, ThreadFrames, whole_stacks
from gdbheap.debugger.sections import sections
from gdbheap.debugger.static_variables import variable_at
from gdbheap.debugger.target import Target, each_thread
from gdbheap.debugger.vtables import Vtables
from gdbheap.mappings import MappedRange, range_of
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.refs import Reference, Word
from gdbheap.symbols import Struct

#: What the linker may leave between the thread-local data of two object files, in bytes.
_TLS_GAP = 64


@dataclass(frozen=True)
class _Stack:
    """A stack of a thread, from ``start`` to ``end``, with the ``pointer`` into it."""

    start: int
    end: int
    pointer: int


@dataclass(frozen=True)
class _Thread:
    """A thread by GDB's ``number``: its stacks and its thread pointer if known."""

    number: int
    stacks: tuple[_Stack, ...]
    thread_pointer: int | None


class Roots:
    """Knows the threads and the object files of the stopped process, and whose a word in memory is.

    ``registers`` are the registers of all threads that hold an address of at least ``low`` and below ``high``;
    ``problems`` tells of threads that could not be looked at.
    """

    def __init__(self, target: Target, ranges: Sequence[MappedRange], low: int, high: int) -> None:
        self.registers: list[Reference] = []
        self.problems: list[str] = []
        self.threads = 0
        self._target = target
        self._ranges = ranges
        self._threads: list[_Thread] = []
        self._own: dict[int, tuple[int, str]] = {}  # malloc's thread-local variables, by their address
        self._descriptor = target.symbols.struct("pthread")
        self._sections = sections()
        self._starts = [section.start for section in self._sections]
        thread_local = [section for section in self._sections if section.name in (".tdata", ".tbss")]
        self._tls_size = sum(section.end - section.start + _TLS_GAP for section in thread_local)
        for thread in each_thread():
            self.threads += 1
            try:
                self._read(target, thread, low, high)
            except gdb.error as error:
                self.problems.append(f"The registers and the stack of thread {thread.num} are not known: {error}.")

    def _read(self, target: Target, thread: gdb.InferiorThread, low: int, high: int) -> None:
        frame = gdb.newest_frame()
        pointer = int(frame.read_register("sp")) % (1 << 64)
        for name in _register_names(frame):
            value = _register(frame, name)
            if value is not None and low <= value < high:
                self.registers.append(Reference("register", None, value, name, thread=thread.num))
        base = _register(frame, "fs_base")
        own, is_own = self._stack(target, pointer, base)
        stacks = [own]
        if not is_own:  # a signal's handler may have a stack of its own
            pointers = ThreadFrames(target.memory, target.abi).stacks()[1:]
            stacks += [self._stack(target, older, base)[0] for older in pointers]
        self._threads.append(_Thread(thread.num, tuple(stacks), base))
        for name in ("tcache", "thread_arena"):
            address = target.symbols.thread_local(name)
            if address is not None:
                self._own[address] = thread.num, name

    def _stack(self, target: Target, pointer: int, base: int | None) -> tuple[_Stack, bool]:
        """Return the stack that ``pointer`` is in, and whether the thread began on it, as far as that is known.

        ``base`` is the thread pointer. glibc notes the stacks of threads that it starts (allocate_stack,
        nptl/allocatestack.c). Another stack is the whole mapping: the kernel may have made one of several that touch.
        """
        if base and self._descriptor is not None:
            block, size = (self._descriptor.fields.get(name) for name in ("stackblock", "stackblock_size"))
            if block is not None and size is not None:
                try:
                    start = target.abi.read_word(target.memory, base + block.offset)
                    end = start + target.abi.read_word(target.memory, base + size.offset)
                except MemoryFault:
                    start = end = 0
                if 0 < start <= pointer < end:  # 0 in the first thread, whose stack is the kernel's
                    return _Stack(start, end, pointer), True
        mapped = range_of(self._ranges, pointer)
        if mapped is None:
            return _Stack(pointer, pointer, pointer), False
        return _Stack(mapped.start, mapped.end, pointer), mapped.name == "[stack]"

    def reference(self, word: Word) -> Reference:
        """Return whose a word is that is neither a chunk's nor malloc's; what its ``where`` costs is not asked yet."""
        address = word.address
        if address in self._own:
            number, name = self._own[address]
            return Reference("malloc", address, word.value, f"the variable {name} of thread {number}", thread=number)
        for thread in self._threads:
            base = thread.thread_pointer
            if base and base - self._tls_size <= address < base:
                where = f"thread pointer {address - base:+#x}"
                return Reference("tls", address, word.value, where, thread=thread.number)
            if base and self._descriptor is not None and base <= address < base + self._descriptor.size:
                where = "the thread's descriptor" + _field(self._descriptor, address - base)
                return Reference("tls", address, word.value, where, thread=thread.number)
        for thread in self._threads:
            for stack in thread.stacks:
                if stack.start <= address < stack.end:
                    live = address >= stack.pointer - RED_ZONE
                    where = "" if live else "below its stack pointer"
                    return Reference("stack", address, word.value, where, thread=thread.number, live=live)
        place = bisect_right(self._starts, address) - 1
        if place >= 0 and address < self._sections[place].end:
            return Reference("global", address, word.value, file=self._sections[place].file)
        mapped = range_of(self._ranges, address)
        return Reference("other", address, word.value, file=mapped.name if mapped is not None else None)

    def named(self, references: Iterable[Reference]) -> list[Reference]:
        """Return the references with their variables: those of functions that have not returned, and globals.

        The classes of the chunks that hold them are entered as well.
        """
        found = list(references)
        for place, item in enumerate(found):
            if item.kind == "global" and item.address is not None:
                found[place] = replace(item, where=self._symbol(item.address))
        if any(item.kind in ("stack", "register", "chunk") for item in found):
            with whole_stacks():
                for thread in each_thread():
                    self._name(thread.num, found)
        self._enter_classes(found)
        return found

    def _name(self, thread: int, found: list[Reference]) -> None:
        """Enter what the frames of the selected thread tell of its own words, and of chunks that they point to."""
        own = [(place, item) for place, item in enumerate(found) if item.thread == thread]
        words = {item.address: place for place, item in own if item.kind == "stack" and not item.where}
        registers = {item.where: place for place, item in own if item.kind == "register"}
        held = [(place, item) for place, item in enumerate(found) if item.kind == "chunk" and item.path is None]
        try:
            frames = ThreadFrames(self._target.memory, self._target.abi)
            named = frames.words([address for address in words if address is not None]) if words else {}
            for address, place in words.items():
                word = named.get(address or 0)
                above = "above its oldest frame"
                live = word is None or word.in_scope
                found[place] = replace(found[place], frame=word, where=above if word is None else "", live=live)
            for register, word in frames.registers(list(registers)).items() if registers else ():
                found[registers[register]] = replace(found[registers[register]], frame=word)
            for place, item in held:
                if item.chunk is not None and item.address is not None:
                    path = frames.path_into(item.chunk.pointer, item.address - item.chunk.pointer)
                    found[place] = replace(item, path=path)
        except gdb.error as error:
            self.problems.append(f"The frames of thread {thread} are not known: {error}.")

    def _enter_classes(self, found: list[Reference]) -> None:
        """Enter the classes of the used chunks that hold references."""
        target = self._target
        firsts: dict[int, int] = {}
        for place, item in enumerate(found):
            if item.kind == "chunk" and item.chunk is not None and item.live:
                with suppress(MemoryFault):
                    firsts[place] = target.abi.read_word(target.memory, item.chunk.pointer)
        if firsts:
            classes = Vtables(target.abi.word_size).classes(firsts.values())
            for place, word in firsts.items():
                found[place] = replace(found[place], class_name=classes.get(word))

    def _symbol(self, address: int) -> str:
        known = variable_at(address, self._target.abi.word_size)
        if known is not None:
            return known
        section = self._sections[bisect_right(self._starts, address) - 1]
        return f"{section.name} + {address - section.start:#x}"


def _field(struct: Struct, offset: int) -> str:
    """Return the field of a struct that is at ``offset``, as it is shown behind the struct's name."""
    for name, field in struct.fields.items():
        if field.offset <= offset < field.offset + field.size:
            return f": {name}"
    return ""


def _register_names(frame: gdb.Frame) -> list[str]:
    return [register.name for register in frame.architecture().registers("general")]


def _register(frame: gdb.Frame, name: str) -> int | None:
    try:
        return int(frame.read_register(name)) % (1 << 64)
    except (gdb.error, ValueError, TypeError):  # there is none of that name, or its value is not known
        return None
