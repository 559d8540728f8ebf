"""Which function was called, where its own frame is gone: read from the call in front of the return address (x86).

From glibc 2.42 on malloc's public functions leave the stack to ones that have no names without debug symbols.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gdbheap.growth.names import PUBLIC
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi

#: What an entry of a procedure linkage table may begin with: endbr64 or endbr32, then the prefix of `bnd jmp`.
_ENDBR = (b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfb")
_BND = b"\xf2"
#: `jmp *address` and `call *address`; with 64 bits the address is relative to the next instruction.
_JUMP_BY_WORD = b"\xff\x25"
_CALL_BY_WORD = b"\xff\x15"
_CALL = 0xE8
_LONGEST_ENTRY = 16


def public_entries(symbols: Mapping[str, int]) -> dict[int, str]:
    """Return where malloc's public functions begin in a libc that exports ``symbols`` (addresses by name)."""
    return {symbols[name]: public for name, public in PUBLIC.items() if name in symbols}


def called_function(memory: Memory, abi: Abi, return_address: int, entries: Mapping[int, str]) -> str | None:
    """Return which of ``entries`` the call in front of ``return_address`` led to, None where it is none of them."""
    names = (entries.get(address) for address in _called(memory, abi, return_address))
    return next((name for name in names if name is not None), None)


def _called(memory: Memory, abi: Abi, return_address: int) -> Iterator[int]:
    """Yield where the call led to, and where that goes on to as an entry of a procedure linkage table."""
    try:
        code = memory.read(return_address - 6, 6)
    except MemoryFault:
        return
    first: int | None = None
    if code[:2] == _CALL_BY_WORD:
        first = _word_of(memory, abi, code[2:], return_address)
    elif code[1] == _CALL:
        first = (return_address + int.from_bytes(code[2:], "little", signed=True)) & _mask(abi)
    if first is None:
        return
    yield first
    try:
        code = memory.read(first, _LONGEST_ENTRY)
    except MemoryFault:
        return
    place = len(_ENDBR[0]) if code.startswith(_ENDBR) else 0
    place += code[place : place + 1] == _BND
    behind = place + 6
    if code[place : place + 2] == _JUMP_BY_WORD:
        target = _word_of(memory, abi, code[place + 2 : behind], first + behind)
        if target is not None:
            yield target


def _word_of(memory: Memory, abi: Abi, operand: bytes, behind: int) -> int | None:
    """Return the word that holds an instruction's target; ``behind`` is the address of the next instruction."""
    relative = abi.word_size == 8
    where = int.from_bytes(operand, "little", signed=relative) + (behind if relative else 0)
    try:
        return abi.read_word(memory, where & _mask(abi))
    except MemoryFault:
        return None


def _mask(abi: Abi) -> int:
    return (1 << 8 * abi.word_size) - 1
