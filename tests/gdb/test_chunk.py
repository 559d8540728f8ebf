"""Promise: `heap chunk` finds the chunk that holds an address, or says what else is there, live and in a core file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gdb.test_bins import walk
from tests.gdb.test_chunks import HARMFUL
from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version
from tests.support.programs import Programs
from tests.support.symbols import remember, wanted


def asking(answers: Answers, name: str, expressions: str, options: str = "") -> str:
    """Return a command that asks for the chunk of each of a Python list of expressions, into NAME_0, NAME_1 ..."""
    path = str(answers.folder / name)
    code = (
        f"for place, expression in enumerate({expressions}):\n"
        f"    gdb.execute('heap chunk -json {path}_%d.json {options} -- %s' % (place, expression), to_string=True)"
    )
    return f"python exec({code!r})"


def answered(answers: Answers, name: str) -> Iterator[dict[str, Any]]:
    """Yield what those commands answered, in order: there is at least one."""
    place = 0
    while place == 0 or answers.path(f"{name}_{place}").exists():
        yield answers[f"{name}_{place}"]
        place += 1


def test_usable_sizes(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Any address from the header to the last usable byte leads to the chunk; its size is malloc_usable_size's."""
    count = "int(gdb.parse_and_eval('allocation_count'))"
    every = f"[*range(0, {count}, 131), *range({count} - 5, {count})]"  # the last five are mmapped
    fields = (
        "[[int(value('allocations')[i][name]) for name in ('pointer', 'request', 'usable')] for i in " + every + "]"
    )
    gdb(
        "break stop_here",
        "run",
        answers.python("truth", {"allocations": fields}),
        asking(answers, "pointer", f"['allocations[%d].pointer' % i for i in {every}]"),
        asking(answers, "first", f"['(char *) allocations[%d].pointer - 16' % i for i in {every}]"),
        asking(
            answers,
            "last",
            f"['(char *) allocations[%d].pointer + allocations[%d].usable - 1' % (i, i) for i in {every}]",
        ),
        program=programs["usable"],
    ).succeeded()
    allocations = answers["truth"]["allocations"]
    assert len(allocations) > 35
    found = zip(allocations, *(answered(answers, name) for name in ("pointer", "first", "last")))
    kinds, preceded = set(), 0
    for (pointer, request, usable), *each in found:
        for answer, address in zip(each, (pointer, pointer - 16, pointer + usable - 1)):
            chunk = answer["chunk"]
            assert answer["address"] == address
            assert answer["where"] == "chunk"
            assert chunk["pointer"] == pointer
            assert chunk["usable"] == usable >= request
            assert chunk["state"] == "used"
            assert chunk["offset"] == address - pointer
            assert not chunk["problems"]
            assert (chunk["mapped"] is None) == (answer["arena"] == "main_arena")
        chunk = each[0]["chunk"]
        kinds.add(chunk["mapped"] is None)
        if chunk["mapped"] is None:
            assert chunk["size"] == usable + 8
            assert chunk["after"]["address"] == chunk["address"] + chunk["size"]
            if chunk["before"] is not None:  # None: the first of the heap
                assert chunk["before"]["address"] + chunk["before"]["size"] == chunk["address"]
                preceded += 1
    assert kinds == {True, False}
    assert preceded > 35


