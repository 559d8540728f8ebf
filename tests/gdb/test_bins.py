"""Promise: `heap bins` and `heap tcache` show each free list as it is in memory, chunk by chunk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb, oracle
from tests.support.environment import glibc_version
from tests.support.mallinfo import FIGURES, read_malloc_info
from tests.support.programs import Programs
from tests.support.symbols import wanted

#: Inside GDB: every list, followed with GDB's own values. Links of fastbins and tcache are unmasked as glibc does it.
WALK = """
def unmasked(place):
    stored = number('*(unsigned long *)%d' % place)
    return stored, stored ^ (place >> 12) if MASKED else stored

def walk_single(front, shown):
    rows = []
    while front:
        stored, following = unmasked(front + 16 - shown)
        rows.append([front - shown, stored, following])
        front = following
    return rows

def walk_arena(address):
    arena = '((struct malloc_state *)%d)' % address
    fields = [field.name for field in value('*' + arena).type.fields()]
    lists = {}
    for index in range(10 if 'fastbinsY' in fields else 0):
        rows = walk_single(number('(long)%s->fastbinsY[%d]' % (arena, index)), 0)
        if rows:
            lists['fastbin %d' % index] = rows
    for index in range(1, 127):
        header = number('(long)&%s->bins[%d]' % (arena, 2 * index - 2)) - 16
        rows, chunk = [], number('(long)((struct malloc_chunk *)%d)->fd' % header)
        while chunk != header:
            links = [number('(long)((struct malloc_chunk *)%d)->%s' % (chunk, name)) for name in ('fd', 'bk')]
            rows.append([chunk, *links])
            chunk = links[0]
        if rows:
            lists['bin %d' % index] = rows
    return lists

def walk_tcaches():
    found, selected = {}, gdb.selected_thread()
    for thread in gdb.selected_inferior().threads():
        thread.switch()
        try:
            number('(long)tcache')
        except gdb.error as error:
            if 'thread-local' not in str(error):
                raise
            selected.switch()
            return None  # of a process without libpthread, which is a library of its own up to glibc 2.33
        if not number('(long)tcache'):
            found[thread.num] = None
            continue
        fields = [field.name for field in value('*tcache').type.fields()]
        lists = {}
        for index in range(64):
            rows = walk_single(number('(long)tcache->entries[%d]' % index), 16)
            if rows:
                lists['tcache %d' % index] = rows
                count = number('tcache->counts[%d]' % index) if 'counts' in fields else None
                lists['count %d' % index] = count
        found[thread.num] = lists
    selected.switch()
    return found

def walk_all(path):
    with open(path, 'w') as file:
        arenas = {address: walk_arena(address) for address in ring()}
        fast = 'fastbinsY' in [field.name for field in value('main_arena').type.fields()]
        limit = number('mp_.tcache_count')
        found = {'arenas': arenas, 'tcaches': walk_tcaches(), 'limit': limit, 'fastbins': 10 if fast else 0}
        json.dump({'schema': 'gdbheap/1', **found}, file)
"""


def walk(answers: Answers, name: str) -> str:
    """Return the command that writes GDB's own walk of all lists into an answer."""
    code = f"MASKED = {glibc_version() >= (2, 32)}\n{WALK}"
    code += f"with symbols(): walk_all({str(answers.path(name))!r})"
    return f"python exec({oracle(code)!r}, {{}})"


def name_of(item: dict[str, Any]) -> str:
    """Return what the walk calls a list."""
    kind = item["kind"] if item["kind"] in ("fastbin", "tcache") else "bin"
    return f"{kind} {item['index']}"


def rows_of(item: dict[str, Any]) -> list[list[int]]:
    """Return the rows of a list as the walk has them."""
    last = "next" if item["kind"] in ("fastbin", "tcache") else "back"
    return [[member["address"], member["stored"], member[last]] for member in item["members"]]


