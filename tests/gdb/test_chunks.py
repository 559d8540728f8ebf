"""Promise: `heap chunks` shows each chunk as glibc sees it, and shows a program's bytes without obeying them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import mmapped_header
from tests.support.programs import Programs

#: A chunk's header, in bytes, and what of it the user may use: all but the size word.
HEADER, OVERHEAD = 16, 8
IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE = 2, 4, 1
#: What moves a cursor, turns text around or starts an escape sequence.
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffd]")


def of_arenas(answers: Answers, name: str = "chunks") -> list[dict[str, Any]]:
    """Return the chunks of all arenas of an answer: there is at least one."""
    chunks = [chunk for arena in answers[name]["arenas"] for chunk in arena["chunks"]]
    assert chunks
    return chunks


def listed(answers: Answers, name: str = "chunks") -> list[dict[str, Any]]:
    """Return all chunks of an answer: those with mappings of their own are the last."""
    chunks: list[dict[str, Any]] = answers[name]["mmapped"]["chunks"]
    return of_arenas(answers, name) + chunks


@pytest.fixture(scope="module")
def usable(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Look at usable.c's heap and at what the program wrote down about it."""
    answers = Answers(tmp_path_factory.mktemp("usable"))
    fields = "[[int(a[name]) for name in ('pointer', 'request', 'usable')] for a in {}]"
    each = "(value('allocations')[i] for i in range(number('allocation_count')))"
    gdb(
        "break stop_here",
        "run",
        answers.python(
            "truth",
            {
                "allocations": fields.format(each),
                "base": "number('(long)mp_.sbrk_base')",
                "system_mem": "number('main_arena.system_mem')",
                "top": "number('(long)main_arena.top')",
            },
        ),
        f"heap chunks {answers.into('chunks')}",
        program=programs["usable"],
    ).succeeded()
    return answers


def test_sizes_are_malloc_usable_sizes(usable: Answers) -> None:
    """Each allocation stands there as used, and the request that fits is what malloc_usable_size says."""
    chunks = {chunk["pointer"]: chunk for chunk in listed(usable)}
    base, top = usable["truth"]["base"], usable["truth"]["top"]
    checked = 0
    for pointer, request, usable_size in usable["truth"]["allocations"]:
        if not base <= pointer < top:
            continue  # it has a mapping of its own
        chunk = chunks[pointer]
        assert chunk["state"] == "used", chunk
        assert chunk["request_max"] == usable_size, chunk
        assert chunk["size"] == usable_size + OVERHEAD, chunk
        assert chunk["address"] == pointer - HEADER, chunk
        assert request <= chunk["request_max"]
        checked += 1
    assert checked > 5200


def test_chunks_leave_no_gap(usable: Answers) -> None:
    """From the heap's first byte to its last, each chunk begins where the one before it ends; top is the last."""
    chunks = of_arenas(usable)
    truth = usable["truth"]
    assert chunks[0]["address"] == truth["base"]
    for chunk, following in zip(chunks, chunks[1:]):
        assert chunk["address"] + chunk["size"] == following["address"]
    assert chunks[-1]["state"] == "top"
    assert chunks[-1]["address"] == truth["top"]
    assert chunks[-1]["address"] + chunks[-1]["size"] == truth["base"] + truth["system_mem"]


