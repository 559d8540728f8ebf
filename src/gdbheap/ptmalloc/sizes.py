"""How many chunks there are of each size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress

from gdbheap.ptmalloc.chunk import STATES, state_table
from gdbheap.ptmalloc.counts import Counts

_IS = tuple(state_table(state) for state in range(len(STATES)))


class Sizes:
    """Numbers of chunks by size, in bytes, for each state and, apart, for chunks with mappings of their own."""

    def __init__(self) -> None:
        self._counters: dict[tuple[int, bool], Counter[int]] = {}

    def add(self, state: int, sizes: Iterable[int] | Mapping[int, int], mmapped: bool = False) -> None:
        """Add chunks in one ``state``: their sizes, or how many there are of each size."""
        self._counters.setdefault((state, mmapped), Counter()).update(sizes)

    def see(self, states: bytes, sizes: Sequence[int], mmapped: bool = False) -> None:
        """Add chunks whose ``states`` and ``sizes`` are in parallel."""
        for state in set(states):
            self.add(state, compress(sizes, states.translate(_IS[state])), mmapped)

    def merge(self, other: Sizes) -> None:
        """Add all that ``other`` has."""
        for (state, mmapped), counter in other._counters.items():
            self.add(state, counter, mmapped)

    def only(self, states: Iterable[str], low: int, high: int | None) -> Sizes:
        """Return those in some ``states``, from ``low`` to ``high`` bytes long, both included (None: no limit)."""
        chosen = Sizes()
        wanted = set(map(STATES.index, states))
        for state, mmapped, size, count in self.each():
            if state in wanted and low <= size and (high is None or size <= high):
                chosen.add(state, {size: count}, mmapped)
        return chosen

    def each(self) -> Iterable[tuple[int, bool, int, int]]:
        """Yield (state, whether they have mappings of their own, size, how many)."""
        for (state, mmapped), counter in self._counters.items():
            for size, count in counter.items():
                yield state, mmapped, size, count

    def counts(self) -> Counts:
        """Return the sums by state."""
        counts = Counts()
        for state, _, size, count in self.each():
            counts.add(state, count, count * size)
        return counts
