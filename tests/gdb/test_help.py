"""Promise: each command has a manual page with its usage, options and an example, and completes what can be typed."""

from __future__ import annotations

import pytest

from tests.support.debugger import Gdb

COMMANDS = (
    "heap",
    "heap arenas",
    "heap catch",
    "heap check",
    "heap chunks",
    "heap events",
    "heap find",
    "heap params",
    "heap refs",
    "heap timeline",
    "heap top",
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
        ("heap ch", {"heap check", "heap chunk", "heap chunks"}),
        ("heap chunks -st", {"heap chunks -start", "heap chunks -state"}),
        ("heap chunks -state un", {"heap chunks -state unsorted"}),
        ("heap chunks -state nonsense", set()),
        ("heap find -by t", {"heap find -by type"}),
        ("heap find -po", {"heap find -points-to"}),
        ("heap find -sort co", {"heap find -sort count"}),
        ("heap refs -l", {"heap refs -limit"}),
        ("heap catch mm", {"heap catch mmap"}),
        ("heap catch -m", {"heap catch -malloc"}),
        ("heap why-grow -a", {"heap why-grow -all"}),
        ("heap top -", {"heap top -json", "heap top -force"}),
        ("heap timeline -by t", {"heap timeline -by time"}),
        ("heap timeline -s", {"heap timeline -svg"}),
    ],
)
def test_completion(gdb: Gdb, typed: str, offered: set[str]) -> None:
    """Options, their values and the names of system calls are completed."""
    assert set(gdb(f"complete {typed}").succeeded().stdout.split("\n")) - {""} == offered
