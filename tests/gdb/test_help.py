"""Promise: each command has a manual page with its usage, options and an example, and completes what can be typed."""

from __future__ import annotations

import re

import pytest

from tests.support.debugger import Gdb
from tests.support.programs import Programs

COMMANDS = (
    "heap",
    "heap arenas",
    "heap bins",
    "heap catch",
    "heap check",
    "heap chunk",
    "heap chunks",
    "heap events",
    "heap find",
    "heap map",
    "heap params",
    "heap predict",
    "heap refs",
    "heap tcache",
    "heap timeline",
    "heap top",
    "heap trace",
    "heap what-if",
    "heap why-grow",
)
#: Another extension has the name heap, so that ours is gdbheap alone.
TAKEN = "python gdb.Command.__new__(gdb.Command).__init__('heap', gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)"
#: What our commands go by, with what makes them go by it.
PREFIXES = {"heap": (), "gdbheap": (TAKEN,)}


def page_of(gdb: Gdb, command: str, prefix: str) -> str:
    """Return what `help COMMAND` prints where ``prefix`` is the name that our commands go by."""
    command = command.replace("heap", prefix, 1)
    page = gdb("echo PAGE\\n", f"help {command}", before=PREFIXES[prefix]).succeeded().stdout
    return page.partition("PAGE\n")[2]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_manual_page(gdb: Gdb, command: str, prefix: str) -> None:
    """A sentence, the usage line, every option of the usage line explained, an example."""
    lines = page_of(gdb, command, prefix).splitlines()
    command = command.replace("heap", prefix, 1)
    # GDB names the aliases of a command above what we say of it.
    first, *rest = [line for line in lines if line != "gdbheap, heap"]
    assert first.endswith(".")
    (usage,) = [line for line in rest if line.startswith(f"Usage: {command}")]
    options = {word.strip("[]") for word in usage.split() if word.lstrip("[").startswith("-")}
    explained = {line.split()[0] for line in rest if line.startswith("  -")}
    assert options == explained
    assert any(line.startswith(f"Example: {prefix}") for line in rest)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_is_a_manual(gdb: Gdb, prefix: str) -> None:
    """`help heap` has each command once in its groups, and each function and setting, with the sentence of its own."""
    page = page_of(gdb, "heap", prefix)
    manual, index = re.split(r'^List of "?gdbheap"? subcommands:$', page, flags=re.MULTILINE)
    own = dict(re.findall(r"^gdb(heap [\w-]+) -- (.*)$", index, re.MULTILINE))
    assert set(own) == set(COMMANDS[1:])
    own = {command.replace("heap", prefix, 1): text for command, text in own.items()}
    grouped = re.findall(rf"^    ({prefix} [\w-]+)  +(.*)$", manual, re.MULTILINE)
    assert len(grouped) == len(own) > 8
    assert dict(grouped) == own
    for title in ("See what is there:", "Record, and explain why:", "In scripts:", "Settings ("):
        assert f"\n{title}" in manual
    functions = re.findall(r"^    \$(_heap_\w+)\(\w*\)  +(.*)$", manual, re.MULTILINE)
    assert [name for name, _ in functions] == [
        "_heap_chunk", "_heap_size", "_heap_state", "_heap_arena", "_heap_events"
    ]  # fmt: skip
    settings = re.findall(rf"^    set {prefix} ([\w-]+)  +(.*)$", manual, re.MULTILINE)
    assert [name for name, _ in settings] == ["colour", "limit", "preview", "units", "main-arena", "mp", "tcache"]
    helps = gdb(*(f"help function {name}" for name, _ in functions), *(f"help set {prefix} {n}" for n, _ in settings))
    first = set(helps.succeeded().stdout.splitlines())
    assert {sentence for _, sentence in functions + settings} <= first
    assert manual.count("\nExample: ") >= 3
    assert max(map(len, manual.splitlines())) <= 132


def test_apropos(gdb: Gdb) -> None:
    """What is ours is found by the word, each with a whole sentence."""
    found = gdb("apropos heap").succeeded().stdout.splitlines()
    for line in found:
        assert line.endswith((".", " ...")), line
    named = {line.split(" -- ")[0] for line in found}
    assert {"gdbheap, heap", "gdbheap chunks", "set heap limit", "show heap limit", "function _heap_size"} <= named


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("heap ch", {"heap check", "heap chunk", "heap chunks"}),
        ("heap bins f", {"heap bins fast"}),
        ("heap bins fast -t", {"heap bins fast -thread"}),
        ("heap bins -arena ", set()),
        ("heap tcache -c", {"heap tcache -count"}),
        ("heap predict mem", {"heap predict memalign"}),
        ("heap predict malloc 8; posix", {"heap predict malloc 8; posix_memalign"}),
        ("heap predict malloc 8 -st", {"heap predict malloc 8 -steps"}),
        ("heap what-if run.ops mm", {"heap what-if run.ops mmap_threshold="}),
        ("heap chunk -b", {"heap chunk -bytes"}),
        ("heap chunks -st", {"heap chunks -start", "heap chunks -state"}),
        ("heap chunks -state un", {"heap chunks -state unsorted"}),
        ("heap chunks -state nonsense", set()),
        ("heap find -by t", {"heap find -by type"}),
        ("heap find -po", {"heap find -points-to"}),
        ("heap find -sort co", {"heap find -sort count"}),
        ("heap refs -l", {"heap refs -limit"}),
        ("heap catch mm", {"heap catch mmap"}),
        ("heap catch -m", {"heap catch -malloc"}),
        ("heap catch -follow ", {"heap catch -follow parent", "heap catch -follow child", "heap catch -follow both"}),
        ("heap why-grow -a", {"heap why-grow -all"}),
        ("heap top -", {"heap top -json", "heap top -force"}),
        ("heap timeline -by t", {"heap timeline -by time"}),
        ("heap timeline -s", {"heap timeline -svg"}),
        ("heap map -w", {"heap map -width", "heap map -words"}),
    ],
)
def test_completion(gdb: Gdb, typed: str, offered: set[str]) -> None:
    """Options, their values and the names of system calls are completed."""
    assert set(gdb(f"complete {typed}").succeeded().stdout.split("\n")) - {""} == offered


def test_threads_are_completed(gdb: Gdb, programs: Programs) -> None:
    """The numbers of the threads that there are, and names of variables where an expression is typed."""
    typed = (
        *("heap bins -thread ", "heap tcache -th 3", "heap chunk small_chu", "heap chunks -arena ", "heap bins -ar 3"),
        *("heap chunks -start small_chu", "heap map -words -start small_chu"),
    )
    result = gdb(
        "break stop_here", "run", "echo ANSWER\\n", *(f"complete {text}" for text in typed), program=programs["threads"]
    )
    offered = result.succeeded().stdout.split("ANSWER\n")[1].splitlines()
    assert offered == [
        *(f"heap bins -thread {number}" for number in range(1, 6)),
        "heap tcache -th 3",
        "heap chunk small_chunks",
        *(f"heap chunks -arena {number}" for number in range(5)),
        "heap bins -ar 3",
        "heap chunks -start small_chunks",
        "heap map -words -start small_chunks",
    ]
