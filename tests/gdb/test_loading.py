"""The five ways to load gdbheap into a real GDB, and what it says where it cannot be loaded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gdbheap.loading import too_old
from tests.support.environment import PATIENCE, ROOT, needs, plain_environment
from tests.support.programs import Programs

GDB = os.environ.get("GDB", "gdb")

#: GDB's Python as it is where neither package is installed.
HIDE_PACKAGES = (
    "python import sys; sys.path[:] = [path for path in sys.path if not path.endswith('-packages')];"
    " [sys.modules.pop(name) for name in list(sys.modules) if name.split('.')[0] in ('pygments', 'tabulate')]"
)
STYLE_SOMETHING = (
    "python import pygments.lexers, pygments.formatters, tabulate;"
    " print(pygments.highlight('int heap;', pygments.lexers.get_lexer_by_name('c'),"
    " pygments.formatters.get_formatter_by_name('terminal256')), tabulate.tabulate([[1]]), sys.modules['gdbheap'])"
)


class Run:
    """One run of a command: its status, its two outputs, and the lines of its errors."""

    def __init__(
        self, command: Sequence[str | Path], cwd: Path, environment: Mapping[str, str] | None = None, typed: str = ""
    ) -> None:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**plain_environment(), **(environment or {})},
            input=typed,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.report = f"{command}\nstatus {self.status}\n--- out\n{self.out}\n--- err\n{self.err}"

    def has_heap(self, prefix: str = "heap") -> None:
        """Fail unless `help PREFIX` listed our commands."""
        assert self.status == 0, self.report
        assert f"{prefix} why-grow" in self.out, self.report
        assert not self.err, self.report

    def refused(self, *words: str) -> None:
        """Fail unless sourcing, the last command of the run, ended in one sentence that has ``words`` in it."""
        assert self.status == 1, self.report
        where, sentence = self.err.splitlines()
        assert where.endswith("Error in sourced command file:"), self.report
        assert sentence.endswith("."), self.report
        assert all(word in sentence for word in words), self.report
        assert not self.out, self.report


def gdb(*commands: str, cwd: Path, program: Sequence[str | Path] = ()) -> Run:
    needs(GDB)
    line: list[str | Path] = [GDB, "-nx", "-q", "-batch"]
    for command in commands:
        line += ["-ex", command]
    return Run([*line, *(["--args", *program] if program else [])], cwd)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what is sourced, without .venv."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "gdbheap", folder)
    shutil.copytree(ROOT / "src", folder / "src")
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the single file, alone in a folder."""
    target = tmp_path_factory.mktemp("carried") / "gdbheap"
    done = Run([sys.executable, ROOT / "scripts" / "bundle.py", target], ROOT)
    assert done.status == 0, done.report
    assert list(target.parent.iterdir()) == [target]
    return target


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the launcher of a fresh virtual environment that the checkout was installed into with pip."""
    folder = tmp_path_factory.mktemp("installed")
    pip_environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT)],
    ):
        done = Run(command, ROOT, pip_environment)
        assert done.status == 0, done.report
    return folder / "bin" / "gdbheap"


# --- The five ways ----------------------------------------------------------------------------------------------------


def test_from_the_root() -> None:
    gdb("source gdbheap", "help heap", cwd=ROOT).has_heap()


def test_by_its_absolute_path(tmp_path: Path) -> None:
    gdb(f"source {ROOT}/gdbheap", "help heap", cwd=tmp_path).has_heap()


@pytest.mark.parametrize("active", ["source", "directory"])
def test_through_the_example_gdbinit(active: str, tmp_path: Path) -> None:
    init = tmp_path / ".gdbinit"
    lines = []
    for line in (ROOT / "gdbinit.example").read_text().replace("/path/to/gdbheap", str(ROOT)).splitlines():
        if active == "directory" and line.startswith("source "):
            lines.append("#" + line)
        elif active == "directory" and line.startswith(("#directory ", "#source ")):
            lines.append(line[1:])
        else:
            lines.append(line)
    init.write_text("\n".join(lines) + "\n")
    commands = [line for line in lines if line and not line.startswith("#")]
    expected = {"source": f"source {ROOT}/gdbheap", "directory": f"directory {ROOT}\nsource gdbheap"}
    assert "\n".join(commands) == expected[active]
    needs(GDB)
    environment = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    (tmp_path / "elsewhere").mkdir()
    Run([GDB, "-q", "-batch", "-ex", "help heap"], tmp_path / "elsewhere", environment).has_heap()


def test_through_the_installed_launcher(installed: Path, tmp_path: Path) -> None:
    bare = tmp_path / "gdb-without-packages"
    bare.write_text(f'#!/bin/sh\nexec {needs(GDB)} -iex "{HIDE_PACKAGES}" "$@"\n')
    bare.chmod(0o755)
    where = "python import tabulate; print(tabulate.__file__)"
    for gdb_path in (GDB, str(bare)):
        done = Run([installed, "-nx", "-q", "-batch", "-ex", "help heap", "-ex", where], tmp_path, {"GDB": gdb_path})
        done.has_heap()
    assert str(installed.parent.parent) in done.out, done.report


def test_as_a_single_file_without_the_packages(bundle: Path) -> None:
    for package in ("pygments", "tabulate"):
        hidden = gdb(HIDE_PACKAGES, f"python import {package}", cwd=bundle.parent)
        assert hidden.status == 1, hidden.report
    gdb(HIDE_PACKAGES, "source gdbheap", "help heap", cwd=bundle.parent).has_heap()


# --- More about the single file ---------------------------------------------------------------------------------------


def test_the_single_file_has_what_styles_and_tables_need(bundle: Path, tmp_path: Path) -> None:
    done = gdb(HIDE_PACKAGES, f"source {bundle}", STYLE_SOMETHING, cwd=tmp_path)
    assert done.status == 0, done.report
    assert "\033[" in done.out
    assert str(bundle) in done.out


@pytest.mark.parametrize("option", [["-iex", "set editing off"], ["-i", "mi"], []])
def test_gdb_never_reads_the_archive_as_commands(option: list[str], bundle: Path) -> None:
    needs(GDB)
    done = Run([GDB, "-nx", "-q", "-batch", *option, "-ex", "source gdbheap", "-ex", "help heap"], bundle.parent)
    assert done.status == 0, done.report
    assert "heap why-grow" in done.out, done.report
    assert not done.err, done.report
    done = Run([GDB, "-nx", "-q", *option], bundle.parent, typed="source gdbheap\nhelp heap\n")
    assert "heap why-grow" in done.out, done.report
    assert not done.err, done.report


def test_the_single_file_is_the_same_each_time(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "gdbheap"
    assert Run([sys.executable, ROOT / "scripts" / "bundle.py", again], tmp_path).status == 0
    assert again.read_bytes() == bundle.read_bytes()


# --- More about the launcher ------------------------------------------------------------------------------------------


def test_the_program_gets_its_arguments_and_no_python_variable(installed: Path, tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], [name for name in os.environ if name[:6] == 'PYTHON'])"
    program = [sys.executable, "-c", code, "a b", "it's", "$HOME", "*", ""]
    done = Run([installed, "-nx", "-q", "-batch", "-ex", "run", *program], tmp_path)
    assert done.status == 0, done.report
    assert """['a b', "it's", '$HOME', '*', ''] []""" in done.out, done.report


def test_the_launcher_answers_for_itself(installed: Path, tmp_path: Path) -> None:
    assert Run([installed, "--version"], tmp_path).out.startswith("gdbheap ")
    assert Run([installed, "--help"], tmp_path).out.startswith("Usage: gdbheap ")
    done = Run([installed, "ls"], tmp_path, {"GDB": "no-such-gdb"})
    assert done.status == 127
    assert done.err == "gdbheap: there is no GDB called 'no-such-gdb': install gdb, or set GDB to its path.\n"


# --- Harmless ---------------------------------------------------------------------------------------------------------


def test_twice() -> None:
    gdb("source gdbheap", "source gdbheap", "help heap", cwd=ROOT).has_heap()


def test_a_second_copy_is_left_alone(bundle: Path) -> None:
    done = gdb("source gdbheap", f"source {bundle}", cwd=ROOT)
    assert done.status == 0, done.report
    assert done.out == f"gdbheap is already loaded from {ROOT}/src: start a new GDB to load it from {bundle}/src.\n"


def test_a_path_with_spaces_through_a_link(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    checkout.rename(folder)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    link = tmp_path / "a link"
    link.symlink_to(folder / "gdbheap")
    gdb(f"source {link}", "help heap", cwd=tmp_path).has_heap()


def test_a_debuggee_of_the_same_name(tmp_path: Path) -> None:
    program = tmp_path / "gdbheap"
    shutil.copy(needs("true"), program)
    gdb(f"source {ROOT}/gdbheap", "help heap", cwd=tmp_path, program=[program]).has_heap()


def test_modules_of_gdb_are_never_hidden() -> None:
    done = gdb(
        "python import sys; before = list(sys.path)",
        "source gdbheap",
        "python print(sys.path[:len(before)] == before, [p for p in sys.path[len(before):] if '.venv' not in p])",
        cwd=ROOT,
    )
    assert done.out == "True []\n", done.report


def test_a_taken_name() -> None:
    taken = "python gdb.Command.__new__(gdb.Command).__init__('heap', gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)"
    done = gdb(taken, "source gdbheap", "help gdbheap", cwd=ROOT)
    assert done.status == 0, done.report
    assert "gdbheap why-grow" in done.out, done.report
    assert "'heap'" in done.out.splitlines()[0], done.report
    assert "\nheap why-grow" not in done.out, done.report
    assert not done.err, done.report


#: What pwndbg does when it defines a command: it refuses one whose name begins a line of `help all`.
LIKE_PWNDBG = """python
listed = {line.split()[0] for line in gdb.execute("help all", to_string=True).splitlines() if line.strip()}
class Theirs(gdb.Command):
  def __init__(self):
    if "heap" in listed:
      raise Exception("Cannot override")
    super().__init__("heap", gdb.COMMAND_USER, gdb.COMPLETE_EXPRESSION, False)
  def invoke(self, argument, from_tty):
    print("theirs:", argument)
