"""Promise: at an abort it is told what the program passed and what that is, and malloc's own step is no finding."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version
from tests.support.programs import Programs
from tests.support.symbols import wanted

#: What the program is told to pass, and how far inside its chunk, or in which variable, that is.
PASSED: dict[str, tuple[str, int | str]] = {
    "array": ("variable", "pool + 0xb0"),
    "first": ("variable", "pool + 0x90"),
    "stack": ("stack", "local + 0x40"),
    "member": ("inside", 0x30),
    "wrapper": ("inside", 0x40),
    "jump": ("inside", 0x50),
    "remove": ("inside", 0x60),
    "resize": ("inside", 0x70),
}
FACTS = {name: f"number('(long){name}')" for name in ("wanted", "inside", "holder")}


def _abort(gdb: Gdb, answers: Answers, programs: Programs, program: str, mode: str) -> tuple[dict[str, Any], str]:
    result = gdb(
        f"run {mode}",
        answers.python("truth", FACTS),
        f"heap check {answers.into('check')}",
        program=programs[program],
    )
    result.has_no_internal_error()
    found = answers["check"]["abort"]
    assert found is not None, result.describe()
    assert isinstance(found, dict)
    return found, result.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the caller's code is read on x86-64")
@pytest.mark.parametrize("program", ["passed", "passed-o2"])
@pytest.mark.parametrize("mode", PASSED)
def test_what_was_passed(gdb: Gdb, answers: Answers, programs: Programs, program: str, mode: str) -> None:
    """The program notes the pointer before it passes it; libc's frames need not have it any more."""
    abort, said = _abort(gdb, answers, programs, program, mode)
    truth = answers["truth"]
    kind, detail = PASSED[mode]
    assert abort["pointer"] == truth["wanted"], said
    assert abort["call"] == ("realloc" if mode == "resize" else "free")
    place = abort["place"]
    assert place["kind"] == kind
    if kind == "inside":
        assert place["chunk"]["pointer"] == truth["inside"]
        assert place["offset"] == detail
        assert f"{detail:#x} bytes into chunk" in said
    elif kind == "stack":
        assert (place["frame"]["function"], place["frame"]["variable"]) == ("main", detail)
        assert "in main's stack" in said
    else:
        assert place["variable"] == detail
        assert f"static array {detail}" in said
    if mode == "resize":
        assert abort["request"] == 7777
    # What malloc takes for a chunk is called one only where one begins.
    assert not abort["is_chunk"]
    assert "the chunk  " not in said
    assert answers["check"]["findings"] == []
    assert "The heap is sound" not in said


@pytest.mark.skipif(glibc_version() >= (2, 43), reason="this glibc has no fastbins")
def test_a_fastbin_that_is_being_emptied(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The damaged chunk has been merged; the rest of its list looks used."""
    abort, said = _abort(gdb, answers, programs, "passed", "fastbin")
    emptying = abort["emptying"]
    assert emptying is not None
    assert emptying["merged"] == answers["truth"]["holder"] - 16
    assert any("blocks[13]" in text for text in emptying["holders"])
    assert "The heap is sound" not in said
    if wanted():
        assert emptying["fastbin"] == 5
        assert not abort["is_chunk"]
        assert len(emptying["lost"]) == 6
        assert "fastbin 5 of main_arena was being emptied" in said


def test_the_own_step_of_free(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """free has cleared PREV_INUSE behind its chunk when it meets the damaged list: only the damage is a finding."""
    abort, _ = _abort(gdb, answers, programs, "passed", "unlisted")
    truth = answers["truth"]
    certain = [item for item in answers["check"]["findings"] if item["doubtful"] is None]
    assert [item["chunk"] for item in certain] == [truth["holder"] - 16]
    if wanted():
        assert abort["pointer"] == truth["wanted"]
        assert abort["place"]["kind"] == "pointer"


@pytest.mark.skipif(not wanted(), reason="only debug symbols name the tcache of a thread that ends")
def test_the_tcache_of_a_thread_that_ends(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    abort, said = _abort(gdb, answers, programs, "passed", "late")
    assert abort["call"] is None
    assert "the thread ends" in said
    certain = [item for item in answers["check"]["findings"] if item["doubtful"] is None]
    assert certain
    assert all(item["tcache"] is not None for item in certain)


def test_a_signal_of_someone_elses(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """SIGABRT from outside while malloc works: the call is told, and nothing is corrupt."""
    result = gdb(
        "handle SIGSEGV nostop noprint pass",
        "break stop_here",
        "run waiters",
        "set scheduler-locking on",
        "thread 1",
        "python import os",
        "python os.kill(gdb.selected_inferior().pid, 6)",
        "continue",
        f"heap check {answers.into('check')}",
        program=programs["locks"],
    )
    result.has_no_internal_error()
    assert "The heap is corrupt" not in result.stderr
    abort = answers["check"]["abort"]
    assert (abort["thread"], abort["cause"], abort["call"]) == (1, "signal", "malloc")
    assert abort["message"] is None
    assert answers["check"]["sound"]
