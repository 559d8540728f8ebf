"""Promise: `heap chunks` shows each chunk as glibc sees it, and shows a program's bytes without obeying them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs

#: A chunk's header, in bytes, and what of it the user may use: all but the size word.
HEADER, OVERHEAD = 16, 8
IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE = 2, 4, 1
#: What moves a cursor, turns text around or starts an escape sequence.
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffd]")


def listed(answers: Answers, name: str = "chunks") -> list[dict[str, Any]]:
    """Return the chunks of all arenas of an answer: there is at least one."""
    chunks = [chunk for arena in answers[name]["arenas"] for chunk in arena["chunks"]]
    assert chunks
    return chunks


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
    chunks = listed(usable)
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
        f"[c['address'] for a in json.load(open({str(answers.path('chunks'))!r}))['arenas'] for c in a['chunks']]"
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
