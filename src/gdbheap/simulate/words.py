"""Memory as words that can be written without touching what lies below: the layer that simulated operations work on."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import islice

from gdbheap.mappings import MappedRange, Spans
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi, round_down, round_up

#: From here on a program has no addresses, by word size (56 bits: what any machine has of them).
_USER_END = {8: 1 << 56, 4: 1 << 32}
#: Addresses are looked up by blocks of that many bits where those in a range are wanted.
_BLOCK_BITS = 14


class Mapped:
    """Ranges of addresses whose bytes the simulated kernel changed: all zero since then, or gone.

    Ranges are kept apart and in order; what lies outside them is as it was below.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._zero: list[bool] = []

    def set(self, start: int, end: int, zero: bool) -> None:
        """Note that the bytes from ``start`` to ``end`` are zero now, or (``zero`` False) not mapped any more."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        kept: list[tuple[int, int, bool]] = []
        for place in range(first, last):
            low, high, value = self._starts[place], self._ends[place], self._zero[place]
            if value == zero:  # they touch, or overlap: one range
                start, end = min(start, low), max(end, high)
                continue
            if low < start:
                kept.append((low, start, value))
            if high > end:
                kept.append((end, high, value))
        kept.append((start, end, zero))
        kept.sort()
        self._starts[first:last] = [item[0] for item in kept]
        self._ends[first:last] = [item[1] for item in kept]
        self._zero[first:last] = [item[2] for item in kept]

    def at(self, address: int) -> tuple[bool | None, int]:
        """Return what is at ``address`` and the address up to which that is so.

        True stands for zero bytes, False for memory that is not mapped, None for what is below.
        """
        place = bisect_right(self._starts, address)
        if place and address < self._ends[place - 1]:
            return self._zero[place - 1], self._ends[place - 1]
        return None, self._starts[place] if place < len(self._starts) else 1 << 65


class Access:
    """What the processor lets a program do with its memory, by the mappings of the process.

    GDB reads and writes more than that: pages of a reservation that are not accessible yet, for one.
    """

    def __init__(self, ranges: Iterable[MappedRange]) -> None:
        known = list(ranges)
        self._readable = Spans((item.start, item.end) for item in known if item.permissions[0] in "r?")
        self._writable = Spans((item.start, item.end) for item in known if item.permissions[1] in "w?")

    def may_read(self, address: int) -> bool:
        """Whether the byte at ``address`` can be read."""
        return any(self._readable.inside(address, address + 1))

    def may_write(self, address: int) -> bool:
        """Whether the byte at ``address`` can be written."""
        return any(self._writable.inside(address, address + 1))


class Words(dict[int, int]):
    """The words of memory by address, over the memory ``below``, which is only ever read.

    A word that is asked for the first time is read from below and kept. So ``words[address]`` is as quick as a lookup
    in a dictionary. Writing changes this layer alone: a copy of the whole is a new layer over this one, which must
    not be written to any more. ``access`` (None: everything is allowed) is what the processor allows: a write to
    memory that is read-only, or is not there, raises MemoryFault.
    """

    def __init__(self, abi: Abi, below: Memory, access: Access | None = None) -> None:
        super().__init__()
        self._abi = abi
        self._below = below
        self._access = access
        self._size = abi.word_size
        self._unseen: set[int] = set()  # written here before anything looked at them
        self._mapped = Mapped()  # by what this layer did; the one below has its own
        self._blocks: dict[int, list[int]] = {}  # addresses of words by block, up to the last _forget
        self._filed = 0

    def __missing__(self, address: int) -> int:
        size = self._size
        if address % size or not 0 <= address < 1 << 8 * size:
            return int.from_bytes(self.read(address % (1 << 8 * size), size), self._abi.byte_order)
        word = self._under(address)
        super().__setitem__(address, word)
        return word

    def _under(self, address: int) -> int:
        """Return the word at ``address`` without what was written to this layer."""
        here, _ = self._mapped.at(address)
        if here is None:
            if isinstance(self._below, Words):
                return self._below[address]
            if self._access is not None and not self._access.may_read(address):
                raise MemoryFault(address, self._size, "it is not mapped, or may not be read")
            return int.from_bytes(self._below.read(address, self._size), self._abi.byte_order)
        if here:
            return 0
        raise MemoryFault(address, self._size, "it was given back to the kernel")

    def __setitem__(self, address: int, word: int) -> None:
        if address % self._size or not 0 <= address < 1 << 8 * self._size:
            self._set_anywhere(address % (1 << 8 * self._size), word)
            return
        if self._access is not None and not (self._access.may_write(address) or self._is_made(address)):
            raise MemoryFault(address, self._size, "it is not mapped, or may not be written")
        if address not in self:
            self._unseen.add(address)
        super().__setitem__(address, word)

    def _set_anywhere(self, address: int, word: int) -> None:
        """Write a word that is in two words of this layer."""
        size, order = self._size, self._abi.byte_order
        first = round_down(address, size)
        data = bytearray(self.read(first, 2 * size))
        data[address - first : address - first + size] = word.to_bytes(size, order)
        for place in (0, size):
            self[first + place] = int.from_bytes(data[place : place + size], order)

    def _is_made(self, address: int) -> bool:
        """Whether the simulated kernel has made the memory at ``address``."""
        layer: Memory = self
        while isinstance(layer, Words):
            here, _ = layer._mapped.at(address)
            if here is not None:
                return here
            layer = layer._below
        return False

    def looked_at(self, down_to: Words) -> set[int]:
        """Return the words that were looked at in the layers from ``down_to``, not included, up to this one.

        One that was written before that, in any of these layers, says nothing about what is below them.
        """
        layers: list[Words] = []
        layer: Memory = self
        while isinstance(layer, Words) and layer is not down_to:
            layers.append(layer)
            layer = layer._below
        looked: set[int] = set()
        unseen: set[int] = set()
        for item in reversed(layers):
            looked |= item.keys() - item._unseen - unseen
            unseen |= item._unseen
        return looked

    def peek(self, address: int) -> int:
        """Return the word at ``address`` without counting as a look at it."""
        return self[address] if address in self else self._under(address)

    def is_possible(self, address: int) -> bool:
        """Whether a program can have memory at ``address``, be it here or not: the first page is never mapped."""
        return self._abi.page_size <= address < _USER_END[self._size]

    def above(self) -> Words:
        """Return a new layer over this one; this one must not be written to from then on."""
        return Words(self._abi, self, self._access)

    def fresh(self, start: int, end: int) -> None:
        """Let the bytes from ``start`` to ``end`` be zero, where there was nothing: the kernel has made them."""
        self._mapped.set(start, end, True)

    def zero(self, start: int, end: int) -> None:
        """Let the bytes from ``start`` to ``end`` be zero: the kernel has made them anew."""
        self._forget(start, end)
        self._mapped.set(start, end, True)

    def unmap(self, start: int, end: int) -> None:
        """Let there be nothing from ``start`` to ``end``."""
        self._forget(start, end)
        self._mapped.set(start, end, False)

    def _forget(self, start: int, end: int) -> None:
        """Drop the words from ``start`` to ``end``; how long it takes depends on how many there are."""
        blocks = self._file_new()
        first, last = start >> _BLOCK_BITS, (end - 1) >> _BLOCK_BITS
        within = range(first, last + 1)
        for block in within if len(within) < len(blocks) else [block for block in blocks if block in within]:
            found = gone = blocks.pop(block, [])
            if not first < block < last:
                gone = [address for address in found if start <= address < end]
                if len(gone) < len(found):
                    blocks[block] = [address for address in found if not start <= address < end] if gone else found
            for address in gone:
                del self[address]
        self._filed = len(self)

    def _file_new(self) -> dict[int, list[int]]:
        """Return the addresses of all words by block: those that came since the last time are the newest keys."""
        blocks = self._blocks
        for address in islice(reversed(self), len(self) - self._filed):
            block = address >> _BLOCK_BITS
            if block in blocks:
                blocks[block].append(address)
            else:
                blocks[block] = [address]
        return blocks

    def move(self, start: int, size: int, to: int) -> None:
        """Move what malloc may look at of the ``size`` bytes at ``start``, their first words, to the address ``to``."""
        words = [self[start + place] for place in range(0, min(size, 8 * self._size), self._size)]
        self.unmap(start, start + size)
        self.fresh(to, to + size)
        for place, word in enumerate(words):
            self[to + place * self._size] = word

    def written(self) -> dict[int, tuple[int | None, int]]:
        """Return what differs from below: by address the word there (None: unreadable) and the word here."""
        changed: dict[int, tuple[int | None, int]] = {}
        for address in sorted(self):
            try:
                before: int | None = (
                    self._below[address]
                    if isinstance(self._below, Words)
                    else int.from_bytes(self._below.read(address, self._size), self._abi.byte_order)
                )
            except MemoryFault:
                before = None
            if before != self[address]:
                changed[address] = before, self[address]
        return changed

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address`` as this layer has them; raise MemoryFault where there are none."""
        data = bytearray()
        place, end = address, address + size
        while place < end:
            here, until = self._mapped.at(place)
            length = min(end, until) - place
            if here is None:
                data += self._below.read(place, length)
            elif here:
                data += bytes(length)
            else:
                raise MemoryFault(place, length, "it was given back to the kernel")
            place += length
        self._patch(data, address)
        return bytes(data)

    def _patch(self, data: bytearray, address: int) -> None:
        """Put the words of this layer over ``data``, the bytes at ``address``."""
        size, order, end = self._size, self._abi.byte_order, address + len(data)
        first, last = round_down(address, size), round_up(end, size)
        if (last - first) // size <= len(self):
            found = [(place, self[place]) for place in range(first, last, size) if place in self]
        else:
            found = [(place, word) for place, word in self.items() if first <= place < last]
        for place, word in found:
            part = word.to_bytes(size, order)
            if place < address:
                part, place = part[address - place :], address
            part = part[: end - place]
            data[place - address : place - address + len(part)] = part
