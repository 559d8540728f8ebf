"""Measure the walk: python3 bench/walk.py [CHUNKS], or inside GDB: gdb -nx -batch -x bench/walk.py.

Builds the image of a heap in memory (1,000,000 chunks unless CHUNKS says otherwise, a fifth of them on free lists) and
prints the median time for each chunk of: the tightest loop that Python can make of it, the walk in columns, the walk
with the state of each chunk, and that with all sums. The last column is the ratio to the tightest loop of this run.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import TCACHE, UNSORTED
from gdbheap.ptmalloc.regions import Plan, Region
from gdbheap.ptmalloc.totals import totals
from gdbheap.ptmalloc.walk import Membership, walk_arena, walk_region

CHUNKS = 1_000_000
RUNS = 7
BASE = 0x555555559000
ABI = Abi(8)


class Image:
    """One range of memory."""

    def __init__(self, start: int, words: array[int]) -> None:
        self._start = start
        self._data = words.tobytes()

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where the image does not hold them all."""
        offset = address - self._start
        data = self._data[offset : offset + size]
        if offset < 0 or len(data) != size:
            raise MemoryFault(address, size)
        return data


def build(chunks: int) -> tuple[Memory, array[int], Plan, Membership]:
    """Return a heap's memory, the same as one array of words, and what the walk needs to know about it."""
    chance = random.Random(1)
    sizes = [ABI.request_to_chunk(16 + chance.randrange(368)) for _ in range(chunks)]
    top, top_size = BASE + sum(sizes), 0x1000
    words = array("Q", bytes(sum(sizes) + top_size))
    states: dict[int, int] = {}
    address, flags = BASE, 1
    for number, size in enumerate(sizes):
        words[(address - BASE) // 8 + 1] = size | flags
        flags = 1
        if number % 5 == 0:
            states[address] = TCACHE if number % 25 == 0 else UNSORTED
            flags = 1 if number % 25 == 0 else 0
        address += size
    words[(top - BASE) // 8 + 1] = top_size | flags
    system_mem = top + top_size - BASE
    arena = Arena(0x7FFFF7000000, 0, 0, 0, top, top_size, 0, (), (), 0, (), 0, 0, 1, system_mem, system_mem)
    region = Region("brk", BASE, BASE, top, 0, top, None, None, True)
    return (
        Image(BASE, words),
        words,
        Plan(arena, (region,)),
        Membership(array("Q", sorted(states)), bytes(state for _, state in sorted(states.items()))),
    )


def tightest(words: array[int]) -> list[int]:
    """Return the size words of a heap, by the tightest loop."""
    found: list[int] = []
    append = found.append
    index = 1
    try:
        while True:
            word = words[index]
            append(word)
            index += word >> 3
    except IndexError:
        return found


def main(chunks: int) -> None:
    """Measure and print."""
    memory, words, plan, free = build(chunks)
    region = plan.regions[0]

    def columns() -> int:
        return sum(len(block.addresses) for block in walk_region(memory, ABI, region))

    def classified() -> int:
        return sum(len(block.states) for block in walk_arena(memory, ABI, plan, free)) - 1

    def summed() -> int:
        result = totals(memory, ABI, plan, free)
        assert result.unaccounted == 0, result
        assert not result.problems, result
        return sum(result.counts.values()) - 1

    measured: dict[str, Callable[[], int]] = {
        "tightest loop over one array": lambda: len(tightest(words)) - 1,
        "walk in columns (address, size, flags)": columns,
        "classified walk (and state)": classified,
        "classified walk and totals": summed,
    }
    times: dict[str, list[float]] = {name: [] for name in measured}
    gc.collect()
    for _ in range(RUNS):  # in turns, so that a busy machine is unfair to all of them
        for name, run in measured.items():
            start = time.perf_counter()
            count = run()
            times[name].append(time.perf_counter() - start)
            assert count == chunks, (name, count)
    print(f"{chunks} chunks, {len(words) * 8 / 1e6:.0f} MB, Python {sys.version.split()[0]}, median of {RUNS} runs")
    base = statistics.median(times["tightest loop over one array"])
    for name, results in times.items():
        middle = statistics.median(results)
        print(f"{name:42}{middle / chunks * 1e9:8.0f} ns a chunk{middle / base:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1], 0) if len(sys.argv) > 1 else CHUNKS)
