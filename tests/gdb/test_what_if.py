"""Promise: what a sequence needs under other settings is what the real program then asks the kernel for.

strace counts the system calls of c_fixtures/ops under GLIBC_TUNABLES; heap what-if predicts them.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from gdbheap.simulate.operations import KINDS
from gdbheap.simulate.sequence import TAKES_MEMORY, Entry, entry_text, parse_sequence
from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version, needs, plain_environment
from tests.support.operations import random_operations
from tests.support.programs import Programs, build_32_bit

SETTINGS = {
    "": "",
    "top_pad=0": "glibc.malloc.top_pad=0",
    "mmap_threshold=64K": "glibc.malloc.mmap_threshold=65536",
    "trim_threshold=1M,top_pad=4096": "glibc.malloc.trim_threshold=1048576:glibc.malloc.top_pad=4096",
    "tcache_count=0": "glibc.malloc.tcache_count=0",
    "tcache_max=100": "glibc.malloc.tcache_max=100",
    "mxfast=0": "glibc.malloc.mxfast=0",
}
CALL = re.compile(r"(?:\[pid +\d+\] |\d+ +)?(brk|mmap|munmap|mremap|mprotect|madvise)\(")


def counted(program: Path, operations: Path, tunables: str, folder: Path, *arguments: str) -> Counter[str]:
    """Return how often the program made each system call, by strace."""
    log = folder / "strace"
    environment = {**plain_environment(), **({"GLIBC_TUNABLES": tunables} if tunables else {})}
    command = ["strace", "-f", "-o", str(log), str(program), str(operations), *arguments]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    found = (CALL.match(line) for line in log.read_text().splitlines())
    return Counter(match[1] for match in found if match)


def plain(entries: list[Entry]) -> list[Entry]:
    """Return the operations without mallopt, which would undo what is compared.

    And without alignments of more than a page: where the heap begins, which decides on those, is random.
    """
    return [
        entry._replace(arguments=(min(entry.arguments[0], 0x1000), *entry.arguments[1:]))
        if KINDS[entry.name].parameters[0] == "alignment"
        else entry
        for entry in entries
        if entry.name != "mallopt"
    ]


@pytest.mark.parametrize("profile", ["mixed", "large", "huge"])
def test_the_kernel_is_asked_as_often(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, profile: str
) -> None:
    needs("strace")
    operations, nothing = tmp_path / "operations", tmp_path / "nothing"
    nothing.write_text("# nothing\n")
    operations.write_text("".join(f"{entry_text(entry)}\n" for entry in plain(random_operations(5, 3000, profile))))
    asked = " ".join(filter(None, SETTINGS))
    gdb(
        "break before_operations",
        "run",
        f"heap what-if {operations} {asked} {answers.into('whatif')}",
        program=programs["ops"],
        args=[str(nothing)],
    ).succeeded()
    outcomes = answers["whatif"]["outcomes"]
    assert len(outcomes) == len(SETTINGS)
    for (shown, tunables), outcome in zip(SETTINGS.items(), outcomes):
        assert outcome["problem"] is None
        if tunables and glibc_version() < (2, 34):
            continue  # there the loader copies GLIBC_TUNABLES to where the heap would begin
        real = counted(programs["ops"], operations, tunables, tmp_path)
        real.subtract(counted(programs["ops"], nothing, tunables, tmp_path))
        predicted = Counter({item["syscall"]: item["count"] for item in outcome["calls"]})
        predicted["brk"] -= 1  # the program itself asks where the break is before the first operation
        assert +predicted == +real, f"{profile}, {shown or 'no settings'}"
        assert outcome["held"] >= outcome["live"] + outcome["top"]
        assert outcome["peak"] >= outcome["held"]
        assert outcome["done"] == answers["whatif"]["operations"]


@pytest.mark.parametrize("tunable", ["", "arena_max=1"])
def test_in_an_arena_of_a_thread(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, tunable: str) -> None:
    """A second thread does it all: in an arena of its own, or in main_arena where there may be one arena only."""
    needs("strace")
    if tunable and glibc_version() < (2, 34):
        pytest.skip("there the loader copies GLIBC_TUNABLES to where the heap would begin")
    operations, before = tmp_path / "operations", tmp_path / "before"
    # What pthread_create asks for in the first thread; the program itself does nothing there.
    created = "calloc 17 16 = 99999\n"
    entries = [entry._replace(thread=2) for entry in plain(random_operations(7, 2000, "mixed"))]
    before.write_text(created)
    operations.write_text(created + "".join(f"{entry_text(entry)}\n" for entry in entries))
    gdb(
        "break before_operations",
        "run",
        f"heap what-if {operations} {tunable} {answers.into('all')}",
        f"heap what-if {before} {tunable} {answers.into('before')}",
        program=programs["ops"],
        args=[str(before)],
    ).succeeded()
    predicted: Counter[str] = Counter()
    for name, sign in (("all", 1), ("before", -1)):
        outcome = answers[name]["outcomes"][-1]
        assert outcome["problem"] is None
        for item in outcome["calls"]:
            predicted[item["syscall"]] += sign * item["count"]
    listed, nothing = tmp_path / "listed", tmp_path / "nothing"
    listed.write_text("".join(f"{entry_text(entry._replace(thread=1))}\n" for entry in entries))
    nothing.write_text("# nothing\n")
    given = f"glibc.malloc.{tunable}" if tunable else ""
    real = counted(programs["ops"], listed, given, tmp_path, "/dev/null", "threads")
    real.subtract(counted(programs["ops"], nothing, given, tmp_path, "/dev/null", "threads"))
    # Whether a heap's reservation is cut at both ends is for the kernel to decide, by where it is; and at its end a
    # thread frees what is in its tcache, which may shrink the heap once more (by brk where that is main_arena's).
    for name in ("brk",) if tunable else ("munmap", "madvise"):
        assert abs(predicted.pop(name, 0) - real.pop(name, 0)) <= 1
    assert +predicted == +real
    assert (real["mprotect"] == 0) == (tunable == "arena_max=1")


@pytest.mark.parametrize("bits", [64, 32])
def test_a_real_programs_operations_are_listed(gdb: Gdb, programs: Programs, tmp_path: Path, bits: int) -> None:
    """trace -allocations lists the very operations that the program did: it reads them from a file."""
    program = programs["ops"] if bits == 64 else build_32_bit("ops", tmp_path)
    operations, listed = tmp_path / "operations", tmp_path / "listed"
    entries = [entry for entry in random_operations(6, 400, "mixed") if entry.name != "trim"]
    operations.write_text("".join(f"{entry_text(entry)}\n" for entry in entries))
    gdb(
        f"heap trace -allocations {listed} -o {tmp_path / 'report'}",
        program=program,
        args=[str(operations)],
    ).succeeded()
    found = parse_sequence(listed.read_text().splitlines())
    names: dict[int, int] = {}
    assert len(found) == len(entries)
    for real, seen in zip(entries, found):
        takes_memory = real.name in TAKES_MEMORY
        # Up to glibc 2.37 aligned_alloc is memalign by another name: one function, at one address.
        same = real.name == "aligned_alloc" and glibc_version() < (2, 38)
        assert seen.name == ("memalign" if same else real.name)
        assert seen.arguments[takes_memory:] == real.arguments[takes_memory:]
        if takes_memory:
            assert seen.arguments[0] == names.pop(real.arguments[0])
        if real.result >= 0:
            names[real.result] = seen.result
    assert "operations of process" in (tmp_path / "report").read_text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("malloc 8", "needs a name for its result"),
        ("free 1 = 2", "has no result to name"),
        ("malloc x = 1", "is no operation"),
        ("mallok 8 = 1", "'mallok' is no operation"),
        ("calloc 8 = 1", "calloc takes COUNT SIZE, not 1"),
    ],
)
def test_a_line_that_is_none(gdb: Gdb, programs: Programs, tmp_path: Path, line: str, words: str) -> None:
    operations = tmp_path / "operations"
    operations.write_text(f"malloc 8 = 1\n{line}\n")
    result = gdb("break stop_here", "run", f"heap what-if {operations}", program=programs["totals"])
    assert words in result.stderr
    assert "ine 2" in result.stderr
    assert result.status == 1
