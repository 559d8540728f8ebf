"""Promise: malloc's own structs are printed in one true line, which GDB's own commands switch off."""

from __future__ import annotations

import re

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs

ON = "python print('==')"


def lines(text: str) -> list[str]:
    """Return what `print` showed, value by value."""
    return re.findall(r"^\$\d+ = (.*)$", text, re.MULTILINE)


def test_arenas(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    done = gdb(
        "break stop_here",
        "run",
        f"heap arenas {answers.into('arenas')}",
        answers.python(
            "bins",
            {
                "used": "[sum(int(arena['bins'][2 * i]) != int(arena['bins'].address) + 16 * i - 16"
                " for i in range(127)) for arena in (value('*(struct malloc_state *)%d' % at) for at in ring())]"
            },
        ),
        "print main_arena",
        "print *main_arena.next",
        "print *main_arena.next->next",
        "print main_arena.next",
        "print *(struct malloc_state *)&main_arena.bins",
        program=programs["threads"],
    ).succeeded()
    shown = lines(done.stdout)
    used = answers["bins"]["used"]
    assert any(used)
    for place, text in enumerate(shown[:3]):
        arena = answers["arenas"]["arenas"][place]
        assert text.startswith(f"{arena['name']}, system_mem {arena['system_mem']:#x} (")
        assert f"top {arena['top']:#x} of {arena['top_size']:#x} (" in text
        assert f"{used[place]} bin" in text
    assert re.fullmatch(r"\(struct malloc_state \*\) 0x[0-9a-f]+", shown[3])
    assert shown[4].startswith("no arena of the ring (0x")


def test_before_there_is_a_heap(gdb: Gdb, programs: Programs) -> None:
    done = gdb("break main", "run", "print main_arena", "print mp_", program=programs["own"]).succeeded()
    arena, params = lines(done.stdout)
    assert arena.startswith(("main_arena, not initialized", "main_arena, system_mem 0, no top chunk yet"))
    assert params == "all settings are the defaults"


def test_chunks(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    done = gdb(
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')}",
        "print *(struct malloc_chunk *)((char *)used[5] - 16)",
        "print *(mchunkptr)((char *)mapped[1] - 16)",
        "print/r *(mchunkptr)((char *)mapped[1] - 16)",
        "print *main_arena.top",
        program=programs["totals"],
    ).succeeded()
    used, mapped, raw, top = lines(done.stdout)
    pattern = r"size 0x([0-9a-f]+) \(.*\), (.*), pointer 0x([0-9a-f]+)"
    known = {chunk["pointer"]: chunk for chunk in answers["chunks"]["arenas"][0]["chunks"]}
    for text, flags in ((used, "PREV_INUSE"), (top, "PREV_INUSE")):
        found = re.fullmatch(pattern, text)
        assert found is not None, text
        assert known[int(found[3], 16)]["size"] == int(found[1], 16)
        assert found[2] == flags
    assert "IS_MMAPPED" in mapped
    assert raw.startswith("{mchunk_prev_size = 0, mchunk_size = ")


def test_params(gdb: Gdb, programs: Programs) -> None:
    done = gdb(
        "set environment MALLOC_TOP_PAD_=4096", "break stop_here", "run", "print mp_", program=programs["totals"]
    )
    (text,) = lines(done.succeeded().stdout)
    settings, counters = text.split("; ")
    assert settings == "top_pad 0x1000 (4 KiB) (default 0x20000), no_dyn_threshold 1 (default 0)"
    assert counters.startswith("n_mmaps 3, max_n_mmaps 3, mmapped_mem 0xdd000 (884 KiB)")


def test_gdb_switches_them_off_and_on(gdb: Gdb, programs: Programs) -> None:
    done = gdb(
        "break stop_here",
        "run",
        "info pretty-printer global gdbheap",
        "disable pretty-printer global gdbheap;malloc_chunk",
        "print *main_arena.top",
        "print main_arena",
        "disable pretty-printer global gdbheap",
        "print mp_",
        "enable pretty-printer global gdbheap",
        "print mp_",
        program=programs["totals"],
    ).succeeded()
    for name in ("malloc_state", "malloc_chunk", "malloc_par"):
        assert f"    {name}\n" in done.stdout
    chunk, arena, raw, params = lines(done.stdout)
    assert chunk.startswith("{mchunk_prev_size")
    assert arena.startswith("main_arena, ")
    assert raw.startswith("{trim_threshold = ")
    assert params.startswith("all settings are the defaults")


def test_a_value_without_an_address_and_one_that_cannot_be_read(gdb: Gdb, programs: Programs) -> None:
    done = gdb(
        "break stop_here",
        "run",
        "set $copy = main_arena",
        "print $copy",
        "print *(struct malloc_chunk *)8",
        "print *(struct malloc_state *)8",
        "print *(struct malloc_par *)8",
        program=programs["totals"],
    )
    done.has_no_internal_error()
    (copy,) = lines(done.stdout)
    assert copy.startswith("an arena, system_mem 0x21000 (132 KiB), top 0x")
    assert " bin" not in copy.replace("fastbin", "")
    assert done.stderr.count("Cannot access memory at address 0x8") == 3
