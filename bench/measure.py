"""What the benches share: medians of alternating runs, so that a noisy machine is noisy for both sides."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GDB = os.environ.get("GDB", "gdb")


def run_seconds(command: Sequence[str]) -> float:
    """Return how long a command takes, in seconds; raise CalledProcessError where it fails."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def paired(first: Callable[[], float], second: Callable[[], float], runs: int) -> tuple[float, float, float]:
    """Return the medians of ``runs`` measurements of both, and the median of the ratios second / first.

    The two are taken in turns after one of each to warm up, so that a ratio compares what ran side by side.
    """
    first(), second()
    pairs = [(first(), second()) for _ in range(runs)]
    return (
        statistics.median(pair[0] for pair in pairs),
        statistics.median(pair[1] for pair in pairs),
        statistics.median(pair[1] / pair[0] for pair in pairs),
    )


def build(source: str, *flags: str) -> Path:
    """Return the program made of a fixture's source, compiled into ``build/bench``."""
    folder = ROOT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / Path(source).stem
    subprocess.run(["gcc", "-g", "-O0", *flags, str(ROOT / source), "-o", str(program)], check=True)
    return program
