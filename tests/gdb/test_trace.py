"""Promise: `gdbheap trace PROGRAM` leaves the program's input, output, signals and exit status alone, and reports.

The oracle for what the program does is the program run without gdbheap; that for its calls is strace.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.debugger import Gdb
from tests.support.environment import PATIENCE, ROOT, glibc_version, needs, plain_environment
from tests.support.programs import Programs

jsonschema = pytest.importorskip("jsonschema", minversion="4.0")

GDB = os.environ.get("GDB", "gdb")
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "schema.json").read_text(encoding="utf-8"))


class Done(NamedTuple):
    """What a run wrote, and its exit status."""

    out: bytes
    err: str
    status: int


def environment() -> dict[str, str]:
    """Return the environment of both runs; the launcher is that of the checkout."""
    return {**plain_environment(), "PYTHONPATH": str(ROOT / "src"), "GDB": GDB}


def run(words: Sequence[str | Path], typed: bytes = b"", cwd: Path = ROOT) -> Done:
    """Run a command line with ``typed`` for its input."""
    done = subprocess.run(
        [str(word) for word in words],
        input=typed,
        cwd=cwd,
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return Done(done.stdout, done.stderr.decode(errors="replace"), done.returncode)


def traced(*words: str | Path, typed: bytes = b"", cwd: Path = ROOT) -> Done:
    """Run ``gdbheap trace`` with these words."""
    needs(GDB)
    return run([sys.executable, "-m", "gdbheap", "trace", *words], typed, cwd)


def answer(path: Path) -> dict[str, Any]:
    """Return what was written with -json, which must be as the schema says."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    errors = [error.message[:300] for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(found)]
    assert not errors
    return found


@pytest.mark.parametrize("words", [("cat",), ("sort", "-r"), ("sh", "-c", "read x; echo $x $0 >&2; exit 7", "a  'b")])
def test_input_output_and_status_are_the_programs(words: tuple[str, ...], tmp_path: Path) -> None:
    typed = b"one\ntwo\x00\xff\nthree"
    alone = run([needs(words[0]), *words[1:]], typed)
    report = tmp_path / "report of it's"
    under = traced("-o", report, "--", *words, typed=typed)
    assert under == alone
    text = report.read_text(encoding="utf-8")
    assert f": exited with {alone.status}, " in text.splitlines()[0]
    assert "\x1b" not in text


def test_the_report_goes_to_the_standard_error(programs: Programs) -> None:
    done = traced(programs["seed"])
    assert done.status == 0
    assert done.out == run([needs("setarch"), "-R", programs["seed"]]).out
    lines = done.err.splitlines()
    assert lines[0].startswith(f"{programs['seed']}: exited with 0, ")
    assert "of these predicted exactly" in lines[1]
    assert ("0x21000" if glibc_version() < (2, 43) else "0x22000") in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("mode", "status", "killed_by", "ending"),
    [
        ("grow", 0, None, "exited with 0"),
        ("exit-inside", 7, None, "exited with 7"),
        ("crash", 139, 11, "killed by signal 11"),
        ("vfork-exec", 0, None, "exited with 0"),
    ],
)
def test_how_it_ended(
    programs: Programs, tmp_path: Path, mode: str, status: int, killed_by: int | None, ending: str
) -> None:
    done = traced("-json", tmp_path / "it.json", programs["family"], mode)
    assert done.status == status
    assert done.err.splitlines()[0].startswith(f"{programs['family']} {mode}: {ending}, ")
    found = answer(tmp_path / "it.json")
    assert (found["status"], found["killed_by"]) == (status, killed_by)
    assert not found["interrupted"]
    assert found["problem"] is None
    assert {process["process"] for process in found["processes"]} == {event["process"] for event in found["events"]}
    ends = {process["process"]: process["end"] for process in found["processes"]}
    assert ends[found["events"][0]["process"]] == ending


