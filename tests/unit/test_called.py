"""Promise: which function a call instruction led to is read from its own bytes, or not told."""

from __future__ import annotations

import struct

import pytest

from gdbheap.growth.called import called_function, public_entries
from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.abi import Abi

ABI = Abi(8)
CODE, STUB, TABLE, LIBC = 0x40_0000, 0x40_1000, 0x40_4000, 0x7F00_0000
ENTRIES = public_entries({"malloc": LIBC + 0x100, "__libc_malloc": LIBC + 0x100, "calloc": LIBC + 0x200, "puts": LIBC})


def relative(target: int, behind: int) -> bytes:
    """Return an operand that leads to ``target`` from the instruction before ``behind``."""
    return struct.pack("<i", target - behind)


def called(call: bytes, *more: tuple[int, bytes], abi: Abi = ABI) -> str | None:
    """Return what is found where the bytes of ``call`` end at CODE + 0x10."""
    memory = Snapshot([(CODE, b"\x90" * (0x10 - len(call)) + call), *more])
    return called_function(memory, abi, CODE + 0x10, ENTRIES)


def test_the_entries_are_the_public_functions() -> None:
    assert ENTRIES == {LIBC + 0x100: "malloc", LIBC + 0x200: "calloc"}


def test_a_call_by_address() -> None:
    low = {0x40_2000: "malloc"}
    memory = Snapshot([(CODE, b"\x90" * 11 + b"\xe8" + relative(0x40_2000, CODE + 0x10))])
    assert called_function(memory, ABI, CODE + 0x10, low) == "malloc"
    assert called_function(memory, ABI, CODE + 0x10, {0x40_2001: "malloc"}) is None


@pytest.mark.parametrize("begin", [b"", b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfa\xf2", b"\xf2"])
@pytest.mark.parametrize(("name", "target"), [("malloc", LIBC + 0x100), ("calloc", LIBC + 0x200), (None, LIBC)])
def test_a_call_through_a_linkage_table(begin: bytes, name: str | None, target: int) -> None:
    jump = begin + b"\xff\x25" + relative(TABLE, STUB + len(begin) + 6)
    stub = (STUB, jump.ljust(16, b"\x90"))
    call = b"\xe8" + relative(STUB, CODE + 0x10)
    assert called(call, stub, (TABLE, struct.pack("<Q", target))) == name
    assert called(call, stub) is None, "the word is unreadable"
    assert called(call) is None


def test_a_call_through_a_word() -> None:
    call = b"\xff\x15" + relative(TABLE, CODE + 0x10)
    assert called(call, (TABLE, struct.pack("<Q", LIBC + 0x200))) == "calloc"
    assert called(call) is None


def test_with_32_bits_words_have_addresses() -> None:
    call = b"\xe8" + relative(STUB, CODE + 0x10)
    stub = (STUB, (b"\xff\x25" + struct.pack("<I", TABLE)).ljust(16, b"\x90"))
    assert called(call, stub, (TABLE, struct.pack("<I", LIBC + 0x100)), abi=Abi(4)) == "malloc"


@pytest.mark.parametrize("call", [b"\xff\xd0", b"\x41\xff\x54\x24\x08", b"\xff\x53\x18"])
def test_a_call_by_a_register_is_not_told(call: bytes) -> None:
    assert called(call) is None


def test_code_that_cannot_be_read() -> None:
    assert called_function(Snapshot([]), ABI, CODE, ENTRIES) is None
