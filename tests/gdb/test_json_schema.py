"""Promise: what each command prints with -json is what docs/schema.json says, key by key."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gdbheap.growth.event import KINDS as EVENT_KINDS
from gdbheap.growth.gap import GapKind
from gdbheap.growth.groups import BY
from gdbheap.growth.phases import PHASES
from gdbheap.ptmalloc.chunk import STATES
from gdbheap.ptmalloc.finding import CALLS, KINDS
from gdbheap.ptmalloc.place import PLACES
from gdbheap.ptmalloc.refs import KINDS as REFERENCES
from gdbheap.simulate.free_chunk import ENDS
from gdbheap.simulate.paths import PATHS
from tests.support.debugger import Answers, Gdb
from tests.support.environment import ROOT, glibc_version
from tests.support.programs import Programs
from tests.support.symbols import remember, wanted

pytest.importorskip("jsonschema", minversion="4.0")
import jsonschema

SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SEEN = (
    *("heap", "heap arenas", "heap top", "heap params", "heap chunks", "heap map", "heap map -words"),
    *("heap bins", "heap tcache", "heap find", "heap check"),
)
#: What asks for one chunk of the fixture threads: one that is used, one that is in a list, a heap's reserve, a stack.
CHUNKS = (
    "(long) large_chunks[3] + 8",
    "small_chunks[2][3]",
    "$next | 0x3ffffff",
    "$sp",
    "$top",
    "*(void **) &small_chunks",
    "totals_before",
    "0",
)
#: What asks for predictions, of each end; those of operations on memory, of settings, and of what can be asked for.
PREDICTED = (
    "heap predict malloc 1000; free $1; realloc 0 500000; free $3; malloc 24; free $5; free $5; malloc 1",
    "heap predict trim; mallopt M_TOP_PAD 0; calloc 1 2; memalign 64 100; malloc -1",
    "heap predict free 24",
    "heap predict growth",
)
RECORDED = ("heap events", "heap events -by caller", "heap timeline", "heap why-grow -all", "heap why-grow")

GROUPED = ("heap events", "heap events -by arena", "heap timeline", "heap why-grow")

Change = Callable[[dict[str, Any]], object]


def errors(answer: dict[str, Any]) -> list[str]:
    """Return what the schema has against an answer."""
    return [f"{error.json_path}: {error.message[:400]}" for error in VALIDATOR.iter_errors(answer)]


def run(gdb: Gdb, answers: Answers, programs: Programs, name: str, *before: str, commands: tuple[str, ...]) -> None:
    """Run a fixture up to its first stop_here, then ``commands``, each into the answer of its name."""
    asked = [f"{command} {answers.into(command.replace(' ', '_'))}" for command in commands]
    gdb(*before, "break stop_here", "run", *asked, program=programs[name]).succeeded()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", ["totals", "threads", "foreign", "growth", "preview"])
def test_recorded_and_seen(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    run(gdb, answers, programs, name, "heap catch", commands=(*SEEN, *RECORDED))
    for command in (*SEEN, *RECORDED):
        answer = answers[command.replace(" ", "_")]
        assert answer["command"] == command.split(" -")[0]
        assert not errors(answer), command


def test_nothing_recorded(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    run(gdb, answers, programs, "totals", commands=("heap why-grow",))
    answer = answers["heap_why-grow"]
    # Without a tcache at the heap's start (2.43) nothing tells which request was the first.
    assert answer["state"]["first_growth"] == (0x21000 if glibc_version() < (2, 43) else None)
    assert not errors(answer)


def test_calls_that_have_not_returned_and_calls_that_fail(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    gdb(
        "heap catch",
        "catch syscall brk",
        "run",
        f"heap events {answers.into('entered')}",
        "delete 2",
        "continue",
        f"heap events {answers.into('failed')}",
        program=programs["own"],
    ).succeeded()
    assert answers["entered"]["events"][-1]["result"] is None
    assert any(event["result"] < 0 for event in answers["failed"]["events"])
    assert not errors(answers["entered"])
    assert not errors(answers["failed"])


def test_without_debug_symbols(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    gdb(
        "heap catch",
        "run",
        f"heap events {answers.into('events')}",
        before=("set debug-file-directory /nonexistent",),
        program=programs["growth"],
    ).succeeded()
    malloc = [event for event in answers["events"]["events"] if event["kind"] == "malloc"]
    assert malloc
    assert all(event["exact"] is not False for event in malloc)
    assert not errors(answers["events"])


def test_what_is_printed_is_what_is_written(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    done = gdb(
        "break stop_here", "run", f"heap top {answers.into('top')}", "heap top -json", program=programs["totals"]
    )
    text = done.succeeded().stdout
    assert json.loads(text[text.index("{\n") :]) == answers["top"]


def test_one_chunk(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    asked = [f"heap chunk -json {answers.path(str(place))} -- {text}" for place, text in enumerate(CHUNKS)]
    arena = remember(top="(unsigned long) main_arena.top", next="(unsigned long) main_arena.next")
    gdb("break stop_here", "run", arena, *asked, program=programs["threads"]).succeeded()
    for place, text in enumerate(CHUNKS):
        assert not errors(answers[str(place)]), text
    assert len({answers[str(place)]["where"] for place in range(len(CHUNKS))}) == 5


@pytest.fixture(scope="module")
def sound(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return an answer of each command, by name, with two elements of each list."""
    answers = Answers(tmp_path_factory.mktemp("sound"))
    commands = (*SEEN, *GROUPED)
    run(gdb, answers, programs, "threads", "heap catch -malloc", commands=commands)
    asked = [f"heap chunk -json {answers.path(name)} -- {text}" for name, text in (("used", CHUNKS[0]), ("sp", "$sp"))]
    gdb("break stop_here", "run", "thread 2", *asked, program=programs["threads"]).succeeded()
    found = {command: shortened(answers[command.replace(" ", "_")]) for command in commands}
    return {**found, "heap chunk": shortened(answers["used"]), "heap chunk $sp": shortened(answers["sp"])}


