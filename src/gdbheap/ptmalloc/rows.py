"""The chunks that someone wants to see, out of a walk over many more."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.chunk import STATES, Chunk, chunk_of, state_table
from gdbheap.ptmalloc.walk import Block


def block_chunk(abi: Abi, block: Block, place: int) -> Chunk:
    """Return the chunk at ``place`` of a block of a walk."""
    columns = block.columns
    return chunk_of(
        abi,
        columns.addresses[place],
        columns.words[place],
        columns.sizes[place],
        block.states[place],
        columns.region.resumed,
    )


@dataclass(frozen=True)
class Wanted:
    """Which chunks are asked for: sizes in bytes, both inclusive; ``states`` None means all of them.

    ``start`` leaves out the chunks that end at or before that address.
    """

    min_size: int = 0
    max_size: int | None = None
    states: frozenset[str] | None = None
    start: int = 0

    def holds(self, chunk: Chunk) -> bool:
        """Return whether a chunk is one of them."""
        return (
            self.min_size <= chunk.size
            and (self.max_size is None or chunk.size <= self.max_size)
            and (self.states is None or chunk.state in self.states)
            and chunk.address + chunk.size > self.start
        )


class Rows:
    """The chunks of a walk that are asked for, as an iterable of Chunk; at most ``limit`` of them (None: all).

    The walk goes on to its end behind the limit, without making objects. After the iteration ``left_out`` is the
    exact number of chunks that the limit kept back. ``seen`` is called with every block, for a Tally or for its
    problems and gaps.
    """

    def __init__(
        self,
        abi: Abi,
        blocks: Iterable[Block],
        wanted: Wanted = Wanted(),
        limit: int | None = None,
        seen: Callable[[Block], None] | None = None,
    ) -> None:
        self.left_out = 0
        self._abi = abi
        self._blocks = blocks
        self._wanted = wanted
        self._limit = limit
        self._seen = seen
        states = wanted.states
        self._state_table = None if states is None else state_table(*(STATES.index(state) for state in states))

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks in the order of the walk."""
        for block, places in self.blocks():
            for place in places:
                yield block_chunk(self._abi, block, place)

    def blocks(self) -> Iterator[tuple[Block, Sequence[int]]]:
        """Yield the blocks of the walk that have such chunks, and which of their chunks these are."""
        left = self._limit
        for block in self._blocks:
            if self._seen is not None:
                self._seen(block)
            places = self._matching(block)
            shown = places if left is None else places[:left]
            self.left_out += len(places) - len(shown)
            if left is not None:
                left -= len(shown)
            if shown:
                yield block, shown

    def _matching(self, block: Block) -> Sequence[int]:
        columns, wanted = block.columns, self._wanted
        count = len(columns.addresses)
        first = bisect_right(columns.addresses, wanted.start)
        if first and columns.addresses[first - 1] + columns.sizes[first - 1] > wanted.start:
            first -= 1
        places: Sequence[int] = range(first, count)
        if self._state_table is not None:
            places = list(compress(places, block.states.translate(self._state_table)[first:]))
        low, high = wanted.min_size, wanted.max_size
        if low or high is not None:
            sizes = columns.sizes
            places = [place for place in places if low <= sizes[place] and (high is None or sizes[place] <= high)]
        return places
