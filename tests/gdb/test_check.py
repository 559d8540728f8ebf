"""Promise: `heap check` foretells what glibc will say about a heap that was damaged, and in which call."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gdbheap.ptmalloc.checks import CHECKS
from gdbheap.ptmalloc.finding import KINDS
from tests.support.corruptions import CALLS, CRASH, MODES
from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import glibc_version
from tests.support.programs import Programs
from tests.support.symbols import NAMES, wanted

#: What glibc prints where an assertion fails, and what stands for it in the table of checks.
ASSERTION = re.compile(r"assert\w* fail\w*.*sysmalloc|sysmalloc.*assert", re.IGNORECASE)
#: The kind of call of a Catch, by the function that the fixture calls.
CALL_OF = {"malloc_trim": "trim", "malloc_info": "mallinfo", "mallinfo": "mallinfo"}

#: The modes in which malloc has taken the damaged list off the arena or the tcache before it looks at it.
TAKEN_OFF = ("consolidate-unaligned", "thread-shutdown")


def says(result: Result, message: str) -> bool:
    """Whether glibc's own message, on the program's error stream, is ``message``."""
    lines = result.stderr.splitlines()
    if message == "assertion in sysmalloc":
        return any(ASSERTION.search(line) for line in lines)
    return message in lines


def damaged(gdb: Gdb, answers: Answers, programs: Programs, mode: str, *after: str) -> Result:
    """Stop the fixture when the damage is done and check the heap; then let it run into glibc's own check."""
    expected = {
        "call": "text('expected_call')",
        "pointer": "number('expected_pointer')",
        "request": "number('expected_request')",
    }
    result = gdb(
        "break stop_here",
        "run",
        answers.python("truth", expected),
        f"heap check {answers.into('check')}",
        "continue",
        *after,
        program=programs["corrupt"],
        args=[mode],
    )
    result.has_no_internal_error()
    return result


def fits(catch: dict[str, Any], truth: dict[str, Any]) -> bool:
    """Whether a foretold call is the one that the fixture makes."""
    if catch["call"] != CALL_OF.get(truth["call"], truth["call"]):
        return False
    if catch["pointer"] is not None and catch["pointer"] != truth["pointer"]:
        return False
    chunk = max(32, (truth["request"] + 8 + 15) & ~15)
    return (catch["low"] or 0) <= chunk <= (catch["high"] or chunk) if catch["call"] == "malloc" else True


#: The releases that have what a check needs, as Check.needs names it.
HAVE = {
    "": ((2, 26), (9, 9)), "tcache": ((2, 26), (9, 9)), "safe-linking": ((2, 32), (9, 9)),
    "fastbins": ((2, 26), (2, 42)), "mangled fastbins": ((2, 32), (2, 42)),
}  # fmt: skip


#: The last release in which a mode leads to its message, where the check itself is still made after it.
LAST = {
    "free-invalid-pointer": (2, 41),  # free no longer looks whether a chunk wraps around the address space,
    "free-invalid-size": (2, 41),  # nor whether its size is aligned
    "tcache-unaligned": (2, 41),  # the mode knows where a tcache is that is the heap's first chunk
    "smallbin": (2, 40),  # calloc takes chunks from the tcache after that
    "fastbin-entry": (2, 40),
    "next-size-fast": (2, 40),
    "call-fasttop": (2, 40),
}


def skip_unless_made(mode: str) -> None:
    """Skip where this glibc does not make the check, or the mode does not lead to it."""
    message = MODES[mode].message if mode in MODES else CALLS[mode]
    check, version = CHECKS[message], glibc_version()
    if version > LAST.get(mode, version):
        pytest.skip(f"in glibc {version[0]}.{version[1]} the fixture's mode does not lead to that check")
    first, last = HAVE[check.needs]
    if not max(first, check.since or first) <= version <= min(last, check.until or last):
        pytest.skip(f"glibc {version[0]}.{version[1]} does not make that check")


