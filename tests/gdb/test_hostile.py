"""Promise: nothing that the program calls its things reaches a terminal, a file or a parser as it is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.gdb.test_bad_states import LOOKING
from tests.gdb.test_chunks import HARMFUL
from tests.gdb.test_read_only import command_lines
from tests.support.debugger import Gdb
from tests.support.environment import ROOT, needs
from tests.support.programs import Programs

NAME = "evil\x1b[31m\x1b]0;t\x07\u202e<b>&\"'"


@pytest.fixture
def hostile(programs: Programs, tmp_path: Path) -> tuple[Path, Path]:
    """Return the program, with a nasty name and a nasty function, and a nasty file that it maps."""
    needs("objcopy")
    program = tmp_path / NAME
    symbol = "evil\x1b[31m\u202ename"
    subprocess.run(
        ["objcopy", "--strip-debug", f"--redefine-sym=evil_function={symbol}", programs["hostile"], tmp_path / "built"],
        check=True,
    )
    shutil.move(tmp_path / "built", program)
    return program, tmp_path / f"mapped{NAME}"


def answers_of(raw: bytes) -> str:
    """Return what was written after the marks: by our commands, not by GDB itself."""
    return b"".join(part.split(b"END", 1)[0] for part in raw.split(b"BEGIN")[1:]).decode("utf-8")


def test_no_name_reaches_the_terminal(gdb: Gdb, hostile: tuple[Path, Path], tmp_path: Path) -> None:
    """Every command and option that GDB's help lists, on a sound heap and on a damaged one."""
    program, mapped = hostile
    lines = [line.replace("info_stream", "((void**)kept)[4]") for line in command_lines(gdb) if "help" not in line]
    lines = [line.replace("((void**)kept)[4]", "((void**)&kept)[4]") for line in lines if "-off" not in line]
    marked = [step for line in lines for step in ("echo BEGIN\\n", line, "echo END\\n")]
    result = gdb(
        "set print thread-events off",
        "heap catch",
        "break stop_here",
        "run",
        *marked,
        "continue",
        *marked,
        program=program,
        args=[str(mapped)],
    )
    result.has_no_internal_error()
    shown = answers_of(result.raw)
    assert len(shown) > 10_000
    assert not HARMFUL.search(shown), [shown[m.start() - 60 : m.end() + 20] for m in HARMFUL.finditer(shown)][:3]
    assert "\\x1b" in shown, "the names are shown, escaped"
    errors = result.raw_errors.decode("utf-8", "surrogateescape")
    ours = [line for line in errors.splitlines() if "heap" in line or "chunk" in line]
    assert not any(HARMFUL.search(line) for line in ours), ours


def test_no_name_reaches_a_file(gdb: Gdb, hostile: tuple[Path, Path], tmp_path: Path) -> None:
    """JSON is ASCII and parses; SVG is well formed and has no other elements than a drawing's."""
    program, mapped = hostile
    out = tmp_path / "out"
    out.mkdir()
    commands = (
        "heap",
        "heap chunks",
        "heap check",
        "heap events",
        "heap timeline",
        "heap why-grow -all",
        "heap arenas",
    )
    written = [f"{command} -json {out}/{number}.json" for number, command in enumerate(commands)]
    result = gdb(
        "heap catch",
        "break stop_here",
        "run",
        *written,
        f"heap timeline -svg {out}/drawing.svg",
        "continue",
        f"heap check -json {out}/corrupt.json",
        program=program,
        args=[str(mapped)],
    )
    result.has_no_internal_error()
    files = sorted(out.iterdir())
    assert len(files) == len(commands) + 2, "no name made another file"
    for path in files:
        data = path.read_bytes()
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", data), path.name
        if path.suffix == ".json":
            data.decode("ascii")
            assert json.loads(data)["schema"] == "gdbheap/1"
        else:
            assert not HARMFUL.search(data.decode("utf-8"))
            tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(data).iter()}
            assert "b" not in tags
            assert "script" not in tags
    assert not json.loads((out / "corrupt.json").read_text())["sound"]


def test_nothing_beside_the_program_is_run(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """What GDB declines by default stays declined: scripts next to the program, and those of the current folder."""
    program = tmp_path / "totals"
    shutil.copy(programs["totals"], program)
    (tmp_path / "totals-gdb.py").write_text("print('EVIL python')")
    (tmp_path / "totals-gdb.gdb").write_text("echo EVIL script\\n")
    for name in (".gdbinit", "gdbinit", "gdbheap", ".gdbheap.json"):
        (tmp_path / name).write_text("echo EVIL file\\n")
    asked = ("show auto-load safe-path", "show auto-load scripts-directory", "info auto-load python-scripts")
    result = gdb(
        "echo ASKED\\n",
        *asked,
        "echo ASKED\\n",
        f"source {ROOT}/gdbheap",
        "break stop_here",
        "run",
        *LOOKING,
        "echo ASKED\\n",
        *asked,
        load=None,
        program=program,
        cwd=tmp_path,
    )
    _, before, _, after = result.stdout.split("ASKED\n")
    assert "EVIL" not in result.stdout + result.stderr
    assert "auto-load" in before.lower()
    assert after == before