def shortened(value: Any) -> Any:
    """Return a JSON value with only the first and the last element of each list of objects."""
    if isinstance(value, dict):
        return {key: shortened(inner) for key, inner in value.items()}
    if isinstance(value, list) and len(value) > 2 and isinstance(value[0], dict):
        value = [value[0], value[-1]]
    return [shortened(inner) for inner in value] if isinstance(value, list) else value


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects inside a value, itself included."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


@pytest.mark.parametrize("command", [*SEEN, "heap chunk", "heap chunk $sp", *GROUPED])
def test_every_key_is_held(sound: dict[str, dict[str, Any]], command: str) -> None:
    """The schema must reject an answer that lacks any key, has one more, or has one of another type."""
    every_key_is_held(sound[command], command)


#: What is looked for in leaky.c's heap, with rows, groups, and references of every kind.
SEARCHES = (
    "heap find -points-to config",
    "heap find -by type",
    "heap find -count",
    "heap refs config",
    "heap refs messages[1]",
)


@pytest.fixture(scope="module")
def searched(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the answers to SEARCHES, with two elements of each list."""
    answers = Answers(tmp_path_factory.mktemp("searched"))
    run(gdb, answers, programs, "leaky", commands=SEARCHES)
    return {command: shortened(answers[command.replace(" ", "_")]) for command in SEARCHES}


@pytest.mark.parametrize("command", SEARCHES)
def test_every_key_of_a_search_is_held(searched: dict[str, dict[str, Any]], command: str) -> None:
    every_key_is_held(searched[command], command)


def test_searches_that_are_not_whole(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    commands = ("heap find -text a", "heap refs pointers[3]")
    asked = [f"{command} {answers.into(str(place))}" for place, command in enumerate(commands)]
    gdb("break stop_here", "run", *asked, program=programs["sizes0"], args=["0"]).succeeded()
    for place, command in enumerate(commands):
        assert answers[str(place)]["missing"], command
        every_key_is_held(shortened(answers[str(place)]), command)


def every_key_is_held(sound: dict[str, Any], command: str) -> None:
    """Take each key out of an answer, and give it another type; fail where the schema has nothing against that."""
    assert not errors(sound)
    count = len(list(objects(sound)))
    for index in range(count):
        for key in list(list(objects(sound))[index]):
            answer = copy.deepcopy(sound)
            del list(objects(answer))[index][key]
            assert errors(answer), f"{command} without {key}"
            answer = copy.deepcopy(sound)
            changed = list(objects(answer))[index]
            changed[key] = "7" if isinstance(changed[key], (dict, list)) else {"wrong": 7}
            assert errors(answer), f"{command} with a {key} of another type"
        answer = copy.deepcopy(sound)
        list(objects(answer))[index]["one_more"] = None
        assert errors(answer), f"{command} with one more key in object {index}"


def test_predictions(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Of operations that end in each way, of what can still be asked for, and of a sequence under other settings."""
    operations = answers.folder / "operations"
    operations.write_text("malloc 100000 = 1\nrealloc 1 300000 = 1\nfree 1\n")
    asked = [*PREDICTED, f"heap what-if {operations} top_pad=0 tcache_count=0,mmap_threshold=64K"]
    commands = [f"{command} {answers.into(str(place))}" for place, command in enumerate(asked)]
    gdb("break stop_here", "run", *commands, program=programs["totals"]).succeeded()
    for place, command in enumerate(asked):
        every_key_is_held(answers[str(place)], command)
    ends = {item["end"] for place in range(3) for item in answers[str(place)]["predictions"]}
    # Without debug symbols one of the operations has no answer, and so have those behind it.
    unknown = {"unknown", "null"} if "unknown" in ends and not wanted() else set()
    assert ends | unknown == {"chunk", "null", "done", "abort", "crash"} | unknown


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("heap", lambda answer: answer.update(schema="gdbheap/2")),
        ("heap", lambda answer: answer.update(command="heap bins")),
        ("heap", lambda answer: answer.update(command="heap top")),
        ("heap", lambda answer: answer["arenas"].clear()),
        ("heap arenas", lambda answer: answer["arenas"][0].update(kind="sbrk")),
        ("heap chunks", lambda answer: answer["arenas"][0]["chunks"][0].update(state="lost")),
        ("heap chunks", lambda answer: answer["arenas"][0]["chunks"][0].update(flags=8)),
        ("heap find", lambda answer: answer.update(by="colour")),
        ("heap find", lambda answer: answer["groups"][0].update(size=-1)),
        ("heap params", lambda answer: answer["params"][0].update(unit="pages")),
        ("heap map", lambda answer: answer["arenas"][0]["regions"][0]["runs"][0].update(kind="lost")),
        ("heap map", lambda answer: answer["arenas"][0]["last_used"].update(state="unknown")),
        ("heap map -words", lambda answer: answer["closeup"]["chunks"][0]["words"][0].update(role="prev")),
        ("heap bins", lambda answer: answer["arenas"][0]["empty"][0].update(kind="huge")),
        ("heap bins", lambda answer: answer["arenas"][-1]["lists"][0]["members"][0].update(next=-1)),
        ("heap tcache", lambda answer: answer["tcaches"].clear()),
        ("heap chunk", lambda answer: answer.update(where="nowhere")),
        ("heap chunk", lambda answer: answer["free"][0].update(end="mystery")),
        ("heap chunk", lambda answer: answer["chunk"].update(content="0")),
        ("heap events", lambda answer: answer["events"][0].update(kind="mystery")),
        ("heap events", lambda answer: answer["events"][0].update(path="brk-sideways")),
        ("heap events", lambda answer: answer["events"][0].update(syscall="open")),
        ("heap timeline", lambda answer: answer["series"].update(stack=answer["series"]["rest"])),
        ("heap timeline", lambda answer: answer["series"]["break"]["steps"][0].update(value=-1)),
        ("heap timeline", lambda answer: answer.update(begin_time=-1.0)),
        ("heap why-grow", lambda answer: answer["events"][0].update(exact=None)),
        ("heap why-grow", lambda answer: answer["events"][0].update(predicted=None)),
        ("heap why-grow", lambda answer: answer["events"][0].update(thread=0)),
    ],
)
def test_a_wrong_value_is_found(sound: dict[str, dict[str, Any]], command: str, change: Change) -> None:
    answer = copy.deepcopy(sound[command])
    change(answer)
    if answer == sound[command] and not wanted():
        pytest.skip("the event has nothing there that could be wrong: without debug symbols it is unknown")
    assert errors(answer)


