"""Promise: `heap check` foretells what glibc will say about a heap that was damaged, and in which call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from gdbheap.ptmalloc.checks import CHECKS
from gdbheap.ptmalloc.finding import KINDS
from tests.support.corruptions import CALLS, CRASH, MODES, own_version, why_not
from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs
from tests.support.symbols import NAMES, wanted

#: What glibc prints where an assertion fails, and what stands for it in the table of checks.
ASSERTION = re.compile(r"assert\w* fail\w*.*sysmalloc|sysmalloc.*assert", re.IGNORECASE)
#: The kind of call of a Catch, by the function that the fixture calls.
CALL_OF = {"malloc_trim": "trim"}

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


def of_this_glibc(modes: Iterable[str]) -> list[Any]:
    """Return the modes as parameters; those whose message this machine's glibc does not print are skipped."""
    reasons = ((mode, why_not(mode)) for mode in modes)
    return [
        mode if reason is None else pytest.param(mode, marks=pytest.mark.skip(reason=reason))
        for mode, reason in reasons
    ]


@pytest.mark.parametrize("mode", of_this_glibc(MODES))
def test_the_message_is_foretold(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """The first finding is of the kind that was done, and names the message and the call; then glibc prints it."""
    result = damaged(gdb, answers, programs, mode)
    message, kind, _ = MODES[mode]
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


def nothing_is_left(mode: str) -> bool:
    """Whether no variable of malloc's frames has the pointer any more, as those end in a call of malloc_printerr."""
    if own_version() < (2, 42):
        return mode == "call-invalid-pointer"
    return mode.startswith("tcache-") or mode in ("free-invalid-size", "call-invalid-pointer", "call-double-free")


@pytest.mark.parametrize("mode", of_this_glibc([*MODES, *CALLS]))
def test_at_an_abort(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """At SIGABRT the failing check comes first: its message, the program's call, the chunk and the values."""
    check = at_the_end(gdb, answers, programs, mode)
    truth, abort = answers["truth"], check["abort"]
    message = MODES[mode].message if mode in MODES else CALLS[mode]
    assert says(check["said"], message)
    if mode == "sysmalloc-assert" and own_version() < (2, 36) and not wanted():
        assert (abort["check"], abort["message"]) == (None, None), "only __malloc_assert has the text there"
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
        assert abort["pointer"] == truth["pointer"] or (nothing_is_left(mode) and abort["pointer"] is None)
    if truth["call"] == "malloc":
        left_out = "function" in abort and abort["function"] == "tcache_get_n" and own_version() >= (2, 42)
        known = abort["request"] == truth["request"] or (left_out and abort["request"] is None)
        assert known if wanted() else abort["request"] is None, abort
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
    # Where malloc's memory begins behind someone else's part of the break is not known, so not all is looked at.
    assert check["sound"] == check["complete"] == (name != "foreign")
    assert (check["walked_bytes"] == check["counted_bytes"]) == check["complete"]
    assert check["findings"] == []
    assert check["left_out"] == 0
    assert check["abort"] is None
    assert check["chunks"] > 0


#: In GDB: PREV_INUSE of fifty chunks becomes clear, as a string that is one byte too long leaves it.
MANY = (
    "python [gdb.selected_inferior().write_memory(place, bytes([gdb.selected_inferior().read_memory(place, 1)[0][0] & "
    "254])) for place in [int(gdb.parse_and_eval('(long) used[%d]' % i)) - 8 for i in range(10, 60)]]"
)


def test_every_finding_that_is_shown_is_explained(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Which call notices, and who is suspect, for the fiftieth as for the first; where holders are not known, why."""
    gdb("break stop_here", "run", MANY, f"heap check {answers.into('check')}", program=programs["totals"])
    findings = answers["check"]["findings"]
    assert len(findings) == 50
    assert {finding["kind"] for finding in findings} == {"prev-inuse-clear"}
    messages = [{catch["message"] for catch in finding["catches"]} for finding in findings]
    assert all("double free or corruption (!prev)" in said for said in messages), messages
    suspects = [finding["culprit"] for finding in findings]
    assert all(suspect["how"] == "overrun" for suspect in suspects)
    assert [suspect["chunk"] + suspect["size"] + 8 for suspect in suspects] == [item["address"] for item in findings]
    searched = [not suspect["holders"][0].startswith("not looked for") for suspect in suspects]
    assert searched == [True] * 20 + [False] * 30
    assert any("used" in holder for holder in suspects[0]["holders"])
    assert f"'heap refs {suspects[-1]['pointer']:#x}' does" in suspects[-1]["holders"][0]
