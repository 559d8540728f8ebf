"""Promise: what can't be answered is said in one clear sentence, with status 1, and the session goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs

#: The commands that look at the heap.
LOOKING = (
    *("heap", "heap arenas", "heap top", "heap params", "heap chunks", "heap map", "heap why-grow"),
    *("heap bins", "heap tcache", "heap chunk 0x1000", "heap find", "heap refs 1", "heap predict malloc 8"),
)
STRIPPED = ("set debug-file-directory /nonexistent",)


def sentences(result: Result) -> list[str]:
    """Return the lines of GDB's error stream that are no warning and no question."""
    noise = ("warning:", "Downloading", "[answered", "Missing separate")
    return [line for line in result.stderr.splitlines() if line.strip() and not line.startswith(noise)]


def refuse(
    gdb: Gdb,
    command: str,
    *setup: str,
    program: Path | None = None,
    before: Sequence[str] = (),
    args: Sequence[str] = (),
) -> str:
    """Check that ``command`` is refused properly after ``setup``; return the sentence.

    It is given twice with an `echo` between: the session goes on after the first, and the second is GDB's last
    command, whose failure is GDB's exit status.
    """
    result = gdb(*setup, command, "echo went on\\n", command, program=program, before=before, args=args)
    result.has_no_internal_error()
    assert result.status == 1, result.describe()
    assert "went on" in result.stdout, result.describe()
    said = sentences(result)
    assert len(said) == 2, f"one sentence each time:\n{result.describe()}"
    first, second = said
    assert first == second, "the same question, the same answer"
    assert re.match(r"[A-Z'\"/]|malloc |glibc|heap |-|0x", first), f"it does not begin as a sentence does: {first!r}"
    assert first.endswith("."), f"it does not end as a sentence does: {first!r}"
    assert len(first.split()) > 4, f"too short to be clear: {first!r}"
    assert len(first) < 400, f"too long: {first!r}"
    return first


@pytest.mark.parametrize("command", LOOKING)
def test_no_program(gdb: Gdb, command: str) -> None:
    """Nothing is loaded at all."""
    said = refuse(gdb, command)
    assert re.search(r"no (program|process)|not (been )?started|not being run|run", said, re.IGNORECASE), said


@pytest.mark.parametrize("command", LOOKING)
def test_program_not_started(gdb: Gdb, programs: Programs, command: str) -> None:
    """A program is loaded and was not started: GDB could read libc's file, and that would be no heap."""
    said = refuse(gdb, command, program=programs["seed"])
    assert re.search(r"not (been )?started|not being run|no process|run", said, re.IGNORECASE), said


@pytest.mark.parametrize("command", LOOKING)
def test_before_libc_is_mapped(gdb: Gdb, programs: Programs, command: str) -> None:
    """At the first instruction there is no C library yet."""
    said = refuse(gdb, command, "starti", program=programs["seed"])
    assert re.search(r"libc|C library|glibc", said), said


@pytest.mark.parametrize("command", LOOKING)
def test_without_any_libc(gdb: Gdb, programs: Programs, command: str) -> None:
    """A program that has no C library never gets one."""
    said = refuse(gdb, command, "break stop_here", "run", program=programs["nolibc"])
    assert re.search(r"libc|C library|glibc", said), said


@pytest.mark.parametrize("command", LOOKING)
def test_a_static_musl(gdb: Gdb, programs: Programs, command: str) -> None:
    """Another C library's heap is not glibc's."""
    if not (programs.folder / "musl").exists():
        pytest.skip("musl-gcc is not installed")
    said = refuse(gdb, command, "break stop_here", "run", program=programs["musl"])
    assert re.search(r"libc|C library|glibc", said), said


@pytest.mark.parametrize("command", LOOKING)
def test_exited(gdb: Gdb, programs: Programs, command: str) -> None:
    """After the exit, GDB itself shows the initial values of libc's file as if they were the heap's."""
    said = refuse(gdb, command, "run", program=programs["seed"])
    assert re.search(r"exit|ended|not being run|no process|run", said, re.IGNORECASE), said


