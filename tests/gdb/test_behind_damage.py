"""Promise: where the chunks could not be followed, what was found behind is shown, and each of it marked as such."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gdbheap.ptmalloc.chunk import STATES
from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs
from tests.support.symbols import needs_symbols

#: The last chunk before the damage in `totals`, in the order of its chunks, is fast[2]: its size word becomes 0.
DAMAGE = "set *((long *) fast[2] - 1) = 0"
LEGEND = "! behind damage: "
#: A state with the mark, as it stands in a row.
MARKED = re.compile(rf"^0x[0-9a-f]+ .* (?:{'|'.join(STATES)})!(?: |$)")


def by_address(answer: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {chunk["address"]: chunk for chunk in answer["arenas"][0]["chunks"]}


@pytest.fixture(scope="module")
def looked(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Result]:
    """Look at the same heap before and after its damage."""
    needs_symbols(gdb)
    answers = Answers(tmp_path_factory.mktemp("looked"))
    result = gdb(
        "break stop_here", "run",
        answers.python("truth", {"broken": "number('(long) fast[2]') - 16", "behind": "number('(long) small[8]') - 16",
                                 "top": "number('(long) main_arena.top')"}),
        f"heap chunks {answers.into('sound')}", f"heap find -min-size 0 -all {answers.into('sound-find')}",
        f"heap map {answers.into('sound-map')}", "heap chunks", DAMAGE, "echo DAMAGED\\n",
        f"heap chunks {answers.into('chunks')}", f"heap find -min-size 0 -all {answers.into('find')}",
        f"heap map {answers.into('map')}", f"heap map -words -start small[8] -count 2 {answers.into('words')}",
        f"heap refs small[8] {answers.into('refs')}", f"heap chunk small[8] {answers.into('chunk')}",
        *(step for command in ("chunks -all", "find -min-size 0 -all", "map", "map -words -start small[8] -count 2",
                               "refs small[8]") for step in ("echo ANSWER\\n", f"heap {command}")),
        program=programs["totals"],
    ).succeeded()  # fmt: skip
    return answers, result


def test_each_chunk_behind_is_marked(looked: tuple[Answers, Result]) -> None:
    """In JSON: those before the damage and the top chunk are not, all others are; and they are the chunks they were."""
    answers, _ = looked
    broken, top = answers["truth"]["broken"], answers["truth"]["top"]
    sound, found = by_address(answers["sound"]), by_address(answers["chunks"])
    assert not any(chunk["behind_damage"] for chunk in sound.values())
    assert broken in sound
    assert broken not in found
    marked = {address for address, chunk in found.items() if chunk["behind_damage"]}
    assert marked == {address for address in found if broken < address < top}
    assert len(marked) > 50
    assert len(sound) - len(found) < 5, "nearly all of it was found again"
    for address, chunk in found.items():
        assert {**sound[address], "behind_damage": address in marked} == chunk


def test_wherever_chunks_are_told(looked: tuple[Answers, Result]) -> None:
    """What the other commands say of the same chunks."""
    answers, _ = looked
    found, behind = by_address(answers["chunks"]), answers["truth"]["behind"]
    assert found[behind]["behind_damage"]
    rows = {chunk["address"]: chunk for chunk in answers["find"]["chunks"] if chunk["arena"] is not None}
    assert len(rows) > 50
    assert {address: row["behind_damage"] for address, row in rows.items()} == {
        address: found[address]["behind_damage"] for address in rows
    }
    assert not any(chunk["behind_damage"] for chunk in answers["sound-find"]["chunks"])
    assert [item["chunk"]["behind_damage"] for item in answers["words"]["closeup"]["chunks"]] == [True, True]
    assert answers["refs"]["chunk"]["behind_damage"]
    assert answers["chunk"]["chunk"]["behind_damage"]
    assert answers["chunk"]["chunk"]["before"]["behind_damage"]
    assert answers["chunk"]["chunk"]["after"]["behind_damage"]
    before, after = answers["map"]["arenas"][0]["regions"]
    assert [before["behind_damage"], after["behind_damage"]] == [False, True]
    assert before["end"] == after["start"]
    assert before["start"] < answers["truth"]["broken"] < before["end"] <= behind < after["end"]
    assert [region["behind_damage"] for region in answers["sound-map"]["arenas"][0]["regions"]] == [False]


def test_the_lines_say_so_without_colour(looked: tuple[Answers, Result]) -> None:
    """A mark in the row, and what it means once below; none of it where the heap is sound."""
    answers, result = looked
    sound, damaged = result.stdout.split("DAMAGED\n")
    assert LEGEND not in sound
    assert not any(map(MARKED.match, sound.splitlines()))
    chunks, find, drawn, words, refs = damaged.split("ANSWER\n")[1:]
    marked = {address for address, chunk in by_address(answers["chunks"]).items() if chunk["behind_damage"]}
    for text in (chunks, find):
        assert text.count(LEGEND) == 1
        rows = {int(line.split()[0], 16): line for line in text.splitlines() if line.startswith("0x")}
        shown = {address for address, line in rows.items() if MARKED.match(line)}
        assert shown == marked & rows.keys()
        assert len(shown) > 50
    first = min(marked)
    assert f"behind damage, known again from {first:#x} on" in drawn
    first, second = (item["chunk"]["state"] for item in answers["words"]["closeup"]["chunks"])
    assert words.count(f" {first}! 0x") == words.count(f" {second}! 0x") == 1
    assert words.count(LEGEND) == refs.count(LEGEND) == 1
    assert f" bytes, {answers['refs']['chunk']['state']}!, " in refs