@pytest.mark.parametrize("mode", MODES)
def test_the_message_is_foretold(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """The first finding is of the kind that was done, and names the message and the call; then glibc prints it."""
    skip_unless_made(mode)
    result = damaged(gdb, answers, programs, mode)
    message, kind = MODES[mode]
    assert says(result, message), f"glibc said something else:\n{result.stderr}"
    check = answers["check"]
    assert not check["sound"]
    certain = [finding for finding in check["findings"] if finding["doubtful"] is None]
    assert certain, result.stdout
    first = certain[0]
    assert first["kind"] == kind, result.stdout
    foretold = [catch for catch in first["catches"] if catch["message"] == message]
    if not foretold and not wanted() and message == "free(): invalid next size (fast)":
        assert any("global_max_fast" in note and "may be missing" in note for note in check["notes"])
        return
    assert foretold, f"{message} is not foretold:\n{result.stdout}"
    assert any(fits(catch, answers["truth"]) for catch in foretold), (foretold, answers["truth"])
    assert {finding["kind"] for finding in check["findings"]} <= KINDS.keys()
    assert {catch["message"] for finding in certain for catch in finding["catches"]} <= {*CHECKS, "SIGSEGV"}


def at_the_end(gdb: Gdb, answers: Answers, programs: Programs, mode: str, *before: str) -> dict[str, Any]:
    """Let the fixture run into glibc's check, and return what `heap check` says then, with the fixture's own words."""
    truth = {
        "call": "text('expected_call')",
        "pointer": "number('expected_pointer')",
        "request": "number('expected_request')",
    }
    result = gdb(
        *before,
        "run",
        f"heap check {answers.into('check')}",
        answers.python("truth", truth),
        "heap check",
        program=programs["corrupt"],
        args=[mode],
    )
    result.has_no_internal_error()
    assert result.status == 1, result.describe()
    return {**answers["check"], "said": result}


@pytest.mark.parametrize("mode", [*MODES, *CALLS])
def test_at_an_abort(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """At SIGABRT the failing check comes first: its message, the program's call, the chunk and the values."""
    skip_unless_made(mode)
    check = at_the_end(gdb, answers, programs, mode)
    truth, abort = answers["truth"], check["abort"]
    message = MODES[mode].message if mode in MODES else CALLS[mode]
    assert says(check["said"], message)
    if not abort["message"] and mode == "sysmalloc-assert" and glibc_version() < (2, 36):
        assert "keeps no copy" in check["said"].stdout  # of what an assertion prints
        return
    assert abort["check"] == message
    assert abort["message"] == message or ASSERTION.search(abort["message"])
    # Without debug symbols no variable can be read, and from glibc 2.42 on malloc's own frame is gone as well.
    if truth["call"] != "exit" and (wanted() or abort["call"] is not None):
        assert abort["call"] == truth["call"] or truth["call"].startswith("mall"), abort
    if abort["pointer"] is not None and truth["pointer"]:
        assert abort["pointer"] == truth["pointer"]
    if truth["call"] in ("free", "realloc") and wanted():
        # Where nothing of what free was given is left in its variables, that is said, and not guessed.
        assert abort["pointer"] == truth["pointer"] or (mode == "call-invalid-pointer" and abort["pointer"] is None)
    if truth["call"] == "malloc":
        assert abort["request"] == (truth["request"] if wanted() else None), abort
    if truth["call"] in ("free", "realloc", "malloc"):
        assert "corrupt.c" in abort["caller"], abort
    names = [value["name"] for value in abort["compared"]]
    if abort["chunk"] is not None:
        assert names == list(CHECKS[message].compares), abort
    shown = check["said"].stdout
    begin = shown.index("thread 1 stopped in malloc" if mode != "thread-shutdown" else "thread 2 stopped in malloc")
    assert "#1" not in shown[:begin], "it comes before the findings"
    if mode in CALLS:
        assert not check["findings"], "the heap itself is sound"
    elif mode not in TAKEN_OFF:
        assert check["findings"], shown


def test_in_malloc_printerr(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Before the signal, the same is told."""
    if not wanted():
        pytest.skip(NAMES)
    check = at_the_end(gdb, answers, programs, "free-prev", "set breakpoint pending on", "break malloc_printerr")
    assert check["abort"]["message"] == "double free or corruption (!prev)"
    assert check["abort"]["pointer"] == answers["truth"]["pointer"]


def test_a_crash(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Where nothing is checked, the crash is foretold; at the SIGSEGV, the call comes first, and the damage counts."""
    result = damaged(gdb, answers, programs, CRASH, f"heap check {answers.into('after')}")
    assert "SIGSEGV" in result.stdout
    first = answers["check"]["findings"][0]
    assert first["kind"] == "list-pointer"
    assert any(catch["message"] == "SIGSEGV" and fits(catch, answers["truth"]) for catch in first["catches"])
    abort = answers["after"]["abort"]
    assert abort["message"] is None
    if wanted():
        assert abort["pointer"] == answers["truth"]["pointer"]
    assert abort["call"] == "free" or (abort["call"] is None and not wanted())
    assert [finding["address"] for finding in answers["after"]["findings"]][:1] == [first["address"]]
    assert answers["after"]["findings"][0]["doubtful"] is None


def test_one_arena(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Only what belongs to it is looked at, by number, name or address."""
    names = ("0", "main_arena", "2", *(("main_arena.next",) if wanted() else ()))
    asked = [f"heap check -arena {name} {answers.into(str(place))}" for place, name in enumerate(names)]
    gdb("break stop_here", "run", f"heap check {answers.into('all')}", *asked, program=programs["threads"]).succeeded()
    chunks = [answers[str(place)]["chunks"] for place in range(len(names))]
    assert chunks[0] == chunks[1]
    assert 0 < chunks[2] < answers["all"]["chunks"]
    assert all(answers[str(place)]["sound"] for place in range(len(names)))


def test_the_suspect_and_who_holds_it(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The chunk that was written past its end, what stands there, and the variable that points to it."""
    result = damaged(gdb, answers, programs, "unsorted-overrun")
    culprit = answers["check"]["findings"][0]["culprit"]
    assert culprit["how"] == "overrun"
    assert culprit["state"] == "used"
    assert bytes.fromhex(culprit["content"]).startswith(b"A" * 32)
    assert culprit["boundary"] == culprit["pointer"] + 24
    assert any("unsorted_overrun" in holder for holder in culprit["holders"]), culprit
    assert "AAAAAAAAAAAAAAAA  <- its memory ends at" in result.stdout


@pytest.mark.parametrize("mode", CALLS)
def test_a_wrong_call_on_a_sound_heap(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """Before the call there is nothing to find."""
    gdb(
        "break stop_here", "run", f"heap check {answers.into('check')}", program=programs["corrupt"], args=[mode]
    ).succeeded()
    assert answers["check"]["sound"]
    assert answers["check"]["findings"] == []


@pytest.mark.parametrize(
    "name", ["totals", "threads", "growth", "foreign", "usable", "many", "preview", "crowd", "deep", "callers"]
)
def test_sound_heaps(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """No finding, and status 0."""
    gdb("break stop_here", "run", f"heap check {answers.into('check')}", program=programs[name]).succeeded()
    check = answers["check"]
    assert check["sound"]
    assert check["findings"] == []
    assert check["left_out"] == 0
    assert check["abort"] is None
    assert check["chunks"] > 0
