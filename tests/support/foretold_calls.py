"""Runs inside GDB: writes the calls that `heap check` foretells something of, for c_fixtures/caller.c.

``CHECK``, ``PREDICT``, ``CALLS`` and ``CASES`` are paths: the JSON of `heap check` and of `heap predict malloc 1`, the
file for the calls, and the one for what was foretold of each, in parallel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import gdb


def calls_of(catch: dict[str, Any], tcache: int, limit: int) -> Iterator[str]:
    """Yield the lines that make a foretold call: for each end of its range of requests one."""
    before = [re.sub(r"\((.*)\)", lambda found: " " + found[1].replace(",", ""), text) for text in catch["before"]]
    if catch["full"] is not None:
        before.append(f"set16 {tcache + 2 * catch['full']} {limit}")
    name, pointer, request = catch["call"], catch["pointer"], catch["request"]
    if name == "free":
        yield "; ".join([*before, "free last" if pointer is None else f"free {pointer}"])
    elif name == "realloc":
        yield "; ".join([*before, f"realloc {pointer} {request}"])
    elif name == "malloc":
        sizes = {request} if before else {request, catch["low"] - 8, catch["high"] - 8}
        for size in sorted(sizes):
            yield "; ".join([*before, f"malloc {size}"])
    elif name == "memalign":
        alignment = catch["when"].partition("(")[2].partition(",")[0]
        yield f"memalign {alignment} {request}"
    else:
        yield name if name != "trim" else "trim 0"


def write(check: str, predict: str, calls: str, cases: str) -> None:
    """Write both files; what other threads would call is left out, and the end of a thread."""
    with open(check) as file:
        found = json.load(file)
    with open(predict) as file:
        tcache = json.load(file)["tcache"]
    limit = 0 if gdb_counts_down() else int(gdb.parse_and_eval("mp_.tcache_count"))
    selected = gdb.selected_thread()
    lines: list[str] = []
    foretold: list[tuple[str, str]] = []
    for finding in found["findings"]:
        for catch in finding["catches"]:
            if selected is None or catch["thread"] != selected.num or catch["call"] == "exit" or catch["condition"]:
                continue
            for line in calls_of(catch, tcache, limit):
                if (line, catch["message"]) not in foretold:
                    lines.append(line)
                    foretold.append((line, catch["message"]))
    with open(calls, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    with open(cases, "w") as file:
        json.dump(foretold, file)


def gdb_counts_down() -> bool:
    """Whether a tcache counts free places (glibc 2.42)."""
    return "num_slots" in [field.name for field in gdb.lookup_type("tcache_perthread_struct").fields()]


write(*(globals()[name] for name in ("CHECK", "PREDICT", "CALLS", "CASES")))  # what exec gives
