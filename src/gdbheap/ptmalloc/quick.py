"""The totals of a sound arena, fast: nothing is made for a chunk, and each chunk on a free list is met by name.

The walk of walk.py makes columns of addresses, sizes and states, which a summary has no use for. Here the chunks
between two that are on a list are all used, and the walk must arrive at each of the latter exactly. Whatever is odd
makes ``quick_totals`` return None: then totals.py goes through the arena again, slowly, and says what it is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import compress, repeat
from operator import add, and_, getitem, rshift, sub

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, Abi, WordBuffer
from gdbheap.ptmalloc.chunk import FENCEPOST, MERGED_STATES, STATES, TCACHE, TOP, USED, state_table
from gdbheap.ptmalloc.regions import Plan, Region
from gdbheap.ptmalloc.sizes import Sizes
from gdbheap.ptmalloc.walk import MAX_BLOCK, Ending, Membership, region_ending

_MIN_BLOCK = 1 << 12
#: Further than any chunk: where the size word is 0, the walk must not stand still.
_AWAY = 1 << 60
_IS = tuple(state_table(state) for state in range(len(STATES)))
_IS_MERGED = state_table(*MERGED_STATES)


class _Odd(Exception):
    """Something that only the slow walk can tell about."""


class QuickTally:
    """Counts and sizes by state, and what the regions of one arena are made of."""

    def __init__(self, memory: Memory, abi: Abi, plan: Plan, free: Membership, max_block: int, sized: bool) -> None:
        self.counts = [0] * len(STATES)
        self.sizes = [0] * len(STATES)
        self.headers = self.alignment = 0
        self.spans: list[tuple[int, int]] = []
        self._memory = memory
        self._abi = abi
        self._words = WordBuffer(abi)
        self._plan = plan
        self._free = free
        self._max_block = max_block
        #: The same by size; None where that is not asked for.
        self.by_size = Sizes() if sized else None
        self._words_met: Counter[int] = Counter()
        self._sound: set[int] = set()  # size words of this region that were looked at
        self._met = 0  # how many chunks of lists
        self._after_free = False  # whether the chunk before it is free, so that PREV_INUSE must be clear in it

    def run(self) -> None:
        """Go through all regions; raise _Odd or MemoryFault where that is no way to do it."""
        abi, arena = self._abi, self._plan.arena
        for region in self._plan.regions:
            self.headers += region.header
            self.alignment += max(region.start - region.address - region.header, 0)
            ending = self._region(region)
            if ending.at_top:
                word = abi.read_word(self._memory, arena.top + abi.word_size)
                size = word & ~FLAG_BITS
                self._add(TOP, [size])
                end = arena.top + size
            elif region.kind == "brk" or ending.end is None:
                raise _Odd  # something else moved the break: what is behind it needs a closer look
            else:
                word = ending.fenceposts[0][1]
                sizes = [(post & ~FLAG_BITS) or abi.header for _, post in ending.fenceposts]
                self._add(FENCEPOST, sizes)
                end = ending.end
                self.alignment += max(end - ending.address - sum(sizes), 0)
            if bool(word & PREV_INUSE) == self._after_free:
                raise _Odd
            self.spans.append((region.address, end))
        # tcaches may hold chunks of other arenas; each chunk on a list of the arena's own must have been met.
        if self._met - self.counts[TCACHE] != len(self._free.states) - self._free.states.count(TCACHE):
            raise _Odd
        if self.by_size is not None:
            self.by_size.add(USED, self._used())

    def _used(self) -> Counter[int]:
        """Return how many chunks of each size are used: those that were met and are on no list."""
        used: Counter[int] = Counter()
        for word, count in self._words_met.items():
            used[word & ~FLAG_BITS] += count
        for state, _, size, count in self.by_size.each() if self.by_size is not None else ():
            if state not in (TOP, FENCEPOST):
                used[size] -= count
        return +used

    def _add(self, state: int, sizes: Sequence[int]) -> None:
        self.counts[state] += len(sizes)
        self.sizes[state] += sum(sizes)
        if self.by_size is not None:
            self.by_size.add(state, sizes)

    def _region(self, region: Region) -> Ending:
        abi, memory = self._abi, self._memory
        position, block = region.start, self._max_block
        self._after_free = False
        self._sound = set()
        while position < region.limit:
            size = min(block, region.limit - position) - abi.word_size
            if size < abi.word_size:
                raise _Odd
            words = self._words.words(memory.read(position + abi.word_size, size))
            column, steps = self._block(region, words, position)
            position += 8 * steps
            if position > region.limit:
                raise _Odd
            if column < 16:
                block = min(max(block // 16, _MIN_BLOCK), self._max_block)
            elif column > 256:
                block = min(block * 4, self._max_block)
        ending = region_ending(memory, abi, region, position)
        if ending.problem is not None:
            raise _Odd
        return ending

    def _block(self, region: Region, words: array[int], position: int) -> tuple[int, int]:
        """Count the chunks that begin in ``words``, the first of them at ``position``.

        Returns how many they are, and where the next one begins, in words.
        """
        free, count = self._free, len(words)
        low = bisect_left(free.addresses, position)
        high = bisect_left(free.addresses, position + 8 * count, low)
        listed = free.addresses[low:high]
        stops = list(map(rshift, map(sub, listed, repeat(position)), repeat(3)))
        column, index = _follow(words, [*stops, count])
        unseen = set(column).difference(self._sound)
        if unseen:
            _check_words(self._abi, region, unseen)
            self._sound |= unseen
        states = free.states[low:high]
        self._met += len(stops)
        own: list[int] = list(map(words.__getitem__, stops))
        self._check_flags(region, column, words, index, stops, own, states)
        sizes = list(map(and_, own, repeat(~FLAG_BITS)))
        for state in set(states):
            self._add(state, list(compress(sizes, states.translate(_IS[state]))))
        self.counts[USED] += len(column) - len(stops)
        self.sizes[USED] += 8 * index - sum(sizes)
        if self.by_size is not None:
            self._words_met.update(column)
        return len(column), index

    def _check_flags(
        self,
        region: Region,
        column: Sequence[int],
        words: array[int],
        index: int,
        stops: Sequence[int],
        own: Sequence[int],
        states: bytes,
    ) -> None:
        """Raise _Odd unless PREV_INUSE is clear behind the chunks of merged lists and nowhere else, and the like.

        ``own`` are the size words of the chunks on lists, which are at ``stops``.
        """
        merged = states.translate(_IS_MERGED)
        behind = list(compress(map(add, stops, map(rshift, own, repeat(3))), merged))
        last = bool(behind) and behind[-1] == index  # its neighbour is in the next block
        if last:
            behind.pop()
        if any(map(and_, map(getitem, repeat(words), behind), repeat(PREV_INUSE))):
            raise _Odd
        # The sizes add up to where the walk has come; what is left of the sum of the words are their flags.
        flags = sum(column) - 8 * index
        if not region.main:
            marked = sum(map(and_, column, repeat(NON_MAIN_ARENA)))
            flags -= marked
            outside = len(column) - marked // NON_MAIN_ARENA
            if outside != sum(not word & NON_MAIN_ARENA for word in compress(own, merged)):
                raise _Odd
        clear = len(column) - flags
        if clear != len(behind) + self._after_free or bool(column[0] & PREV_INUSE) == self._after_free:
            raise _Odd
        self._after_free = last


def _check_words(abi: Abi, region: Region, distinct: set[int]) -> None:
    """Raise _Odd where a size or a flag is one that no chunk of the region can have."""
    odd = (abi.alignment - 1 & ~FLAG_BITS) | IS_MMAPPED | (NON_MAIN_ARENA if region.main else 0)
    if min(distinct) < abi.min_size or any(word & odd for word in distinct):
        raise _Odd


def _follow(words: array[int], stops: Sequence[int]) -> tuple[list[int], int]:
    """Return the size words met from the first on, and the index behind the last; ``stops`` must all be met.

    The last of them is where the words end; the last chunk may end behind it.
    """
    column: list[int] = []
    index = 0
    for stop in stops:
        while index < stop:
            word = words[index]
            column.append(word)  # Python is faster with this than with a method that was bound before
            index += word >> 3 or _AWAY
        if index != stop and stop != stops[-1]:
            raise _Odd
    return column, index


def quick_totals(
    memory: Memory, abi: Abi, plan: Plan, free: Membership, max_block: int = MAX_BLOCK, *, sized: bool = False
) -> QuickTally | None:
    """Return what the bytes of a sound arena of a 64-bit process are, by size as well if they are to be ``sized``.

    None where anything about it is odd.
    """
    if abi.word_size != 8 or abi.alignment != 16 or free.problems or plan.problems or not plan.complete:
        return None
    if not isinstance(free.addresses, array):
        return None  # some addresses are not aligned, or on two lists
    if plan.top_is_lost or sum(region.top is not None for region in plan.regions) != 1:
        return None
    tally = QuickTally(memory, abi, plan, free, max_block, sized)
    try:
        tally.run()
    except (_Odd, MemoryFault):
        return None
    return tally
