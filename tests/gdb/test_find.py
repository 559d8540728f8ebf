"""Promise: `heap find` finds what the program knows to be there, all of it and nothing else, or says what it missed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import has_fastbins, mmapped_header
from tests.support.programs import Programs

HEADER = 16
MARK = "ed 5e ed 5e 00 00 00 00"
NEEDLE = "needle-in-block"
#: What was found, apart from the processes it was found in.
FOUND = ("found", "groups", "chunks", "complete", "missing", "problems", "unresolved")

#: Inside GDB: every place of some bytes in main_arena's memory, by GDB's own find command.
BY_GDB = """[int(line.split()[0], 16) for line in gdb.execute(
    'find /b %d, +%d, ' % (number('(long)mp_.sbrk_base'), number('main_arena.system_mem'))
    + ', '.join('(char)%d' % byte for byte in {bytes}), to_string=True).splitlines() if line.startswith('0x')]"""

#: By the name of its answer, what is asked of leaky.c's heap.
ASKED = {
    "summary": "",
    "types": "-by type",
    "everything": "-start 0",
    "marked": f'-bytes "{MARK}"',
    "left": f'-bytes "{MARK}" -state used',
    "freed": f'-bytes "{MARK}" -state fastbin',
    "sized": "-request 24 -state used",
    "counted": "-request 24 -state used -count",
    "needles": f"-text {NEEDLE}",
    "blocks": '-text "block number"',
    "both": f'-text {NEEDLE} -text "block number"',
    "pointing": "-points-to config",
    "into": "-points-to config -into",
    "array": "-points-to messages",
    "inside_array": "-points-to &messages[3] -into",
    "large": "-min-size 0x40000",
    "range": "-start blocks[3] -end blocks[5]",
    "main": "-arena 0 -points-to config",
    "by_size": f'-bytes "{MARK}" -by size',
}


def run(gdb: Gdb, answers: Answers, program: Path, asked: dict[str, str], truth: dict[str, str], *start: str) -> str:
    """Ask a program at stop_here(); return what GDB wrote."""
    commands = [f"heap find {options} {answers.into(name)}" for name, options in asked.items()]
    first = start or ("break stop_here", "run")
    return gdb(*first, answers.python("truth", truth), *commands, program=program).succeeded().stdout


@pytest.fixture(scope="module")
def leaky(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Ask everything of leaky.c's heap, and of what the program and GDB know of it."""
    answers = Answers(tmp_path_factory.mktemp("leaky"))
    pointers = "[number('(long)%s[%d]' % ({name!r}, i)) for i in range({count})]"
    run(
        gdb,
        answers,
        programs["leaky"],
        ASKED,
        {
            "messages": pointers.format(name="messages", count=3000),
            "blocks": pointers.format(name="blocks", count=40),
            "holders": pointers.format(name="holders", count=7),
            "config": "number('(long)config')",
            "large": "number('(long)large')",
            "left": "number('left_messages')",
            "usable": "number('usable_bytes')",
            "needles": "number('needles')",
            "marks": BY_GDB.format(bytes=list(bytes.fromhex(MARK))),
            "needle_places": BY_GDB.format(bytes=list(NEEDLE.encode())),
            "config_places": BY_GDB.format(bytes="number('(long)config').to_bytes(8, 'little')"),
        },
    )
    return answers


@pytest.fixture(scope="module")
def truth(leaky: Answers) -> dict[str, Any]:
    """Return what the program and GDB say."""
    return leaky["truth"]


def pointers(answer: dict[str, Any]) -> list[int]:
    """Return the user pointers of the chunks of an answer."""
    return [chunk["pointer"] for chunk in answer["chunks"]]


def test_what_leaked_is_what_the_program_counts(leaky: Answers, truth: dict[str, Any]) -> None:
    left = [pointer for pointer in truth["messages"] if pointer]
    answer = leaky["left"]
    assert len(left) == truth["left"] == answer["found"]["chunks"] == 2700
    assert sorted(pointers(answer)) == sorted(left)
    assert sum(chunk["request_max"] for chunk in answer["chunks"]) == truth["usable"]
    assert answer["found"]["bytes"] == truth["usable"] + 8 * len(left)
    assert answer["complete"]
    # Seven of the three hundred that were freed are in a tcache, which writes its key over the mark. Without fastbins
    # the others are in a list with links both ways, which are over the mark too.
    assert leaky["freed"]["found"]["chunks"] == (293 if has_fastbins() else 0)


