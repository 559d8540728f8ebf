"""System calls as the registers of a stopped thread show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gdbheap.debugger.stacks import REGISTERS as STACK_REGISTERS

_NOT_IMPLEMENTED = -38  # the kernel puts -ENOSYS into the result register until the call has run
_MREMAP_FIXED = 2
_ARGUMENTS = {"brk": 1, "munmap": 2, "mprotect": 3, "mmap": 6, "mremap": 4, "exit_group": 1}


@dataclass(frozen=True)
class SyscallRegisters:
    """Where one architecture keeps a system call, and the numbers of the calls that we watch.

    ``others`` are registers that an entry needs besides: those that stacks are recognised by, then the thread
    pointer.
    """

    number: str
    result: str
    arguments: tuple[str, ...]
    others: tuple[str, ...]
    word_bits: int
    calls: Mapping[int, str]

    def condition(self, function: str) -> str:
        """Return the condition of the catchpoint: GDB hands the registers to our function.

        Much cheaper than a gdb.Frame, which GDB makes by unwinding. Entry or return is told by the result register:
        over gdbserver, what GDB says of that can be wrong.
        """
        brief = f"{function}(${self.number}, ${self.result})"
        full = ", ".join(f"${name}" for name in (self.number, self.result, *self.arguments, *self.others))
        return f"(long) ${self.result} == {_NOT_IMPLEMENTED} ? {function}({full}) : {brief}"


_BY_ARCHITECTURE = {
    "i386:x86-64": SyscallRegisters(
        "orig_rax",
        "rax",
        ("rdi", "rsi", "rdx", "r10", "r8", "r9"),
        (*STACK_REGISTERS, "fs_base"),
        64,
        {12: "brk", 9: "mmap", 11: "munmap", 25: "mremap", 10: "mprotect", 231: "exit_group"},
    ),
}


class UnknownArchitecture(Exception):
    """System calls cannot be read on this machine; the message is a full sentence."""


@dataclass(frozen=True)
class SyscallStop:
    """A stop at a system call. ``result`` is None at entry: then ``args`` and ``others`` are those of the call."""

    name: str
    result: int | None
    args: tuple[int, ...] = ()
    others: tuple[int, ...] = ()


def registers_for(architecture: str) -> SyscallRegisters:
    """Return how system calls are read on an architecture, as GDB names it; raise UnknownArchitecture."""
    registers = _BY_ARCHITECTURE.get(architecture)
    if registers is None:
        known = ", ".join(sorted(_BY_ARCHITECTURE))
        raise UnknownArchitecture(f"heap catch cannot read system calls on {architecture}, only on {known}.")
    return registers


def read_stop(values: Sequence[int], registers: SyscallRegisters) -> SyscallStop | None:
    """Return the system call that these register values show (as ``condition`` hands them in), None if not ours."""
    name = registers.calls.get(values[0])
    if name is None:
        return None
    sign = 1 << (registers.word_bits - 1)
    mask = 2 * sign - 1
    result = ((values[1] & mask) ^ sign) - sign
    if len(values) == 2:
        return SyscallStop(name, result)
    first = 2 + len(registers.arguments)
    args = [value & mask for value in values[2 : 2 + _ARGUMENTS[name]]]
    if name == "mmap":
        args[4] = ((args[4] & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000  # the descriptor is a C int
    elif name == "mremap" and args[3] & _MREMAP_FIXED:
        args.append(values[6] & mask)
    return SyscallStop(name, None, tuple(args), tuple(value & mask for value in values[first:]))