def test_the_schemas_lists_are_the_codes() -> None:
    event = SCHEMA["$defs"]["event"]["properties"]
    assert event["path"]["enum"] == [*PATHS, None]
    assert SCHEMA["$defs"]["state_name"]["enum"] == list(STATES)
    assert SCHEMA["$defs"]["heap chunk"]["properties"]["where"]["enum"] == list(PLACES)
    assert SCHEMA["$defs"]["foretold"]["properties"]["end"]["enum"] == [*ENDS, None]
    assert SCHEMA["$defs"]["reference"]["properties"]["kind"]["enum"] == list(REFERENCES)
    assert list(SCHEMA["$defs"]["reference_kinds"]["properties"]) == list(REFERENCES)
    assert list(SCHEMA["$defs"]["amounts"]["properties"]) == list(STATES)
    source = (ROOT / "src" / "gdbheap" / "growth" / "requester.py").read_text(encoding="utf-8")
    kinds = SCHEMA["$defs"]["kind_name"]["enum"]
    assert kinds == list(EVENT_KINDS)
    assert event["gap"]["enum"] == [*(kind.value for kind in GapKind), None]
    assert set(kinds) - {"gap"} == set(re.findall(r'Requester\(\s*"([\w-]+)"', source))
    assert SCHEMA["$defs"]["heap events"]["properties"]["by"]["enum"] == [*BY, None]
    assert SCHEMA["$defs"]["phases"]["items"]["properties"]["name"]["enum"] == list(PHASES)