Theirs()
end
"""


def test_an_extension_with_the_same_name_comes_later(tmp_path: Path) -> None:
    """It gets the name `heap`, as gdbinit.example says; our commands stay under the other one."""
    later = tmp_path / "later.gdb"
    later.write_text(LIKE_PWNDBG)
    done = gdb("source gdbheap", f"source {later}", "heap chunks", "help gdbheap chunks", "gdbheap top", cwd=ROOT)
    assert "theirs: chunks" in done.out, done.report
    assert "Usage: heap chunks" in done.out, done.report
    assert "There is no program and no process: " in done.err, done.report


# --- At any moment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before",
    [
        ["run"],
        ["run", "record"],
        ["run", "generate-core-file {folder}/core", "kill", "core-file {folder}/core"],
        ["run", "python files = [open('/dev/null') for _ in range(300)]"],
    ],
    ids=["running", "record", "core", "files"],
)
def test_while_a_program_is_looked_at(before: list[str], programs: Programs, tmp_path: Path) -> None:
    """GDB then holds files open that cannot be read, as the process's memory."""
    quiet = ["set confirm off", "break stop_here"]
    commands = [command.format(folder=tmp_path) for command in before]
    program = programs["usable"]
    late = gdb(*quiet, *commands, f"source {ROOT}/gdbheap", "heap top", cwd=tmp_path, program=[program])
    early = gdb(f"source {ROOT}/gdbheap", *quiet, *commands, "heap top", cwd=tmp_path, program=[program])
    assert late.out.splitlines()[-1].split() == early.out.splitlines()[-1].split(), late.report + early.report
    assert "main_arena" in late.out or "malloc has not taken" in late.err, late.report
    assert "Exception" not in late.err, late.report


