"""Promise: the simulated allocator gives every operation the address, the size and the break that glibc gives it.

The program does random operations and logs what it got; the simulated allocator does the same from the same start.
The seeds are fixed, and shown where one fails. bench/predicting.py does more of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.debugger import Gdb
from tests.support.operations import PROFILES, differences, random_operations, record
from tests.support.programs import Programs


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("threads", [False, True], ids=["main_arena", "arena of a thread"])
def test_every_operation_agrees(gdb: Gdb, programs: Programs, tmp_path: Path, profile: str, threads: bool) -> None:
    seed, count = 20_000 + threads, 3000
    entries = random_operations(seed, count, profile)
    agreed, difference = differences(record(gdb, programs["ops"], tmp_path, entries, threads))
    assert difference is None, f"seed {seed}, profile {profile}, operation {agreed}: {difference}"
    assert agreed == len(entries) >= count
