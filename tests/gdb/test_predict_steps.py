"""Promise: what is predicted from memory alone, before an operation runs, is what it then does.

GDB steps a program from operation to operation. Before each one the prediction is made; then it runs, and address,
size, break, system calls (as the kernel got them), every list, the top chunk and mp_ are compared.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gdbheap.simulate.sequence import entry_text
from tests.support.debugger import Gdb
from tests.support.environment import ROOT
from tests.support.operations import PROFILES, random_operations
from tests.support.programs import Programs
from tests.support.symbols import wanted


def step(gdb: Gdb, program: Path, folder: Path, seed: int, count: int, profile: str, threads: bool = False) -> None:
    """Step through random operations; fail at the first one that is not as predicted."""
    operations, answer = folder / "operations", folder / "answer"
    entries = random_operations(seed, count, profile)
    operations.write_text("".join(f"{entry_text(entry)}\n" for entry in entries))
    gdb(
        "break before_operations",
        "heap catch",
        "run",
        f'set $operations = "{operations}"',
        f'set $answer = "{answer}"',
        f"set $unknown = {int(not wanted())}",
        f"source {ROOT / 'tests' / 'support' / 'stepping.py'}",
        program=program,
        args=[str(operations), "/dev/null", *(["threads"] if threads else [])],
        before=("set language c",),
    ).succeeded()
    found = json.loads(answer.read_text())
    assert found["difference"] is None, f"seed {seed}, profile {profile}: {found['difference']}"
    assert found["operations"] == len(entries) >= count
    print(f"unknown: {found['unknown']} of {found['operations']}")
    assert found["unknown"] <= (0 if wanted() else 0.5 * len(entries))


@pytest.mark.parametrize("profile", PROFILES)
def test_each_operation_does_what_was_predicted(gdb: Gdb, programs: Programs, tmp_path: Path, profile: str) -> None:
    step(gdb, programs["ops"], tmp_path, seed=1, count=300, profile=profile)


def test_in_an_arena_of_its_own(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """The second thread gets an arena with its first operation, and is then the one that runs."""
    step(gdb, programs["ops"], tmp_path, seed=2, count=300, profile="mixed", threads=True)
