"""Word size, byte order, alignment, and the arithmetic between a request and its chunk."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from gdbheap.memory import Memory

PREV_INUSE = 1
IS_MMAPPED = 2
NON_MAIN_ARENA = 4
FLAG_BITS = PREV_INUSE | IS_MMAPPED | NON_MAIN_ARENA


class RequestTooLarge(ValueError):
    """A request that malloc refuses with ENOMEM before it looks for memory."""


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is not below ``value``."""
    return -(-value // multiple) * multiple


def round_down(value: int, multiple: int) -> int:
    """Return the largest multiple of ``multiple`` that is not above ``value``."""
    return value // multiple * multiple


@dataclass(frozen=True)
class Abi:
    """What malloc.c is compiled for.

    ``word_size`` is SIZE_SZ and ``alignment`` MALLOC_ALIGNMENT, both in bytes; ``page_size`` is the kernel's, from
    the auxiliary vector. ``alignment`` is 2 * SIZE_SZ, but 16 on i386 from glibc 2.26 on.
    """

    word_size: int
    little_endian: bool = True
    alignment: int = 16
    page_size: int = 0x1000

    @cached_property
    def header(self) -> int:
        """Bytes from a chunk's address to its user pointer (CHUNK_HDR_SZ)."""
        return 2 * self.word_size

    @cached_property
    def min_size(self) -> int:
        """The smallest chunk, in bytes (MINSIZE)."""
        return round_up(4 * self.word_size, self.alignment)

    @cached_property
    def min_large_size(self) -> int:
        """The smallest chunk that belongs in a large bin, in bytes (MIN_LARGE_SIZE)."""
        return (64 - (1 if self.alignment > self.header else 0)) * self.alignment

    def request_to_chunk(self, request: int) -> int:
        """Return the size of the chunk, in bytes, that serves a ``request`` of that many bytes.

        Raises RequestTooLarge above PTRDIFF_MAX (checked_request2size, from glibc 2.30 on).
        """
        if request < 0 or request >= 1 << (8 * self.word_size - 1):
            raise RequestTooLarge(f"a request of {request} bytes is refused: PTRDIFF_MAX is the limit")
        return max(self.min_size, round_up(request + self.word_size, self.alignment))

    def max_request(self, chunk_size: int) -> int:
        """Return the largest request, in bytes, that fits a chunk of ``chunk_size`` bytes that is not mmapped."""
        return chunk_size - self.word_size

    def first_chunk(self, start: int) -> int:
        """Return the address of the first chunk at or behind ``start``: its user pointer is aligned."""
        return round_up(start + self.header, self.alignment) - self.header

    @property
    def word_code(self) -> str:
        """The ``array`` and ``struct`` code of an unsigned word."""
        return "Q" if self.word_size == 8 else "I"

    @property
    def order(self) -> str:
        """The ``struct`` prefix of the byte order."""
        return "<" if self.little_endian else ">"

    @property
    def byte_order(self) -> Literal["little", "big"]:
        """The byte order as ``int.from_bytes`` takes it."""
        return "little" if self.little_endian else "big"

    def words(self, data: bytes) -> array[int]:
        """Return ``data`` as unsigned words; a rest shorter than a word is left out."""
        values = array(self.word_code)
        values.frombytes(data[: len(data) // self.word_size * self.word_size])
        if self.little_endian != (sys.byteorder == "little"):
            values.byteswap()
        return values

    def read_word(self, memory: Memory, address: int) -> int:
        """Return the unsigned word at ``address``; raise MemoryFault where it is unreadable."""
        return int.from_bytes(memory.read(address, self.word_size), self.byte_order)


class WordBuffer:
    """Takes words out of bytes as ``Abi.words`` does, into the same array each time that there are as many.

    New memory costs the kernel more than the copy itself. The words of the last time are gone then.
    """

    def __init__(self, abi: Abi) -> None:
        self._abi = abi
        self._words = array(abi.word_code)

    def words(self, data: bytes) -> array[int]:
        """Return ``data`` as unsigned words; a rest shorter than a word is left out."""
        abi, words = self._abi, self._words
        if len(data) != len(words) * abi.word_size or abi.byte_order != sys.byteorder:
            words = self._words = abi.words(data)
        else:
            memoryview(words).cast("B")[:] = data
        return words
