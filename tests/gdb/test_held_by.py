"""Promise: a pointer is told by the variable that holds it: of a frame, of another thread's, a global, a member."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs

#: Inside GDB: where the program says that its pointers are: address, name and function.
PLACES = """[[int(item['at']), item['name'].string(), item['function'].string()]
    for item in (gdb.parse_and_eval('places')[i] for i in range(number('count')))]"""

Seen = tuple[dict[str, Any], list[tuple[int, str, str]]]


@pytest.fixture(scope="module", params=["pointers", "pointers-o2"])
def seen(
    request: pytest.FixtureRequest, gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, Seen, Seen]:
    """Look for the pointers in a method and in a signal's handler, without and with optimisation."""
    answers = Answers(tmp_path_factory.mktemp("held"))
    gdb(
        "handle SIGUSR1 nostop noprint",
        "break stop_here",
        "run",
        answers.python("first", {"places": PLACES}),
        f"heap refs wanted {answers.into('method')}",
        "continue",
        answers.python("second", {"places": PLACES}),
        f"heap refs wanted {answers.into('handler')}",
        program=programs[request.param],
    ).succeeded()
    optimised = request.param.endswith("o2")
    return (
        optimised,
        (answers["method"], [tuple(item) for item in answers["first"]["places"]]),
        (answers["handler"], [tuple(item) for item in answers["second"]["places"]]),
    )


def _by_address(answer: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {item["address"]: item for item in answer["references"] if item["address"] is not None}


def test_each_variable_is_named(seen: tuple[bool, Seen, Seen]) -> None:
    """The program notes the address of each variable; what the compiler has dropped is told by its frame."""
    optimised, *stops = seen
    named = 0
    for answer, places in stops:
        assert answer["complete"]
        found = _by_address(answer)
        returned = {"session::work"} if any(function == "handle" for _, _, function in places) else set()
        for at, name, function in places:
            if function in returned:
                continue
            item = found.pop(at, None)
            if item is None:
                assert optimised
                assert name in ("on_stack", "head")
                continue
            if not function:
                assert item["kind"] == "global"
                assert item["where"].split("::")[-1] == name.split("::")[-1]
                named += 1
                continue
            place = item["frame"] if item["kind"] == "stack" else item["path"]
            if optimised and (place is None or place["variable"] is None):
                # An argument on the stack is in the caller's frame.
                assert place is None or place["function"] in (function.split("(")[0], "main")
                assert place is None or place["unknown"] == "optimised"
                continue
            assert (place["function"].split("(")[0], place["variable"]) == (function, name)
            assert item["live"]
            named += 1
    assert named >= (15 if optimised else 23)


def test_members_of_a_chunk_and_its_class(seen: tuple[bool, Seen, Seen]) -> None:
    _, (method, _), (handler, _) = seen
    for answer, variable in ((method, "this"), (handler, "object")):
        held = [item for item in answer["references"] if item["class"] == "session"]
        assert len(held) == 4
        paths = {item["path"]["variable"] for item in held if item["path"] is not None}
        wanted = {f"{variable}->{member}" for member in ("tag", "title", "names[2]", "first")}
        assert paths == wanted or (not paths and variable == "object")  # optimised code need not keep it


def test_the_signals_handler_and_the_interrupted_function(seen: tuple[bool, Seen, Seen]) -> None:
    """The handler has a stack of its own, and the function that was interrupted keeps the pointer in a register."""
    optimised, _, (handler, _) = seen
    stack = [item for item in handler["references"] if item["kind"] == "stack" and item["thread"] == 1]
    frames = {(item["frame"]["function"], item["frame"]["variable"]) for item in stack if item["frame"] is not None}
    assert {("handle", "handled"), ("main", "group.items[3]")} <= frames
    kept = [item for item in handler["references"] if (item["frame"] or {}).get("variable") == "kept"]
    assert kept
    assert all(item["frame"]["function"].split("(")[0] == "keep" for item in kept)
    if optimised:
        assert any(item["frame"]["register"] is not None for item in kept)


def test_another_threads_variable(seen: tuple[bool, Seen, Seen]) -> None:
    _, (method, _), _ = seen
    waiting = [item for item in method["references"] if (item["frame"] or {}).get("variable") == "waiting"]
    assert [(item["thread"], item["frame"]["function"].split("(")[0]) for item in waiting] == [(2, "wait")]
