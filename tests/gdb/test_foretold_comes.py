"""Promise: what `heap check` foretells comes: each call that it names ends just so, in a copy of the process.

c_fixtures/caller.c makes the calls; glibc's own message, and the signal, are the oracle.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.corruptions import CRASH, MODES, why_not
from tests.support.debugger import Answers, Gdb
from tests.support.foretold import run
from tests.support.programs import Programs
from tests.support.symbols import wanted

#: The modes of corrupt.c that are tried in each run: lists of each kind, headers of each kind, the top chunk.
CORE = (
    "free-prev", "size-prev-size", "not-small", "munmap-pointer", "realloc-next-size", "tcache-unaligned-second",
    "fastbin-unaligned-3", "smallbin", "unsorted-overrun", "largebin-bk", "top-size-huge", "break-adjusted",
)  # fmt: skip
#: Words of the heap that are changed, one in each run of GDB.
RUNS = 24
#: In GDB: one word of the heap of the program "totals" gets another value.
CHANGE = (
    'python exec("import random; chance = random.Random({seed}); read = gdb.selected_inferior().read_memory\\n'
    "low = int(gdb.parse_and_eval('(long) used[0]')) - 16\\n"
    "words = [(p, int.from_bytes(read(p, 8).tobytes(), 'little')) for p in range(low, low + 0x4000, 8)]\\n"
    "place, value = chance.choice([item for item in words if item[1]])\\n"
    "other = chance.choice([value ^ 1 << chance.randrange(16), 0, value + 16, 0x4141414141414141, place, place + 8])\\n"
    "gdb.selected_inferior().write_memory(place, (other % (1 << 64)).to_bytes(8, 'little'))\")"
)


@pytest.fixture(autouse=True)
def _with_symbols() -> None:
    if not wanted():
        pytest.skip("the tcache is filled through mp_ and its struct, which only debug symbols tell")


def everything_comes(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> int:
    """Make all calls that are foretold at the stop of a mode of corrupt.c; return how many there are."""
    cases, result = run(gdb, answers, programs["caller.so"], programs["corrupt"], [mode])
    result.has_no_internal_error()
    assert not [case for case in cases if not case.came], result.stdout
    return len(cases)


@pytest.mark.parametrize("mode", CORE)
def test_what_is_foretold_comes(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """Calls with the tcache as it is and full, after other calls, with each end of a range of requests."""
    assert everything_comes(gdb, answers, programs, mode) or why_not(mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", sorted({*MODES, CRASH} - {*CORE}))
def test_what_is_foretold_of_the_others_comes(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    everything_comes(gdb, answers, programs, mode)


@pytest.mark.slow
def test_what_is_foretold_of_random_damage_comes(
    gdb: Gdb, tmp_path_factory: pytest.TempPathFactory, programs: Programs
) -> None:
    """Words anywhere in a heap; some of them must have been noticed, so that something was tried."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    wrong: list[Any] = []
    tried = 0
    for number in range(RUNS):
        answers = Answers(tmp_path_factory.mktemp("random"))
        damage = [CHANGE.format(seed=seed + number)]
        cases, result = run(gdb, answers, programs["caller.so"], programs["totals"], [], damage=damage)
        result.has_no_internal_error()
        tried += len(cases)
        wrong += [(seed + number, case) for case in cases if not case.came]
    assert not wrong, wrong[:5]
    assert tried > RUNS, tried
