"""What glibc said before it aborted the program: libc keeps a copy of it."""

from __future__ import annotations

from gdbheap.debugger.target import Target
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.checks import CHECKS

#: How much of a message is read, in bytes.
_LONGEST = 512


def kept_message(target: Target) -> str | None:
    """Return the message in __abort_msg, a symbol that libc has for others; None where there is none."""
    pointer = target.word("__abort_msg")
    text = None if not pointer else text_at(target, pointer + 4)  # struct abort_msg_s: an unsigned int, then the text
    return None if text is None else text.strip()


def text_at(target: Target, address: int) -> str | None:
    """Return the string at an address, as far as it can be read; None where nothing of it can."""
    memory = PageCache(target.memory)
    data = bytearray()
    try:
        while len(data) < _LONGEST:
            byte = memory.read(address + len(data), 1)
            if byte == b"\0":
                break
            data += byte
    except MemoryFault:
        if not data:
            return None
    return data.decode("utf-8", "surrogateescape")


def check_of(message: str | None) -> str | None:
    """Return the key of CHECKS for what glibc printed."""
    if message is None:
        return None
    if message in CHECKS:
        return message
    return "assertion in sysmalloc" if "sysmalloc" in message and "assert" in message else None
