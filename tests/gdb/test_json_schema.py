"""Promise: what each command prints with -json is what docs/schema.json says, key by key."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gdbheap.growth.event import KINDS
from gdbheap.growth.groups import BY
from gdbheap.growth.phases import PHASES
from gdbheap.ptmalloc.chunk import STATES
from gdbheap.simulate.paths import PATHS
from tests.support.debugger import Answers, Gdb
from tests.support.environment import ROOT
from tests.support.programs import Programs

pytest.importorskip("jsonschema", minversion="4.0")
import jsonschema

SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SEEN = ("heap", "heap arenas", "heap top", "heap params", "heap chunks")
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
    assert answer["state"]["first_growth"] == 0x21000
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


@pytest.fixture(scope="module")
def sound(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return an answer of each command, by name, with two elements of each list."""
    answers = Answers(tmp_path_factory.mktemp("sound"))
    commands = (*SEEN, *GROUPED)
    run(gdb, answers, programs, "threads", "heap catch -malloc", commands=commands)
    return {command: shortened(answers[command.replace(" ", "_")]) for command in commands}


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


@pytest.mark.parametrize("command", [*SEEN, *GROUPED])
def test_every_key_is_held(sound: dict[str, dict[str, Any]], command: str) -> None:
    """The schema must reject an answer that lacks any key, has one more, or has one of another type."""
    assert not errors(sound[command])
    count = len(list(objects(sound[command])))
    for index in range(count):
        for key in list(list(objects(sound[command]))[index]):
            answer = copy.deepcopy(sound[command])
            del list(objects(answer))[index][key]
            assert errors(answer), f"{command} without {key}"
            answer = copy.deepcopy(sound[command])
            changed = list(objects(answer))[index]
            changed[key] = "7" if isinstance(changed[key], (dict, list)) else {"wrong": 7}
            assert errors(answer), f"{command} with a {key} of another type"
        answer = copy.deepcopy(sound[command])
        list(objects(answer))[index]["one_more"] = None
        assert errors(answer), f"{command} with one more key in object {index}"


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
        ("heap params", lambda answer: answer["params"][0].update(unit="pages")),
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
    assert errors(answer)


def test_the_schemas_lists_are_the_codes() -> None:
    event = SCHEMA["$defs"]["event"]["properties"]
    assert event["path"]["enum"] == [*PATHS, None]
    assert SCHEMA["$defs"]["state_name"]["enum"] == list(STATES)
    source = (ROOT / "src" / "gdbheap" / "growth" / "requester.py").read_text(encoding="utf-8")
    kinds = SCHEMA["$defs"]["kind_name"]["enum"]
    assert kinds == list(KINDS)
    assert set(kinds) == set(re.findall(r'Requester\(\s*"([\w-]+)"', source))
    assert SCHEMA["$defs"]["heap events"]["properties"]["by"]["enum"] == [*BY, None]
    assert SCHEMA["$defs"]["phases"]["items"]["properties"]["name"]["enum"] == list(PHASES)


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