# --- One sentence each ------------------------------------------------------------------------------------------------


#: One command of each kind of answer, with a recording behind it.
EVERY_ANSWER = (
    *(
        "heap",
        "heap arenas",
        "heap top",
        "heap params",
        "heap chunks -state used",
        "heap map",
        "heap chunk $_siginfo.si_pid",
    ),
    *("heap bins", "heap tcache", "heap find", "heap find -by size", "heap refs stdout", "heap events"),
    *("heap events -by kind", "heap timeline", "heap why-grow", "heap predict malloc 8", "heap check"),
)


def test_missing_packages(checkout: Path) -> None:
    """Loading says once what is missing; each command then answers as it does with the packages."""
    commands = ("source gdbheap", "heap catch", "break exit", "run >/dev/null", "echo HERE\\n", *EVERY_ANSWER)
    bare = gdb(HIDE_PACKAGES, *commands, "heap top -json", cwd=checkout, program=["/bin/ls"])
    said = [line for line in bare.err.splitlines() if "pygments" in line or "tabulate" in line]
    assert len(said) == 1, bare.report
    assert said[0].startswith("GDB's Python "), bare.report
    assert " does not find pygments and tabulate: " in said[0], bare.report
    assert said[0].endswith(f", run sh {checkout}/scripts/setup.sh."), bare.report
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    full = gdb(*commands, "heap top -json", cwd=checkout, program=["/bin/ls"])
    assert "Traceback" not in bare.err + bare.out, bare.report
    (ours, theirs) = (run.out.split("HERE\n")[1].splitlines() for run in (bare, full))
    # Times, the process, and how much of the files is in memory.
    varying = re.compile(r"\b\d+\.\d+\b|process \d+|^(the program and other files|the whole process) .*")
    assert [varying.sub("", line) for line in ours] == [varying.sub("", line) for line in theirs]
    assert len(ours) > 100


