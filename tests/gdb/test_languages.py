"""Promise: what a program is written in, and how GDB is set to read and to tell things, changes no answer."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import needs
from tests.support.symbols import WITHOUT

#: GDB's, but for those that it cannot read expressions in, and Go's (GDB 13 ends itself over a function of C's).
LANGUAGES = ("ada", "asm", "c++", "d", "fortran", "minimal", "modula-2", "objective-c", "opencl", "pascal", "rust")
COMMANDS = {
    "heap": "heap", "arenas": "heap arenas", "top": "heap top", "params": "heap params -how", "tcache": "heap tcache",
    "chunks": "heap chunks", "check": "heap check", "predict": "heap predict malloc 100", "refs": "heap refs $chunk",
    "chunk": "heap chunk $chunk", "events": "heap events", "why": "heap why-grow",
}  # fmt: skip
#: What differs from run to run.
VARIES = ("time", "tid", "process", "processes", "resident", "seconds", "command")


def steady(value: Any) -> Any:
    """Return an answer without what is another one each time."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in VARIES}
    return [steady(item) for item in value] if isinstance(value, list) else value


def answered(gdb: Gdb, folder: Path, program: Path, before: tuple[str, ...]) -> dict[str, Any]:
    """Return what each command answers at stop_here of a recorded run."""
    folder.mkdir()
    answers = Answers(folder)
    found = "python gdb.set_convenience_variable('chunk', int(gdb.lookup_global_symbol('kept').value()[1]))"
    asked = [f"{command} {answers.into(name)}" for name, command in COMMANDS.items()]
    size = "output $_heap_size($chunk)"
    result = gdb("heap catch", "break stop_here", "run", found, *asked, size, before=before, program=program)
    result.succeeded()
    assert result.stdout.endswith(f"{SIZE}"), result.describe()
    return {name: steady(answers[name]) for name in COMMANDS}


#: The size of the chunk of kept[1].
SIZE = 20024 + 8
SOURCE = """
#include <stdlib.h>
void stop_here(void) {}
void *kept[9];
int main(void)
{
    for (int i = 0; i < 9; i++) kept[i] = malloc(20000 * i + 24);
    for (int i = 0; i < 9; i += 2) free(kept[i]);
    stop_here();
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a program in C."""
    folder = tmp_path_factory.mktemp("languages")
    (folder / "it.c").write_text(SOURCE)
    subprocess.run([needs("gcc"), "-g", "-O0", "-o", str(folder / "it"), str(folder / "it.c")], check=True)
    return folder / "it"


@pytest.fixture(scope="module", params=[(), WITHOUT], ids=["with", "without"])
def in_c(
    request: pytest.FixtureRequest, gdb: Gdb, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return what GDB is told before, for libc's symbols, and what each command answers in C."""
    without: tuple[str, ...] = request.param
    folder = tmp_path_factory.mktemp("languages") / "c"
    return without, answered(gdb, folder, program, ("set language c", *without))


@pytest.mark.parametrize(
    "setting",
    [*(f"language {language}" for language in LANGUAGES), "input-radix 16", "trace-commands on", "verbose on"],
)
def test_what_the_user_has_set(
    gdb: Gdb, tmp_path: Path, program: Path, setting: str, in_c: tuple[tuple[str, ...], dict[str, Any]]
) -> None:
    """Every command gives the answer that it gives in C, however GDB reads numbers and adds to what it tells."""
    without, truth = in_c
    found = answered(gdb, tmp_path / "other", program, (f"set {setting}", *without))
    for name, answer in truth.items():
        assert found[name] == answer, name


RUST = """
#[inline(never)]
fn stop_here(kept: &Vec<Vec<u8>>) -> usize { kept.len() }
fn main() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for size in 1..100 { kept.push(vec![1u8; size * 100]); }
    kept.truncate(50);
    std::process::exit(if stop_here(&kept) == 50 { 0 } else { 1 });
}
"""


def test_a_program_in_rust(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """It is recorded, and its heap shown, at a stop in a function of Rust's."""
    compiler = needs("rustc")
    source, program = tmp_path / "it.rs", tmp_path / "it"
    source.write_text(RUST)
    done = subprocess.run([compiler, "-g", "-o", str(program), str(source)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("rustc cannot build a program here")
    asked = [f"{command} {answers.into(name)}" for name, command in COMMANDS.items() if "$chunk" not in command]
    result = gdb("heap catch", "break it::stop_here", "run", "show language", *asked, program=program).succeeded()
    assert "rust" in result.stdout.split("The current source language is")[1].splitlines()[0]
    assert answers["check"]["findings"] == []
    assert answers["heap"]["arenas"][0]["unaccounted"] == 0
    grown = [event for event in answers.events("events") if event["kind"] == "malloc" and event["delta"]]
    assert grown
    assert all(event["exact"] for event in grown if event["path"] is not None)
