"""Promise: answers are the same however the user has set GDB, and whatever hooks into it beside gdbheap."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Gdb
from tests.support.programs import Programs

#: Settings that change what GDB reads, how it evaluates or what it prints; one at a time.
SETTINGS = (
    *("target-charset EBCDIC-US", "host-charset ASCII", "target-wide-charset UTF-16", "max-value-size 16"),
    *("max-value-size unlimited", "backtrace limit 3", "backtrace past-main on", "backtrace past-entry on"),
    *("print address off", "print symbol off", "print pretty on", "print elements 1", "print repeats 1"),
    *("print null-stop on", "print union off", "print array on", "print array-indexes on", "print demangle off"),
    *("print asm-demangle on", "print static-members off", "print object on", "print vtbl on"),
    *("print sevenbit-strings on", "print max-symbolic-offset 1", "print symbol-filename on"),
    *("print entry-values no", "print frame-arguments none", "print frame-info short-location"),
    *("print inferior-events off", "print thread-events off", "print max-depth 0", "print type hex on"),
    *("language ada", "language fortran", "language rust", "language pascal", "language asm", "input-radix 16"),
    *("output-radix 16", "width 20", "height 5", "verbose on", "complaints 5", "case-sensitive off"),
    *("opaque-type-resolution off", "overload-resolution off", "check type off", "scheduler-locking on"),
    *("schedule-multiple on", "unwindonsignal on", "breakpoint always-inserted on", "breakpoint pending off"),
    *("can-use-hw-watchpoints 0", "displaced-stepping on", "detach-on-fork off", "follow-fork-mode child"),
    *("trace-commands on", "history expansion on", "filename-display absolute", "filename-display basename"),
    *("listsize 1", "step-mode on", "code-cache off", "stack-cache off"),
    *("python print-stack full", "python print-stack none", "max-completions 1", "max-user-call-depth 1"),
    *("multiple-symbols cancel", "endian little", "mi-async on", "startup-with-shell on", "auto-load off"),
    *("print nibbles on", "suppress-cli-notifications on", "style enabled on", "prompt x ", "annotate 1"),
    *("stop-on-solib-events 0", "auto-solib-add on", "unwind-on-terminating-exception off", "logging enabled off"),
)
#: The few that matter most.
QUICK = ("target-charset EBCDIC-US", "max-value-size 16", "backtrace limit 3", "print elements 1", "language ada")

RAISING = "def bad(*_):\n  raise RuntimeError('theirs')\n"
HOOKS: Mapping[str, str] = {
    "hook-stop": "define hook-stop\n  set $theirs = 1\nend\n",
    "hookpost-run": "define hookpost-run\n  set $theirs = 1\nend\n",
    "hook-echo": "define hook-echo\n  set $theirs = 1\nend\n",
    "hook-print": "define hook-print\n  set $theirs = 1\nend\n",
    "hook-info": "define hook-info\n  set $theirs = 1\nend\n",
    "hook-catch": "define hook-catch\n  set $theirs = 1\nend\n",
    "hook-complete": "define hook-complete\n  set $theirs = 1\nend\n",
    "document": "define theirs\n  info registers\nend\ndocument theirs\nheap\nend\n",
    "alias": "alias hp = print\n",
    "stop handler": f"python\n{RAISING}gdb.events.stop.connect(bad)\nend\n",
    "new_objfile handler": f"python\n{RAISING}gdb.events.new_objfile.connect(bad)\nend\n",
    "exited handler": f"python\n{RAISING}gdb.events.exited.connect(bad)\nend\n",
    "before_prompt handler": f"python\n{RAISING}gdb.events.before_prompt.connect(bad)\nend\n",
    "breakpoint handler": f"python\n{RAISING}gdb.events.breakpoint_created.connect(bad)\nend\n",
    "memory handler": f"python\n{RAISING}gdb.events.memory_changed.connect(bad)\nend\n",
    "failing printer": f"python\n{RAISING}gdb.pretty_printers.append(bad)\nend\n",
    "printer of all": (
        "python\nclass Theirs:\n  def __init__(self, value):\n    pass\n  def to_string(self):\n    return 'theirs'\n"
        "gdb.pretty_printers.append(lambda value: Theirs(value))\nend\n"
    ),
    "failing type printer": (
        "python\nclass Bad:\n  enabled = True\n  name = 'bad'\n  def instantiate(self):\n    return self\n"
        "  def recognize(self, kind):\n    return 'theirs'\ngdb.type_printers.append(Bad())\nend\n"
    ),
    "frame filter": (
        "python\nclass Filter:\n  enabled = True\n  name = 'theirs'\n  priority = 1\n"
        "  def filter(self, frames):\n    return iter(())\ngdb.frame_filters['theirs'] = Filter()\nend\n"
    ),
    "unwinder": (
        "python\nimport gdb.unwinder\nclass Theirs(gdb.unwinder.Unwinder):\n  def __init__(self):\n"
        "    super().__init__('theirs')\n  def __call__(self, frame):\n    return None\n"
        "gdb.unwinder.register_unwinder(None, Theirs())\nend\n"
    ),
    "catchpoint": "catch syscall brk mmap\ncommands\n  silent\n  continue\nend\n",
    "disabled catchpoint": "catch syscall brk\ndisable\n",
    "breakpoint on malloc": "break malloc if 0\n",
    "breakpoint with commands": "tbreak main\ncommands\n  silent\n  continue\nend\n",
    "display": "display $pc\n",
    "skip": "skip function malloc\n",
    "function": (
        "python\nclass Theirs(gdb.Function):\n  def __init__(self):\n    super().__init__('theirs')\n"
        "  def invoke(self):\n    return 1\nTheirs()\nend\n"
    ),
    "variables": "set $rax_ = 1\nset $_exitcode = 3\nset $bpnum_ = 5\nset $p = 1\n",
    "user command": "define heaps\n  echo theirs\\n\nend\n",
}

ANSWERS = (
    *("heap", "heap arenas", "heap params", "heap chunks -all", "heap bins", "heap tcache", "heap check", "heap map"),
    *(
        "heap chunk FIRST",
        "heap refs FIRST",
        "heap find -by size",
        "heap find -by type",
        "heap predict malloc 100; free $1",
    ),
)
OF_A_RECORDING = ("heap events", "heap why-grow -all", "heap timeline")
#: What differs from one run to the next.
VARYING = ("time", "begin_time", "end_time", "process", "tid", "resident")


def steady(value: Any) -> Any:
    """Return a JSON value without what differs from one run to the next."""
    if isinstance(value, dict):
        return {key: steady(inner) for key, inner in value.items() if key not in VARYING}
    return [steady(inner) for inner in value] if isinstance(value, list) else value


class Session:
    """One program that is looked at, live or as a core file."""

    def __init__(self, gdb: Gdb, program: Path, folder: Path, core: Path | None = None) -> None:
        self._gdb, self._program, self._folder, self._core = gdb, program, folder, core
        self._runs = 0
        self._first = "first"  # a variable, as the language of the program has it

    def answers(self, setup: Sequence[str], script: str = "") -> dict[str, Any]:
        """Return what each command answers after ``setup`` and the commands in ``script``."""
        self._runs += 1
        folder = self._folder / str(self._runs)
        folder.mkdir()
        given = folder / "script"
        given.write_text(script)
        asked = ANSWERS if self._core else (*ANSWERS, *OF_A_RECORDING)
        begin = [f"core-file {self._core}"] if self._core else ["heap catch", "break stop_here", "run"]
        lines = [
            f"{command} -json {folder / str(number)}".replace("FIRST", self._first)
            for number, command in enumerate(asked)
        ]
        result = self._gdb(f"source {given}", *setup, *begin, *lines, program=self._program, args=["3", "1"])
        found = {}
        for number, command in enumerate(asked):
            path = folder / str(number)
            assert path.exists(), f"{command} after {setup}{script}\n{result.describe()}"
            found[command] = steady(json.loads(path.read_text()))
        self._first = hex(found["heap chunk FIRST"]["address"])
        return found


@pytest.fixture(scope="module")
def live(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(gdb, programs["pointed"], tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def core(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("core")
    file = folder / "core"
    gdb("break stop_here", "run", f"generate-core-file {file}", program=programs["pointed"], args=["3", "1"])
    return Session(gdb, programs["pointed"], folder, file)


@pytest.fixture(scope="module")
def plain(live: Session, core: Session) -> Mapping[bool, dict[str, Any]]:
    """Return the answers of a GDB that nobody has set: of the live program, and of the core file (True)."""
    return {False: live.answers([]), True: core.answers([])}


def compare(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    return (command for command in expected if found[command] != expected[command])


@pytest.mark.parametrize("setting", QUICK)
def test_a_setting_that_matters(setting: str, live: Session, core: Session, plain: Any) -> None:
    for is_core, session in ((False, live), (True, core)):
        assert not list(compare(session.answers([f"set {setting}"]), plain[is_core])), f"core: {is_core}"


def test_the_users_settings_and_frame_stay(gdb: Gdb, programs: Programs) -> None:
    """After a command all is set as before, and the frame that was selected is."""
    shown = ["frame", *(f"show {setting.rpartition(' ')[0]}" for setting in QUICK)]
    result = gdb(
        *("break stop_here", "run", *(f"set {setting}" for setting in QUICK[:-1]), "up 2"),
        *("python print('BEFORE')", *shown, "python print('TOP')", "heap top", "python print('AFTER')", *shown),
        program=programs["pointed"],
    ).succeeded()
    before, _, rest = result.stdout.partition("BEFORE\n")[2].partition("TOP\n")
    assert "main_arena" in rest
    assert before.startswith("#2 ")
    assert rest.partition("AFTER\n")[2] == before


@pytest.mark.slow
@pytest.mark.parametrize("is_core", [False, True], ids=["live", "core"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_changes_no_answer(setting: str, is_core: bool, live: Session, core: Session, plain: Any) -> None:
    session = core if is_core else live
    assert not list(compare(session.answers([f"set {setting}"]), plain[is_core]))


@pytest.mark.slow
@pytest.mark.parametrize("is_core", [False, True], ids=["live", "core"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_changes_no_answer(hook: str, is_core: bool, live: Session, core: Session, plain: Any) -> None:
    session = core if is_core else live
    assert not list(compare(session.answers([], HOOKS[hook]), plain[is_core]))
