"""Promise: each command has a manual page with its usage, options and an example, and completes what can be typed."""

from __future__ import annotations

import pytest

from tests.support.debugger import Gdb
from tests.support.programs import Programs

COMMANDS = (
    "heap",
    "heap arenas",
    "heap bins",
    "heap catch",
    "heap chunk",
    "heap chunks",
    "heap events",
    "heap params",
    "heap predict",
    "heap tcache",
    "heap timeline",
    "heap top",
    "heap what-if",
    "heap why-grow",
)
PREFIXES = ("heap", "gdbheap")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_manual_page(gdb: Gdb, command: str, prefix: str) -> None:
    """A sentence, the usage line, every option of the usage line explained, an example."""
    command = command.replace("heap", prefix, 1)
    page = gdb(f"help {command}").succeeded().stdout
    first, *rest = page.splitlines()
    assert first.endswith(".")
    (usage,) = [line for line in rest if line.startswith(f"Usage: {command}")]
    options = {word.strip("[]") for word in usage.split() if word.lstrip("[").startswith("-")}
    explained = {line.split()[0] for line in rest if line.startswith("  -")}
    assert options == explained
    assert any(line.startswith(f"Example: {prefix}") for line in rest)


def test_the_prefix_lists_all_commands(gdb: Gdb) -> None:
    """`help heap` names every subcommand with its sentence."""
    page = gdb("help heap").succeeded().stdout
    for command in COMMANDS[1:]:
        assert f"\n{command} -- " in page


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("heap ch", {"heap chunk", "heap chunks"}),
        ("heap bins f", {"heap bins fast"}),
        ("heap bins fast -t", {"heap bins fast -thread"}),
        ("heap bins -arena ", set()),
        ("heap tcache -c", {"heap tcache -count"}),
        ("heap predict mem", {"heap predict memalign"}),
        ("heap predict malloc 8 -st", {"heap predict malloc 8 -steps"}),
        ("heap what-if run.ops mm", {"heap what-if run.ops mmap_threshold="}),
        ("heap chunk -b", {"heap chunk -bytes"}),
        ("heap chunks -st", {"heap chunks -start", "heap chunks -state"}),
        ("heap chunks -state un", {"heap chunks -state unsorted"}),
        ("heap chunks -state nonsense", set()),
        ("heap catch mm", {"heap catch mmap"}),
        ("heap catch -m", {"heap catch -malloc"}),
        ("heap why-grow -a", {"heap why-grow -all"}),
        ("heap top -", {"heap top -json"}),
        ("heap timeline -by t", {"heap timeline -by time"}),
        ("heap timeline -s", {"heap timeline -svg"}),
    ],
)
def test_completion(gdb: Gdb, typed: str, offered: set[str]) -> None:
    """Options, their values and the names of system calls are completed."""
    assert set(gdb(f"complete {typed}").succeeded().stdout.split("\n")) - {""} == offered


def test_threads_are_completed(gdb: Gdb, programs: Programs) -> None:
    """The numbers of the threads that there are, and names of variables where an expression is typed."""
    typed = ("heap bins -thread ", "heap tcache -th 3", "heap chunk small_chu")
    result = gdb(
        "break stop_here", "run", "echo ANSWER\\n", *(f"complete {text}" for text in typed), program=programs["threads"]
    )
    offered = result.succeeded().stdout.split("ANSWER\n")[1].splitlines()
    assert offered == [
        *(f"heap bins -thread {number}" for number in range(1, 6)),
        "heap tcache -th 3",
        "heap chunk small_chunks",
    ]
