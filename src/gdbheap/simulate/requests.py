"""One request of each size, tried in one thread: which of them fail, as ranges of sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gdbheap.ptmalloc.abi import FLAG_BITS
from gdbheap.ptmalloc.bins import LAST_BIN, bin_range
from gdbheap.ptmalloc.check_lists import ListView
from gdbheap.ptmalloc.state import HeapState
from gdbheap.simulate.operations import Operation
from gdbheap.simulate.trials import Outcome, Trial, Trials

#: Sizes of chunks on lists for which just that size is tried, and those around it.
_MOST_SIZES = 48
#: Unsorted chunks from which on only some of the large sizes are tried: each goes through all of them.
_MANY = 400
#: Requests of more bytes are not tried.
_LARGEST = 1 << 26


class Requests:
    """Requests of all sizes that one thread can make next, the smallest first."""

    def __init__(self, trials: Trials, thread: int, state: HeapState, views: Sequence[ListView]) -> None:
        self._trials = trials
        self._thread = thread
        self._state = state
        self._sizes = sorted(self._all_sizes(views))

    def _all_sizes(self, views: Sequence[ListView]) -> set[int]:
        """Return the sizes of chunks, in bytes, at which what malloc does may change."""
        abi, params = self._state.abi, self._state.params
        step = abi.alignment
        found = set(range(abi.min_size, abi.min_large_size + step, step))
        lists = [view for view in views if view.kind in ("unsorted", "large")]
        if sum(len(view.nodes) for view in lists if view.kind == "unsorted") < _MANY:
            for index in range(2, LAST_BIN + 1):
                try:
                    low, high = bin_range(abi, index)
                except ValueError:
                    continue
                found |= {low, high or low}
        listed = dict.fromkeys(node.word & ~FLAG_BITS for view in lists for node in (*view.nodes[:8], *view.nodes[-8:]))
        marks = list(listed)[:_MOST_SIZES]
        marks += [arena.top_size - abi.min_size for arena in self._state.ring.arenas[:4] if arena.top_size is not None]
        marks += [params.get("mmap_threshold")]
        for size in marks:
            found |= {size - abi.min_size, size - step, size, size + step}
        least = abi.min_size
        return {size - size % step for size in found if least <= size < _LARGEST}

    def failing(self, concerned: Callable[[Outcome], bool]) -> Iterator[tuple[int, int, Trial]]:
        """Yield the sizes from and to which requests end alike, with the trial of the smallest.

        Only what ends with a message or a crash, and is ``concerned``, is yielded.
        """
        start: tuple[int, Trial, tuple[tuple[str | None, str], ...]] | None = None
        last = 0
        for size in self._sizes:
            trial = Trial((Operation("malloc", (size - self._state.abi.word_size,)),), self._thread)
            outcomes = self._trials.outcomes(trial)
            ends = tuple((item.message, item.condition) for item in outcomes)
            bad = any(item.message is not None and concerned(item) for item in outcomes)
            if start is not None and (not bad or ends != start[2]):
                yield start[0], last, start[1]
                start = None
            if bad and start is None:
                start = size, trial, ends
            last = size
        if start is not None:
            yield start[0], last, start[1]
