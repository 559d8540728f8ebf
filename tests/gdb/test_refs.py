"""Promise: `heap refs` finds each pointer into a chunk that there is in memory and registers, and says whose it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version
from tests.support.programs import Programs
from tests.support.symbols import remember, wanted

HEADER = 16
#: Inside GDB: address and value of each aligned word of writable memory that is in a range, by a plain loop.
SCAN = """
import array
import gdb
def scan(low, high):
    found = []
    for line in open('/proc/%d/maps' % gdb.selected_inferior().pid):
        span, permissions = line.split()[:2]
        if permissions[:2] != 'rw':
            continue
        start, end = (int(word, 16) for word in span.split('-'))
        for page in range(start, end, 4096):
            try:
                words = array.array('Q', bytes(gdb.selected_inferior().read_memory(page, 4096)))
            except gdb.MemoryError:
                continue  # a stack's guard, from glibc 2.42 on
            found += [[page + place * 8, word] for place, word in enumerate(words) if low <= word < high]
    return found
"""
TRUTH = {
    "config": "number('(long)config')",
    "name": "number('(long)&config->values[3]')",
    "global": "number('(long)&config')",
    "static": "number('(long)place_in_static')",
    "on_stack": "number('(long)place_on_stack')",
    "in_thread": "number('(long)place_in_thread')",
    "holders": "[number('(long)holders[%d]' % i) for i in range(7)]",
    "large": "number('(long)large')",
    "last": "number('(long)last_message')",
    "words": "__import__('__main__').scan(number('(long)config') - 16, number('(long)config') + 96)",
}


class Looked:
    """What gdbheap answered about leaky.c, and what GDB wrote."""

    def __init__(self, answers: Answers, shown: str, limited: str) -> None:
        self.answers = answers
        self.truth: dict[str, Any] = answers["truth"]
        self.shown = shown
        self.limited = limited

    def references(self, name: str, *kinds: str) -> list[dict[str, Any]]:
        """Return the references of an answer, of some kinds or of all."""
        return [item for item in self.answers[name]["references"] if not kinds or item["kind"] in kinds]


@pytest.fixture(scope="module")
def looked(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    """Stop leaky.c with the pointer in a register, and look at its heap live and as a core file."""
    answers = Answers(tmp_path_factory.mktemp("refs"))
    core = answers.folder / "core"
    done = gdb(
        "break stop_in_register",
        "run",
        f"python exec({SCAN!r}, globals())",
        answers.python("truth", TRUTH),
        "thread 2",
        "up",
        "echo ANSWER\\n",
        f"heap refs config {answers.into('config')}",
        "frame",
        "thread",
        "echo ANSWER\\n",
        "heap refs config -limit 3",
        "echo ANSWER\\n",
        f"heap refs &config->values[3] {answers.into('inside')}",
        f"heap refs last_message {answers.into('last')}",
        f"heap refs large {answers.into('large')}",
        f"heap refs (char*)blocks[1] + 100 {answers.into('block')}",
        f"generate-core-file {core}",
        program=programs["leaky"],
    ).succeeded()
    _, shown, limited, _ = done.stdout.split("ANSWER\n")
    gdb(f"core-file {core}", f"heap refs config {answers.into('core')}", program=programs["leaky"]).succeeded()
    return Looked(answers, shown, limited)


def test_every_pointer_in_memory_is_found(looked: Looked) -> None:
    """The oracle is a loop over each word of each writable mapping."""
    truth = looked.truth
    found = [[item["address"], item["value"]] for item in looked.references("config") if item["address"] is not None]
    assert sorted(found) == sorted(truth["words"])
    assert len(found) > 15
    answer = looked.answers["config"]
    assert answer["count"] == len(looked.references("config"))
    assert answer["left_out"] == 0
    assert answer["complete"]
    assert answer["chunk"]["pointer"] == truth["config"]
    assert answer["aims"] == {
        "start": sum(item["value"] == truth["config"] for item in looked.references("config")),
        "inside": 3,
        "header": 0,
    }


def test_registers_of_all_threads(looked: Looked) -> None:
    registers = {(item["thread"], item["where"]) for item in looked.references("config", "register")}
    assert (1, "r12") in registers
    assert all(item["address"] is None for item in looked.references("config", "register"))


def test_variables_are_named(looked: Looked) -> None:
    truth = looked.truth
    variables = {item["address"]: item for item in looked.references("config", "global")}
    assert variables.keys() == {truth["global"], truth["static"]}
    assert variables[truth["global"]]["where"] == "config"
    assert variables[truth["static"]]["where"].startswith("remembered")
    assert {Path(item["file"]).name for item in variables.values()} == {"leaky"}
    local = {item["address"]: item for item in looked.references("config", "tls")}
    assert local.pop(truth["in_thread"])["thread"] == 2
    # pthread_create keeps the argument of the thread's function, where debug symbols describe.
    assert [item["where"] for item in local.values()] == (["the thread's descriptor: arg"] if wanted() else [])


def test_the_stack_of_another_thread(looked: Looked) -> None:
    stack = {item["address"]: item for item in looked.references("config", "stack")}
    held = stack[looked.truth["on_stack"]]
    assert held["thread"] == 2
    assert (held["frame"]["function"], held["frame"]["variable"]) == ("hold", "on_stack")
    assert held["live"]
    (own,) = [item for item in stack.values() if item["thread"] == 1 and "stop_with" in item["where"]]
    assert own["live"]


def test_chunks_that_hold_it(looked: Looked) -> None:
    truth = looked.truth
    held = [
        (item["chunk"]["pointer"], item["address"] - item["chunk"]["pointer"], item["aim"])
        for item in looked.references("config", "chunk")
    ]
    wanted = [(truth["config"], 48, "start"), (truth["large"], 20000 * 8, "start")]
    for number, holder in enumerate(truth["holders"]):
        wanted.append((holder, 8, "start"))
        if number % 2:
            wanted.append((holder, 16, "inside"))
    assert sorted(held) == sorted(wanted)
    offsets = {item["offset"] for item in looked.references("config", "chunk") if item["aim"] == "inside"}
    assert offsets == {truth["name"] - truth["config"]}
    mapped = [item["chunk"] for item in looked.references("config", "chunk") if item["chunk"]["arena"] is None]
    assert [chunk["pointer"] for chunk in mapped] == [truth["large"]]


def test_an_address_inside_means_the_chunk(looked: Looked) -> None:
    assert looked.answers["inside"]["chunk"] == looked.answers["config"]["chunk"]
    assert looked.references("inside") == looked.references("config")
    block = looked.answers["block"]
    assert block["chunk"]["request_max"] >= 9000
    assert [item["where"] for item in block["references"] if item["kind"] == "global"] == ["blocks[1]"]


def test_an_mmapped_chunk_and_a_list(looked: Looked) -> None:
    large = looked.answers["large"]
    assert large["chunk"]["arena"] is None
    assert [item["where"] for item in looked.references("large", "global")] == ["large"]
    assert {item["where"] for item in looked.references("last", "global")} == {"last_message", "messages[2999]"}


def test_the_selected_thread_and_frame_stay(looked: Looked) -> None:
    assert "thread 2" in looked.shown or "Current thread is 2" in looked.shown
    frames = [line for line in looked.shown.splitlines() if line.startswith("#")]
    assert frames
    assert frames[0].startswith("#1 ")


def test_rows_left_out_are_counted(looked: Looked) -> None:
    count = looked.answers["config"]["count"]
    assert f"{count} pointers into it: " in looked.limited
    assert f"\n{count - 3} of them left out" in looked.limited
    table = looked.limited.split("---\n")[1].split("\n" + str(count - 3))[0]
    assert len(table.splitlines()) == 3


def test_a_core_file_answers_the_same(looked: Looked) -> None:
    def key(item: dict[str, Any]) -> tuple[Any, ...]:
        # Threads are numbered anew in a core.
        return item["kind"], item["address"] or 0, item["where"] if item["kind"] != "stack" else "", item["value"]

    assert looked.answers["core"]["complete"]
    assert looked.answers["core"]["chunk"] == looked.answers["config"]["chunk"]
    live, dead = (sorted(map(key, looked.references(name))) for name in ("config", "core"))
    assert live == dead


def test_malloc_itself_points_to_free_chunks(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Each free chunk is named by the list that it is on: its head, or the chunk before it, mangled or not."""
    stop = ("break stop_here", "run")
    gdb(*stop, f"heap find -start 0 {answers.into('all')}", program=programs["totals"]).succeeded()
    free = [chunk for chunk in answers["all"]["chunks"] if chunk["state"] != "used"]
    states = {chunk["state"] for chunk in free}
    fastbins = {"fastbin"} if glibc_version() < (2, 43) else set()
    assert states >= {"tcache", "unsorted", "small", "large"} | fastbins
    asked = [f"heap refs {chunk['address']} {answers.into(str(place))}" for place, chunk in enumerate(free)]
    gdb(*stop, *asked, program=programs["totals"]).succeeded()
    heads = 0
    for place, chunk in enumerate(free):
        found = [item for item in answers[str(place)]["references"] if item["kind"] == "malloc"]
        links = [item for item in found if item["where"] != "main_arena: last_remainder"]
        lists = 1 if chunk["state"] in ("tcache", "fastbin") else 2
        # A large chunk that is first of its size is in a ring of sizes as well.
        assert len(links) == lists or (chunk["state"] == "large" and len(links) in (2, 4)), chunk
        for item in links:
            if item["chunk"] is None or "tcache of thread" in item["where"]:
                heads += 1
                assert "main_arena: " in item["where"] or "tcache of thread 1: entries[" in item["where"]
                assert not item["mangled"]
            else:
                assert item["chunk"]["state"] in (chunk["state"], "unsorted", "small", "large")
                mangled = glibc_version() >= (2, 32)
                assert item["mangled"] == (mangled and chunk["state"] in ("tcache", "fastbin"))
            aims = "start" if chunk["state"] == "tcache" else "header"
            assert item["aim"] == aims
    assert heads >= len(states)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "needs an address"),
        ("0", "Nothing is mapped there"),
        ("$arena", "main_arena"),
        ("$sp", "on the stack of thread 1"),
        ("no_such_thing", "no_such_thing"),
        ("config->name[100000000]", "Cannot access memory"),
        ("1.5e300", "that is no address"),
    ],
)
def test_what_is_no_chunk_is_said(gdb: Gdb, programs: Programs, expression: str, said: str) -> None:
    arena = remember(arena="(unsigned long) &main_arena")
    result = gdb("break stop_here", "run", arena, f"heap refs {expression}", program=programs["leaky"])
    result.has_no_internal_error()
    assert said in result.stderr, result.describe()


def test_a_heap_that_cannot_be_walked(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Pointers are found all the same; what holds them is not known behind the place where the walk stopped."""
    result = gdb(
        "break stop_here",
        "run",
        f"heap refs pointers[3] {answers.into('sound')}",
        "heap refs pointers[19]",
        program=programs["sizes0"],
        args=["0"],
    )
    result.has_no_internal_error()
    answer = answers["sound"]
    assert not answer["complete"]
    assert [item["where"] for item in answer["references"] if item["kind"] == "global"] == ["pointers[3]"]
    assert "is in a part of the heap that cannot be walked" in result.stderr
