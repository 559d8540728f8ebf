"""The command line of `gdbheap trace`: its options, the program that is meant, and what GDB is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gdbheap.launch_trace import Trace, TraceError, gdb_options, parse, prepare, resolve


@pytest.mark.parametrize(
    ("words", "trace"),
    [
        (["ls"], Trace("", "", ["ls"])),
        (["ls", "-o", "x"], Trace("", "", ["ls", "-o", "x"])),
        (["-o", "report", "ls", "-l"], Trace("report", "", ["ls", "-l"])),
        (["-o", "report", "-json", "file", "--", "-odd", "--"], Trace("report", "file", ["-odd", "--"])),
        (["--json", "file", "ls"], Trace("", "file", ["ls"])),
        (["-o", "-", "ls"], Trace("-", "", ["ls"])),
    ],
)
def test_options_stand_before_the_program(words: list[str], trace: Trace) -> None:
    assert parse(words) == trace


@pytest.mark.parametrize("word", ["-h", "-help", "--help"])
def test_help_is_asked_for(word: str) -> None:
    assert parse([word, "ls"]) is None
    assert prepare([word]) is None
    assert parse(["ls", word]) is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no program"),
        (["-o", "x"], "no program"),
        (["--"], "no program"),
        (["-o"], "-o needs"),
        (["-json"], "-json needs"),
        (["-q", "ls"], "no option -q"),
    ],
)
def test_a_wrong_command_line_is_said(words: list[str], said: str) -> None:
    with pytest.raises(TraceError, match=said) as raised:
        parse(words)
    assert raised.value.status == 2


def program(folder: Path, name: str, content: bytes, mode: int = 0o755) -> Path:
    """Write a file that can be executed, or looks so."""
    path = folder / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_program_is_looked_for_as_a_shell_does(tmp_path: Path) -> None:
    found = program(tmp_path, "it", b"\x7fELF...")
    assert resolve(["it", "a b"], str(tmp_path)) == [str(found), "a b"]
    assert resolve([str(found)], "") == [str(found)]


def test_a_script_is_its_interpreters(tmp_path: Path) -> None:
    """The kernel gives the interpreter one argument at most, and the script's path."""
    binary = program(tmp_path, "binary", b"\x7fELF...")
    first = program(tmp_path, "first", b"#! %s  -a b \nrest" % bytes(binary))
    second = program(tmp_path, "second", b"#!%s\n" % bytes(first))
    assert resolve(["first", "x"], str(tmp_path)) == [str(binary), "-a b", str(first), "x"]
    assert resolve(["second"], str(tmp_path)) == [str(binary), "-a b", str(first), str(second)]


@pytest.mark.parametrize(
    ("content", "mode", "status", "said"),
    [
        (b"\x7fELF", 0o644, 126, "may not be executed"),
        (b"MZ", 0o755, 126, "neither a program"),
        (b"", 0o755, 126, "neither a program"),
        (b"#!/no/such/interpreter\n", 0o755, 126, "No such file"),
    ],
)
def test_what_cannot_be_run_is_said(tmp_path: Path, content: bytes, mode: int, status: int, said: str) -> None:
    path = program(tmp_path, "it", content, mode)
    with pytest.raises(TraceError, match=said) as raised:
        resolve([str(path)], "")
    assert raised.value.status == status


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="is no program here") as raised:
        resolve(["it"], str(tmp_path))
    assert raised.value.status == 127


def test_a_script_that_names_itself_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "it"
    program(tmp_path, "it", b"#!%s\n" % bytes(path))
    with pytest.raises(TraceError, match="neither a program"):
        resolve([str(path)], "")


def test_what_gdb_is_told() -> None:
    environment = {"LINES": "24", "PWD": "/", "_": "it", "PYTHONPATH": "/a folder"}
    options = gdb_options(Trace("a report", "it's", ["/bin/ls", "-x"]), environment)
    assert options[-3:] == ["--args", "/bin/ls", "-x"]
    commands = [options[place + 1] for place, word in enumerate(options) if word == "-ex"]
    assert commands == [
        "unset environment COLUMNS",
        "unset environment PYTHONHOME",
        "unset environment PYTHONNOUSERSITE",
        "set environment PYTHONPATH /a folder",
        "set exec-wrapper env -u OLDPWD -u SHLVL",
        """gdbheap trace -o 'a report' -json 'it'"'"'s'""",
        "quit $_gdbheap_status",
    ]


def test_a_folder_that_is_not_there_is_said_before_the_program_runs(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such folder"):
        prepare(["-o", str(tmp_path / "none" / "report"), "true"])
    with pytest.raises(TraceError, match="no such folder"):
        prepare(["-json", str(tmp_path / "none" / "report"), "true"])
