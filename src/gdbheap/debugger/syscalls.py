"""System calls as the registers of a stopped thread show them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import gdb

from gdbheap.debugger.errors import TargetError
from gdbheap.simulate.kernel import MREMAP_FIXED

_NOT_IMPLEMENTED = -38  # the kernel puts -ENOSYS into the result register until the call has run
_MOST_ERRORS = 4096
_MMAP2_UNIT = 4096
_ARGUMENTS = {"brk": 1, "munmap": 2, "mprotect": 3, "mmap": 6, "mremap": 4, "madvise": 3}
#: Calls that make threads or processes.
FORKS = frozenset({"fork", "vfork", "clone", "clone3"})
#: Calls that move no memory, but begin and end processes and what they run.
LIFE = frozenset({*FORKS, "execve", "exit_group"})
_CLONE_THREAD = 0x10000
_CLONE_VFORK = 0x4000
_CLONE_VM = 0x100


@dataclass(frozen=True)
class SyscallRegisters:
    """Where one architecture keeps a system call, and the numbers of the calls that we watch."""

    number: str
    result: str
    arguments: tuple[str, ...]
    counter: str
    stack: str
    thread: str
    word_bits: int
    calls: Mapping[int, str]


_BY_ARCHITECTURE = {
    "i386:x86-64": SyscallRegisters(
        "orig_rax",
        "rax",
        ("rdi", "rsi", "rdx", "r10", "r8", "r9"),
        "rip",
        "rsp",
        "fs_base",
        64,
        {
            9: "mmap",
            10: "mprotect",
            11: "munmap",
            12: "brk",
            25: "mremap",
            28: "madvise",
            56: "clone",
            57: "fork",
            58: "vfork",
            59: "execve",
            231: "exit_group",
            435: "clone3",
        },
    ),
    "i386": SyscallRegisters(
        "orig_eax",
        "eax",
        ("ebx", "ecx", "edx", "esi", "edi", "ebp"),
        "eip",
        "esp",
        "",
        32,
        {
            2: "fork",
            11: "execve",
            45: "brk",
            91: "munmap",
            120: "clone",
            125: "mprotect",
            163: "mremap",
            190: "vfork",
            192: "mmap",  # mmap2, whose offset is in pages of 4 KiB
            219: "madvise",
            252: "exit_group",
            435: "clone3",
        },
    ),
}


class UnknownArchitecture(TargetError):
    """System calls cannot be read on this machine; the message is a full sentence."""


class SyscallEntry(NamedTuple):
    """A thread that enters a system call; ``pc`` and ``sp`` are its program counter and stack pointer."""

    name: str
    args: tuple[int, ...]
    pc: int
    sp: int


def registers_for(architecture: str) -> SyscallRegisters:
    """Return how system calls are read on an architecture, as GDB names it; raise UnknownArchitecture."""
    registers = _BY_ARCHITECTURE.get(architecture)
    if registers is None:
        known = ", ".join(sorted(_BY_ARCHITECTURE))
        raise UnknownArchitecture(f"heap catch cannot read system calls on {architecture}, only on {known}.")
    return registers


class SyscallReader:
    """Reads the system call that a thread is stopped at.

    For a process of this machine the kernel tells number, arguments, stack pointer and program counter in one line of
    /proc, which takes a fraction of what GDB takes to hand out as many registers. Elsewhere GDB is asked.
    """

    def __init__(self, registers: SyscallRegisters, pid: int | None) -> None:
        self._registers = registers
        self._pid = pid
        self._files: dict[int, int] = {}

    def close(self) -> None:
        """Close the files that are open."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def result(self, value: int) -> int | None:
        """Return the signed result that the result register holds, None at entry, when the call has yet to run.

        What GDB says of entry or return can be wrong over gdbserver; the register cannot.
        """
        sign = 1 << (self._registers.word_bits - 1)
        result = ((value & (2 * sign - 1)) ^ sign) - sign
        if result == _NOT_IMPLEMENTED:
            return None
        # Addresses in the upper half of a 32-bit machine are no errors.
        return result if result > -_MOST_ERRORS or self._registers.word_bits == 64 else result + 2 * sign

    def name(self, number: int) -> str | None:
        """Return the name of the call of this number, None where it is none that we watch."""
        return self._registers.calls.get(number)

    def state(self) -> tuple[str | None, int | None]:
        """Return the call that the selected thread is in, and its result: None where it is in none, or at its entry."""
        registers = self._registers
        number = register(registers.number) & ((1 << registers.word_bits) - 1)
        return self.name(number), self.result(register(registers.result))

    def entry(self, tid: int | None) -> SyscallEntry | None:
        """Return the call that the selected thread enters, None where it is none that we watch.

        Without ``tid``, for a call that has run already, GDB is asked and not the kernel.
        """
        registers = self._registers
        values = (None if tid is None else self._from_kernel(tid)) or self._from_gdb()
        name = registers.calls.get(values[0])
        if name is None:
            return None
        args = values[1 : 1 + _ARGUMENTS.get(name, 1)]
        if name == "mmap":
            args[4] = ((args[4] & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000  # the descriptor is a C int
            if registers.word_bits == 32:
                args[5] *= _MMAP2_UNIT
        elif name == "mremap" and args[3] & MREMAP_FIXED:
            args.append(values[5])
        return SyscallEntry(name, tuple(args), values[8], values[7])

    def _from_kernel(self, tid: int) -> list[int] | None:
        """Return number, six arguments, stack pointer and program counter as /proc has them."""
        if self._pid is None:
            return None
        try:
            descriptor = self._files.get(tid)
            if descriptor is None:
                path = f"/proc/{self._pid}/task/{tid}/syscall"
                descriptor = self._files[tid] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            words = os.pread(descriptor, 256, 0).split()
        except OSError:
            # The thread that the file was for is gone, or the kernel does not let us read it.
            descriptor = self._files.pop(tid, None)
            if descriptor is not None:
                os.close(descriptor)
            return None
        # "running", or -1 for a thread that is in no system call, are shorter.
        return [int(words[0]), *[int(word, 16) for word in words[1:]]] if len(words) == 9 else None

    def _from_gdb(self) -> list[int]:
        registers = self._registers
        names = (registers.number, *registers.arguments, registers.stack, registers.counter)
        mask = (1 << registers.word_bits) - 1
        return [register(name) & mask for name in names]


def clone_flags(entry: SyscallEntry) -> int:
    """Return the flags of a call of FORKS, those that fork and vfork stand for included."""
    if entry.name in ("fork", "vfork"):
        return _CLONE_VFORK | _CLONE_VM if entry.name == "vfork" else 0
    if entry.name != "clone3":
        return entry.args[0]
    try:  # the flags are the first field of struct clone_args
        return int.from_bytes(gdb.selected_inferior().read_memory(entry.args[0], 8).tobytes(), "little")
    except gdb.MemoryError:
        return _CLONE_THREAD


def makes_process(flags: int) -> bool:
    """Return whether a call of FORKS with these flags makes a process, and not a thread of this one."""
    return not flags & _CLONE_THREAD


def has_same_memory(flags: int) -> bool:
    """Return whether the process that a call with these flags makes has its maker's memory."""
    return bool(flags & _CLONE_VM)


def is_vfork(flags: int) -> bool:
    """Return whether the maker of the process, by a call with these flags, waits until it runs another program."""
    return bool(flags & _CLONE_VFORK)


def register(name: str) -> int:
    """Return a register of the selected thread; without a gdb.Frame, for which GDB would unwind."""
    return int(gdb.parse_and_eval(f"${name}"))
