"""What recording costs: a program whose heap grows 10,000 times, under 'heap catch' and under other watchers.

The one to compare with is a bare catchpoint whose condition calls an empty Python function; `strace -k`, which prints
the callers of each call as well, stands beside it where it works. All run in turns. Wanted: the whole run under 'heap
catch' takes at most 2 times as long as under the bare catchpoint. Printed besides: what one more event costs, and how
much memory GDB needs for each that it keeps.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
from collections.abc import Sequence

from measure import GDB, ROOT, build, run_seconds

CALLS = "brk,mmap,munmap,mremap,mprotect,madvise"
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


def most_memory(command: Sequence[str]) -> int:
    """Return the most memory that a command had at a time, in bytes."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss * 1024


def main() -> None:
    """Print the times, the ratios and the memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--events", type=int, default=10_000)
    options = parser.parse_args()
    program = str(build("bench/grow.c"))
    bare_script = ROOT / "build" / "bench" / "bare.py"
    bare_script.write_text(_BARE)
    few, many = 1, int(options.events)

    def under_gdb(*setup: str) -> list[str]:
        return [GDB, "-nx", "-batch", *setup, "-ex", "run", "--args", program]

    watchers = {
        "bare catchpoint": under_gdb("-x", str(bare_script)),
        "heap catch": under_gdb("-ex", "source gdbheap", "-ex", "heap catch"),
    }
    if shutil.which("strace"):
        stacks = ["strace", "-f", "-k", "-e", f"trace={CALLS}", "-o", os.devnull, program]
        if subprocess.run([*stacks, str(few)], cwd=ROOT, check=False, capture_output=True).returncode == 0:
            watchers["strace -k"] = stacks
    whole: dict[str, list[float]] = {name: [] for name in watchers}
    start: dict[str, list[float]] = {name: [] for name in watchers}
    for _ in range(options.runs):
        for name, command in watchers.items():
            start[name].append(run_seconds([*command, str(few)]))
            whole[name].append(run_seconds([*command, str(many)]))
    print(f"{many:,} growths, medians of {options.runs} runs in turns")
    print(f"{'':18}{'whole run':>11}{'of bare':>9}{'an event':>12}{'of bare':>9}")
    bare = whole["bare catchpoint"]
    bare_each = [(long - short) / (many - few) for long, short in zip(bare, start["bare catchpoint"])]
    for name in watchers:
        each = [(long - short) / (many - few) for long, short in zip(whole[name], start[name])]
        ratio = statistics.median(one / other for one, other in zip(whole[name], bare))
        ratio_each = statistics.median(one / other for one, other in zip(each, bare_each))
        print(
            f"{name:18}{statistics.median(whole[name]):9.2f} s{ratio:9.2f}"
            f"{statistics.median(each) * 1e6:9.0f} us{ratio_each:9.2f}"
        )
    print("wanted: heap catch at most 2.00 of bare")
    recording = watchers["heap catch"]
    half, full = (most_memory([*recording, str(count)]) for count in (many // 2, many))
    print(f"memory of a recorded event: {(full - half) / (many - many // 2):,.0f} bytes")


if __name__ == "__main__":
    main()