def test_every_hit_is_gdbs_and_every_hit_of_gdbs_is_there(leaky: Answers, truth: dict[str, Any]) -> None:
    for name, places in (("marked", "marks"), ("needles", "needle_places")):
        hits = [chunk["hit"] for chunk in leaky[name]["chunks"]]
        assert hits == sorted(truth[places]), name
        for chunk in leaky[name]["chunks"]:
            assert chunk["pointer"] <= chunk["hit"] < chunk["pointer"] + chunk["request_max"]


def test_text_over_a_page_boundary(leaky: Answers, truth: dict[str, Any]) -> None:
    answer = leaky["needles"]
    assert pointers(answer) == [truth["blocks"][number] for number in range(0, 40, 4)]
    assert len(answer["chunks"]) == truth["needles"]
    assert all(chunk["hit"] % 4096 == 4091 for chunk in answer["chunks"])
    assert pointers(leaky["blocks"]) == truth["blocks"]


def test_the_last_of_an_option_counts(leaky: Answers, truth: dict[str, Any]) -> None:
    assert pointers(leaky["both"]) == truth["blocks"]


def test_pointers_to_an_object(leaky: Answers, truth: dict[str, Any]) -> None:
    holding = sorted([truth["config"], *truth["holders"], truth["large"]])
    assert sorted(pointers(leaky["pointing"])) == holding
    in_main = {place for place in truth["config_places"] if place % 8 == 0}
    assert {chunk["hit"] for chunk in leaky["main"]["chunks"]} == in_main
    assert {chunk["arena"] for chunk in leaky["main"]["chunks"]} == {"main_arena"}
    (mapped,) = [chunk for chunk in leaky["pointing"]["chunks"] if chunk["arena"] is None]
    assert mapped["pointer"] == truth["large"]
    assert mapped["hit"] == truth["large"] + 20000 * 8
    assert sorted(pointers(leaky["into"])) == holding
    assert leaky["array"]["found"]["chunks"] == 0
    assert leaky["inside_array"]["found"]["chunks"] == 0


def test_sizes_and_counts(leaky: Answers, truth: dict[str, Any]) -> None:
    assert leaky["counted"]["found"] == leaky["sized"]["found"]
    assert leaky["counted"]["chunks"] == []
    assert {*pointers(leaky["sized"])} == {*filter(None, truth["messages"]), *truth["holders"]}
    assert {chunk["size"] for chunk in leaky["sized"]["chunks"]} == {32}
    assert pointers(leaky["large"]) == [truth["large"]]
    assert (leaky["large"]["found"]["bytes"] + mmapped_header()) % 4096 == 0
    # blocks[5] is a user pointer: its chunk begins 16 bytes before that.
    assert pointers(leaky["range"]) == truth["blocks"][3:6]


def test_groups_add_up(leaky: Answers) -> None:
    everything = leaky["everything"]["chunks"]
    for name in ("summary", "types"):
        answer = leaky[name]
        assert answer["found"] == leaky["everything"]["found"], name
        assert sum(group["chunks"] for group in answer["groups"]) == len(everything)
        assert sum(group["bytes"] for group in answer["groups"]) == sum(chunk["size"] for chunk in everything)
        assert answer["groups_left_out"] == 0
    counted = Counter((chunk["size"], chunk["arena"] is None, chunk["state"]) for chunk in everything)
    grouped = {
        (group["size"], group["mmapped"], state): both["chunks"]
        for group in leaky["summary"]["groups"]
        for state, both in group["states"].items()
        if both["chunks"]
    }
    assert grouped == counted
    sizes = [group["bytes"] for group in leaky["summary"]["groups"]]
    assert sizes == sorted(sizes, reverse=True)
    (group,) = leaky["by_size"]["groups"]
    assert (group["size"], group["chunks"]) == (32, leaky["marked"]["found"]["chunks"])


#: The same by two ways: chunk by chunk, and from the sums of each arena.
COUNTED = {
    "found": "-start 0",
    "first": "-arena 1 -start 0",
    "count": "-count",
    "first_count": "-arena 1 -count",
    "tops": "-state top -start 0",
    "top_count": "-state top -count",
    "used": "-state used -start 0",
    "used_count": "-state used -count",
}