def test_the_largest_growths_are_explained(programs: Programs, tmp_path: Path) -> None:
    """The numbers in the JSON are those of the text, and no other growth of malloc's was larger."""
    done = traced("-json", tmp_path / "it.json", programs["growth"])
    found = answer(tmp_path / "it.json")
    assert 0 < len(found["largest"]) <= 3
    shown = [line.split()[1].rstrip(":") for line in done.err.splitlines() if line.startswith("event ")]
    assert shown == [str(number) for number in found["largest"]]
    growths = {
        event["id"]: event["delta"] or event["args"][1]
        for event in found["events"]
        if event["kind"] == "malloc"
        and event["args"][2:3] != [0]  # PROT_NONE
        and (event["delta"] > 0 or event["syscall"] == "mprotect")
    }
    smallest = min(growths[number] for number in found["largest"])
    assert all(size <= smallest for number, size in growths.items() if number not in found["largest"])


def test_a_script_is_traced_as_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f'#!{needs("sh")} -e\necho "$0" "$@"\nfalse\n')
    script.chmod(0o755)
    done = traced("-o", tmp_path / "report", script, "a b", "$HOME", "*", "")
    assert done.out == f"{script} a b $HOME * \n".encode()
    assert done.status == 1


def test_the_environment_is_the_programs() -> None:
    """Nothing is added to it, not even the terminal's size."""
    alone, under = run([needs("env")]), traced(needs("env"))
    assert set(under.out.split(b"\n")) == set(alone.out.split(b"\n"))


def test_ctrl_c_ends_the_recording_and_the_program(programs: Programs, tmp_path: Path) -> None:
    """At a terminal: the report is printed, with what was recorded; the program gets the SIGINT."""
    needs(GDB)
    path = tmp_path / "it.json"
    words = [sys.executable, "-m", "gdbheap", "trace", "-json", str(path), str(programs["family"]), "interrupt"]
    pid, master = pty.fork()
    if pid == 0:
        os.execve(words[0], words, environment())
    written = b""
    try:
        while b"ready" not in written:
            written += os.read(master, 4096)
        os.write(master, b"\x03")
        while True:
            written += os.read(master, 4096)
    except OSError:  # the terminal is gone with its last process
        pass
    finally:
        os.close(master)
    _, status = os.waitpid(pid, 0)
    text = written.decode()
    assert os.waitstatus_to_exitcode(status) == 130, text
    assert "interrupt: interrupted after " in text
    found = answer(path)
    assert found["interrupted"]
    assert found["status"] == 130
    assert any(event["kind"] == "malloc" and event["exact"] for event in found["events"])
    (process,) = found["processes"]
    ends = time.monotonic() + PATIENCE  # it was let go: it ends by itself
    while Path(f"/proc/{process['process']}").exists():
        assert time.monotonic() < ends, "the program did not get its SIGINT"
        time.sleep(0.05)


def test_a_session_goes_on_as_it_was(gdb: Gdb, programs: Programs) -> None:
    """How GDB handles signals is the user's own again."""
    done = gdb(
        "handle SIGUSR1 nostop noprint",
        "info signals",
        "echo [then]\\n",
        "heap trace",
        "info signals",
        program=programs["seed"],
    )
    before, after = (re.findall(r"^SIG\w+ .*$", part, re.MULTILINE) for part in done.stdout.split("[then]"))
    assert len(before) > 20
    assert before[-len(after) :] == after


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "gdbheap: there is no program to trace"),
        (("-x", "ls"), 2, "gdbheap: there is no option -x"),
        (("no-such-program",), 127, "gdbheap: 'no-such-program' is no program here."),
        (("./pyproject.toml",), 126, "gdbheap: './pyproject.toml' may not be executed."),
        (("-o", "none/report", "ls"), 2, "gdbheap: 'none/report' cannot be written: there is no such folder."),
    ],
)
def test_a_wrong_command_line_is_one_line(words: tuple[str, ...], status: int, said: str) -> None:
    done = traced(*words)
    assert done.status == status
    assert done.out == b""
    assert done.err.startswith(said)
    assert len(done.err.splitlines()) == 1


def test_help_is_printed() -> None:
    done = traced("--help")
    assert done.status == 0
    assert done.out.startswith(b"Usage: gdbheap trace ")
    assert not done.err


def test_a_report_that_cannot_be_written_loses_nothing_of_the_json(tmp_path: Path) -> None:
    """The program's status stands, and what went wrong is said."""
    (tmp_path / "folder").mkdir()
    done = traced("-o", tmp_path / "folder", "-json", tmp_path / "it.json", "false")
    assert done.status == 1
    assert "is not a regular file" in done.err
    assert answer(tmp_path / "it.json")["status"] == 1
