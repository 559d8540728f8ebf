"""The launcher's command line: which words are GDB's, and where the program begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdbheap.launcher import gdb_command, split, takes_value


@pytest.mark.parametrize(
    ("words", "options", "program"),
    [
        ([], [], []),
        (["ls"], [], ["ls"]),
        (["ls", "-l", "a b"], [], ["ls", "-l", "a b"]),
        (["-batch", "-ex", "run", "ls", "/"], ["-batch", "-ex", "run"], ["ls", "/"]),
        (["-p", "12"], ["-p", "12"], []),
        (["--pid", "12"], ["--pid", "12"], []),
        (["--pid=12", "prog"], ["--pid=12"], ["prog"]),
        (["--core", "core.1", "prog"], ["--core", "core.1"], ["prog"]),
        (["-c", "core.1", "-x", "file", "prog"], ["-c", "core.1", "-x", "file"], ["prog"]),
        (["--eval-comm", "run", "prog"], ["--eval-comm", "run"], ["prog"]),
        (["-q", "--args", "prog", "-x"], ["-q"], ["prog", "-x"]),
        (["-q", "--", "-odd-name", "-x"], ["-q"], ["-odd-name", "-x"]),
        (["-unknown", "prog"], ["-unknown"], ["prog"]),
        (["-ex"], ["-ex"], []),
        (["prog", "-ex", "run"], [], ["prog", "-ex", "run"]),
    ],
)
def test_options_end_where_the_program_begins(words: list[str], options: list[str], program: list[str]) -> None:
    assert split(words) == (options, program)


@pytest.mark.parametrize("option", ["-ex", "--ex", "-x", "-iex", "-D", "-cd", "--tty", "-symb", "--data", "-d"])
def test_options_with_a_value(option: str) -> None:
    assert takes_value(option)


@pytest.mark.parametrize("option", ["-q", "-nx", "--batch", "-ex=run", "--core=x", "-read", "--bat", "-return", "-zz"])
def test_options_without_a_value(option: str) -> None:
    assert not takes_value(option)


def test_the_extension_comes_before_the_users_commands() -> None:
    command = gdb_command("/usr/bin/gdb", Path("/somewhere/gdbheap"), ["-ex", "heap", "prog", "--args", "-q"])
    assert command[0] == "/usr/bin/gdb"
    assert command[-6:] == ["-ex", "heap", "--args", "prog", "--args", "-q"]
    assert command[command.index("-ix") + 1] == "/somewhere/gdbheap"
    assert "--args" not in gdb_command("gdb", Path("gdbheap"), ["-q"])
