"""What loading costs: GDB's own start against its start with gdbheap loaded. Wanted: at most half of it on top."""

from __future__ import annotations

import argparse

from measure import GDB, paired, run_seconds


def main() -> None:
    """Print the two medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--script", default="gdbheap", help="the file to source (dist/gdbheap is the carried one)")
    options = parser.parse_args()
    plain = [GDB, "-nx", "-batch"]
    bare, loaded, ratio = paired(
        lambda: run_seconds(plain), lambda: run_seconds([*plain, "-ex", f"source {options.script}"]), options.runs
    )
    print(f"gdb alone            {bare * 1000:7.1f} ms   (median of {options.runs})")
    print(f"with {options.script:<15} {loaded * 1000:7.1f} ms")
    print(f"loading / gdb alone  {ratio - 1:7.2f}      (wanted: at most 0.50)")


if __name__ == "__main__":
    main()
