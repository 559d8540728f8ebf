"""Promise: in a real MI session each command that has JSON gives a front end the very same object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import QUIET_START, Gdb
from tests.support.environment import PATIENCE, ROOT
from tests.support.programs import Programs

pytest.importorskip("pygdbmi")
from pygdbmi.gdbcontroller import GdbController

#: Commands that have an object, with options where they matter.
COMMANDS = (
    ("heap", ""),
    ("heap arenas", ""),
    ("heap top", ""),
    ("heap params", ""),
    ("heap chunks", ""),
    ("heap chunks", "-count 3 -state used"),
    ("heap chunks", "-start $first -min-size 0x40"),
    ("heap events", ""),
    ("heap events", "-count 1"),
    ("heap timeline", ""),
    ("heap why-grow", ""),
    ("heap why-grow", "1"),
    ("heap why-grow", "-all"),
)


class Session:
    """A GDB in MI mode, as a front end has it."""

    def __init__(self, path: str) -> None:
        command = [path, "-nx", "-q", "--interpreter=mi3"]
        for line in QUIET_START:
            command += ["-iex", line]
        self._gdb = GdbController(command=command)
        self.console(f"cd {ROOT}")
        self.console("source gdbheap")

    def close(self) -> None:
        self._gdb.exit()

    def ask(self, command: str) -> tuple[str, Any]:
        """Return the class of the result record and what is in it."""
        for record in self._records(command):
            if record["type"] == "result":
                return record["message"], record["payload"]
        raise AssertionError(f"{command}: no result")

    def object(self, command: str) -> dict[str, Any]:
        kind, payload = self.ask(command)
        assert kind == "done", payload
        assert isinstance(payload, dict)
        return payload

    def error(self, command: str) -> str:
        kind, payload = self.ask(command)
        assert kind == "error", payload
        return str(payload["msg"])

    def console(self, command: str) -> str:
        """Return what a command of GDB's command line prints."""
        records = list(self._records(f"-interpreter-exec console {json.dumps(command)}"))
        assert records[-1]["message"] == "done", records
        return "".join(record["payload"] for record in records if record["type"] == "console")

    def run_to(self, place: str) -> None:
        self.object(f"-break-insert {place}")
        self._gdb.write("-exec-run", read_response=False)
        while True:
            for record in self._gdb.get_gdb_response(timeout_sec=PATIENCE):
                if record["type"] == "notify" and record["message"] == "stopped":
                    assert record["payload"]["reason"] == "breakpoint-hit"
                    return

    def _records(self, command: str) -> Iterator[dict[str, Any]]:
        self._gdb.write(command, read_response=False)
        while True:
            for record in self._gdb.get_gdb_response(timeout_sec=PATIENCE):
                yield record
                if record["type"] == "result":
                    return


def mi_form(value: Any) -> Any:
    """Return a JSON value as docs/scripting.md says that MI has it."""
    if isinstance(value, dict):
        return {key: mi_form(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [mi_form(inner) for inner in value]
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture
def session(gdb: Gdb) -> Iterator[Session]:
    if "MICommand" not in gdb("python print(dir(gdb))").stdout:
        pytest.skip("this GDB has no MI commands of Python's")
    found = Session(gdb.path)
    yield found
    found.close()


@pytest.mark.parametrize("name", ["totals", "threads"])
def test_the_same_objects(session: Session, programs: Programs, tmp_path: Path, name: str) -> None:
    session.console(f"file {programs[name]}")
    session.console("heap catch -malloc")
    session.run_to("stop_here")
    first = session.object("-heap-chunks -count 1")["arenas"][0]["chunks"][0]["address"]
    session.console(f"set $first = {first}")
    path = tmp_path / "answer.json"
    for command, arguments in COMMANDS:
        session.console(f"{command} {arguments} -json {path} -force")
        answer = session.object(f"-{command.replace(' ', '-')} {arguments}")
        assert answer == mi_form(json.loads(path.read_text())), (command, arguments)


def test_every_command_with_json_has_one(session: Session) -> None:
    """None is forgotten, and those that only do something have none."""
    listed = [line.split(" -- ")[0] for line in session.console("help heap").splitlines() if " -- " in line]
    assert len(listed) > 8
    for command in ["heap", *(name.replace("gdbheap", "heap", 1) for name in listed)]:
        usage = session.console(f"help {command}")
        exists = session.object(f"-info-gdb-mi-command {command.replace(' ', '-')}")["command"]["exists"]
        has_answer = "[-json" in usage and command != "heap trace"
        assert exists == ("true" if has_answer else "false"), command


def test_errors_are_error_records(session: Session, programs: Programs) -> None:
    assert "There is no program and no process" in session.error("-heap")
    session.console(f"file {programs['totals']}")
    assert "The program is not running, so it has no heap" in session.error("-heap-top")
    session.run_to("stop_here")
    assert session.error("-heap-top 3") == "'heap top' takes no argument '3': see 'help heap top'."
    assert "There is no option -json here" in session.error("-heap-top -json x")
    assert "-state is one of" in session.error("-heap-chunks -state lost")
    assert "There is no arena '7'" in session.error("-heap-chunks -arena 7")
    assert "Nothing was recorded" in session.error("-heap-events")
    assert session.object("-heap-top")["arenas"][0]["name"] == "main_arena"


def test_without_mi_commands_of_pythons_all_else_is_there(gdb: Gdb) -> None:
    """As GDB before 12 is."""
    done = gdb("help heap top", before=("python gdb.__dict__.pop('MICommand', None)",))
    assert "Usage: heap top" in done.succeeded().stdout
    assert not done.stderr


def test_text_that_utf8_has_no_form_for(session: Session) -> None:
    code = r"import gdbheap.debugger.mi as mi; print(mi.mi_value(['a\udc80b', None, True, False, 2**63, -1, 0.5, {}]))"
    assert session.console(f"python {code}").strip() == (
        r"['a\\udc80b', 'null', 'true', 'false', '9223372036854775808', '-1', '0.5', {}]"
    )


def test_every_key_can_be_a_name_in_mi() -> None:
    """GDB refuses names of results that are not letters, digits, dashes and underscores, the first a letter."""

    def keys(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from value.get("properties", {})
            for inner in value.values():
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    found = set(keys(json.loads((ROOT / "docs" / "schema.json").read_text())))
    assert len(found) > 100
    wrong = [
        key for key in found if not key[0].isalpha() or not key.isascii() or not key.replace("-", "").isidentifier()
    ]
    assert not wrong
