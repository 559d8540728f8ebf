"""What recording costs: one growth under 'heap catch' against one under a bare catchpoint.

The bare one has a condition that calls an empty Python function. Both run the same program twice, with few and with
many events, and the difference is what the events cost. Wanted: at most 2 times the bare one.
"""

from __future__ import annotations

import argparse

from measure import GDB, ROOT, build, paired, run_seconds

_BARE = """
import gdb
class Empty(gdb.Function):
    def __init__(self):
        super().__init__("_empty")
    def invoke(self):
        return 0
Empty()
gdb.execute("catch syscall brk mmap munmap mremap mprotect madvise", to_string=True)
gdb.execute("condition $bpnum $_empty()")
"""


def main() -> None:
    """Print the cost of an event both ways, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--events", type=int, default=3000)
    options = parser.parse_args()
    program = str(build("bench/grow.c"))
    bare_script = ROOT / "build" / "bench" / "bare.py"
    bare_script.write_text(_BARE)

    def cost(setup: list[str]) -> float:
        seconds = [
            run_seconds([GDB, "-nx", "-batch", *setup, "-ex", "run", "--args", program, str(count)])
            for count in (1, options.events + 1)
        ]
        return (seconds[1] - seconds[0]) / int(options.events)

    bare, recorded, ratio = paired(
        lambda: cost(["-x", str(bare_script)]),
        lambda: cost(["-ex", "source gdbheap", "-ex", "heap catch"]),
        options.runs,
    )
    print(f"bare catchpoint      {bare * 1e6:7.0f} us an event   (median of {options.runs}, {options.events} events)")
    print(f"heap catch           {recorded * 1e6:7.0f} us an event")
    print(f"recording / bare     {ratio:7.2f}           (median of the runs' ratios; wanted: at most 2.00)")


if __name__ == "__main__":
    main()
