"""A program's calls of malloc, free and their like, written to a file as they happen (docs/operations.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import gdb

from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.language import as_c
from gdbheap.debugger.syscalls import register
from gdbheap.debugger.target import GdbSymbols, architecture_name, is_libc, objfile_name

#: Arguments that a function has at most.
_MOST_ARGUMENTS = 3


@dataclass(frozen=True)
class _Convention:
    """How functions are called: the word's size in bytes, the stack pointer, and where arguments and results are.

    ``arguments`` are registers; where there are none, the arguments are on the stack, behind the return address.
    """

    word_size: int
    stack: str
    result: str
    arguments: tuple[str, ...] = ()

    def register(self, name: str) -> int:
        """Return a register of the selected thread as an unsigned word."""
        return register(name) & ((1 << 8 * self.word_size) - 1)

    def entered(self, inferior: gdb.Inferior) -> tuple[int, int, list[int]]:
        """Return stack pointer, return address and the first arguments at the first instruction of a function."""
        stack, size = self.register(self.stack), self.word_size
        count = 1 if self.arguments else 1 + _MOST_ARGUMENTS
        data = inferior.read_memory(stack, count * size).tobytes()
        after, *given = (int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size))
        return stack, after, [self.register(name) for name in self.arguments] or given


#: By GDB's name of the architecture.
_CONVENTIONS = {
    "i386:x86-64": _Convention(8, "rsp", "rax", ("rdi", "rsi", "rdx")),
    "i386": _Convention(4, "esp", "eax"),
}
#: What is watched: how many arguments matter, where the request is made of them, and whether it returns memory.
_FUNCTIONS: Mapping[str, tuple[str, Callable[[list[int]], tuple[int, ...]], bool]] = {
    "malloc": ("malloc", lambda given: (given[0],), True),
    "calloc": ("calloc", lambda given: (given[0], given[1]), True),
    "realloc": ("realloc", lambda given: (given[0], given[1]), True),
    "reallocarray": ("reallocarray", lambda given: (given[0], given[1], given[2]), True),
    "free": ("free", lambda given: (given[0],), False),
    "memalign": ("memalign", lambda given: (given[0], given[1]), True),
    "aligned_alloc": ("aligned_alloc", lambda given: (given[0], given[1]), True),
    "posix_memalign": ("posix_memalign", lambda given: (given[1], given[2]), True),
    "valloc": ("valloc", lambda given: (given[0],), True),
    "pvalloc": ("pvalloc", lambda given: (given[0],), True),
    "malloc_trim": ("trim", lambda given: (given[0],), False),
    "mallopt": ("mallopt", lambda given: (_int(given[0]), _int(given[1])), False),
}


def _int(value: int) -> int:
    """Return an argument as the C type int has it."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


