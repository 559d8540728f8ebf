"""Measure the account, the walk and the listing on real heaps: python3 bench/scale.py [CHUNKS...].

Starts GDB on c_fixtures/many.c for each number of chunks (10 thousand, 100 thousand, 1 million and 10 million unless
CHUNKS say otherwise; the last takes 2 GB) and prints, for each chunk and in CPU time of GDB's thread:

- the tightest loop that Python can make over the same bytes, reading them not included;
- `heap`, as the user calls it, with its ratio to that loop, and to `heap` with 100 thousand chunks;
- `heap find -count`, and `heap find -count -min-size 0x100`, as ratios to the loop;
- the walk with the state of each chunk, free lists read anew, with the ratio to the loop;
- `heap chunks -all` into a file, with the ratio to that walk and the plain formatting of the same rows into a file;
- how much memory GDB needed at most for `heap`, beyond what it had.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

CHUNKS = (10_000, 100_000, 1_000_000, 10_000_000)
LISTED = 1_000_000  # larger heaps are not listed: a row has 110 bytes
PIECE = 1 << 20
TEXT = "." * 32


def main(counts: list[int]) -> None:
    """Run GDB for each number of chunks, and print what it measured."""
    from measure import GDB, ROOT, build

    program = build("c_fixtures/many.c")
    base = 0.0
    head = f"{'chunks':>10} {'loop ns':>8} {'heap ns':>8} {'/loop':>6} {'/100k':>6} {'count':>6} {'sizes':>6}"
    head += f" {'walk ns':>8} {'/loop':>6}"
    print(f"{head} {'listing':>8} {'/plain':>6} {'memory':>8}")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder, open(f"{folder}/output", "wb") as output:
            code = f"import sys; sys.path[:0] = [{str(ROOT / 'bench')!r}]; import scale; scale.inside({folder!r})"
            line = [GDB, "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off"]
            for command in (f"source {ROOT}/gdbheap", "break stop_here", "run", f"python {code}"):
                line += ["-ex", command]
            line += ["--args", str(program), str(count)]
            subprocess.run(line, check=True, stdout=output)
            values = dict(line.split() for line in Path(folder, "result").read_text(encoding="ascii").splitlines())
        loop, heap, walk = (float(values[name]) / count * 1e9 for name in ("loop", "heap", "walk"))
        if count == CHUNKS[1]:
            base = heap
        flat = f"{heap / base:6.2f}" if base else f"{'-':>6}"
        found, sized = (float(values[name]) / count * 1e9 / loop for name in ("found", "sized"))
        text = f"{count:10} {loop:8.0f} {heap:8.0f} {heap / loop:6.2f} {flat} {found:6.2f} {sized:6.2f}"
        text += f" {walk:8.0f} {walk / loop:6.2f}"
        if "listing" in values:
            listing, plain = float(values["listing"]), float(values["plain"])
            text += f" {listing / count * 1e9:8.0f} {listing / plain:6.2f}"
        else:
            text += f" {'-':>8} {'-':>6}"
        print(f"{text} {int(values['memory']) >> 20:4} MiB", flush=True)


def inside(folder: str) -> None:
    """Measure in GDB, at the stop; write the results into ``folder``."""
    import gdb

    gdb.execute("set pagination off")
    chunks = int(gdb.parse_and_eval("chunk_count"))
    runs = 5 if chunks <= 1_000_000 else 3
    results: dict[str, float] = {"memory": peak(lambda: gdb.execute("heap", to_string=True))}
    measured: dict[str, Callable[[], float]] = {
        "loop": loop,
        "heap": lambda: timed(lambda: gdb.execute("heap", to_string=True)),
        "found": lambda: timed(lambda: gdb.execute("heap find -count", to_string=True)),
        "sized": lambda: timed(lambda: gdb.execute("heap find -count -min-size 0x100", to_string=True)),
        "walk": lambda: timed(walk),
    }
    if chunks <= LISTED:
        measured["listing"] = lambda: timed(lambda: gdb.execute("heap chunks -all"))
        measured["plain"] = lambda: timed(lambda: plain(f"{folder}/plain"))
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(runs):
        for name, run in measured.items():  # in turns, so that a busy machine is unfair to all of them
            gc.collect()
            times[name].append(run())
    results.update({name: statistics.median(values) for name, values in times.items()})
    lines = [f"{name} {value:.9f}" if name != "memory" else f"{name} {value:.0f}" for name, value in results.items()]
    Path(folder, "result").write_text("\n".join(lines), encoding="ascii")


def timed(run: Callable[[], object]) -> float:
    """Return the CPU seconds of this thread that ``run`` takes."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def peak(run: Callable[[], object]) -> int:
    """Return by how many bytes the resident memory of GDB grew at most while ``run`` ran."""

    def status(name: str) -> int:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1]) << 10

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def loop() -> float:
    """Return the CPU seconds of the tightest loop over main_arena's size words, all of them in one array."""
    import gdb
    from walk import tightest

    inferior = gdb.selected_inferior()
    start, top = (int(gdb.parse_and_eval(f"(unsigned long) {name}")) for name in ("mp_.sbrk_base", "main_arena.top"))
    words = array("Q")
    for position in range(start, top, PIECE):
        words.frombytes(inferior.read_memory(position, min(PIECE, top - position)))
    begin = time.thread_time()
    found = len(tightest(words))
    seconds = time.thread_time() - begin
    assert found >= int(gdb.parse_and_eval("chunk_count"))
    return seconds


def walk() -> int:
    """Walk all arenas with the state of each chunk, as a listing does; return the number of chunks."""
    from gdbheap.debugger.chunk_walk import ChunkWalk
    from gdbheap.ptmalloc.rows import Wanted

    walk = ChunkWalk(Wanted(), None, None)
    return sum(len(block.states) for arena in walk.arenas(None) for block, _ in walk.blocks(arena))


def plain(path: str) -> None:
    """Walk, and format the rows of the listing into a file the plain way, the first bytes of all chunks being given."""
    from gdbheap.debugger.chunk_walk import ChunkWalk
    from gdbheap.ptmalloc.chunk import STATES
    from gdbheap.ptmalloc.rows import Wanted

    letters = ["".join(name for bit, name in ((1, "P"), (2, "M"), (4, "A")) if flags & bit) for flags in range(8)]
    walk = ChunkWalk(Wanted(), None, None)
    with open(path, "w", encoding="ascii") as file:
        for arena in walk.arenas(None):
            for block, _ in walk.blocks(arena):
                columns = block.columns
                rows = zip(columns.addresses, columns.words, columns.sizes, block.states)
                file.write(
                    "\n".join(
                        [
                            f"{address:<#18x} {address + 16:<#18x} {size:>#10x} {size - 8:>10} "
                            f"{letters[word & 7]:<5} {STATES[state]:<9} {TEXT}"
                            for address, word, size, state in rows
                        ]
                    )
                )
    os.unlink(path)


if __name__ == "__main__":
    main([int(argument, 0) for argument in sys.argv[1:]] or list(CHUNKS))
