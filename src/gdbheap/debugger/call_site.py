"""The arguments of a call that is under way, from the caller's code: which register or word of memory they came from.

Where libc's frames have dropped what they were given, the caller has it still: the instructions in front of its call
tell where it took the argument from, and its saved registers and its memory are as they were at the call. What is not
that plain is not told: code that is jumped into, memory that may have been written since.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import gdb

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi

#: Where x86-64 passes the first arguments of a function.
ARGUMENTS = ("rdi", "rsi", "rdx")
#: What a called function leaves as it was.
_PRESERVED = frozenset({"rbx", "rbp", "rsp", "r12", "r13", "r14", "r15"})
#: How many callers are asked that only pass their own argument on, and how many copies are followed.
_DEEPEST = 8
_COPIES = 32
_LINE = re.compile(
    r"^(?:=>)?\s*0x([0-9a-f]+)\s*(?:<[^>]*>)?:\s*(?:(?:rep|repz|lock|bnd|notrack|cs|ds)\s+)*(\w+)\s*(.*)$"
)
_MEMORY = re.compile(r"(?:(%\w+):)?(-?0x[0-9a-f]+|-?\d+)?\((%\w+)?(?:,(%\w+)(?:,(\d))?)?\)")
#: The name of what a call leads to, as GDB adds it: its own, or its entry's in a linkage table.
_NAMED = re.compile(r"<([^>@+]+(?:\([^)]*\))?)(?:@[^>]*)?>")
#: C++ passes what is deleted on to free (libstdc++ jumps there), and nothing else.
_DELETES = ("operator delete", "_ZdlPv", "_ZdaPv")
_JUMP = re.compile(r"j\w+|loop\w*")
_MASK = (1 << 64) - 1
#: Instructions whose last operand is not written.
_READS = ("cmp", "test", "nop", "call", "j", "push", "prefetch", "ucomis", "comis", "bt", "ud", "hlt", "endbr", "ret")
_32_BIT = {
    **{f"e{name}": f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{f"r{number}d": f"r{number}" for number in range(8, 16)},
}
_PARTS = {
    **{f"{name}l": f"r{name}x" for name in "abcd"},
    **{f"{name}x": f"r{name}x" for name in "abcd"},
    **{name: f"r{name[:2]}" for name in ("sil", "dil", "bpl", "spl", "si", "di", "bp", "sp")},
    **{f"r{number}{end}": f"r{number}" for number in range(8, 16) for end in "wb"},
}


class _Instruction(NamedTuple):
    """One instruction as AT&T writes it: ``operands`` with the one that it writes last.

    ``note`` is what GDB adds behind it, ``comment`` the address in that.
    """

    address: int
    name: str
    operands: tuple[str, ...]
    comment: int | None
    note: str


class CallSite:
    """A call in the frame of a caller: what the code in front of it says of the arguments."""

    def __init__(self, memory: Memory, abi: Abi, frame: gdb.Frame, depth: int = 0) -> None:
        code = _function(frame.pc() - 1)
        call = next((place - 1 for place, item in enumerate(code) if item.address == frame.pc()), -1)
        if call < 0 and code and code[-1].name.startswith("call"):
            call = len(code) - 1  # what it calls never returns
        self._memory = memory
        self._abi = abi
        self._frame = frame
        self._depth = depth
        self._jumped_from: CallSite | None = None
        self._enter(code, call)

    def _enter(self, code: Sequence[_Instruction], call: int) -> None:
        self._code = code
        self._call = call
        self._copies = 0
        self._targets = {
            _number(item.operands[0])
            for item in code
            if _JUMP.fullmatch(item.name) and item.operands and item.operands[0].startswith("0x")
        }

    def argument(self, number: int, called: Sequence[str]) -> int | None:
        """Return argument ``number`` (0 is the first) of the call, None where the code does not tell it for certain.

        ``called`` are the names of the functions that it may be a call of; another one may have jumped to one of them.
        """
        if self._call < 0 or not self._code[self._call].name.startswith("call"):
            return None
        try:
            return self._passed(number, called)
        except (MemoryFault, gdb.error, ValueError):
            return None

    def _passed(self, number: int, called: Sequence[str]) -> int | None:
        target = self._code[self._call].operands[:1]
        if _leads_to(self._code[self._call], called):
            return self._value(ARGUMENTS[number], self._call)
        if not target or not target[0].startswith("0x") or self._depth >= _DEEPEST:
            return None
        other = _function(_number(target[0]))
        jumps = [place for place, item in enumerate(other) if item.name == "jmp" and _leads_to(item, called)]
        calls = any(item.name.startswith("call") and _leads_to(item, called) for item in other)
        if len(jumps) != 1 or calls or other[0].address != _number(target[0]):
            return None
        site = CallSite(self._memory, self._abi, self._frame, self._depth + 1)
        site._enter(other, jumps[0])
        site._jumped_from = self
        return site._value(ARGUMENTS[number], jumps[0])

    def _value(self, register: str, place: int) -> int | None:
        """Return what a register held before the instruction at ``place``."""
        if register in _PRESERVED and not any(register in _written(item) for item in self._code[place : self._call]):
            if register == "rsp" and self._jumped_from is not None:
                return None
            return int(self._frame.read_register(register)) & _MASK
        for at in range(place - 1, -1, -1):
            if self._code[at + 1].address in self._targets or self._ends(at):
                return None  # control comes from elsewhere as well
            item = self._code[at]
            if item.name.startswith("call") and register not in _PRESERVED:
                return None
            if register in _written(item):
                return self._result(item, at, register)
        if self._code and self._code[0].address in self._targets:
            return None
        return self._of_caller(register)

    def _ends(self, at: int) -> bool:
        return self._code[at].name in ("jmp", "ret", "retq", "hlt", "ud2")

    def _of_caller(self, register: str) -> int | None:
        """Return the argument that the function got in a register and has not changed."""
        if register not in ARGUMENTS or self._depth >= _DEEPEST:
            return None
        if self._jumped_from is not None:
            return self._jumped_from._value(register, self._jumped_from._call)
        older = self._frame.older()
        if older is None or older.type() != gdb.NORMAL_FRAME or self._frame.type() != gdb.NORMAL_FRAME:
            return None
        name = self._frame.name()
        site = CallSite(self._memory, self._abi, older, self._depth + 1)
        return None if name is None else site.argument(ARGUMENTS.index(register), (name,))

    def _result(self, item: _Instruction, at: int, register: str) -> int | None:
        """Return what an instruction wrote into a register."""
        self._copies += 1
        if self._copies > _COPIES:
            return None
        if item.name != "cltq" and item.operands[-1:] not in [
            (f"%{name}",) for name in (register, *_names_32(register))
        ]:
            return None
        mask = _MASK if item.operands[-1:] == (f"%{register}",) else 0xFFFFFFFF
        source = item.operands[0] if len(item.operands) == 2 else ""
        if item.name in ("xor", "xorl", "xorq", "sub") and source == item.operands[-1]:
            return 0
        if item.name in ("add", "sub", "addq", "subq") and source.startswith("$") and mask == _MASK:
            before = self._value(register, at)
            step = int(source[1:], 0) * (1 if item.name.startswith("add") else -1)
            return None if before is None else (before + step) & mask
        if item.name == "cltq":
            low = self._value("rax", at)
            return None if low is None else _extended(low)
        if item.name in ("shl", "sal", "imul") and len(item.operands) > 1 and item.operands[0].startswith("$"):
            factor = int(item.operands[0][1:], 0)
            before = self._read(item.operands[1], item, at, mask)
            return None if before is None else (before * factor if item.name == "imul" else before << factor) & mask
        if item.name == "add" and mask == _MASK:
            before, more = self._value(register, at), self._read(source, item, at, mask)
            return None if before is None or more is None else (before + more) & mask
        if item.name == "movslq":
            low = self._read(source, item, at, 0xFFFFFFFF)
            return None if low is None else _extended(low)
        if item.name.startswith("lea"):
            found = self._address(source, item, at)
            return None if found is None else found & mask
        if item.name not in ("mov", "movq", "movl", "movabs"):
            return None
        return self._read(source, item, at, mask)

    def _read(self, source: str, item: _Instruction, at: int, mask: int) -> int | None:
        """Return what an operand is: a constant, a register or a word of memory."""
        if source.startswith("$"):
            return int(source[1:], 0) & mask
        if source.startswith("%"):
            found = self._value(_32_BIT.get(source[1:], source[1:]), at)
            return None if found is None else found & mask
        return self._loaded(source, item, at, mask)

    def _loaded(self, source: str, item: _Instruction, at: int, mask: int) -> int | None:
        address = self._address(source, item, at)
        if address is None or not self._is_unwritten(source, at):
            return None
        return self._abi.read_word(self._memory, address) & mask

    def _address(self, operand: str, item: _Instruction, at: int) -> int | None:
        """Return the address of an operand in memory."""
        match = _MEMORY.fullmatch(operand)
        if match is None or match[1] is not None:
            return None
        if match[3] == "%rip":
            return item.comment
        address = int(match[2] or "0", 0)
        for name, factor in ((match[3], 1), (match[4], int(match[5] or "1"))):
            if name is not None:
                value = self._value(name[1:], at) if len(name) > 2 else None
                if value is None:
                    return None
                address += value * factor
        return address & _MASK

    def _is_unwritten(self, operand: str, at: int) -> bool:
        """Whether nothing between ``at`` and the call may have written to the memory of an operand."""
        mine = _MEMORY.fullmatch(operand)
        for item in self._code[at + 1 : self._call]:
            if item.name.startswith("call"):
                return False
            if item.name.startswith(_READS) or not item.operands or "(" not in item.operands[-1]:
                continue
            other = _MEMORY.fullmatch(item.operands[-1])
            if mine is None or other is None or mine.groups()[2:] != other.groups()[2:]:
                return False
            if abs(int(mine[2] or "0", 0) - int(other[2] or "0", 0)) < 2 * self._abi.word_size:
                return False
        return True


def _extended(value: int) -> int:
    """Return the 64 bits of a signed number of 32 bits."""
    low = value & 0xFFFFFFFF
    return low | 0xFFFFFFFF00000000 if low >> 31 else low


def _number(operand: str) -> int:
    return int(operand.split()[0], 16)


def _leads_to(item: _Instruction, called: Sequence[str]) -> bool:
    """Whether a call or a jump is to one of these functions, by way of the linkage table at most."""
    found = _NAMED.search(" ".join((*item.operands, item.note)))
    return found is not None and (found[1] in called or found[1].startswith(_DELETES))


def _names_32(register: str) -> list[str]:
    return [narrow for narrow, wide in _32_BIT.items() if wide == register]


def _written(item: _Instruction) -> frozenset[str]:
    """Return the registers that an instruction writes, by their 64-bit names."""
    if item.name.startswith("call"):
        return frozenset()
    found = set()
    if item.name in (
        "cltq",
        "cdqe",
        "cwtl",
        "div",
        "divq",
        "divl",
        "idiv",
        "idivq",
        "idivl",
        "mul",
        "mulq",
        "cqto",
        "cltd",
    ):
        found |= {"rax", "rdx"}
    if item.name.startswith(("movs", "stos", "lods", "scas", "cmps")) and not item.name.startswith(("movsl", "movsx")):
        found |= {"rdi", "rsi", "rcx", "rax"}
    if item.name in ("leave", "enter", "cpuid", "syscall", "xchg", "xadd", "cmpxchg"):
        found |= {"rbp", "rsp", "rax", "rbx", "rcx", "rdx", "r11"}
        found |= {_wide(operand) for operand in item.operands}
    if item.operands and not item.name.startswith(_READS):
        found.add(_wide(item.operands[-1]))
    if item.name.startswith(("push", "pop")):
        found.add("rsp")
    return frozenset(found)


def _wide(operand: str) -> str:
    name = operand.lstrip("%")
    return _32_BIT.get(name) or _PARTS.get(name) or name


def _function(pc: int) -> Sequence[_Instruction]:
    """Return the instructions of the function at ``pc``, none where no symbol tells where it begins."""
    machine = gdb.selected_frame().architecture().name()
    if not machine.startswith("i386:x86-64"):
        return ()
    try:
        text = gdb.execute(f"with disassembly-flavor att -- disassemble {pc:#x}", to_string=True)
    except gdb.error:
        return ()
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is not None:
            shown, _, comment = match[3].partition("#")
            number = re.match(r"\s*(0x[0-9a-f]+)", comment)
            operands = tuple(part.strip() for part in re.split(r",(?![^(]*\))", shown) if part.strip())
            address = None if number is None else int(number.group(1), 16)
            found.append(_Instruction(int(match[1], 16), match[2], operands, address, comment))
    return found