class AllocationLog:
    """Writes the operations of one process to a file while it runs.

    Each call stops the program twice, at its entry and where it returns to, for about a millisecond together.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._names: dict[int, int] = {}  # a pointer -> the name of the memory
        self._under_way: dict[int, _Call] = {}  # by GDB's number of the thread
        self._returns: set[int] = set()
        self._breakpoints: list[gdb.Breakpoint] = []
        self._next = 1
        self._convention = _CONVENTIONS["i386:x86-64"]
        self.process = 0
        self.operations = 0
        self.unknown = 0  # frees and reallocs of memory that was not seen to be allocated

    def start(self) -> None:
        """Begin to wait for the program's C library; raise TargetError on a machine that this does not know."""
        name = architecture_name()
        convention = _CONVENTIONS.get(name)
        if convention is None:
            raise TargetError(
                f"-allocations knows how functions are called on x86-64 and 32-bit x86, not on {name}: write the file "
                "by hand or with a tool of your own (docs/operations.md)."
            )
        self._convention = convention
        gdb.events.new_objfile.connect(self._on_objfile)

    def stop(self) -> None:
        """Watch no longer."""
        gdb.events.new_objfile.disconnect(self._on_objfile)
        for found in self._breakpoints:
            if found.is_valid():
                found.delete()
        self._file.flush()

    def _on_objfile(self, event: Any) -> None:
        objfile = event.new_objfile
        if self.process or not is_libc(objfile_name(objfile)):
            return
        self.process = gdb.selected_inferior().pid
        symbols = GdbSymbols(objfile)
        places: dict[int, str] = {}
        for name in _FUNCTIONS:  # one address may have two names: the first is as good as the other
            address = symbols.address(name)
            if address is not None:
                places.setdefault(address, name)
        for address, name in places.items():
            self._breakpoints.append(_Entry(self, address, name))

    def entered(self, name: str) -> None:
        """Note a call whose first instruction the selected thread has reached."""
        inferior = gdb.selected_inferior()
        if inferior.pid != self.process:
            return
        thread = gdb.selected_thread().num
        stack, after, given = self._convention.entered(inferior)
        pending = self._under_way.get(thread)
        if pending is not None and (stack < pending.stack or (stack, after) == (pending.stack, pending.after)):
            return  # glibc itself calls it, or jumps to it
        self._under_way.pop(thread, None)
        kind, request, returns = _FUNCTIONS[name]
        arguments = request(given)
        if kind == "free":
            self._free(thread, arguments[0])
        elif not returns:
            self._write(thread, f"{kind} {' '.join(map(str, arguments))}")
        else:
            where = given[0] if name == "posix_memalign" else 0
            self._under_way[thread] = _Call(kind, arguments, stack, after, where)
            if after not in self._returns:
                self._returns.add(after)
                self._breakpoints.append(_Return(self, after))

    def returned(self) -> None:
        """Note the result of the call that the selected thread comes from, if it comes from one."""
        inferior = gdb.selected_inferior()
        if inferior.pid != self.process:
            return
        thread = gdb.selected_thread().num
        pending, convention = self._under_way.get(thread), self._convention
        if pending is None or convention.register(convention.stack) != pending.stack + convention.word_size:
            return
        del self._under_way[thread]
        result = convention.register(convention.result)
        if pending.where:
            data = inferior.read_memory(pending.where, convention.word_size).tobytes()
            result = 0 if result else int.from_bytes(data, "little")
        arguments = pending.arguments
        if pending.kind in ("realloc", "reallocarray"):
            old = arguments[0]
            if old and old not in self._names:
                self.unknown += 1
                if result:
                    self._names.pop(old, None)
                return
            name = self._names.get(old, 0)
            if result or 0 in arguments[1:]:
                self._names.pop(old, None)
            arguments = (name, *arguments[1:])
        self._write(thread, f"{pending.kind} {' '.join(map(str, arguments))} = {self._next}")
        if result:
            self._names[result] = self._next
        self._next += 1

    def _free(self, thread: int, pointer: int) -> None:
        if not pointer:
            return
        name = self._names.pop(pointer, None)
        if name is None:
            self.unknown += 1
        else:
            self._write(thread, f"free {name}")

    def _write(self, thread: int, line: str) -> None:
        self.operations += 1
        self._file.write(f"{f'@{thread} ' if thread != 1 else ''}{line}\n")


class _Call:
    """A call that has not returned: what it is, its arguments, the stack pointer at its entry, where it returns to.

    ``where`` is the place that gets the result of posix_memalign, else 0.
    """

    __slots__ = ("after", "arguments", "kind", "stack", "where")

    def __init__(self, kind: str, arguments: tuple[int, ...], stack: int, after: int, where: int) -> None:
        self.kind = kind
        self.arguments = arguments
        self.stack = stack
        self.after = after
        self.where = where


class _Entry(gdb.Breakpoint):
    """An internal breakpoint at the first instruction of one of malloc's functions."""

    def __init__(self, log: AllocationLog, address: int, name: str) -> None:
        with as_c():
            super().__init__(f"*{address:#x}", internal=True)
        self._log = log
        self._function = name

    def stop(self) -> bool:
        """Note the call; never stop GDB."""
        self._log.entered(self._function)
        return False


class _Return(gdb.Breakpoint):
    """An internal breakpoint at a place that a call of malloc's returned to."""

    def __init__(self, log: AllocationLog, address: int) -> None:
        with as_c():
            super().__init__(f"*{address:#x}", internal=True)
        self._log = log

    def stop(self) -> bool:
        """Note what was returned; never stop GDB."""
        self._log.returned()
        return False


def open_log(path: str, overwrite: bool = False) -> TextIO:
    """Open the file for the operations, following no link; one that exists is overwritten only with ``overwrite``.

    Raises gdb.GdbError where it cannot be written.
    """
    from gdbheap.debugger.output import refuse_existing

    path = os.path.expanduser(path)
    refuse_existing(path, overwrite)
    how = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if overwrite else os.O_EXCL)
    try:
        file = open(os.open(path, how, 0o666), "w", encoding="ascii")  # noqa: SIM115 (it stays open during the run)
    except OSError as error:
        raise gdb.GdbError(f"{path} cannot be written: {error.strerror}.") from None
    file.write("# gdbheap operations (docs/operations.md)\n")
    return file