@pytest.mark.parametrize("name", ["totals", "threads", "foreign"])
def test_chunks_are_the_size_words_in_memory(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """GDB's own reading of every size word: the size, the flags, and what the flags say."""
    addresses = (
        f"[c['address'] for answer in [json.load(open({str(answers.path('chunks'))!r}))] "
        "for a in [*answer['arenas'], answer['mmapped']] for c in a['chunks']]"
    )
    read = "{a: int.from_bytes(bytes(gdb.selected_inferior().read_memory(a + 8, 8)), 'little') for a in %s}"
    gdb(
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        answers.python("truth", {"words": read % addresses}),
        program=programs[name],
    ).succeeded()
    words = {int(address): word for address, word in answers["truth"]["words"].items()}
    assert len(words) == len(listed(answers)), "no chunk is listed twice"
    for arena in answers["chunks"]["arenas"]:
        for chunk in arena["chunks"]:
            word = words[chunk["address"]]
            assert chunk["size"] == word & ~7 or chunk["state"] == "fencepost", chunk
            assert not word & IS_MMAPPED
            if chunk["state"] in ("used", "tcache"):
                assert bool(word & NON_MAIN_ARENA) == (arena["name"] != "main_arena"), chunk
        for chunk, following in zip(arena["chunks"], arena["chunks"][1:]):
            if chunk["address"] + chunk["size"] != following["address"]:
                continue  # a hole, or the next heap
            free = chunk["state"] in ("unsorted", "small", "large")
            if chunk["state"] != "fencepost":
                assert bool(words[following["address"]] & PREV_INUSE) != free, chunk


def preview(gdb: Gdb, programs: Programs, *commands: str) -> Result:
    """Run commands on the chunks with harmful contents."""
    return gdb("break stop_here", "run", "echo ANSWER\\n", *commands, program=programs["preview"]).succeeded()


def test_previews_are_escaped(gdb: Gdb, programs: Programs) -> None:
    """No control, no escape sequence, no mark that turns text around reaches the terminal; plain text is readable."""
    result = preview(gdb, programs, "heap chunks -all")
    shown = result.stdout.split("ANSWER\n")[1]
    assert not HARMFUL.search(shown), HARMFUL.findall(shown)
    result.raw.decode("utf-8")  # and it is UTF-8
    assert "a plain sentence" in shown
    assert "new title" in shown or "title" in shown or "\\x1b" in shown or "\\033" in shown
    assert len([line for line in shown.splitlines() if "0x" in line]) >= 9, "one line each"


def test_json_on_the_terminal_is_escaped(gdb: Gdb, programs: Programs) -> None:
    """The same where JSON goes to the terminal."""
    shown = preview(gdb, programs, "heap chunks -json").stdout.split("ANSWER\n")[1]
    assert not HARMFUL.search(shown), HARMFUL.findall(shown)
    assert '"schema": "gdbheap/1"' in shown


@pytest.mark.parametrize("size", ["0", "8", "0x18", "0x71", "0xfff1", "0x7fffffffffffff1", "0xffffffffffffffff"])
def test_a_size_word_that_was_overwritten(gdb: Gdb, answers: Answers, programs: Programs, size: str) -> None:
    """The walk ends, says where the heap is damaged, and shows what came before."""
    result = gdb(
        "break stop_here",
        "run",
        answers.python("truth", {"chunk": "number('(long)pointers[10]') - 16", "first": "number('(long)pointers[0]')"}),
        f"heap chunks {answers.into('chunks')}",
        "echo ANSWER\\n",
        "heap chunks",
        "echo ANSWER\\n",
        "heap",
        program=programs["sizes0"],
        args=[size],
    )
    result.has_no_internal_error()
    chunks = {chunk["address"]: chunk for chunk in listed(answers)}
    truth = answers["truth"]
    assert truth["first"] - HEADER in chunks, "the sound chunks before it are shown"
    _, shown, overview = result.stdout.split("ANSWER\n")
    if size == "0x71":  # the size that it has anyway
        assert "should" not in shown + overview
        return
    for text in (shown, overview):
        (said,) = [line for line in text.splitlines() if "should" in line]
        assert f"{truth['chunk']:#x}" in said, "where"
        assert f"{int(size, 0):#x}" in said, "what stands there"


#: Options that narrow the list, and the same in Python, said about a chunk of the whole list.
FILTERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "-min-size 0x100": lambda chunk: chunk["size"] >= 0x100,
    "-max-size 64": lambda chunk: chunk["size"] <= 64,
    "-min-size 0x60 -max-size 0x200": lambda chunk: 0x60 <= chunk["size"] <= 0x200,
    "-state used": lambda chunk: chunk["state"] == "used",
    "-state tcache": lambda chunk: chunk["state"] == "tcache",
    "-state unsorted": lambda chunk: chunk["state"] == "unsorted",
    "-state top": lambda chunk: chunk["state"] == "top",
    "-state used -min-size 1000": lambda chunk: chunk["state"] == "used" and chunk["size"] >= 1000,
    "-max-size 0": lambda chunk: False,
}