def test_it_is_the_list_of_heap_chunks(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """In several arenas, and with mmapped chunks: the same chunks as the other command lists, without top."""
    run(gdb, answers, programs["census"], COUNTED, {})
    gdb("break stop_here", "run", f"heap chunks {answers.into('chunks')}", program=programs["census"]).succeeded()
    listed = answers["chunks"]
    chunks = [(chunk, arena["name"]) for arena in listed["arenas"] for chunk in arena["chunks"]]
    chunks += [(chunk, None) for chunk in listed["mmapped"]["chunks"]]
    wanted = sorted(
        [{**chunk, "arena": arena} for chunk, arena in chunks if chunk["state"] not in ("top", "fencepost")],
        key=lambda chunk: chunk["address"],
    )
    found = [
        {key: value for key, value in chunk.items() if key not in ("hit", "class")}
        for chunk in answers["found"]["chunks"]
    ]
    assert len(found) > 3000
    assert found == wanted
    one = [chunk for chunk in wanted if chunk["arena"] == "arena 1"]
    assert one
    assert [chunk["address"] for chunk in answers["first"]["chunks"]] == [chunk["address"] for chunk in one]
    for name, counted in (("found", "count"), ("first", "first_count"), ("tops", "top_count"), ("used", "used_count")):
        assert answers[name]["found"] == answers[counted]["found"], counted
        assert answers[name]["found"]["chunks"] == len(answers[name]["chunks"]) > 0
    assert answers["tops"]["found"]["chunks"] == len(listed["arenas"])


CLASSES = {
    "types": "-by type",
    "ducks": "-type zoo::duck",
    "all": "-type 'zoo::*'",
    "cages": '-type "zoo::cage<*>"',
    "hidden": "-type *hidden -count",
    "none": "-type zoo::whale",
}
KNOWN = """[[text('known[%d].name' % i), number('known[%d].count' % i), number('known[%d].usable' % i)]
    for i in range(number('known_count'))]"""


@pytest.mark.parametrize("demangle", ["on", "off"])
def test_classes_are_those_that_the_program_made(gdb: Gdb, answers: Answers, programs: Programs, demangle: str) -> None:
    start = (f"set print demangle {demangle}", "break stop_here", "run")
    run(gdb, answers, programs["classes"], CLASSES, {"known": KNOWN}, *start)
    known = {name: (count, usable + 8 * count) for name, count, usable in answers["truth"]["known"]}
    assert len(known) == 7
    groups = {group["class"]: group for group in answers["types"]["groups"] if group["class"] is not None}
    assert {name: (group["chunks"], group["bytes"]) for name, group in groups.items()} == known
    # What was deleted is no object any more.
    assert all(group["states"]["used"]["chunks"] == group["chunks"] for group in groups.values())
    assert answers["ducks"]["found"]["chunks"] == known["zoo::duck"][0]
    assert {chunk["class"] for chunk in answers["ducks"]["chunks"]} == {"zoo::duck"}
    zoo = {name: both for name, both in known.items() if name.startswith("zoo::")}
    assert Counter(chunk["class"] for chunk in answers["all"]["chunks"]) == {n: both[0] for n, both in zoo.items()}
    assert answers["cages"]["found"]["chunks"] == known["zoo::cage<int>"][0]
    assert answers["hidden"]["found"]["chunks"] == known["(anonymous namespace)::hidden"][0]
    assert answers["none"]["found"]["chunks"] == 0


def test_a_core_file_answers_the_same(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    for program, asked in (("leaky", ASKED), ("classes", CLASSES)):
        core = tmp_path / f"{program}.core"
        live = Answers(tmp_path / f"{program}.live")
        dead = Answers(tmp_path / f"{program}.dead")
        for folder in (live.folder, dead.folder):
            folder.mkdir()
        start = ("break stop_here", "run", f"generate-core-file {core}")
        run(gdb, live, programs[program], asked, {}, *start)
        run(gdb, dead, programs[program], asked, {}, f"core-file {core}")
        for name in asked:
            assert {key: live[name][key] for key in FOUND} == {key: dead[name][key] for key in FOUND}, name


@pytest.mark.parametrize("size", ["0", "0xfff1"])
def test_a_heap_that_cannot_be_walked_is_not_whole(gdb: Gdb, answers: Answers, programs: Programs, size: str) -> None:
    result = gdb(
        "break stop_here",
        "run",
        answers.python("truth", {"broken": "number('(long)pointers[10]') - 16"}),
        f"heap find {answers.into('summary')}",
        "heap find -count",
        "heap find -text nowhere",
        f"heap find -start 0 {answers.into('rows')}",
        program=programs["sizes0"],
        args=[size],
    )
    result.has_no_internal_error()
    broken = answers["truth"]["broken"]
    for name in ("summary", "rows"):
        answer = answers[name]
        assert not answer["complete"]
        (part,) = answer["missing"]
        assert (part["arena"], part["start"]) == ("main_arena", broken)
    assert all(chunk["address"] < broken for chunk in answers["rows"]["chunks"])
    assert re.search(r"^at least \d+ chunks, ", result.stdout, re.MULTILINE)
    assert "no chunk was found in what could be looked at" in result.stdout
    assert f"not looked at: main_arena from {broken:#x} to " in result.stdout


ROW = re.compile(r"(0x[0-9a-f]+) +(0x[0-9a-f]+) +(0x[0-9a-f]+) +(\d+) (\w+)", re.MULTILINE)


def test_rows_their_order_and_those_left_out(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    result = gdb(
        "break stop_here",
        "run",
        f"heap find -start 0 {answers.into('all')}",
        "echo ANSWER\\n",
        "heap find -state used",
        "echo ANSWER\\n",
        "heap find -sort size -limit 5",
        "echo ANSWER\\n",
        "heap find -sort state -all",
        "echo ANSWER\\n",
        f"heap find -text {NEEDLE} -limit 1",
        program=programs["leaky"],
    ).succeeded()
    chunks = answers["all"]["chunks"]
    used = [chunk for chunk in chunks if chunk["state"] == "used"]
    _, first, largest, by_state, needle = result.stdout.split("ANSWER\n")
    rows = [int(row[0], 16) for row in ROW.findall(first)]
    assert rows == [chunk["address"] for chunk in used[:200]]
    left = len(used) - 200
    assert f"\n{left:,} of them, {sum(chunk['size'] for chunk in used[200:]):#x} bytes, left out" in first
    assert f"\n{len(used):,} chunks, " in first
    order = sorted(chunks, key=lambda chunk: (-chunk["size"], chunk["address"]))
    assert [int(row[0], 16) for row in ROW.findall(largest)] == [chunk["address"] for chunk in order[:5]]
    states = [row[4] for row in ROW.findall(by_state)]
    assert len(states) == len(chunks)
    assert states.index("tcache") == states.count("used")
    assert "left out" not in by_state
    assert re.search(rf"\+0x[0-9a-f]+ +{NEEDLE}", needle), "the preview begins at the hit"


def test_the_tables(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Plain `heap find` shows the groups with most bytes, and sums up the others in the last line."""
    result = gdb(
        "break stop_here",
        "run",
        f"heap find {answers.into('summary')}",
        "echo ANSWER\\n",
        "heap find -limit 2",
        "echo ANSWER\\n",
        "heap find -sort count -limit 1",
        program=programs["leaky"],
    ).succeeded()
    groups = answers["summary"]["groups"]
    _, two, most = result.stdout.split("ANSWER\n")
    lines = two.splitlines()
    assert lines[2].split()[0] == f"{groups[0]['size']:#x}"
    assert lines[3].split()[0] == f"{groups[1]['size']:#x}"
    rest = groups[2:]
    assert re.match(rf" *{len(rest)} other sizes +{sum(group['chunks'] for group in rest):,} ", lines[4])
    assert most.splitlines()[2].split()[2] == f"{max(group['chunks'] for group in groups):,}"
    shares = [float(match) for match in re.findall(r"(\d+\.\d)%", two)]
    assert abs(sum(shares) - 100) < 0.2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-bytes xyz", "hexadecimal digits"),
        ("-bytes ''", "one byte at least"),
        ("-text ''", "one character at least"),
        ("-into", "-into belongs to -points-to"),
        ("-points-to nothing_of_that_name", "nothing_of_that_name"),
        ("-points-to 0x1234 -into", "does not tell how large"),
        ("-size 32 -min-size 16", "exact size"),
        ("-size 32 -request 100", "-request 100 gets 0x70 bytes"),
        ("-min-size 2 -max-size 1", "-max-size is less"),
        ("-start 0x2000 -end 0x1000", "-end is not behind"),
        ("-count -by size", "-count says one sum"),
        ("-sort count -state used", "groups"),
        ("-sort address -by size", "single chunks"),
        ("-request -1", "not negative"),
        ("-request 0xffffffffffffffff", "PTRDIFF_MAX"),
        ("-state lost", "-state is one of"),
        ("-by colour", "-by is one of"),
        ("-limit few", "-limit"),
        ("here", "takes no argument"),
    ],
)
def test_what_cannot_be_meant_is_said(gdb: Gdb, programs: Programs, options: str, said: str) -> None:
    result = gdb("break stop_here", "run", f"heap find {options}", program=programs["leaky"])
    result.has_no_internal_error()
    assert said in result.stderr, result.describe()
    assert "chunks, " not in result.stdout
