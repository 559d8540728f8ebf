"""Promise: a sound program, stopped anywhere, gives `heap check` nothing to report."""

from __future__ import annotations

import random

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs
from tests.support.symbols import NAMES, wanted

#: Inside GDB: go on to the next alarm, wherever it comes, and check; again and again.
STOPS = """
import gdb, json
from gdbheap.debugger.checking import check_now
gdb.execute('handle SIGALRM stop print pass', to_string=True)
gdb.execute('delete')  # or the next alarm comes while GDB steps over the breakpoint, each time
found = {{'schema': 'gdbheap/1', 'stops': 0, 'inside': 0, 'doubtful': 0, 'certain': [], 'places': []}}
for number in range({count}):
    gdb.execute('continue', to_string=True)
    if not gdb.selected_inferior().pid:
        break
    checked = check_now(None).checked
    found['stops'] += 1
    found['inside'] += any('inside' in note for note in checked.notes)
    found['doubtful'] += len(checked.findings) - len(checked.certain)
    frame = gdb.newest_frame()
    found['places'].append('%s+%d' % (frame.name(), frame.pc() % 4096))
    if checked.certain:
        where = gdb.execute('thread apply all backtrace 8', to_string=True)
        found['certain'].append([[item.text for item in checked.certain], list(checked.notes), where])
json.dump(found, open({path!r}, 'w'))
gdb.execute('kill')
"""


def stopped(gdb: Gdb, answers: Answers, programs: Programs, seed: int, threads: int, count: int, *before: str) -> None:
    """Stop churn.c at ``count`` random instructions and check its heap each time."""
    code = STOPS.format(count=count, path=str(answers.path("stops")))
    gdb(
        "set print thread-events off",
        *before,
        "break stop_here",
        "run",
        f"python exec({code!r}, {{}})",
        program=programs["churn"],
        args=[str(seed), str(threads), str(2 * count)],
    ).succeeded()
    found = answers["stops"]
    assert found["stops"] == count, f"seed {seed}"
    assert not found["certain"], f"seed {seed}: {found['certain'][0]}"
    assert len(set(found["places"])) > count // 10, "it was stopped in many places"
    assert found["inside"] > count // 10, "and often inside malloc"


@pytest.mark.parametrize(("threads", "count"), [(1, 150), (4, 60)])
def test_stopped_anywhere(gdb: Gdb, answers: Answers, programs: Programs, threads: int, count: int) -> None:
    """At a few hundred random instructions, inside malloc and outside."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    stopped(gdb, answers, programs, seed, threads, count)


#: Settings that lead malloc other ways.
SETTINGS = (
    "GLIBC_TUNABLES glibc.malloc.tcache_count=0", "GLIBC_TUNABLES glibc.malloc.mxfast=160", "MALLOC_TOP_PAD_ 0",
    "GLIBC_TUNABLES glibc.malloc.hugetlb=1", "GLIBC_TUNABLES glibc.malloc.hugetlb=2", "MALLOC_MMAP_MAX_ 0",
    "GLIBC_TUNABLES glibc.malloc.tcache_count=60000", "MALLOC_PERTURB_ 85", "MALLOC_ARENA_MAX 1",
    "MALLOC_MMAP_THRESHOLD_ 4096",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_stopped_anywhere_with_other_settings(gdb: Gdb, answers: Answers, programs: Programs, setting: str) -> None:
    """The same with malloc set otherwise."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    stopped(gdb, answers, programs, seed, 3, 60, f"set environment {setting}")


@pytest.mark.slow
def test_stopped_anywhere_often(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """At thousands of them."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    for number in range(8):
        stopped(gdb, answers, programs, seed + number, 1 + number % 4, 400)


def test_what_may_be_a_step_is_said(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Which thread is inside malloc, and whose lists may be between two steps; and that does not count."""
    if not wanted():
        pytest.skip(NAMES)
    result = gdb(
        "break stop_here",
        "run",
        "set breakpoint pending on",
        "break unlink_chunk",
        "continue",
        f"heap check {answers.into('check')}",
        program=programs["churn"],
        args=["1", "1"],
    ).succeeded()
    said = [note for note in answers["check"]["notes"] if "may be between two steps" in note]
    assert said
    assert "lists of main_arena" in said[0]
    assert said[0].startswith("Thread 1 is inside ")
    assert said[0] in result.stdout


# Without a shell GDB 10 takes no argument that has a space.
@pytest.mark.parametrize(
    "command", [["/bin/ls", "-lR", "/etc"], ["/usr/bin/python3", "-c", "print(len(sorted(map(str,range(20000)))))"],
                ["/usr/bin/awk", "BEGIN{for(i=0;i<30000;i++)a[i]=i\"x\";print(length(a))}"]]  # GDB 10 wants no spaces
)  # fmt: skip
def test_ordinary_programs(gdb: Gdb, answers: Answers, command: list[str]) -> None:
    """Programs that nobody wrote for this, before they end."""
    gdb("catch syscall exit_group", "run", f"heap check {answers.into('check')}", "kill",
        program=command[0], args=command[1:]).succeeded()  # fmt: skip
    assert answers["check"]["sound"]
    assert answers["check"]["findings"] == []
    assert answers["check"]["chunks"] > 20
