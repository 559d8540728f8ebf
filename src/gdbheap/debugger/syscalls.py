"""System calls as the registers of a stopped thread show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gdb

_NOT_IMPLEMENTED = -38  # the kernel puts -ENOSYS into the result register until the call has run
_MREMAP_FIXED = 2
_ARGUMENTS = {"brk": 1, "munmap": 2, "mprotect": 3, "mmap": 6, "mremap": 4, "exit_group": 1}


@dataclass(frozen=True)
class SyscallRegisters:
    """Where one architecture keeps a system call: the registers by role, and the numbers of the calls we watch."""

    number: str
    result: str
    arguments: tuple[str, ...]
    word_bits: int
    calls: Mapping[int, str]


_BY_ARCHITECTURE = {
    "i386:x86-64": SyscallRegisters(
        "orig_rax",
        "rax",
        ("rdi", "rsi", "rdx", "r10", "r8", "r9"),
        64,
        {12: "brk", 9: "mmap", 11: "munmap", 25: "mremap", 10: "mprotect", 231: "exit_group"},
    ),
}


class UnknownArchitecture(Exception):
    """System calls cannot be read on this machine; the message is a full sentence."""


@dataclass(frozen=True)
class SyscallStop:
    """A stop at a system call. ``result`` is None at entry; then the call has yet to run."""

    name: str
    args: tuple[int, ...]
    result: int | None


def registers_for(architecture: str) -> SyscallRegisters:
    """Return how system calls are read on an architecture, as GDB names it; raise UnknownArchitecture."""
    registers = _BY_ARCHITECTURE.get(architecture)
    if registers is None:
        known = ", ".join(sorted(_BY_ARCHITECTURE))
        raise UnknownArchitecture(f"heap catch cannot read system calls on {architecture}, only on {known}.")
    return registers


def read_stop(frame: gdb.Frame, registers: SyscallRegisters) -> SyscallStop | None:
    """Return the system call that the thread of this newest frame is stopped at, None for one that is not ours.

    Entry or return is decided by the result register, not by what GDB says: over gdbserver its label can be wrong.
    """
    name = registers.calls.get(int(frame.read_register(registers.number)))
    if name is None:
        return None
    result = int(frame.read_register(registers.result))
    sign = 1 << (registers.word_bits - 1)
    result = ((result & (2 * sign - 1)) ^ sign) - sign
    count = _ARGUMENTS[name]
    mask = (1 << registers.word_bits) - 1
    args = [int(frame.read_register(register)) & mask for register in registers.arguments[:count]]
    if name == "mmap":
        args[4] = ((args[4] & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000  # the descriptor is a C int
    elif name == "mremap" and args[3] & _MREMAP_FIXED:
        args.append(int(frame.read_register(registers.arguments[4])) & mask)
    return SyscallStop(name, tuple(args), None if result == _NOT_IMPLEMENTED else result)