def test_filters(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Each narrows the whole list to what it says, and what it leaves is in the same order."""
    names = {option: f"filter{number}" for number, option in enumerate(FILTERS)}
    gdb(
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        *(f"heap chunks {option} {answers.into(name)}" for option, name in names.items()),
        program=programs["threads"],
    ).succeeded()
    everything = answers["chunks"]["arenas"]
    for option, name in names.items():
        wanted = {arena["address"]: [c for c in arena["chunks"] if FILTERS[option](c)] for arena in everything}
        found = {arena["address"]: arena["chunks"] for arena in answers[name]["arenas"]}
        assert {key: value for key, value in found.items() if value} == {k: v for k, v in wanted.items() if v}, option


def test_filters_of_mmapped_chunks(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """They obey the same options, and -arena leaves them out."""
    gdb(
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        f"heap chunks -min-size 0x40000 -count 1 {answers.into('one')}",
        f"heap chunks -state tcache {answers.into('tcache')}",
        f"heap chunks -arena 0 {answers.into('main')}",
        program=programs["totals"],
    ).succeeded()
    mapped = answers["chunks"]["mmapped"]["chunks"]
    assert [chunk["size"] + mmapped_header() for chunk in mapped] == [0x62000, 0x4A000, 0x31000]
    assert answers["one"]["mmapped"]["chunks"] == mapped[:1]
    assert answers["one"]["left_out"] == 1
    assert answers["tcache"]["mmapped"]["chunks"] == []
    assert answers["main"]["mmapped"]["chunks"] == []


def test_one_arena(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """By number, by address and by name: that arena's chunks and no others."""
    gdb(
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        f"heap chunks -arena 0 {answers.into('zero')}",
        f"heap chunks -arena main_arena {answers.into('main')}",
        f"heap chunks -arena 2 {answers.into('two')}",
        answers.python("second", {"arena": "gdb.set_convenience_variable('second', number('(long)main_arena.next'))"}),
        f"heap chunks -arena $second {answers.into('next')}",
        program=programs["threads"],
    ).succeeded()
    everything = answers["chunks"]["arenas"]
    assert len(everything) == 5
    for name, arena_name in (("zero", "main_arena"), ("main", "main_arena"), ("two", "arena 2")):
        assert answers[name]["arenas"] == [arena for arena in everything if arena["name"] == arena_name], name
    assert len(answers["next"]["arenas"]) == 1
    assert answers["next"]["arenas"][0] in everything[1:]


def test_start_and_count(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """From a chunk's address or the program's pointer on, at most so many, and the rest is counted."""
    gdb(
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        f"heap chunks -start used[40] -count 5 {answers.into('pointer')}",
        f"heap chunks -start (char*)used[40]-16 -count 5 {answers.into('address')}",
        f"heap chunks -count 3 {answers.into('three')}",
        f"heap chunks -count 0 {answers.into('none')}",
        answers.python("truth", {"pointer": "number('(long)used[40]')"}),
        program=programs["totals"],
    ).succeeded()
    chunks = listed(answers)
    (place,) = [i for i, chunk in enumerate(chunks) if chunk["pointer"] == answers["truth"]["pointer"]]
    assert listed(answers, "pointer") == chunks[place : place + 5]
    assert listed(answers, "address") == chunks[place : place + 5]
    assert listed(answers, "three") == chunks[:3]
    assert answers["none"]["arenas"][0]["chunks"] == []
    assert answers["chunks"]["left_out"] == 0
    assert answers["three"]["left_out"] == len(chunks) - 3
    assert answers["pointer"]["left_out"] == len(chunks) - place - 5


def rows(text: str) -> list[str]:
    """Return the lines of a listing that show a chunk: an address, a pointer, a size in hexadecimal digits."""
    return [line for line in text.splitlines() if re.match(r"0x[0-9a-f]+ +0x[0-9a-f]+ +0x[0-9a-f]+ ", line)]


def test_rows_say_what_json_says(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Address, pointer, size, request, flags and state of each row; the totals at the end are those of the rows."""
    result = gdb(
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        "echo ANSWER\\n",
        "heap chunks -all",
        program=programs["totals"],
    ).succeeded()
    text = result.stdout.split("ANSWER\n")[1]
    chunks = listed(answers)
    shown = rows(text)
    assert len(shown) == len(chunks) > 100
    for row, chunk in zip(shown, chunks):
        words = row.split()
        assert [int(word, 16) for word in words[:3]] == [chunk["address"], chunk["pointer"], chunk["size"]]
        assert int(words[3].replace(",", "")) == chunk["request_max"]
        assert chunk["state"] in words[4:6]
    totals = text.splitlines()[-1]
    assert f"{len(chunks)} chunks" in totals
    assert f"{sum(chunk['size'] for chunk in chunks):#x}" in totals
    for state in {chunk["state"] for chunk in chunks}:
        assert re.search(rf"{state} {sum(c['size'] for c in chunks if c['state'] == state):#x}\b", totals), totals


def test_rows_left_out_are_counted(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Without -all a long listing ends, and says how many rows it left out and how to see them."""
    result = gdb(
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        "echo ANSWER\\n",
        "heap chunks",
        "echo ANSWER\\n",
        "heap chunks -count 7 -state used",
        "echo ANSWER\\n",
        "heap chunks -all",
        program=programs["many"],
        args=["3000"],
    ).succeeded()
    chunks = listed(answers)
    assert len(chunks) > 3000
    _, limited, seven, everything = result.stdout.split("ANSWER\n")
    assert 0 < len(rows(limited)) < len(chunks)
    assert f"{len(chunks) - len(rows(limited)):,} more chunks left out" in limited.replace("are ", "")
    assert "-all" in limited.splitlines()[-1]
    used = sum(chunk["state"] == "used" for chunk in chunks)
    assert len(rows(seven)) == 7
    assert f"{used - 7:,} more chunks left out" in seven
    assert len(rows(everything)) == len(chunks)
    assert "left out" not in everything
