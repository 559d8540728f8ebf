"""Following free lists fast: a tight loop over blocks of memory, for lists that are sound.

Whatever is odd makes these functions return None; bins.py then goes through the list again, step by step, and says
what it is. So they need not tell one fault from another, only never miss one.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from operator import ge
from typing import Optional

from gdbheap.memory import BlockCache, Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi

_SHIFT = BlockCache.SHIFT
_MASK = BlockCache.SIZE - 1
#: Chunks that a block must serve on average, once so many were read; where they lie further apart, each is read alone.
_WORTH, _TRIED = 64, 16
#: Lists among which the one that is nearest is looked for.
_FEW = 32
#: Chunks that are kept as lists at most, before they go into arrays, which take a fifth of the memory.
_FLUSHED = 1 << 12
#: Chunks of a fastbin after which a loop is looked for, for the first time.
_LOOKED = 1 << 12

_Run = Generator[Optional[int], bytes, None]


class Followed:
    """A list that is sound so far as its links go: addresses and raw size words, front to back."""

    def __init__(self) -> None:
        self.addresses: array[int] = array("Q")
        self.words: array[int] = array("Q")
        # What was met since the last ``flush``: lists are several times faster to append to.
        self.new_addresses: list[int] = []
        self.new_words: list[int] = []
        #: Whether it ended as a list should; None while that is not known.
        self.ended: bool | None = None

    def flush(self) -> int:
        """Take in what was met since the last time; return how many chunks there are by now."""
        if len(self.new_addresses) >= _FLUSHED or self.ended is not None:
            self.addresses.fromlist(self.new_addresses)
            self.words.fromlist(self.new_words)
            self.new_addresses.clear()
            self.new_words.clear()
        return len(self.addresses) + len(self.new_addresses)

    def sizes(self, abi: Abi, low: int, high: int) -> array[int] | None:
        """Return the sizes, in bytes; None where any is not a multiple of the alignment from ``low`` to ``high``."""
        distinct = set(self.words)
        sizes = {word: word & ~FLAG_BITS for word in distinct}
        if any(not low <= size <= high or size % abi.alignment for size in sizes.values()):
            return None
        return array("Q", map(sizes.__getitem__, self.words))

    def loops(self, start: Start) -> bool:
        """Whether any chunk of a fastbin was met twice; the links of a bin tell by themselves."""
        if start.header:
            return False
        distinct = set(self.addresses)
        distinct.update(self.new_addresses)
        return len(distinct) != len(self.addresses) + len(self.new_addresses)

    def aligned(self, abi: Abi) -> bool:
        """Whether all user pointers are aligned."""
        place, mask = -abi.header % abi.alignment, abi.alignment - 1
        return {low & mask for low in set(low_bytes(self.addresses))} <= {place}


def low_bytes(numbers: array[int]) -> bytes:
    """Return the lowest byte of each number."""
    return bytes(
        memoryview(numbers).cast("B")[0 if sys.byteorder == "little" else numbers.itemsize - 1 :: numbers.itemsize]
    )


@dataclass(frozen=True)
class Start:
    """Where a list begins: at the chunk ``front``.

    A bin is closed by its ``header``, and its last chunk is ``back``. A fastbin has neither (0); ``mangled`` says
    whether safe-linking hides its links.
    """

    front: int
    header: int = 0
    back: int = 0
    mangled: bool = False


def follow(memory: Memory, abi: Abi, starts: Sequence[Start]) -> list[Followed | None]:
    """Return the lists of an arena, each None where anything about its links is odd.

    That is where bk of a chunk does not name the one before it (so also where a bin is a loop), where a fastbin meets
    a chunk twice, and where a chunk cannot be read or is not aligned. All lists are followed together: whichever need
    the same block of memory go on while it is there.
    """
    found = [Followed() for _ in starts]
    blocks = memory if isinstance(memory, BlockCache) else BlockCache(memory, abi.page_size)
    before = blocks.reads
    waiting: dict[int, list[_Run]] = {}
    for start, item in zip(starts, found):
        run = _bin(item, start, abi) if start.header else _fastbin(item, start, abi)
        first = next(run, None)
        if first is not None:
            waiting.setdefault(first, []).append(run)
    number = max(waiting, default=0)
    met = 0
    while waiting:
        try:
            block = blocks.block(number)
        except MemoryFault:
            block = b""
        for run in waiting.pop(number):
            following = run.send(block)
            if following is not None:
                waiting.setdefault(following, []).append(run)
        reads = blocks.reads - before
        if not reads % _TRIED:
            met = sum(item.flush() for item in found)
            if met < reads * _WORTH:
                break
        if waiting:
            few = len(waiting) <= _FEW
            number = min(waiting, key=lambda other: abs(other - number)) if few else next(iter(waiting))
    if blocks.overflowed:
        blocks.clear()  # what happens to be left is of little use to the walk
    for place, start in enumerate(starts):
        if found[place].ended is None:
            found[place] = _scattered(memory, abi, start)
        found[place].flush()
    return [
        item if item.ended and item.aligned(abi) and not item.loops(start) else None
        for item, start in zip(found, starts)
    ]


def _links(abi: Abi) -> struct.Struct:
    """Return what takes size word, fd and bk out of the bytes behind prev_size."""
    return struct.Struct(f"{abi.order}3{abi.word_code}")


def _bin(found: Followed, start: Start, abi: Abi) -> _Run:
    """Follow a bin: yield the number of each block that is needed, and be sent it; yield None at the end."""
    add, add_word = found.new_addresses.append, found.new_words.append
    unpack, behind = _links(abi).unpack_from, abi.word_size
    chunk, before, header = start.front, start.header, start.header
    bits, mask = _SHIFT, _MASK
    try:
        while chunk != header:
            number = chunk >> bits
            block = yield number
            while chunk >> bits == number and chunk != header:
                word, link, bk = unpack(block, (chunk & mask) + behind)
                if bk != before:
                    before = 0
                    break
                add(chunk)
                add_word(word)
                before, chunk = chunk, link
            if not before:
                break
        found.ended = before == start.back
    except struct.error:  # behind what can be read
        found.ended = False
    while True:
        yield None


def _fastbin(found: Followed, start: Start, abi: Abi) -> _Run:
    """Follow a fastbin, as ``_bin`` does."""
    add, add_word = found.new_addresses.append, found.new_words.append
    unpack, behind, header = struct.Struct(f"{abi.order}2{abi.word_code}").unpack_from, abi.word_size, abi.header
    chunk, mangled = start.front, start.mangled
    bits, mask, most = _SHIFT, _MASK, _LOOKED
    try:
        while chunk:
            number = chunk >> bits
            block = yield number
            left = most  # a loop may never leave the block
            while chunk >> bits == number and chunk and left:
                left -= 1
                word, link = unpack(block, (chunk & mask) + behind)
                add(chunk)
                add_word(word)
                chunk = link ^ ((chunk + header) >> 12) if mangled else link
            if found.flush() >= most:
                if found.loops(start):
                    break
                most *= 2
        found.ended = not chunk
    except struct.error:  # behind what can be read
        found.ended = False
    while True:
        yield None


def _scattered(memory: Memory, abi: Abi, start: Start) -> Followed:
    """Follow a list whose chunks lie so far apart that each is read by itself."""
    found = Followed()
    unpack, read = _links(abi).unpack, memory.read
    word_size, header = abi.word_size, abi.header
    size = 3 * word_size
    chunk, before, last = start.front, start.header, start.header
    most = _LOOKED
    try:
        while chunk != last:
            word, link, bk = unpack(read(chunk + word_size, size))
            if last and bk != before:
                found.ended = False
                return found
            found.new_addresses.append(chunk)
            found.new_words.append(word)
            before = chunk
            chunk = link ^ ((chunk + header) >> 12) if start.mangled else link
            if found.flush() >= most and not last:
                if found.loops(start):
                    found.ended = False
                    return found
                most *= 2
        found.ended = not last or before == start.back
    except MemoryFault:
        found.ended = False
    return found


def descending(sizes: Sequence[int]) -> bool:
    """Return whether no size is larger than the one before it, as in a large bin."""
    return all(map(ge, sizes, sizes[1:]))
