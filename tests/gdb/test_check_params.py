"""Promise: values of malloc's variables that no call gives are found, those that settings give are not.

The settings are glibc's own (mallopt, tunables, the environment); the wrong values are written by GDB.
"""

from __future__ import annotations

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version, has_fastbins
from tests.support.programs import Programs
from tests.support.symbols import wanted

#: Arguments of tuned.c, and the environment: what may be set, alone and together.
SETTINGS = {
    "none": ((), {}),
    "thresholds": (("-1=4096", "-3=65536", "-2=0"), {}),
    "no mappings": (("-4=0",), {}),
    "negative": (("-1=-1", "-2=4097", "-4=-5"), {}),
    "fastbins off": (("1=0", "-7=1", "-8=1"), {}),
    "largest fastbins": (("1=160", "-8=300000"), {}),
    "small mxfast": (("1=3",), {}),
    "perturb": (("-6=165", "-3=1048576"), {}),
    "environment": ((), {"MALLOC_TOP_PAD_": "123", "MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "5000000"}),
    "tcache off": ((), {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}),
    "tcache large": ((), {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=65535:glibc.malloc.tcache_max=1000000"}),
    "tcache small": ((), {"GLIBC_TUNABLES": "glibc.malloc.tcache_max=56:glibc.malloc.tcache_unsorted_limit=3"}),
    "tcache sizes": ((), {"GLIBC_TUNABLES": "glibc.malloc.tcache_max=777:glibc.malloc.tcache_count=127"}),
    "huge pages": ((), {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    "huge mappings": ((), {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}),
    "arenas": ((), {"GLIBC_TUNABLES": "glibc.malloc.arena_test=1:glibc.malloc.arena_max=1:glibc.malloc.mxfast=48"}),
}
#: Fields of mp_, each with a value that nothing gives it, at the stop of tuned.c without settings.
WRONG = {
    "mmap_threshold": "0x12345",
    "trim_threshold": "0x777777",
    "top_pad": "0x4141414141414141",
    "n_mmaps_max": "7",
    "no_dyn_threshold": "65",
    "n_mmaps": "max_n_mmaps + 1",
    "mmapped_mem": "mmapped_mem + 8",
    "max_mmapped_mem": "mmapped_mem - 4096",
    "arena_test": "0",
    "sbrk_base": "(char *) sbrk_base + 0x10",
    "hp_pagesize": "12345",
    "hp_flags": "3",
    "thp_pagesize": "0x1234",
    "thp_mode": "77",
    "tcache_bins": "65",
    "tcache_small_bins": "3",
    "tcache_max_bytes": "0x7fffffff",
    "tcache_count": "0x10000",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_can_be_set_is_sound(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """With threads, and in the child of fork."""
    arguments, environment = SETTINGS[name]
    result = gdb(
        *(f"set environment {key} {value}" for key, value in environment.items()),
        "break stop_here",
        "run",
        f"heap check {answers.into('parent')}",
        "set follow-fork-mode child",
        "continue",
        f"heap check {answers.into('child')}",
        program=programs["tuned"],
        args=arguments,
    )
    result.succeeded()
    for where in ("parent", "child"):
        assert answers[where]["findings"] == [], f"{where}: {answers[where]['findings'][0]}"
        assert answers[where]["sound"]
        assert answers[where]["chunks"] > 100


def test_what_nothing_gives_is_found(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """One field after the other is written and written back: the first finding is that very field."""
    if not wanted():
        pytest.skip("the test writes fields of mp_ by their names")
    places = {"places": "{name: number('(long) &mp_.' + name) for name in fields('mp_')}"}
    commands = ["break stop_here", "run", answers.python("truth", places)]
    for name, value in WRONG.items():
        value = " ".join(f"mp_.{word}" if word in WRONG or word == "max_n_mmaps" else word for word in value.split())
        commands += [
            f"set $kept = mp_.{name}",
            f"set variable mp_.{name} = {value}",
            f"heap check {answers.into(name)}",
            f"set variable mp_.{name} = $kept",
        ]
    result = gdb(*commands, f"heap check {answers.into('after')}", program=programs["tuned"])
    result.has_no_internal_error()
    assert answers["after"]["sound"]
    places = answers["truth"]["places"]
    there = [name for name in WRONG if name in places]
    assert len(there) >= 12
    for name in there:
        findings = answers[name]["findings"]
        assert findings, f"{name}: nothing was found"
        assert (findings[0]["kind"], findings[0]["address"]) == ("param", places[name]), findings
        assert len(findings) == 1, (name, findings)


@pytest.mark.skipif(not has_fastbins(), reason="this glibc has no fastbins")
def test_the_limit_of_fastbins(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Where it is beyond what mallopt takes, free writes behind the fastbins."""
    if not wanted():
        pytest.skip("the test writes global_max_fast by its name")
    value = "0xf0" if glibc_version() >= (2, 37) else "0x7fffffffffff"
    gdb(
        "break stop_here",
        "run",
        f"set variable global_max_fast = {value}",
        f"heap check {answers.into('check')}",
        answers.python("truth", {"place": "number('(long) &global_max_fast')"}),
        program=programs["tuned"],
    ).has_no_internal_error()
    (finding,) = answers["check"]["findings"]
    assert (finding["kind"], finding["address"]) == ("param", answers["truth"]["place"])


#: Fields of main_arena, each with a value that nothing gives it.
ARENA = {
    "have_fastchunks": "65",
    "binmap[0]": "main_arena.binmap[0] | 1",
    "attached_threads": "0",
    "last_remainder": "(mchunkptr) 0x555500000000",
}


def test_fields_of_an_arena(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    if not wanted():
        pytest.skip("the test writes fields of main_arena by their names")
    commands = ["break stop_here", "run"]
    names = [name for name in ARENA if name != "have_fastchunks" or has_fastbins()]
    for name in names:
        commands += [
            f"set $kept = main_arena.{name}",
            f"set variable main_arena.{name} = {ARENA[name]}",
            f"heap check {answers.into(name)}",
            answers.python(f"{name}-place", {"place": f"number('(long) &main_arena.{name}')"}),
            f"set variable main_arena.{name} = $kept",
        ]
    gdb(*commands, program=programs["tuned"]).has_no_internal_error()
    for name in names:
        findings = answers[name]["findings"]
        assert [item["address"] for item in findings] == [answers[f"{name}-place"]["place"]], (name, findings)


def test_mapped_chunks_whose_headers_were_overwritten(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A size that takes in the next mapping, a smaller one, and a header of zeros, by malloc's own counters."""
    size = "((unsigned long *) {slot})[-1]"
    steps = {
        "sound": (),
        "over": ("set $low = low < high ? low : high", f"set variable {size.format(slot='$low')} += mapped"),
        "zeros": (
            f"set variable {size.format(slot='$low')} -= mapped",
            "set $high = low < high ? high : low",
            f"set $kept = {size.format(slot='$high')}",
            f"set variable {size.format(slot='$high')} = 0",
        ),
        "smaller": (f"set variable {size.format(slot='$high')} = $kept - 0x1000",),
    }
    commands = ["break stop_here", "run mappings"]
    for name, made in steps.items():
        commands += [*made, f"heap check {answers.into(name)}"]
    truth = {"low": "number('(long) $low')", "high": "number('(long) $high')"}
    result = gdb(*commands, answers.python("truth", truth), program=programs["corrupt"])
    result.has_no_internal_error()
    assert answers["sound"]["sound"]
    for name, which in (("over", "low"), ("zeros", "high")):
        (finding,) = answers[name]["findings"]
        assert (finding["kind"], finding["address"]) == ("mmapped-header", answers["truth"][which] - 8), result.stdout
    for finding in answers["smaller"]["findings"]:
        assert (finding["kind"], finding["address"]) == ("mmapped-header", answers["truth"]["high"] - 8)
    if has_fastbins():  # in 2.43 each resize adds to mmapped_mem what no mapping has
        assert answers["smaller"]["findings"] or not answers["smaller"]["complete"]
