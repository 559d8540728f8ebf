"""Measure the simulated allocator:  .venv/bin/python bench/predicting.py [OPERATIONS [SEED]]

Prints three things, with the seed:

- what predicting one malloc costs inside GDB, on heaps of 1,000, 100,000 and 1,000,000 chunks: it must not grow;
- what replaying OPERATIONS random operations (a million unless given) costs for each, in CPU time, beside the tightest
  loop that Python can make over the same log in the same run; wanted are at most 30 us, or 20 times that loop;
- how many operations agreed with the real program in address, usable size, size word and break: all of them.

A million takes about two minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from gdbheap.simulate.sequence import Entry, entry_text  # noqa: E402 (after the path to it)
from tests.support.debugger import Gdb  # noqa: E402
from tests.support.operations import (  # noqa: E402
    PROFILES,
    Recording,
    differences,
    random_operations,
    record,
)

SIZES = (1_000, 100_000, 1_000_000)

#: Run inside GDB: the median time of a prediction, and how much memory it read.
_TIMING = """
import json, time, gdb
from gdbheap.debugger.allocating import read_machine
from gdbheap.debugger.target import GdbMemory
from gdbheap.simulate.operations import Operation, predict
read = []
plain = GdbMemory.read
GdbMemory.read = lambda self, address, size: (read.append(size), plain(self, address, size))[1]
times = []
for _ in range(31):
    start = time.perf_counter()
    found = predict(read_machine(gdb.selected_thread()), Operation("malloc", (1000,)))
    times.append(time.perf_counter() - start)
json.dump([sorted(times)[15], sum(read) // 31, found.end], open({path!r}, "w"))
"""


def program(folder: Path) -> Path:
    """Return the fixture that does the operations of a file, built."""
    import subprocess

    subprocess.run(["make", "-s", "-C", str(ROOT / "c_fixtures"), f"BUILD={folder}", str(folder / "ops")], check=True)
    return folder / "ops"


def one_prediction(gdb: Gdb, ops: Path, folder: Path, chunks: int) -> tuple[float, int]:
    """Return what predicting malloc(1000) costs on a heap of that many chunks: seconds, and bytes that were read."""
    operations, answer = folder / "operations", folder / "answer"
    with open(operations, "w", encoding="ascii") as file:
        file.writelines(f"malloc {24 + number % 50 * 8} = {number}\n" for number in range(chunks))
        file.writelines(f"free {number}\n" for number in range(0, chunks, 5))
        # Freed chunks wait until malloc sorts them, 10,000 in one call at most: that is done before the measurement.
        file.writelines(f"malloc 60000 = {number}\n" for number in range(0, 5 * (chunks // 10_000 + 2), 5))
    code = _TIMING.format(path=str(answer))
    gdb(
        "break after_operations", "run", f"python exec({code!r}, {{}})", program=ops, args=[str(operations)]
    ).succeeded()
    seconds, read, end = json.loads(answer.read_text())
    assert end == "chunk"
    return seconds, read


def tightest(recording: Recording) -> float:
    """Return how long the tightest loop over a log takes, in seconds: what is live, by name."""
    live: dict[int, int] = {}
    start = time.process_time()
    for (name, arguments, result, _), real in zip(recording.entries, recording.results):
        if name == "free":
            live.pop(arguments[0], None)
        elif result >= 0:
            live[result] = real[0]
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    gdb = Gdb()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ops = program(folder)
        print("predicting malloc(1000) inside GDB, the reading of malloc's variables included")
        for chunks in SIZES:
            seconds, read = one_prediction(gdb, ops, folder, chunks)
            print(f"  {chunks:>9,} chunks  {seconds * 1e6:8.0f} us  {read:>9,} bytes read")
        began, total = time.perf_counter(), 0
        print(f"replaying, seed {seed}")
        print(f"  {'profile':<10} {'operations':>10}  {'us each':>8}  {'loop':>6}  {'ratio':>6}  agreed")
        for profile in PROFILES:
            entries: list[Entry] = random_operations(seed, count // len(PROFILES), profile)
            recording = record(gdb, ops, folder, entries)
            loop = min(tightest(recording) for _ in range(3)) / len(entries)
            start = time.process_time()
            agreed, difference = differences(recording)
            each = (time.process_time() - start) / len(entries)
            print(
                f"  {profile:<10} {len(entries):>10,}  {each * 1e6:8.1f}  {loop * 1e6:6.2f}  {each / loop:6.1f}  "
                f"{agreed:,} of {len(entries):,}"
            )
            if difference is not None:
                print(f"    {difference}\n    (from {entry_text(entries[agreed])})")
                sys.exit(1)
            total += agreed
        print(f"  {total:,} operations agreed; with the programs' runs that took {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