def test_a_corrupt_heap(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """What is found, what catches it, who is suspect, and malloc's own check."""
    asked = [f"heap check {answers.into(name)}" for name in ("before", "after")]
    gdb("break stop_here", "run", asked[0], "continue", asked[1], program=programs["corrupt"], args=["free-prev"])
    for name in ("before", "after"):
        assert answers[name]["findings"][0]["catches"]
        assert answers[name]["findings"][0]["culprit"]
        assert not errors(answers[name])
    assert answers["after"]["abort"]["compared"]
    for place in (("findings", 0), ("findings", 0, "catches", 0), ("findings", 0, "culprit"), ("abort",)):
        for key in list(reached(answers["after"], place)):
            answer = copy.deepcopy(answers["after"])
            del reached(answer, place)[key]
            assert errors(answer), f"without {key}"
    for name, table in (("finding", KINDS), ("catch", CALLS)):
        key = "kind" if name == "finding" else "call"
        assert SCHEMA["$defs"][name]["properties"][key]["enum"] == list(table)


def reached(value: Any, place: tuple[Any, ...]) -> dict[str, Any]:
    """Return the object inside ``value`` that the keys of ``place`` lead to."""
    for key in place:
        value = value[key]
    assert isinstance(value, dict)
    return value


def test_every_key_is_described() -> None:
    """Each key of the schema is named in docs/json.md."""

    def keys(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == "properties":
                    yield from inner
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    missing = sorted({key for key in keys(SCHEMA) if f"`{key}`" not in text})
    assert not missing


def test_places_and_ends_are_described_as_the_code_does() -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    for name, meaning in (*PLACES.items(), *ENDS.items()):
        assert f"| `{name}` | {meaning} |" in text
