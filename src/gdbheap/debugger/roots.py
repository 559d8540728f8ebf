"""What can keep a chunk alive from outside the heap: registers, stacks, thread-local and global variables."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import gdb

from gdbheap.debugger.language import symbol_text
from gdbheap.debugger.sections import sections
from gdbheap.debugger.target import Target, each_thread
from gdbheap.mappings import MappedRange, range_of
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.refs import Reference, Word
from gdbheap.symbols import Struct

#: What x86-64 keeps below its stack pointer (the red zone), in bytes; no other machine has more.
_RED_ZONE = 128
#: What the linker may leave between the thread-local data of two object files, in bytes.
_TLS_GAP = 64
_SYMBOL = re.compile(r"(.+?) in section (\S+)(?: of .*)?")


@dataclass(frozen=True)
class _Thread:
    """A thread by GDB's ``number``: its stack and the pointer into that, and its thread pointer if known."""

    number: int
    stack_pointer: int
    stack: tuple[int, int]
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
        self._threads.append(_Thread(thread.num, pointer, self._stack(target, pointer, base), base))
        for name in ("tcache", "thread_arena"):
            address = target.symbols.thread_local(name)
            if address is not None:
                self._own[address] = thread.num, name

    def _stack(self, target: Target, pointer: int, base: int | None) -> tuple[int, int]:
        """Return where the stack begins and ends that ``pointer`` is in; ``base`` is the thread pointer.

        glibc notes the stacks of threads that it starts (allocate_stack, nptl/allocatestack.c). Another stack is the
        whole mapping: the kernel may have made one of several that touch.
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
                    return start, end
        mapped = range_of(self._ranges, pointer)
        return (mapped.start, mapped.end) if mapped is not None else (pointer, pointer)

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
            if thread.stack[0] <= address < thread.stack[1]:
                live = address >= thread.stack_pointer - _RED_ZONE
                where = "" if live else "below its stack pointer"
                return Reference("stack", address, word.value, where, thread=thread.number, live=live)
        place = bisect_right(self._starts, address) - 1
        if place >= 0 and address < self._sections[place].end:
            return Reference("global", address, word.value, file=self._sections[place].file)
        mapped = range_of(self._ranges, address)
        return Reference("other", address, word.value, file=mapped.name if mapped is not None else None)

    def named(self, references: Iterable[Reference]) -> list[Reference]:
        """Return the references with the symbols of globals, and the functions whose frames stacks belong to."""
        found = list(references)
        for place, item in enumerate(found):
            if item.kind == "global" and item.address is not None:
                found[place] = replace(item, where=self._symbol(item.address))
        by_thread: dict[int, list[int]] = {}
        for place, item in enumerate(found):
            if item.kind == "stack" and not item.where and item.thread is not None:
                by_thread.setdefault(item.thread, []).append(place)
        if by_thread:
            for thread in each_thread():
                places = by_thread.get(thread.num, ())
                for place, where in zip(places, _functions([found[place].address or 0 for place in places])):
                    found[place] = replace(found[place], where=where)
        return found

    def _symbol(self, address: int) -> str:
        lines = symbol_text(address).splitlines()
        # 'set verbose on' and 'set trace-commands on' put lines of their own before.
        match = next((found for found in map(_SYMBOL.fullmatch, lines) if found is not None), None)
        if match is not None:
            return match[1]
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


def _functions(addresses: Sequence[int]) -> Iterator[str]:
    """Yield the function of the selected thread whose frame holds each of ``addresses``, which are in its stack."""
    starts: list[int] = []
    names: list[str] = []
    last = max(addresses, default=0)
    frame: gdb.Frame | None
    try:
        frame = gdb.newest_frame()
        while frame is not None:
            start = int(frame.read_register("sp")) % (1 << 64)
            if starts and start < starts[-1]:
                break  # another stack, as a signal handler's
            starts.append(start)
            names.append(
                f"frame #{frame.level()} {frame.name() or '?'}" if hasattr(frame, "level") else str(frame.name())
            )
            if start > last:
                break
            frame = frame.older()
    except gdb.error:  # a stack that cannot be followed any further
        frame = None
    for address in addresses:
        place = bisect_right(starts, address) - 1
        if place < 0:
            yield names[0] if names else ""
        elif place == len(starts) - 1 and frame is None:
            yield "above its oldest frame"
        else:
            yield names[place]
