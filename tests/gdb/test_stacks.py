"""Promise: a stack that is recognised from its bytes is the one that GDB unwinds, variables included."""

from __future__ import annotations

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version
from tests.support.programs import Programs

#: Compares each stack that is recognised with what GDB's own unwinding gives at that very stop.
COMPARE = """
from gdbheap.debugger.stacks import StackCache
seen = {'recognised': 0, 'unwound': 0, 'different': []}
recognise = StackCache.recognise
def compared(stacks, pc, sp):
    found = recognise(stacks, pc, sp)
    if found is None:
        seen['unwound'] += 1
        return found
    shape, values = found
    seen['recognised'] += 1
    plain = stacks._reader.read()
    said = [(f.function, f.line, f.pc, dict(f.variables)) for f in shape.frames_with(values)]
    true = [(f.function, f.line, f.pc, dict(f.variables)) for f in plain.frames]
    if (said, shape.more) != (true, plain.more):
        seen['different'].append([repr(said), repr(true)])
    return found
StackCache.recognise = compared
"""


@pytest.mark.parametrize(("program", "least"), [("callers", 150), ("growth", 15), ("race", 20)])
def test_recognised_stacks_are_unwound_stacks(
    gdb: Gdb, answers: Answers, programs: Programs, program: str, least: int
) -> None:
    """Every recognised stack equals the unwound one, and most stacks of a loop are recognised."""
    setup = "python exec(" + repr(COMPARE) + ")"
    gdb(
        "heap catch",
        setup,
        "run",
        answers.python(
            "seen", {name: f"__import__('__main__').seen['{name}']" for name in ("recognised", "unwound", "different")}
        ),
        program=programs[program],
    ).succeeded()
    seen = answers["seen"]
    assert seen["different"] == []
    # In 2.43 _int_malloc keeps what it was asked for nowhere: GDB works it out from the code of its caller.
    assert seen["recognised"] >= least or glibc_version() >= (2, 43)


def test_events_are_the_same_with_and_without_recognising(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """What is recorded from recognised stacks is what is recorded from unwound ones, field by field."""
    never = "python from gdbheap.debugger.stacks import StackCache; StackCache.recognise = lambda stacks, pc, sp: None"
    recorded = []
    for name, setup in (("usual", "echo"), ("slow", never)):
        gdb("heap catch", setup, "run", f"heap events {answers.into(name)}", program=programs["callers"]).succeeded()
        recorded.append(answers.events(name))
    usual, slow = recorded
    assert len(usual) > 400
    for event in (*usual, *slow):
        del event["process"], event["tid"], event["time"]
    assert usual == slow
