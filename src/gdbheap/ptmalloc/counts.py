"""Numbers of chunks and of bytes, by state."""

from __future__ import annotations

from collections.abc import Iterable

from gdbheap.ptmalloc.chunk import STATES


class Counts:
    """How many chunks and bytes there are in each state; ``counts`` and ``sizes`` are by the states' numbers."""

    def __init__(self) -> None:
        self.counts = [0] * len(STATES)
        self.sizes = [0] * len(STATES)

    def add(self, state: int, chunks: int, size: int) -> None:
        """Add ``chunks`` in one ``state`` that have ``size`` bytes together."""
        self.counts[state] += chunks
        self.sizes[state] += size

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return sum(self.counts)

    @property
    def bytes(self) -> int:
        """The sum of their sizes."""
        return sum(self.sizes)

    def only(self, states: Iterable[str]) -> Counts:
        """Return the counts of these states alone."""
        chosen = Counts()
        for state in map(STATES.index, states):
            chosen.add(state, self.counts[state], self.sizes[state])
        return chosen

    def by_state(self) -> dict[str, tuple[int, int]]:
        """Return chunks and bytes by the name of each state that there is any chunk in."""
        return {name: (count, size) for name, count, size in zip(STATES, self.counts, self.sizes) if count}