def test_packages_that_come_later(checkout: Path) -> None:
    """The set-up was run meanwhile: sourcing again finds them, and GDB need not be started again."""
    link = f"python import os; os.symlink('{ROOT}/.venv', '{checkout}/.venv')"
    commands = ("source gdbheap", link, "source gdbheap", "python import pygments, tabulate")
    done = gdb(HIDE_PACKAGES, *commands, cwd=checkout)
    assert done.err.count("does not find") == 1, done.report
    assert done.status == 0, done.report


def test_the_packages_of_the_virtual_environment_are_found(checkout: Path) -> None:
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    gdb(HIDE_PACKAGES, "source gdbheap", "help heap", cwd=checkout).has_heap()


def test_a_missing_package(checkout: Path) -> None:
    library = checkout / ".venv" / "lib" / "python3" / "site-packages" / "pygments"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    done = gdb(HIDE_PACKAGES, "source gdbheap", cwd=checkout)
    assert " does not find tabulate: tables are laid out plainly. " in done.err, done.report


def test_an_incomplete_checkout(checkout: Path) -> None:
    shutil.rmtree(checkout / "src")
    gdb("source gdbheap", cwd=checkout).refused("No module named 'gdbheap'", "dist/gdbheap")


@pytest.mark.parametrize(
    ("pretence", "words"),
    [
        ("gdb.VERSION = '9.2'", ["GDB 10 ", "this is GDB 9.2."]),
        ("gdb.VERSION = 'Red Hat Enterprise Linux 8.2-20.el8'", ["GDB 10 ", "this is GDB 8.2."]),
        ("sys.version_info = (3, 8, 10, 'final', 0)", ["Python 3.9 ", "Python 3.8."]),
    ],
)
def test_too_old(pretence: str, words: list[str]) -> None:
    gdb(f"python import sys; {pretence}", "source gdbheap", cwd=ROOT).refused(*words)


@pytest.mark.parametrize("version", ["10.1.90.20210103-git", "13.1", "Fedora Linux 14.1-3.fc39", "18.1", "unknown"])
def test_new_enough(version: str) -> None:
    assert not too_old(version, (3, 9, 0))


def test_a_gdb_without_python() -> None:
    """Debian's gdb-minimal is such a GDB; it is only unpacked, since it cannot be installed next to gdb."""
    cache = ROOT / "build" / "gdb-minimal"
    minimal = cache / "usr" / "bin" / "gdb"
    if not minimal.exists():
        needs("apt-get")
        needs("dpkg")
        cache.mkdir(parents=True, exist_ok=True)
        Run(["apt-get", "-qq", "download", "gdb-minimal"], cache)
        for package in cache.glob("*.deb"):
            Run(["dpkg", "-x", package, cache], cache)
            package.unlink()
    if not minimal.exists() or Run([minimal, "--version"], ROOT).status:
        pytest.skip("Debian's gdb-minimal cannot be had here")
    done = Run([minimal, "-nx", "-q", "-batch", "-ex", "source gdbheap"], ROOT)
    assert done.status == 1, done.report
    assert done.out == "gdbheap needs a GDB with Python; on Debian that is gdb, not gdb-minimal.\n"
    assert "is not supported in this copy of GDB" in done.err, done.report
    assert len(done.err.splitlines()) == 2, done.report
