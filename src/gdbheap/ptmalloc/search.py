"""Looking for chunks by size, state, place, content and type, in columns: whole blocks of a walk at a time."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from itertools import compress, islice
from typing import NamedTuple, Protocol, Union

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.chunk import FENCEPOST, STATES, TOP, USED, Chunk, state_table
from gdbheap.ptmalloc.counts import Counts
from gdbheap.ptmalloc.scan import PIECE, BytesSought, Pieces, Unreadable, WordSought
from gdbheap.ptmalloc.sizes import Sizes
from gdbheap.ptmalloc.walk import Block
from gdbheap.ptmalloc.whole import MMAPPED, chunk_in, user_end

_IS = tuple(state_table(state) for state in range(len(STATES)))
#: What is looked for where no state is named: what malloc handed out or got back. The rest is nobody's.
USUAL_STATES = tuple(name for number, name in enumerate(STATES) if number not in (TOP, FENCEPOST))

Content = Union[BytesSought, WordSought]


class TypeNames(Protocol):
    """What tells the class of a C++ object from the address of its vtable."""

    def classes(self, words: Iterable[int]) -> Mapping[int, str]:
        """Return the classes of those ``words`` that point into a vtable."""
        ...

    def wanted(self, name: str) -> bool:
        """Return whether chunks of this class are looked for."""
        ...


@dataclass(frozen=True)
class Sought:
    """Which chunks are looked for: all that the fields say must hold.

    Sizes are those of chunks in bytes, both inclusive. A chunk is in the range of addresses if any byte of it is, from
    ``start`` up to, not including, ``end``. Each of ``contents`` must be inside the chunk's user data. ``typed`` leaves
    out chunks whose class is not known, or not one that TypeNames.wanted accepts.
    """

    min_size: int = 0
    max_size: int | None = None
    states: frozenset[str] = frozenset(USUAL_STATES)
    start: int = 0
    end: int | None = None
    contents: tuple[Content, ...] = ()
    typed: bool = False

    @property
    def by_size_alone(self) -> bool:
        """Whether the sizes and states of chunks are all that has to be known of them."""
        return not (self.start or self.end is not None or self.contents or self.typed)

    @property
    def by_state_alone(self) -> bool:
        """Whether their states are."""
        return self.by_size_alone and self.min_size <= 0 and self.max_size is None


@dataclass(frozen=True)
class Matches:
    """The chunks of a block that were found.

    ``mask`` has a byte for each chunk of the block, 1 where it was found. ``hits`` are where the first content that was
    asked for begins, an address by the chunk's place. ``classes`` are the C++ classes by place, of used chunks whose
    first word tells one; both are empty where they were not asked for.
    """

    block: Block
    mask: bytes
    hits: Mapping[int, int]
    classes: Mapping[int, str]


class Search:
    """Picks from the blocks of a walk those chunks that are sought.

    With ``types`` each match gets its class. After use ``unreadable`` is what could not be read of the contents, so
    that chunks may be missing.
    """

    def __init__(self, memory: Memory, abi: Abi, sought: Sought, types: TypeNames | None = None) -> None:
        self.unreadable: list[Unreadable] = []
        self._memory = memory
        self._abi = abi
        self._sought = sought
        self._types = types
        self._states = state_table(*(STATES.index(state) for state in sought.states))

    def matches(self, block: Block) -> Matches | None:
        """Return what is found in ``block``, None where nothing is."""
        mask = self._outside(block)
        hits: Mapping[int, int] = {}
        for number, content in enumerate(self._sought.contents):
            if 1 not in mask:
                return None
            found = self._containing(block, mask, content)
            mask = _mask_of(found, len(mask))
            if number == 0:
                hits = found
        if 1 not in mask:
            return None
        classes: Mapping[int, str] = {}
        if self._types is not None:
            classes = self._classes(block, mask, self._types)
            if self._sought.typed:
                classes = {place: name for place, name in classes.items() if self._types.wanted(name)}
                mask = _mask_of(classes, len(mask))
                if not classes:
                    return None
        return Matches(block, mask, hits, classes)

    def _outside(self, block: Block) -> bytes:
        """Return the mask of the chunks that suit without a look at what is in them."""
        columns, sought = block.columns, self._sought
        mask = block.states.translate(self._states)
        if not columns.addresses:
            return mask
        if sought.min_size > 0 or sought.max_size is not None:
            distinct = {word & ~FLAG_BITS for word in columns.distinct}
            if len(distinct) * 8 > len(columns.sizes):  # and then the words say 0 of some fenceposts
                distinct = set(columns.sizes)
            high = max(distinct) if sought.max_size is None else sought.max_size
            right = {size for size in distinct if sought.min_size <= size <= high}
            if len(right) < len(distinct) or not right:
                mask = _both(mask, bytes(map(right.__contains__, columns.sizes)))
        first, last = 0, len(mask)
        if sought.start > columns.addresses[0]:
            first = bisect_right(columns.addresses, sought.start) - 1
            if columns.addresses[first] + columns.sizes[first] <= sought.start:
                first += 1
        if sought.end is not None and sought.end <= columns.addresses[-1]:
            last = bisect_left(columns.addresses, sought.end)
        if first or last < len(mask):
            mask = bytes(first) + mask[first:last] + bytes(len(mask) - max(last, first))
        return mask

    def _containing(self, block: Block, mask: bytes, content: Content) -> dict[int, int]:
        """Return where ``content`` begins in the chunks of ``mask`` whose user data holds it, by their places."""
        abi, addresses = self._abi, block.columns.addresses
        position = addresses[mask.index(1)] + abi.header
        end = user_end(abi, block, mask.rindex(1))
        # A string may begin in one piece and end in the next.
        overlap = content.length - 1 if isinstance(content, BytesSought) else 0
        pieces = Pieces(self._memory, abi, max(PIECE, 2 * content.length))
        found: dict[int, int] = {}
        while True:
            piece = pieces.next(position, end)
            if piece is None:
                break
            start, data = piece
            reached = _search_piece(abi, block, mask, content, start, data, found)
            position = start + len(data)
            if position < end and position - overlap > start:
                position -= overlap
            position = max(position, reached)
        self.unreadable += pieces.unreadable
        return found

    def _classes(self, block: Block, mask: bytes, types: TypeNames) -> dict[int, str]:
        """Return the classes of the used chunks of ``mask``, by their places, as far as their first words tell."""
        used = _both(mask, block.states.translate(_IS[USED]))
        if 1 not in used:
            return {}
        abi, addresses = self._abi, block.columns.addresses
        pointers = [address + abi.header for address in compress(addresses, used)]
        start, end, shift = pointers[0], pointers[-1] + abi.word_size, abi.word_size.bit_length() - 1
        try:
            words = abi.words(self._memory.read(start, end - start))
            firsts = list(map(words.__getitem__, [(pointer - start) >> shift for pointer in pointers]))
        except MemoryFault:
            firsts = []
            for pointer in pointers:
                try:
                    firsts.append(abi.read_word(self._memory, pointer))
                except MemoryFault as fault:
                    firsts.append(0)
                    self.unreadable.append(Unreadable(pointer, pointer + abi.word_size, fault.reason))
        known = types.classes(set(firsts))
        if not known:
            return {}
        places = compress(range(len(used)), used)
        return {place: known[word] for place, word in zip(places, firsts) if word in known}


def _both(first: bytes, second: bytes) -> bytes:
    joint = int.from_bytes(first, "little") & int.from_bytes(second, "little")
    return joint.to_bytes(len(first), "little")


def _without(first: bytes, second: bytes) -> bytes:
    """Return ``first`` less ``second``, which is a part of it."""
    rest = int.from_bytes(first, "little") - int.from_bytes(second, "little")
    return rest.to_bytes(len(first), "little")


def _mask_of(places: Iterable[int], count: int) -> bytes:
    mask = bytearray(count)
    for place in places:
        mask[place] = 1
    return bytes(mask)


def _search_piece(
    abi: Abi, block: Block, mask: bytes, content: Content, start: int, data: bytes, found: dict[int, int]
) -> int:
    """Enter the hits in one piece of memory; return the address from which to go on, which may be far behind it."""
    addresses, length, header, word = block.columns.addresses, content.length, abi.header, abi.word_size
    find = content.finder(data, abi)
    position = find(0)
    while position >= 0:
        address = start + position
        # The word behind a chunk that looks used is its own, so places change one word later.
        place = bisect_right(addresses, address - word) - 1
        following = addresses[place] + header
        if address >= following:
            if mask[place] and address + length <= user_end(abi, block, place):
                found.setdefault(place, address)
            place = mask.find(1, place + 1)
            if place < 0:
                return addresses[-1] + block.columns.sizes[-1] + word
            following = addresses[place] + header
        if following >= start + len(data):
            return following
        position = find(following - start)
    return start


class FoundTotals(Counts):
    """Adds up what was found."""

    def see(self, matches: Matches) -> None:
        """Add the matches of one block."""
        states, sizes, mask = matches.block.states, matches.block.columns.sizes, matches.mask
        every = 0 not in mask
        count, rest = mask.count(1), sum(sizes) if every else sum(compress(sizes, mask))
        # Most chunks are used: their bytes are what the others leave.
        for state in set(states) - {USED}:
            chosen = states.translate(_IS[state])
            if not every:
                chosen = _both(mask, chosen)
            number, size = chosen.count(1), sum(compress(sizes, chosen))
            self.add(state, number, size)
            count -= number
            rest -= size
        self.add(USED, count, rest)


class Group(Counts):
    """Chunks of one class, or of one ``size`` whose class is not known or was not asked for.

    ``mmapped`` says that the chunks of a size have mappings of their own: those that have none are another group.
    """

    def __init__(self, class_name: str | None, size: int | None, mmapped: bool = False) -> None:
        super().__init__()
        self.class_name = class_name
        self.size = size
        self.mmapped = mmapped


class Groups:
    """What was found, grouped by class where the matches have one, and by size otherwise; ``sizes`` were found."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        self._sizes = Sizes() if sizes is None else sizes
        self._classes: Counter[tuple[str, int]] = Counter()  # class and size

    def see(self, matches: Matches) -> None:
        """Add the matches of one block."""
        states, sizes, mask = matches.block.states, matches.block.columns.sizes, matches.mask
        classes = matches.classes
        if classes:
            self._classes.update(zip(classes.values(), map(sizes.__getitem__, classes)))
            mask = _without(mask, _mask_of(classes, len(mask)))
        self._sizes.see(
            bytes(compress(states, mask)), list(compress(sizes, mask)), matches.block.columns.region.kind == MMAPPED
        )

    def groups(self) -> list[Group]:
        """Return the groups, those with most bytes first."""
        by_class: dict[str, Group] = {}
        for (name, size), count in self._classes.items():
            if name not in by_class:
                by_class[name] = Group(name, None)
            by_class[name].add(USED, count, count * size)  # in no other state is a class known
        by_size: dict[tuple[int, bool], Group] = {}
        for state, mmapped, size, count in self._sizes.each():
            if (size, mmapped) not in by_size:
                by_size[size, mmapped] = Group(None, size, mmapped)
            by_size[size, mmapped].add(state, count, count * size)
        found = [*by_class.values(), *by_size.values()]
        return sorted(found, key=lambda group: (-group.bytes, -group.chunks, group.class_name or "", group.size or 0))


