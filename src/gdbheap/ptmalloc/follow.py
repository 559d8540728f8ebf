"""Following free lists fast: a tight loop over blocks of memory, for lists that are sound.

Whatever is odd makes these functions return None; bins.py then goes through the list again, step by step, and says
what it is. So they need not tell one fault from another, only never miss one.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import and_, ge

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi

_SHIFT = 16
_SIZE = 1 << _SHIFT
_MASK = _SIZE - 1
#: Blocks that are held at most, together 32 MiB.
_MOST = 512
#: Chunks that a block must serve on average, once so many were read; where they lie further apart, each is read alone.
_WORTH, _TRIED = 16, 64


class _Scattered(Exception):
    """The chunks of a list lie so far apart that reading blocks does not pay."""


class WordBlocks:
    """Memory in blocks of 64 KiB as arrays of words, each with the first words of the next block behind it."""

    def __init__(self, memory: Memory, abi: Abi) -> None:
        self.memory = memory
        self.abi = abi
        self.shift = 3 if abi.word_size == 8 else 2
        self.unpack = struct.Struct(f"{abi.order}3{abi.word_code}").unpack
        self._blocks: dict[int, array[int]] = {}
        self._reads = 0

    def begin(self) -> None:
        """Say that another list is followed from now on."""
        self._reads = 0

    def get(self, number: int, served: int) -> array[int]:
        """Return block ``number``; raise MemoryFault where it is unreadable.

        ``served`` is how many chunks of the list were met so far: raises _Scattered where those are too few.
        """
        found = self._blocks.get(number)
        if found is None:
            if self._reads >= _TRIED and served < self._reads * _WORTH:
                raise _Scattered
            if len(self._blocks) >= _MOST:
                self._blocks.clear()
            self._reads += 1
            start = number << _SHIFT
            try:
                data = self.memory.read(start, _SIZE + 4 * self.abi.word_size)
            except MemoryFault:
                data = self._partly(start)
            found = self._blocks[number] = self.abi.words(data)
        return found

    def _partly(self, start: int) -> bytes:
        """Return a block up to the last of its pages that can be read from its beginning on."""
        page = self.abi.page_size
        parts = [self.memory.read(start, page)]
        for address in range(start + page, start + _SIZE, page):
            try:
                parts.append(self.memory.read(address, page))
            except MemoryFault:
                break
        return b"".join(parts)


class Followed:
    """A list that is sound so far as its links go: addresses and raw size words, front to back."""

    def __init__(self) -> None:
        self.addresses: array[int] = array("Q")
        self.words: array[int] = array("Q")

    def sizes(self, abi: Abi, low: int, high: int) -> array[int] | None:
        """Return the sizes, in bytes; None where any is not a multiple of the alignment from ``low`` to ``high``."""
        distinct = set(self.words)
        sizes = {word: word & ~FLAG_BITS for word in distinct}
        if any(not low <= size <= high or size % abi.alignment for size in sizes.values()):
            return None
        return array("Q", map(sizes.__getitem__, self.words))

    def loops(self) -> bool:
        """Whether any chunk was met twice."""
        return len(set(self.addresses)) != len(self.addresses)

    def aligned(self, abi: Abi) -> bool:
        """Whether all user pointers are aligned."""
        place = -abi.header % abi.alignment
        return set(map(and_, self.addresses, repeat(abi.alignment - 1))) <= {place}


def follow_bin(blocks: WordBlocks, front: int, header: int, back: int, limit: int) -> Followed | None:
    """Return the doubly linked list from ``front`` on, which ``header`` closes, and whose last chunk is ``back``.

    None where a bk does not name the chunk before it (so also where the list is a loop), where a chunk cannot be
    read or is not aligned, where there are more than ``limit`` chunks or where they lie scattered.
    """
    found = Followed()
    blocks.begin()
    try:
        before = _run_bin(blocks, found, front, header, limit)
    except _Scattered:
        found = Followed()
        before = _scattered_bin(blocks, found, front, header, limit)
    return found if before == back and found.aligned(blocks.abi) else None


def _run_bin(blocks: WordBlocks, found: Followed, chunk: int, header: int, limit: int) -> int | None:
    add, add_word, addresses = found.addresses.append, found.words.append, found.addresses
    shift, get = blocks.shift, blocks.get
    before, number = header, -1
    block: Sequence[int] = ()
    try:
        for _ in repeat(None, limit):
            if chunk == header:
                return before
            if chunk >> _SHIFT != number:
                number = chunk >> _SHIFT
                block = get(number, len(addresses))
            place = (chunk & _MASK) >> shift
            if block[place + 3] != before:
                return None
            add(chunk)
            add_word(block[place + 1])
            before = chunk
            chunk = block[place + 2]
    except (IndexError, MemoryFault):
        pass
    return None


def _scattered_bin(blocks: WordBlocks, found: Followed, chunk: int, header: int, limit: int) -> int | None:
    add, add_word = found.addresses.append, found.words.append
    read, unpack = blocks.memory.read, blocks.unpack
    word_size = blocks.abi.word_size
    size = 3 * word_size
    before = header
    try:
        for _ in repeat(None, limit):
            if chunk == header:
                return before
            word, following, bk = unpack(read(chunk + word_size, size))
            if bk != before:
                return None
            add(chunk)
            add_word(word)
            before, chunk = chunk, following
    except MemoryFault:
        pass
    return None


def follow_fastbin(blocks: WordBlocks, chunk: int, mangled: bool, limit: int) -> Followed | None:
    """Return the singly linked list from ``chunk`` on; ``mangled`` says whether safe-linking hides its links.

    None where a chunk is met twice, cannot be read or is not aligned, and where there are more than ``limit`` chunks.
    """
    found = Followed()
    blocks.begin()
    try:
        ended = _run_fastbin(blocks, found, chunk, mangled, limit)
    except _Scattered:
        found = Followed()
        ended = _scattered_fastbin(blocks, found, chunk, mangled, limit)
    return found if ended and not found.loops() and found.aligned(blocks.abi) else None


def _run_fastbin(blocks: WordBlocks, found: Followed, chunk: int, mangled: bool, limit: int) -> bool:
    add, add_word, addresses = found.addresses.append, found.words.append, found.addresses
    shift, get, header = blocks.shift, blocks.get, blocks.abi.header
    number = -1
    block: Sequence[int] = ()
    try:
        for part in _parts(limit):
            for _ in repeat(None, part):
                if not chunk:
                    return True
                if chunk >> _SHIFT != number:
                    number = chunk >> _SHIFT
                    block = get(number, len(addresses))
                place = (chunk & _MASK) >> shift
                add(chunk)
                add_word(block[place + 1])
                link = block[place + 2]
                chunk = link ^ ((chunk + header) >> 12) if mangled else link
            if found.loops():
                return False
    except (IndexError, MemoryFault):
        pass
    return False


def _scattered_fastbin(blocks: WordBlocks, found: Followed, chunk: int, mangled: bool, limit: int) -> bool:
    add, add_word = found.addresses.append, found.words.append
    read, unpack = blocks.memory.read, blocks.unpack
    header, word_size = blocks.abi.header, blocks.abi.word_size
    size = 3 * word_size
    try:
        for part in _parts(limit):
            for _ in repeat(None, part):
                if not chunk:
                    return True
                word, link, _unused = unpack(read(chunk + word_size, size))
                add(chunk)
                add_word(word)
                chunk = link ^ ((chunk + header) >> 12) if mangled else link
            if found.loops():
                return False
    except MemoryFault:
        pass
    return False


def _parts(limit: int) -> Iterator[int]:
    """Yield numbers of steps, together ``limit``, each as many as all before it: a loop is looked for in between."""
    part = 1 << 12
    while limit > 0:
        yield min(part, limit)
        limit -= part
        part *= 2


def descending(sizes: Sequence[int]) -> bool:
    """Return whether no size is larger than the one before it, as in a large bin."""
    return all(map(ge, sizes, sizes[1:]))