@pytest.mark.parametrize("command", LOOKING)
def test_libc_without_symbols(gdb: Gdb, programs: Programs, command: str) -> None:
    """The package that is missing is named, or the command works without it."""
    setup = ("break stop_here", "run", command, "echo went on\\n", command)
    result = gdb(*setup, program=programs["growth"], before=STRIPPED)
    result.has_no_internal_error()
    if result.status == 0:
        assert not sentences(result), result.describe()
        assert len(result.stdout.split("went on\n")[1]) > 40, "it was answered"
    else:
        said = refuse(gdb, command, "break stop_here", "run", program=programs["growth"], before=STRIPPED)
        # There is no chunk at the address that LOOKING has, and that is known.
        assert re.search(r"libc6-dbg|debug (symbols|info)|is in no chunk", said), said


def test_catching_without_libcs_symbols(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """What the kernel was asked for and the user's own line are known without libc's symbols."""
    gdb(
        "heap catch",
        "run",
        f"heap events {answers.into('events')}",
        "heap why-grow",
        program=programs["growth"],
        before=STRIPPED,
    ).succeeded()
    events = answers.events("events")
    grown = [event for event in events if event["kind"] == "malloc" and (event["delta"] or 0) > 0]
    assert len(grown) > 10
    for event in grown:
        assert any((frame["file"] or "").endswith("growth.c") for frame in event["frames"])
        assert event["exact"] is not False, event


@pytest.mark.parametrize("command", [command for command in LOOKING if command != "heap params"])
def test_before_mallocs_first_use(gdb: Gdb, programs: Programs, command: str) -> None:
    """At main nothing was allocated: that is said, as an answer or as a refusal, and no chunk is made up."""
    setup = ("break main", "run", command, "echo went on\\n", command)
    result = gdb(*setup, program=programs["seed"])
    result.has_no_internal_error()
    assert "went on" in result.stdout, result.describe()
    if result.status:
        said = refuse(gdb, command, "break main", "run", program=programs["seed"])
    else:
        said = result.stdout.split("went on\n")[1]
    assert re.search(r"\b(not|no|nothing|never|empty|first|0)\b", said, re.IGNORECASE), said
    assert not re.search(r"corrupt|unreadable|error", said, re.IGNORECASE), said


def test_params_before_mallocs_first_use(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The settings are there from the start."""
    gdb("break main", "run", f"heap params {answers.into('params')}", program=programs["seed"]).succeeded()
    assert "131072" in answers.path("params").read_text()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("heap why-grow 4711", "4711"),
        ("heap why-grow 0", r"\b0\b"),
        ("heap why-grow -1", r"-1"),
        ("heap why-grow 1 2", "one event"),
        ("heap why-grow nonsense", "nonsense"),
        ("heap why-grow -nonsense", "nonsense"),
        ("heap events -count -3", "-3"),
        ("heap events -count some", "some"),
        ("heap events -count", "count"),
        ("heap events surplus", "surplus"),
        ("heap events -json /nonexistent/folder/file.json", "/nonexistent/folder"),
        ("heap why-grow -json /nonexistent/folder/file.json", "/nonexistent/folder"),
        ("heap catch nonsense", "nonsense"),
        ("heap catch open", "open"),
        ("heap catch -nonsense", "nonsense"),
        ("heap chunks -count -3", "-3"),
        ("heap chunks -nonsense", "nonsense"),
        ("heap chunks -state nonsense", "nonsense"),
        ("heap chunks -start (long)kept[0]+8", "no chunk"),
        ("heap chunks -start (long)kept[0]+8 -json /dev/null", "no chunk"),
        ("heap chunks -start $sp", "no chunk"),
        ("heap chunks -start 0", "no chunk"),
        ("heap chunks -start mapped[2]", "no chunk|mapping|mmapped"),
        ("heap chunks -start nonsense", "nonsense"),
        ("heap chunks -start", "start"),
        ("heap chunks -arena 99", "99"),
        ("heap chunks -arena nonsense", "nonsense"),
        ("heap chunks -min-size 100 -max-size 50", "max-size"),
        ("heap chunks -min-size -1", "-1"),
        ("heap chunks -m 100", "min-size.*max-size"),
        ("heap chunks surplus", "surplus"),
        ("heap chunks -json /nonexistent/folder/file.json", "/nonexistent/folder"),
        ("heap chunk", "Which chunk"),
        ("heap chunk nonsense", "nonsense"),
        ("heap chunk kept[", "kept"),
        ("heap chunk 1.5", "1.5"),
        ("heap chunk malloc(10)", "call a function"),
        ("heap chunk kept[0] = 0", "write to the program"),
        ("heap chunk kept[0]++", "write to the program"),
        ("heap chunk $sp += 8", "write to the program"),
        ('heap chunk "text"', "nowhere in memory"),
        ("heap chunk -bytes -1 kept[0]", "-1"),
        ("heap chunk -bytes 99999999 kept[0]", "-bytes"),
        ("heap chunk -nonsense kept[0]", "nonsense"),
        ("heap chunk kept[0] -json /nonexistent/folder/file.json", "/nonexistent/folder"),
        ("heap bins nonsense", "nonsense"),
        ("heap bins -arena 99", "99"),
        ("heap bins -thread 99", "99"),
        ("heap bins -thread 2.1", "2.1"),
        ("heap bins -thread 1 -all", "-all"),
        ("heap bins tcache -arena 0", "-arena"),
        ("heap bins fast -thread 1", "-thread"),
        ("heap bins -count -3", "-3"),
        ("heap tcache surplus", "surplus"),
        ("heap tcache -thread nonsense", "nonsense"),
        ("heap arenas surplus", "surplus"),
        ("heap top surplus", "surplus"),
        ("heap params surplus", "surplus"),
        ("heap -nonsense", "nonsense"),
        ("heap -json /nonexistent/folder/file.json", "/nonexistent/folder"),
        ("heap nonsense", "nonsense"),
    ],
)
def test_what_cannot_be_meant(gdb: Gdb, programs: Programs, command: str, words: str) -> None:
    """The sentence names what is wrong with the command line."""
    said = refuse(gdb, command, "heap catch", "break stop_here", "run", program=programs["growth"])
    assert re.search(words, said), said


def test_off_without_a_recording(gdb: Gdb, programs: Programs) -> None:
    """Nothing is being recorded: that is said."""
    said = refuse(gdb, "heap catch -off", "break main", "run", program=programs["seed"])
    assert "heap catch" in said


def test_events_without_a_recording(gdb: Gdb, programs: Programs) -> None:
    """Nothing was recorded: that is said, and how to record."""
    said = refuse(gdb, "heap events", "break main", "run", program=programs["seed"])
    assert "heap catch" in said


def test_an_unknown_event_without_a_recording(gdb: Gdb, programs: Programs) -> None:
    """A number asks for an event, and there is none."""
    said = refuse(gdb, "heap why-grow 3", "break stop_here", "run", program=programs["growth"])
    assert "heap catch" in said or re.search(r"\b3\b", said), said


def test_heap_commands_work_after_a_refusal(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Not only echo: gdbheap itself answers after each of its refusals."""
    bad = ("heap why-grow 4711", "heap chunks -nonsense", "heap catch nonsense", "heap arenas -json /nonexistent/x")
    listings = [f"heap events {answers.into(str(number))}" for number in range(len(bad))]
    steps = [step for pair in zip(bad, listings) for step in pair]
    result = gdb("heap catch", "break stop_here", "run", *steps, program=programs["growth"])
    result.has_no_internal_error()
    assert len(sentences(result)) == len(bad), result.describe()
    first = answers.events("0")
    assert all(answers.events(str(number)) == first for number in range(len(bad)))


def test_an_answer_survives_a_refusal(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A JSON file that is there already is replaced whole, or left as it was."""
    path = answers.path("events")
    path.write_text("mine\n")
    refuse(gdb, f"heap why-grow 4711 -json {path}", "heap catch", "break main", "run", program=programs["seed"])
    assert path.read_text() == "mine\n"
    assert [item.name for item in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_a_json_file_that_is_a_link(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """No link is followed: what it points to stays."""
    target = tmp_path / "target"
    target.write_text("mine\n")
    answers.path("events").symlink_to(target)
    result = gdb("heap catch", "break main", "run", f"heap events {answers.into('events')}", program=programs["seed"])
    result.has_no_internal_error()
    assert target.read_text() == "mine\n"
    assert result.status == 1, result.describe()
