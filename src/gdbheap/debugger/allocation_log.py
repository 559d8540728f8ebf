"""A program's calls of malloc, free and their like, written to a file as they happen (docs/operations.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import gdb

from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.syscalls import register
from gdbheap.debugger.target import GdbSymbols, architecture_name, is_libc, objfile_name

_WORD = (1 << 64) - 1
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
        self.process = 0
        self.operations = 0
        self.unknown = 0  # frees and reallocs of memory that was not seen to be allocated

    def start(self) -> None:
        """Begin to wait for the program's C library; raise TargetError on a machine that this does not know."""
        name = architecture_name()
        if name != "i386:x86-64":
            raise TargetError(f"-allocations reads the registers of x86-64, not of {name}.")
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
        thread, stack = gdb.selected_thread().num, register("rsp") & _WORD
        after = int.from_bytes(inferior.read_memory(stack, 8).tobytes(), "little")
        pending = self._under_way.get(thread)
        if pending is not None and (stack < pending.stack or (stack, after) == (pending.stack, pending.after)):
            return  # glibc itself calls it, or jumps to it
        self._under_way.pop(thread, None)
        kind, request, returns = _FUNCTIONS[name]
        arguments = request([register(which) & _WORD for which in ("rdi", "rsi", "rdx")])
        if kind == "free":
            self._free(thread, arguments[0])
        elif not returns:
            self._write(thread, f"{kind} {' '.join(map(str, arguments))}")
        else:
            where = register("rdi") & _WORD if name == "posix_memalign" else 0
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
        pending = self._under_way.get(thread)
        if pending is None or register("rsp") & _WORD != pending.stack + 8:
            return
        del self._under_way[thread]
        result = register("rax") & _WORD
        if pending.where:
            result = 0 if result else int.from_bytes(inferior.read_memory(pending.where, 8).tobytes(), "little")
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
        super().__init__(f"*{address}", internal=True)
        self._log = log
        self._function = name

    def stop(self) -> bool:
        """Note the call; never stop GDB."""
        self._log.entered(self._function)
        return False


class _Return(gdb.Breakpoint):
    """An internal breakpoint at a place that a call of malloc's returned to."""

    def __init__(self, log: AllocationLog, address: int) -> None:
        super().__init__(f"*{address}", internal=True)
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