@pytest.mark.parametrize("name", ["totals", "threads"])
def test_every_free_chunk_is_found_on_its_list(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """Which list, of which arena or thread, and at which position: as GDB walks the lists."""
    path = answers.path("walk")
    chunks = (
        f"[row[0] + 24 for lists in [*json.load(open({str(path)!r}))['arenas'].values(), "
        f"*(json.load(open({str(path)!r}))['tcaches'] or {{}}).values()] for name in lists if 'count' not in name "
        "for row in lists[name]]"
    )
    gdb(
        "python import json",
        "break stop_here",
        "run",
        walk(answers, "walk"),
        asking(answers, "chunk", chunks),
        program=programs[name],
    ).succeeded()
    truth = answers["walk"]
    expected: list[tuple[str, str, int, int, int]] = []
    for kind, owners in (("arenas", truth["arenas"]), ("tcaches", truth["tcaches"] or {})):
        for owner, lists in owners.items():
            for each, rows in lists.items():
                if "count" not in each:
                    expected += [
                        (kind, owner, int(each.split()[1]), place, row[0]) for place, row in enumerate(rows, 1)
                    ]
    answers_given = list(answered(answers, "chunk"))
    assert len(answers_given) == len(expected) > 10
    ends = set()
    for answer, (kind, owner, index, place, address) in zip(answers_given, expected):
        chunk = answer["chunk"]
        listed = chunk["list"]
        assert chunk["address"] == address
        assert (listed["index"], listed["position"]) == (index, place)
        assert (listed["kind"] == "tcache") == (kind == "tcaches")
        assert str(listed["thread"] if kind == "tcaches" else chunk["arena_address"]) == owner
        assert chunk["state"] == listed["kind"]
        # What such a chunk is linked by are malloc's own words.
        assert chunk["words"][0]["kind"] == "link"
        (foretold,) = [item for item in answer["free"] if item["pointer"] == address + 16]
        assert foretold["double_free"] == (foretold["end"] != "abort"), "it is free already"
        ends.add(foretold["end"])
    # free looks at the front of a fastbin only, and at the tcache of its own thread.
    unnoticed = {"tcache"} if name == "threads" else {"fastbin"} if truth["fastbins"] else set()
    assert ends == {"abort", *unnoticed}


def test_what_is_where_no_chunk_is(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A stack, malloc's own variables, a library, a heap's reserve, nothing: each is called what it is."""
    expressions = {
        "stack": "$sp",
        "other_stack": "$other",
        "arena": "$bins_7",
        "thread_arena": "$system_mem",
        "params": "$top_pad",
        "heap_info": "$next & ~0x3ffffff",
        "reserved": "($next | 0x3ffffff)",
        "code": "main",
        "library": "(void *) printf",
        "data": "small_chunks",
        "nothing": "5",
        "kernel": "$vdso",
        "noncanonical": "-1",
    }
    commands = [f"heap chunk -json {answers.path(name)} -- {text}" for name, text in expressions.items()]
    other = (
        "gdb.execute('thread 3', to_string=True); gdb.execute('set $other = $sp'); "
        "gdb.execute('thread 1', to_string=True)"
    )
    vdso = (
        "maps = open('/proc/%d/maps' % gdb.selected_inferior().pid).read(); "
        "gdb.set_convenience_variable('vdso', int(re.search(r'([0-9a-f]+)-.*vdso', maps).group(1), 16))"
    )
    result = gdb(
        "break stop_here",
        "run",
        f"python import re; {other}; {vdso}",
        remember(
            bins_7="(unsigned long) &main_arena.bins[7]",
            system_mem="(unsigned long) &((struct malloc_state *) main_arena.next)->system_mem",
            top_pad="(unsigned long) &mp_.top_pad",
            next="(unsigned long) main_arena.next",
        ),
        *commands,
        program=programs["threads"],
    )
    result.succeeded()
    where = {name: answers[name]["where"] for name in expressions}
    assert where == {
        "stack": "stack",
        "other_stack": "stack",
        "arena": "arena",
        "thread_arena": "arena",
        "params": "params",
        "heap_info": "heap_info",
        "reserved": "reserved",
        "code": "file",
        "library": "file",
        "data": "file",
        "nothing": "unmapped",
        "kernel": "kernel",
        "noncanonical": "unmapped",
    }
    assert answers["stack"]["thread"] == 1
    assert "stop_here" in answers["stack"]["text"]
    assert answers["other_stack"]["thread"] == 3
    assert "bins[7] of main_arena" in answers["arena"]["text"]
    assert "small bin 4" in answers["arena"]["text"]  # bins[6] and bins[7] are the ends of bin_at(4)
    assert "system_mem of arena 4" in answers["thread_arena"]["text"]
    assert "top_pad of mp_" in answers["params"]["text"]
    assert "ar_ptr of the heap_info" in answers["heap_info"]["text"]
    assert answers["reserved"]["arena"] == "arena 4"
    assert answers["code"]["symbol"] == "'main' of threads"
    assert answers["code"]["mapping"]["permissions"] == "r-xp"
    assert "printf" in answers["library"]["symbol"]
    assert "libc" in answers["library"]["mapping"]["name"]
    assert "small_chunks" in answers["data"]["symbol"]
    assert all(answers[name]["chunk"] is None for name in expressions)


def test_a_class_is_told_by_its_vtable(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The C++ class of an object, the chunk that a word leads to, a symbol: as GDB itself sees those words."""
    object_at = "*(unsigned long *) *(unsigned long *) &shapes"
    gdb(
        "break stop_here",
        "run",
        "up",
        answers.python("truth", {"object": f"number('{object_at}')", "first": "number('*(unsigned long *) &shapes')"}),
        f"heap chunk -json {answers.path('object')} -- {object_at}",
        f"heap chunk -json {answers.path('list')} -bytes 4096 -- *(unsigned long *) &shapes",
        "set print demangle off",
        f"heap chunk -json {answers.path('mangled')} -- {object_at}",
        program=programs["cplus"],
    ).succeeded()
    truth = answers["truth"]
    first = answers["object"]["chunk"]["words"][0]
    assert answers["object"]["chunk"]["pointer"] == truth["object"]
    assert first["class"] == "square"
    assert first["offset"] == 0
    assert "vtable for square" in first["text"]
    words = answers["list"]["chunk"]["words"]
    assert len(words) == 512
    assert {word["kind"] for word in words} == {"chunk"}
    assert words[0]["value"] == truth["object"]
    assert words[0]["target"] == truth["object"] - 16
    assert all(word["target"] == word["value"] - 16 for word in words)
    content = bytes.fromhex(answers["list"]["chunk"]["content"])
    assert [int.from_bytes(content[place : place + 8], "little") for place in range(0, 4096, 8)] == [
        word["value"] for word in words
    ]


def test_expressions(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A pointer, a cast, an array, a register: and nothing of the program is called for one."""
    typed = {
        "pointer": "large[2]",
        "plus": "(char *) large[2] + 100",
        "spaces": "large [ 1 + 1 ]",
        "quotes": "'totals.c'::large[2]",
        "number": "(long) large[2] + 8",
        "dashes": "-- -16 + (long) large[2]",
    }
    result = gdb(
        "break stop_here",
        "run",
        "set $p = large[2]",
        *(f"heap chunk {text} -json {answers.path(name)}" for name, text in typed.items() if name != "dashes"),
        f"heap chunk -json {answers.path('dashes')} {typed['dashes']}",
        f"heap chunk $p -json {answers.path('variable')}",
        f"heap chunk -js {answers.path('first')} -bytes 16 large[2]",
        f'heap chunk large[2] -json "{answers.path("two words")}"',
        f"heap chunk large -json {answers.path('array')}",
        f"heap chunk totals_before -json {answers.path('struct')}",
        answers.python(
            "before",
            {
                "top": "number('(long)main_arena.top')",
                "calls": "gdb.parameter('may-call-functions')",
            },
        ),
        "heap chunk malloc(100)",
        answers.python(
            "after",
            {
                "top": "number('(long)main_arena.top')",
                "calls": "gdb.parameter('may-call-functions')",
            },
        ),
        program=programs["totals"],
    )
    result.has_no_internal_error()
    found = [answers[name]["chunk"] for name in (*typed, "variable", "first", "two words")]
    assert {chunk["pointer"] for chunk in found} == {found[0]["pointer"]}
    assert [chunk["offset"] for chunk in found] == [0, 100, 0, 0, 8, -16, 0, 0, 0]
    assert len(answers["first"]["chunk"]["content"]) == 32
    assert "large" in answers["array"]["symbol"]
    assert "totals_before" in answers["struct"]["symbol"]
    assert answers["after"] == answers["before"], "malloc was called"
    assert "would call a function" in result.stderr


def test_content_is_escaped(gdb: Gdb, programs: Programs) -> None:
    """Bytes of the program are shown, and do nothing to the terminal."""
    shown = gdb(
        "break stop_here",
        "run",
        "echo ANSWER\\n",
        *(f"heap chunk pointers[{place}]" for place in range(8)),
        program=programs["preview"],
    ).succeeded()
    text = shown.stdout.split("ANSWER\n")[1]
    assert not HARMFUL.search(text.replace("\n", ""))
    assert "a plain sentenc" in text
    assert "1b 5d 30 3b" in text


def test_content_around_an_address(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The bytes are those of memory, from the pointer on, or around an address further in."""
    inside = "(char *) large[3] + 1003"
    result = gdb(
        "break stop_here",
        "run",
        'set {char[16]} ((char *) large[3] + 992) = "fifteen letters"',
        f"heap chunk -bytes 32 -json {answers.path('inside')} -- {inside}",
        f"heap chunk -bytes 32 -- {inside}",
        answers.python(
            "truth",
            {
                "bytes": "bytes(gdb.selected_inferior().read_memory(number('(long)large[3]') + 992, 32)).hex()",
                "pointer": "number('(long)large[3]')",
            },
        ),
        program=programs["totals"],
    ).succeeded()
    chunk = answers["inside"]["chunk"]
    assert chunk["content"] == answers["truth"]["bytes"]
    assert chunk["content_start"] == answers["truth"]["pointer"] + 992
    assert "+0x03e0  66 69 66 74 65 65 6e" in result.stdout
    assert "fifteen letters" in result.stdout


@pytest.mark.parametrize("name", ["census", "threads"])
def test_a_core_file_says_the_same(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """Everything but what free would do, where there is no thread of the same number."""
    asked = [f"large_chunks[{place}]" for place in (0, 10, 11, 640, 699)] + ["$top", "$next"]
    if name == "census":
        asked += [f"(char *) mapped[{place}] + 100" for place in range(9)]
    else:
        asked += [f"small_chunks[{place % 4}][{place}]" for place in range(40)]
    core = answers.folder / "core"
    gdb(
        "break stop_here",
        "run",
        remember(top="(unsigned long) main_arena.top", next="(unsigned long) main_arena.next"),
        asking(answers, "live", str(asked)),
        f"generate-core-file {core}",
        program=programs[name],
    ).succeeded()
    gdb(
        f"core-file {core}",
        remember(top="(unsigned long) main_arena.top", next="(unsigned long) main_arena.next"),
        asking(answers, "core", str(asked)),
        program=programs[name],
    ).succeeded()
    live, dead = list(answered(answers, "live")), list(answered(answers, "core"))
    assert len(live) == len(dead) == len(asked)
    states = set()
    for one, other in zip(live, dead):
        for answer in (one, other):
            if answer["chunk"] is not None:
                states.add(answer["chunk"]["state"])
                # GDB numbers the threads of a core file in another order.
                answer["chunk"]["threads"] = len(answer["chunk"]["threads"])
                if answer["chunk"]["list"] is not None:
                    answer["chunk"]["list"]["thread"] = None
                for word in answer["chunk"]["words"]:
                    word["text"] = re.sub(r"of thread \d+", "of a thread", word["text"])
        assert one == other
    assert len(states) >= 3


def test_a_corrupt_heap(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Behind a size word that was overwritten a chunk is known where the free lists tell; else that is said."""
    result = gdb(
        "break stop_here",
        "run",
        f"heap chunk small[8] -json {answers.path('sound')}",
        f"heap chunk used[60] -json {answers.path('used')}",
        "set *((long *) fast[2] - 1) = 0",
        f"heap chunk fast[1] -json {answers.path('before')}",
        f"heap chunk small[8] -json {answers.path('listed')}",
        f"heap chunk used[60] -json {answers.path('behind')}",
        f"heap chunk (char*)fast[2]+8 -json {answers.path('lost')}",
        "heap chunk small[8]",
        "heap chunk (char*)fast[2]+8",
        "set *((long *) small[1] - 1) = 0x7fffffff0",
        f"heap chunk used[60] -json {answers.path('huge')}",
        program=programs["totals"],
    ).succeeded()
    same = ("address", "size", "state", "list", "before", "after", "usable")
    for sound, found in (("sound", "listed"), ("used", "behind"), ("used", "huge")):
        for key in same:
            known, wanted_value = answers[found]["chunk"][key], answers[sound]["chunk"][key]
            if key in ("before", "after") and known is not None:
                assert known.pop("behind_damage"), "so is the neighbour"
                wanted_value = {name: value for name, value in wanted_value.items() if name != "behind_damage"}
            assert known == wanted_value, key
        assert answers[sound]["chunk"]["resumed"] is None
        assert "stopped" in answers[found]["chunk"]["resumed"]
    assert answers["before"]["chunk"]["resumed"] is None
    assert answers["lost"]["where"] == "gap"
    assert answers["lost"]["chunk"] is None
    assert answers["listed"]["chunk"]["resumed"] in result.stdout
    assert answers["lost"]["text"] in result.stdout
    assert "is 0x0; the size should be" in answers["lost"]["text"], "it says which size word is wrong"
    assert "is in no chunk" not in result.stdout


@pytest.mark.skipif(glibc_version() < (2, 34), reason="tcache_key came with glibc 2.34")
def test_a_key_that_was_overwritten(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The word is called the key where it is glibc's tcache_key; where it is not, what it should be is said."""
    result = gdb(
        "break stop_here",
        "run",
        f"heap chunk part[1] -json {answers.path('sound')}",
        answers.python("truth", {"key": "number('tcache_key')"}),
        "set *((long *) part[1] + 1) = 0x1234",
        f"heap chunk part[1] -json {answers.path('wiped')}",
        program=programs["totals"],
    ).succeeded()
    key = answers["truth"]["key"] & 0xFFFFFFFFFFFFFFFF
    words = {name: answers[name]["chunk"]["words"][1] for name in ("sound", "wiped")}
    assert words["sound"]["value"] == key
    assert words["sound"]["text"] == "key: what free knows a chunk in a tcache by"
    assert words["wiped"]["value"] == 0x1234
    assert f"it should be {key:#x}" in words["wiped"]["text"]
    (foretold,) = answers["wiped"]["free"]
    assert foretold["double_free"], "free looks for the key and for nothing else"
    assert f"it should be {key:#x}" in result.stdout


def test_where_something_else_moved_the_break(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A hole that is not malloc's in the break area, and the fenceposts before it."""
    gdb(
        "heap catch",
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        f"heap {answers.into('heap')}",
        program=programs["foreign"],
    ).succeeded()
    chunks = [chunk for arena in answers["chunks"]["arenas"] for chunk in arena["chunks"]]
    posts = [chunk for chunk in chunks if chunk["state"] == "fencepost"]
    assert posts
    asked = [str(posts[0]["address"]), str(posts[-1]["address"] + 16 + 64)]
    gdb("heap catch", "break stop_here", "run", asking(answers, "post", str(asked)), program=programs["foreign"])
    post, hole = list(answered(answers, "post"))
    assert post["chunk"]["state"] == "fencepost"
    assert post["chunk"]["usable"] == 0
    assert hole["where"] in ("foreign", "gap")
    assert "break" in hole["text"]


def test_a_tcache_that_cannot_be_read(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """What is in it looks used: that is said, and that free would crash."""
    done = gdb(
        "break stop_here",
        "run",
        f"heap chunk fast[3] -json {answers.path('before')}",
        remember(tcache_at="(unsigned long) &tcache"),
        "set *(unsigned long *) $tcache_at = 0x123450",
        f"heap chunk fast[3] -json {answers.path('chunk')}",
        program=programs["totals"],
    )
    if "Cannot find thread-local" in done.stderr:
        pytest.skip("GDB cannot read thread-local variables of a process without libpthread")
    done.succeeded()
    chunk = answers["chunk"]["chunk"]
    assert chunk["state"] == "used"
    # Without debug symbols it is no tcache at all: that is how one is known.
    said = "0x123450" if wanted() else "cannot be found"
    assert any(said in problem and "shown as used" in problem for problem in chunk["problems"])
    assert answers["chunk"]["free"][0]["end"] == ("crash" if wanted() else None)


def leave_out(core: Path, address: int) -> None:
    """Take the bytes of the segment at ``address`` out of a core file, as the kernel does where it is told to."""
    data = bytearray(core.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    for header in range(table, table + size * count, size):
        kind, _, _, start, _, _, length = struct.unpack_from("<IIQQQQQ", data, header)
        if kind == 1 and start <= address < start + length:
            struct.pack_into("<Q", data, header + 0x20, 0)
            core.write_bytes(data)
            return
    raise AssertionError(f"no segment holds {address:#x}")


def test_a_core_file_without_the_heap(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """What a core file left out reads as zeros in GDB: it is called missing, and nothing is foretold from it."""
    core = answers.folder / "core"
    gdb(
        "break stop_here",
        "run",
        answers.python("truth", {"pointer": "number('(long)victim')"}),
        f"generate-core-file {core}",
        program=programs["frees"],
        args=["unsorted"],
    ).succeeded()
    pointer = answers["truth"]["pointer"]
    leave_out(core, pointer)
    gdb(
        f"core-file {core}",
        f"heap chunk {pointer} -json {answers.path('missing')}",
        f"heap chunk 0x10 -json {answers.path('nothing')}",
        program=programs["frees"],
    ).succeeded()
    found = answers["missing"]
    assert found["where"] == "missing"
    assert found["chunk"] is None
    assert found["free"][0]["end"] is None
    assert "the core file does not have it" in found["free"][0]["meaning"]
    assert answers["nothing"]["where"] == "unmapped"
    assert answers["nothing"]["free"][0]["end"] == "crash"  # nothing is ever mapped there
