"""Promise: what `heap chunk` says that free would do is what free then does: where the chunk goes, or how it aborts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import glibc_version, has_fastbins
from tests.support.programs import Programs
from tests.support.symbols import wanted

FIELDS = {"top": "top", "size": "top->mchunk_size", "unsorted": "bins[0]", "first": "bins[0]->mchunk_size"}
ARENA = ", ".join(f"{name!r}: number('((struct malloc_state *)%d)->{member}' % a)" for name, member in FIELDS.items())
FAST = "[number('(long)((struct malloc_state *)%d)->fastbinsY[%d]' % (a, i)) for i in range(10)]"
FRONTS = "[number('(long)((struct malloc_state *)%d)->bins[%d]' % (a, 2 * i)) for i in range(1, 64)]"
#: Whether the thread has a tcache: in 2.43 one that everyone has stands for it at first.
OWN = "number('(long)tcache') not in (0, {})".format(0 if has_fastbins() else "number('(long)&__tcache_dummy')")
#: The number of chunks in each bin; from 2.42 on the tcache has how many there is room for.
COUNT = "number('tcache->counts[%d]' % i)"
if glibc_version() >= (2, 42):
    COUNT = "number('mp_.tcache_count') - number('tcache->num_slots[%d]' % i)"
#: What GDB itself reads of each arena and of the thread's tcache.
TRUTH = {
    "victim": "number('(long)victim')",
    "arenas": f"{{a: {{{ARENA}, 'fast': {FAST if has_fastbins() else []}, 'fronts': {FRONTS}}} for a in ring()}}",
    "heads": f"[number('(long)tcache->entries[%d]' % i) for i in range(64)] if {OWN} else None",
    "counts": f"[{COUNT} for i in range(64)] if {OWN} else None",
    "thresholds": "[number('mp_.mmap_threshold'), number('mp_.trim_threshold')]",
}
#: The releases in which the modes of frees.c go as they are written here; in others what GDB reads decides alone.
AS_WRITTEN = (2, 33) <= glibc_version() < (2, 41)
#: How each mode of frees.c ends, where it does not abort.
ENDS = {
    "nothing": "nothing",
    "tcache": "tcache",
    "fastbin": "fastbin",
    "unsorted": "unsorted",
    "small": "unsorted",
    "merged-before": "unsorted",
    "merged-behind": "unsorted",
    "merged-both": "unsorted",
    "merged-sorted": "unsorted",
    "top": "top",
    "trim": "top",
    "trim-after-merging": "top",
    "trim-blocked": "top",
    "mapped": "munmap",
    "mapped-aligned": "munmap",
    "mapped-fixed": "munmap",
    "thread-small": "tcache",
    "thread-unsorted": "unsorted",
    "thread-top": "top",
    "thread-heap": "top",
    "no-tcache": "tcache",
    "key-by-chance": "tcache",
    "middle-forged": "tcache",
}
#: The calls that free makes, as the recording has them.
CALLS = {
    "trim": ["brk"],
    "trim-after-merging": ["brk"],
    "mapped": ["munmap"],
    "mapped-aligned": ["munmap"],
    "mapped-fixed": ["munmap"],
    "thread-top": ["madvise"],
    "thread-heap": ["munmap"],
    "no-tcache": ["mmap", "munmap", "munmap", "mprotect"],
}
#: The message that each mode aborts with.
ABORTS = {
    "misaligned": "free(): invalid pointer",
    "size-0": "free(): invalid pointer",
    "variable": "free(): invalid pointer",
    "invalid-size": "free(): invalid size",
    "double-tcache": "free(): double free detected in tcache 2",
    "tcache-loop": "free(): too many chunks detected in tcache",
    "tcache-unaligned": "free(): unaligned chunk detected in tcache 2",
    "double-fastbin": "double free or corruption (fasttop)",
    "of-top": "double free or corruption (top)",
    "out": "double free or corruption (out)",
    "double-merged": "double free or corruption (!prev)",
    "next-size-fast": "free(): invalid next size (fast)",
    "next-size": "free(): invalid next size (normal)",
    "prev-size": "corrupted size vs. prev_size while consolidating",
    "unlink-size": "corrupted size vs. prev_size",
    "unlink-links": "corrupted double-linked list",
    "unlink-sizes": "corrupted double-linked list (not small)",
    "unsorted-links": "free(): corrupted unsorted chunks",
    "mapped-header": "munmap_chunk(): invalid pointer",
}

pytestmark = pytest.mark.skipif(glibc_version() == (0, 0), reason="the C library is not glibc")


def free(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> tuple[dict[str, Any], Result]:
    """Run a mode of frees.c over its free; return what was foretold of free(victim), and the run."""
    result = gdb(
        "heap catch",
        "break stop_here",
        "run",
        answers.python("before", TRUTH),
        f"heap chunk victim {answers.into('chunk')}",
        "heap chunk victim",
        f"heap events {answers.into('so_far')}",
        "continue",
        f"heap events {answers.into('events')}",
        answers.python("after", TRUTH),
        program=programs["frees"],
        args=[mode],
    )
    result.has_no_internal_error()
    victim = answers["before"]["victim"]
    (foretold,) = [item for item in answers["chunk"]["free"] if item["pointer"] == victim]
    return foretold, result


def malloc_calls(answers: Answers) -> list[tuple[str, list[int]]]:
    """Return the system calls that were recorded while free ran, with their arguments."""
    events = answers.events("events")[len(answers.events("so_far")) :]
    return [(event["syscall"], event["args"]) for event in events if event["kind"] == "malloc"]


@pytest.mark.parametrize("mode", [*ENDS, *ABORTS])
def test_what_free_does(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """Where the chunk is afterwards, as GDB reads the lists; or the message that glibc prints, to the letter."""
    if mode == "tcache-loop" and glibc_version() < (2, 33):
        pytest.skip("there free follows the loop for ever")
    foretold, result = free(gdb, answers, programs, mode)
    end = foretold["end"]
    if end is None and not (wanted() and AS_WRITTEN):
        reasons = "cannot be read|is not known|global_max_fast|this release of glibc does not check that"
        assert re.search(reasons, foretold["meaning"])
        return
    if AS_WRITTEN:
        expected = ("abort", ABORTS[mode]) if mode in ABORTS else (ENDS[mode], None)
        assert (end, foretold["message"]) == expected, foretold
    if end == "abort":
        assert "SIGABRT" in result.stdout, result.describe()
        assert foretold["message"] in result.stderr.splitlines(), result.describe()
        assert foretold["message"] in result.stdout, "the text says it too"
        assert foretold["steps"][-1]["text"].startswith("This check fails: ")
    elif end == "crash":
        assert "SIGSEGV" in result.stdout, result.describe()
    else:
        result.succeeded()
        moved_as_foretold(answers, foretold, mode)


def moved_as_foretold(answers: Answers, foretold: dict[str, Any], mode: str) -> None:
    """Fail unless the lists, the top chunk, the thresholds and the calls are those that were foretold."""
    before, after = answers["before"], answers["after"]
    victim, chunk, size, end = before["victim"], foretold["chunk"], foretold["size"], foretold["end"]
    calls = [(call["syscall"], call["args"]) for call in foretold["calls"]]
    if end == "nothing":
        assert after == before
    elif end == "tcache":
        index = foretold["index"]
        assert after["heads"][index] == victim
        assert after["counts"][index] == (before["counts"][index] if before["counts"] else 0) + 1
        assert chunk == victim - 16
    elif end == "munmap":
        assert [name for name, _ in calls] == ["munmap"]
    else:
        arena = after["arenas"][str(foretold["arena"])]
        if end == "fastbin":
            assert arena["fast"][foretold["index"]] == victim - 16 == chunk
        elif end == "unsorted":
            assert arena["unsorted"] == chunk
            assert arena["first"] & ~7 == size
        elif end == "small":  # in 2.43 a small chunk goes into its bin at once
            assert chunk in arena["fronts"]
        else:
            assert end == "top"
            if mode != "thread-heap":  # its heap has gone, and top is in the one before
                assert arena["top"] == chunk
            assert (arena["size"] & ~7 < size) == bool(calls)
    if AS_WRITTEN:
        assert [name for name, _ in calls] == CALLS.get(mode, [])
    if mode == "no-tcache" and calls:  # the arena that it takes lies where the kernel wants it to
        assert [name for name, _ in malloc_calls(answers)] == [name for name, _ in calls]
    else:
        assert malloc_calls(answers) == calls
    if after["thresholds"] != before["thresholds"]:
        assert mode in ("mapped", "mapped-aligned")
        assert str(hex(after["thresholds"][0])) in foretold["changes"][0]
        assert str(hex(after["thresholds"][1])) in foretold["changes"][0]
    else:
        assert mode not in ("mapped", "mapped-aligned")
        assert not [change for change in foretold["changes"] if "mmap_threshold" in change]


def test_memory_that_is_not_there(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """free reads the size word, and gets a signal."""
    foretold, result = free(gdb, answers, programs, "unmapped")
    assert "SIGSEGV" in result.stdout, result.describe()
    assert foretold["end"] == "crash"
    assert answers["chunk"]["where"] == "unmapped"


def test_nothing_is_done(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Asking what free would do frees nothing, in any mode: the program goes on to the same end as without."""
    without = gdb("break stop_here", "run", answers.python("one", TRUTH), program=programs["frees"], args=["trim"])
    without.succeeded()
    gdb(
        "break stop_here",
        "run",
        "heap chunk victim",
        answers.python("two", TRUTH),
        program=programs["frees"],
        args=["trim"],
    ).succeeded()
    assert answers["one"] == answers["two"]