@pytest.fixture(scope="module", params=["totals", "threads", "census"])
def seen(
    request: pytest.FixtureRequest, gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Answers:
    """Look at all lists of a fixture, beside what GDB and glibc itself say of them."""
    answers = Answers(tmp_path_factory.mktemp(request.param))
    gdb(
        "break stop_here",
        "run",
        walk(answers, "walk"),
        answers.python("figures", FIGURES),
        f"heap bins -all {answers.into('bins')}",
        f"heap tcache -all {answers.into('tcache')}",
        f"generate-core-file {answers.folder / 'core'}",
        program=programs[request.param],
    ).succeeded()
    gdb(
        f"core-file {answers.folder / 'core'}",
        f"heap bins -all {answers.into('core_bins')}",
        f"heap tcache -all {answers.into('core_tcache')}",
        program=programs[request.param],
    ).succeeded()
    return answers


def test_each_list_is_as_gdb_walks_it(seen: Answers) -> None:
    """The same lists, the same chunks in the same order, the same links, stored and unmasked."""
    truth = seen["walk"]
    bins = seen["bins"]
    assert [str(arena["address"]) for arena in bins["arenas"]] == list(truth["arenas"])
    members = 0
    for arena in bins["arenas"]:
        found = {name_of(item): rows_of(item) for item in arena["lists"]}
        assert found == truth["arenas"][str(arena["address"])]
        for item in arena["lists"]:
            assert item["count"] == len(item["members"]) > 0
            assert item["bytes"] == sum(member["size"] for member in item["members"])
            assert not item["problems"]
            assert item["complete"]
            assert item["left_out"] == 0
            for member in item["members"]:
                assert item["low"] <= member["size"]
                assert item["high"] is None or member["size"] <= item["high"]
            members += item["count"]
    assert members > 5


def test_each_tcache_is_as_gdb_walks_it(seen: Answers) -> None:
    """Every thread's, with the counts that glibc keeps; `heap tcache` says the same."""
    truth, bins = seen["walk"]["tcaches"], seen["bins"]
    if truth is None:
        pytest.skip("GDB cannot read thread-local variables of a process without libpthread")
    assert seen["tcache"]["tcaches"] == bins["tcaches"]
    assert bins["threads_left_out"] == 0
    assert [str(item["thread"]) for item in bins["tcaches"]] == sorted(truth, key=int)
    for item in bins["tcaches"]:
        expected = truth[str(item["thread"])]
        if item["address"] is None:
            assert not expected, "no tcache, or 2.43's pretended one, which is empty"
            assert item["known"]
            continue
        counts = {name.replace("count", "tcache"): each for name, each in expected.items() if "count" in name}
        lists = {name: rows for name, rows in expected.items() if "count" not in name}
        assert {name_of(each): rows_of(each) for each in item["lists"]} == lists
        for each in item["lists"]:
            assert each["limit"] == seen["walk"]["limit"]
            if counts[name_of(each)] is not None:
                assert each["count"] == counts[name_of(each)]
            assert each["places"] == each["limit"] - each["count"]
        assert item["empty"] == [{"kind": "tcache", "count": 64 - len(lists)}]


def test_the_counts_are_malloc_infos(seen: Answers) -> None:
    """As many chunks on each list as glibc reports, arena by arena."""
    figures = read_malloc_info(seen["figures"]["xml"], seen["figures"]["ring"])
    for arena, truth in zip(seen["bins"]["arenas"], figures):
        assert arena["address"] == truth.address
        lists = {kind: [item for item in arena["lists"] if item["kind"] == kind] for kind in ("fastbin", "unsorted")}
        binned = [item["count"] for item in arena["lists"] if item["kind"] != "unsorted"]
        assert Counter(binned) == Counter(line.count for line in truth.bins)
        assert sum(item["count"] for item in lists["unsorted"]) == sum(line.count for line in truth.unsorted)
        assert sum(item["bytes"] for item in lists["fastbin"]) == truth.fast_size
        empty = {each["kind"]: each["count"] for each in arena["empty"]}
        assert empty.get("fastbin", 0) == seen["walk"]["fastbins"] - len(lists["fastbin"])
        small = sum(1 for item in arena["lists"] if item["kind"] == "small")
        assert empty["small"] == 62 - small


def test_a_core_file_says_the_same(seen: Answers) -> None:
    """Of all threads: only GDB's numbers of them can differ."""
    live, core = seen["bins"], seen["core_bins"]
    assert core["arenas"] == live["arenas"]

    def by_address(tcaches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(({**item, "thread": 0, "why": None} for item in tcaches), key=lambda item: item["address"] or 0)

    assert by_address(core["tcaches"]) == by_address(live["tcaches"])
    assert by_address(seen["core_tcache"]["tcaches"]) == by_address(live["tcaches"])


def test_what_is_chosen(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Kinds, arenas and threads; what is left out is counted."""
    gdb(
        "break stop_here",
        "run",
        f"heap bins {answers.into('default')}",
        f"heap bins fast unsorted {answers.into('kinds')}",
        f"heap bins -arena 2 {answers.into('arena')}",
        f"heap bins -thread 3 {answers.into('thread')}",
        f"heap bins tcache -thread 1.3 {answers.into('dotted')}",
        f"heap bins -count 1 {answers.into('one')}",
        f"heap tcache {answers.into('own')}",
        "thread 3",
        f"heap tcache {answers.into('selected')}",
        program=programs["threads"],
    ).succeeded()
    default = answers["default"]
    assert [item["thread"] for item in default["tcaches"]] == [1]
    assert default["threads_left_out"] == 4
    assert len(default["arenas"]) == 5
    assert answers["own"]["tcaches"] == default["tcaches"]
    kinds = answers["kinds"]
    assert not kinds["tcaches"]
    shown = [item for arena in kinds["arenas"] for item in arena["lists"]]
    assert "unsorted" in {item["kind"] for item in shown} <= {"fastbin", "unsorted"}
    assert all([each["kind"] for each in arena["empty"]] == ["fastbin", "unsorted"] for arena in kinds["arenas"])
    assert [arena["name"] for arena in answers["arena"]["arenas"]] == ["arena 2"]
    assert not answers["arena"]["tcaches"]
    assert not answers["thread"]["arenas"]
    assert [item["thread"] for item in answers["thread"]["tcaches"]] == [3]
    assert answers["dotted"]["tcaches"] == answers["thread"]["tcaches"] == answers["selected"]["tcaches"]
    one = [item for arena in answers["one"]["arenas"] for item in arena["lists"]]
    assert one
    for item, whole in zip(one, (item for arena in default["arenas"] for item in arena["lists"])):
        assert item["members"] == whole["members"][:1]
        assert item["left_out"] == whole["count"] - 1


def test_the_text_has_the_same_chunks(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A row for each chunk with its links, or how many are left out; empty lists are one line."""
    result = gdb(
        "break stop_here",
        "run",
        f"heap bins {answers.into('bins')}",
        "echo ANSWER\\n",
        "heap bins -all",
        "echo ANSWER\\n",
        "heap bins -count 2",
        "echo ANSWER\\n",
        "heap bins unsorted",
        program=programs["totals"],
    ).succeeded()
    _, everything, two, unsorted = result.stdout.split("ANSWER\n")
    bins = answers["bins"]
    lists = [item for owner in (*bins["tcaches"], *bins["arenas"]) for item in owner["lists"]]
    rows = [line.split() for line in everything.splitlines() if line[:9].strip().isdigit()]
    members = [member for item in lists for member in item["members"]]
    assert len(rows) == len(members)
    for row, member in zip(rows, members):
        assert [int(row[0]), *(int(word, 16) for word in row[1:5])] == [
            member[name] for name in ("position", "address", "pointer", "size", "stored")
        ]
    left_out = [line for line in two.splitlines() if "left out" in line]
    assert len(left_out) == sum(1 for item in lists if item["count"] > 2)
    assert f"{lists[0]['count'] - 2} more chunks left out" in left_out[0]
    assert "left out" not in everything
    assert sum(line.strip().startswith("empty: ") for line in everything.splitlines()) == 2
    assert "61 of 64 tcache bins" in everything
    assert "tcache" not in unsorted


def test_before_malloc_a_thread_has_none(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A thread that has not called malloc: that is said, and is no error."""
    result = gdb(
        "break stop_here",
        "run",
        "heap tcache",
        f"heap tcache {answers.into('none')}",
        program=programs["frees"],
        args=["no-tcache"],
    ).succeeded()
    (item,) = answers["none"]["tcaches"]
    assert item["address"] is None
    assert item["why"] in result.stdout
    # Which variable is the tcache is told by a thread that has one.
    assert item["known"] or not wanted()
    assert ("has no tcache yet" if item["known"] else "cannot be found") in item["why"]


def test_a_tcache_that_cannot_be_found(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Without libthread_db GDB has no thread-local variables: GDB's own reason is passed on."""
    result = gdb(
        "break stop_here",
        "run",
        "heap tcache",
        f"heap tcache {answers.into('lost')}",
        before=("set auto-load libthread-db off", "set libthread-db-search-path /nonexistent"),
        program=programs["totals"],
    ).succeeded()
    (item,) = answers["lost"]["tcaches"]
    if item["known"]:
        pytest.skip("this GDB finds thread-local variables by itself")
    assert item["why"] in result.stdout
    assert "cannot be found" in item["why"]
    assert "thread-local" in item["why"] or "libthread_db" in item["why"]


@pytest.mark.parametrize(
    ("mode", "command", "words"),
    [
        ("tcache-loop", "heap tcache", "the list is a loop"),
        ("tcache-unaligned", "heap tcache", "no multiple of 0x10"),
        ("unsorted-links", "heap bins unsorted", "bk of the chunk at"),
        ("unlink-links", "heap bins unsorted", "bk of the chunk at"),
    ],
)
def test_a_broken_list(gdb: Gdb, answers: Answers, programs: Programs, mode: str, command: str, words: str) -> None:
    """It is shown as far as it goes, and what is wrong with it is said; the lists beside it are whole."""
    result = gdb(
        "break stop_here",
        "run",
        command,
        f"{command} {answers.into('list')}",
        program=programs["frees"],
        args=[mode],
    ).succeeded()
    answer = answers["list"]
    lists = [item for owner in answer.get("arenas", answer["tcaches"]) for item in owner["lists"]]
    broken = [item for item in lists if item["problems"]]
    assert len(broken) == 1
    assert any(words in problem for problem in broken[0]["problems"])
    assert 0 < broken[0]["count"] < 10
    for problem in broken[0]["problems"]:
        assert problem in result.stdout
    assert ("could not be followed any further" in result.stdout) == (not broken[0]["complete"])


def test_no_file_is_left(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """A refused command writes nothing."""
    result = gdb("break stop_here", "run", f"heap bins nonsense -json {tmp_path / 'bins'}", program=programs["totals"])
    assert "tcache, fast, unsorted, small, large" in result.stderr
    assert not list(tmp_path.iterdir())
