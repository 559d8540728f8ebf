"""Promise: the simulated allocator gives every operation the address, the size and the break that glibc gives it.

The program does random operations and logs what it got; the simulated allocator does the same from the same start.
The seeds are fixed, and shown where one fails. bench/predicting.py does a million of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.debugger import Gdb
from tests.support.operations import PROFILES, differences, random_operations, record
from tests.support.programs import Programs, build_32_bit


def replay(gdb: Gdb, program: Path, folder: Path, seed: int, count: int, profile: str, threads: bool) -> None:
    """Let the program do random operations, and the simulated allocator the same; fail where they differ."""
    entries = random_operations(seed, count, profile)
    agreed, difference = differences(record(gdb, program, folder, entries, threads))
    assert difference is None, f"seed {seed}, profile {profile}, operation {agreed}: {difference}"
    assert agreed == len(entries) >= count


@pytest.mark.parametrize("profile", PROFILES)
def test_every_operation_agrees(gdb: Gdb, programs: Programs, tmp_path: Path, profile: str) -> None:
    replay(gdb, programs["ops"], tmp_path, 20_000, 3000, profile, threads=False)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_operation_of_a_32_bit_program(gdb: Gdb, tmp_path: Path, profile: str) -> None:
    replay(gdb, build_32_bit("ops", tmp_path), tmp_path, 30_000, 2000, profile, threads=False)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("bits", [64, 32])
def test_every_operation_in_an_arena_of_a_thread(
    gdb: Gdb, programs: Programs, tmp_path: Path, profile: str, bits: int
) -> None:
    program = programs["ops"] if bits == 64 else build_32_bit("ops", tmp_path)
    replay(gdb, program, tmp_path, 20_001 if bits == 64 else 30_001, 3000, profile, threads=True)
