"""Promise: where the kernel has refused brk, all of main_arena is found from memory alone, also where it is damaged."""

from __future__ import annotations

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs

TOTALS = {name: f"number('totals_before.{name}')" for name in ("arena", "uordblks", "fordblks", "ordblks")}


@pytest.mark.parametrize("mode", ["", "again", "first"])
def test_all_regions_are_walked(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """The C library's own sums are the oracle; nothing was recorded."""
    core = answers.folder / "core"
    asked = ("heap", "check", "find")
    commands = {"heap": "heap", "check": "heap check", "find": "heap find -state used -min-size 5000 -count"}
    result = gdb(
        "break stop_here",
        f"run {mode}",
        answers.python("truth", {**TOTALS, "used": "number('used_blocks')"}),
        *(f"{commands[name]} {answers.into(name)}" for name in asked),
        f"generate-core-file {core}",
        program=programs["refused"],
    ).succeeded()
    truth = answers["truth"]
    (main,) = answers["heap"]["arenas"]
    assert main["complete"]
    assert main["system_mem"] == truth["arena"]
    assert main["unaccounted"] == 0
    free = sum(main["states"][state]["bytes"] for state in ("fastbin", "unsorted", "small", "large", "top"))
    assert free == truth["fordblks"]
    check = answers["check"]
    assert check["sound"]
    assert check["counted_bytes"] == check["walked_bytes"] == truth["arena"]
    assert "all that malloc counts as its own" in result.stdout
    assert answers["find"]["complete"]
    # The program's own blocks, and malloc_info's buffer and the stream's, if they are as large.
    assert truth["used"] <= answers["find"]["found"]["chunks"] <= truth["used"] + 7
    gdb(f"core-file {core}", f"heap check {answers.into('core')}", program=programs["refused"]).succeeded()
    assert answers["core"]["sound"]
    assert answers["core"]["walked_bytes"] == truth["arena"]


@pytest.mark.parametrize("mode", ["top", "amid", "break"])
def test_damage_in_a_region(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """The length of the damaged region is what the others leave of system_mem."""
    result = gdb(
        "break stop_here",
        f"run {mode}",
        answers.python("truth", {"damaged": "number('(long)damaged')"}),
        f"heap check {answers.into('check')}",
        program=programs["refused"],
    )
    result.has_no_internal_error()
    check = answers["check"]
    assert [item["address"] for item in check["findings"]][:1] == [answers["truth"]["damaged"] - 8]
    assert not check["sound"]
    left = check["counted_bytes"] - check["walked_bytes"]
    assert 0 < left <= 0x25000  # the rest of one region at most, not all of them
    assert "were not" in result.stdout
