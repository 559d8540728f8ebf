"""Measure looking for chunks: python3 bench/find.py [CHUNKS...], or inside GDB: gdb -nx -batch -x bench/find.py.

On heaps like those of bench/walk.py (10,000, 100,000 and 1,000,000 chunks unless CHUNKS says otherwise) whose contents
are words, some of them pointers and vtables. Prints the median time for each chunk; the last column is the ratio to the
tightest loop that Python can make over the same bytes, in the same run.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from walk import ABI, BASE, Image, build, tightest

from gdbheap.ptmalloc.scan import BytesSought, Pieces, WordSought, word_finder
from gdbheap.ptmalloc.search import FoundRows, FoundTotals, Groups, Search, Sought, TypeNames
from gdbheap.ptmalloc.sizes import Sizes
from gdbheap.ptmalloc.totals import totals
from gdbheap.ptmalloc.whole import Reached, reach

CHUNKS = (10_000, 100_000, 1_000_000)
RUNS = 5
VTABLES = {0x7FFFF7D00010 + 64 * number: f"kind{number}" for number in range(20)}
TEXT = b"needle in the hay"


class Classes:
    """Classes of made-up vtables; looks at each word as the debugger's side does."""

    def classes(self, words: Iterable[int]) -> Mapping[int, str]:
        """Return the classes of those ``words`` that point into a vtable."""
        return {word: VTABLES[word] for word in words if word in VTABLES}

    def wanted(self, name: str) -> bool:
        """Return whether chunks of this class are looked for."""
        return name == "kind7"


def fill(words: array[int]) -> None:
    """Write contents between the size words: a third of all words pointers into the heap, the rest small or zero."""
    chance = random.Random(2)
    end = len(words) * 8
    pool = [
        BASE + chance.randrange(end) // 8 * 8 if chance.random() < 0.33 else chance.choice((0, 1, 1 << 20))
        for _ in range(997)
    ]
    vtables = list(VTABLES)
    index, number = 1, 0
    while index < len(words):
        size = words[index] >> 3
        words[index + 1 : index + size - 1] = array("Q", [pool[(number + place) % 997] for place in range(size - 2)])
        if number % 2:
            words[index + 1] = vtables[number % 20]
        if number % 1000 == 3:
            words[index + 2 : index + 4] = array("Q", bytes(TEXT[:16]))
        index += size
        number += 1


def measure(chunks: int) -> None:
    """Measure and print for a heap of so many chunks."""
    _, words, plan, free = build(chunks)
    fill(words)
    memory = Image(BASE, words)
    whole = len(words) * 8

    def found(sought: Sought, types: TypeNames | None = None, *, grouped: bool = False, order: str = "") -> int:
        search, totals, groups = Search(memory, ABI, sought, types), FoundTotals(), Groups()
        rows = FoundRows(ABI, order, 200)
        reached = Reached()
        for block in reach(memory, ABI, plan, free, reached):
            matches = search.matches(block)
            if matches is not None:
                totals.see(matches)
                if grouped:
                    groups.see(matches)
                if order:
                    rows.see(matches, "main_arena")
        assert not reached.missing
        assert not grouped or sum(group.chunks for group in groups.groups()) == totals.chunks
        assert not order or len(rows.rows()) == 200
        return totals.chunks

    def counted() -> int:
        result = totals(memory, ABI, plan, free)
        assert result.complete
        return sum(result.counts.values())

    def by_size(sought: Sought, *, grouped: bool = False) -> int:
        sizes = Sizes()
        assert totals(memory, ABI, plan, free, sizes).complete
        chosen = sizes.only(sought.states, sought.min_size, sought.max_size)
        assert not grouped or sum(group.chunks for group in Groups(chosen).groups()) == chosen.counts().chunks
        return chosen.counts().chunks

    def pointers() -> int:
        count, position, low = 0, BASE, BASE + whole // 2
        pieces = Pieces(memory, ABI)
        while True:
            piece = pieces.next(position, BASE + whole)
            if piece is None:
                return count
            position = piece[0] + len(piece[1])
            find = word_finder(piece[1], ABI, low, low + 0x100)
            place = find(0)
            while place >= 0:
                count += 1
                place = find(place + 8)

    target = max(words[4 : 4 + 997])  # a pointer into the heap: each 997th word is one
    measured: dict[str, Callable[[], int]] = {
        "tightest loop over one array": lambda: len(tightest(words)),
        "heap find -count": counted,
        "heap find -start -count": lambda: found(Sought(start=1)),
        "heap find -min-size 0x100 -count": lambda: by_size(Sought(min_size=0x100)),
        "heap find (by size)": lambda: by_size(Sought(), grouped=True),
        "heap find -sort size": lambda: found(Sought(), order="size"),
        "heap find -text -count": lambda: found(Sought(contents=(BytesSought(TEXT[:16]),))),
        "heap find -points-to -count": lambda: found(Sought(contents=(WordSought(target, target + 1, 8),))),
        "heap find -by type": lambda: found(Sought(), Classes(), grouped=True),
        "heap find -type -count": lambda: found(Sought(typed=True), Classes()),
        "the scan of heap refs over these bytes": pointers,
    }
    times: dict[str, list[float]] = {name: [] for name in measured}
    gc.collect()
    for _ in range(RUNS):  # in turns, so that a busy machine is unfair to all of them
        for name, run in measured.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    print(f"{chunks} chunks, {whole / 1e6:.0f} MB, Python {sys.version.split()[0]}, median of {RUNS} runs")
    base = statistics.median(times["tightest loop over one array"])
    for name, results in times.items():
        middle = statistics.median(results)
        print(f"{name:42}{middle / chunks * 1e9:8.0f} ns a chunk{middle / base:8.2f}")


if __name__ == "__main__":
    for number in [int(argument, 0) for argument in sys.argv[1:]] or CHUNKS:
        measure(number)
