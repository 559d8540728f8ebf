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


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("threads", [False, True], ids=["main_arena", "arena of a thread"])
def test_every_operation_agrees(gdb: Gdb, programs: Programs, tmp_path: Path, profile: str, threads: bool) -> None:
    seed, count = 20_000 + threads, 3000
    entries = random_operations(seed, count, profile)
    agreed, difference = differences(record(gdb, programs["ops"], tmp_path, entries, threads))
    assert difference is None, f"seed {seed}, profile {profile}, operation {agreed}: {difference}"
    assert agreed == len(entries) >= count


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("threads", [False, True], ids=["main_arena", "arena of a thread"])
def test_every_operation_of_a_32_bit_program(gdb: Gdb, tmp_path: Path, profile: str, threads: bool) -> None:
    seed, count = 30_000 + threads, 2000
    entries = random_operations(seed, count, profile)
    agreed, difference = differences(record(gdb, build_32_bit("ops", tmp_path), tmp_path, entries, threads))
    assert difference is None, f"seed {seed}, profile {profile}, operation {agreed}: {difference}"
    assert agreed == len(entries) >= count