class FoundChunk(NamedTuple):
    """A chunk that is shown: in which ``arena`` (its name, None for an mmapped chunk), where the content was found
    (``hit``), and its class.
    """

    chunk: Chunk
    arena: str | None
    hit: int | None
    class_name: str | None


#: How rows are put in order: by address, the largest first, or by state and then by address.
ORDERS = ("address", "size", "state")


class FoundRows:
    """Keeps the first ``limit`` (None: all) of the found chunks in an order, one of ORDERS."""

    def __init__(self, abi: Abi, order: str, limit: int | None) -> None:
        self._abi = abi
        self._order = order
        self._limit = limit
        self._rows: list[tuple[tuple[int, int], FoundChunk]] = []
        self._last: tuple[int, int] | None = None  # the order of the last row that is kept

    def see(self, matches: Matches, arena: str | None) -> None:
        """Add the matches of one block of that ``arena``."""
        block, last = matches.block, self._last
        columns, states = block.columns, block.states
        addresses = columns.addresses
        if last is not None and self._order == "address" and addresses[0] > last[1]:
            return
        places = compress(range(len(matches.mask)), matches.mask)
        if self._order == "size":
            keys = [(-columns.sizes[place], addresses[place], place) for place in places]
        elif self._order == "state":
            keys = [(states[place], addresses[place], place) for place in places]
        else:
            keys = [(0, addresses[place], place) for place in islice(places, self._limit)]
        if last is not None:
            keys = [key for key in keys if key < last]
        if self._limit is not None and len(keys) > self._limit:
            keys = nsmallest(self._limit, keys)
        for order, address, place in keys:
            chunk = chunk_in(self._abi, block, place)
            found = FoundChunk(chunk, arena, matches.hits.get(place), matches.classes.get(place))
            self._rows.append(((order, address), found))
        if self._limit is not None and len(self._rows) > 2 * self._limit:
            self._cut()

    def _cut(self) -> None:
        self._rows.sort(key=lambda row: row[0])
        if self._limit is not None and len(self._rows) > self._limit:
            del self._rows[self._limit :]
            self._last = self._rows[-1][0] if self._rows else (-sys.maxsize, 0)

    def rows(self) -> list[FoundChunk]:
        """Return the rows in order."""
        self._cut()
        return [found for _, found in self._rows]
