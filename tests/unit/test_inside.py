"""Which frames are inside malloc, with and without names."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gdbheap.growth.event import Frame
from gdbheap.growth.inside import MallocCode, aborts, inside_malloc, malloc_code

LIBC, PROGRAM = "/lib/x86_64-linux-gnu/libc.so.6", "/bin/program"
#: A file of its own, then malloc.c: some of its functions, the first that is exported, others, the last exported one.
SYMBOLS = {
    "timer_settime": 0x1000,
    "__default_morecore": 0x2000,
    "malloc": 0x3000,
    "free": 0x3200,
    "malloc_info": 0x4000,
}
CODE = MallocCode(0x1000, 0x2000, 0x4000)
BEFORE, AMONG, BEHIND, ELSEWHERE = 0x1800, 0x2800, 0x4800, 0x9000


def frame(name: str | None, pc: int = ELSEWHERE, file: str = LIBC) -> Frame:
    return Frame(name, None, None, file, pc)


MAIN = frame("main", 0x400, PROGRAM)


def places(frames: Sequence[Frame], code: MallocCode | None = CODE) -> list[int]:
    return inside_malloc(frames, [frame.name in ("malloc", "free", "_int_free") for frame in frames], code)


def test_where_the_code_is() -> None:
    """It begins behind the last function of another file, at the latest with the first that is exported."""
    assert malloc_code({**SYMBOLS, "environ": 0x90000, "puts": 0x500}) == CODE
    assert malloc_code({"puts": 0x500}) is None


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([frame("free"), MAIN], [0]),
        ([frame(None, AMONG), frame("malloc"), MAIN], [0, 1]),
        ([frame(None, AMONG), MAIN], [0]),  # the public function's frame is gone
        ([frame(None, BEFORE), frame(None, AMONG), MAIN], [0, 1]),
        ([frame(None, BEFORE), frame("malloc_info"), MAIN], [0]),
        ([frame("abort"), frame(None), frame(None, BEFORE), MAIN], [2]),  # called by no function of libc's
        ([frame("sigwaitinfo"), frame(None, BEFORE), frame(None), frame("clone")], []),  # another file's thread
        ([frame(None, BEHIND), frame("qsort"), MAIN], []),
        ([frame(None, ELSEWHERE), frame("pthread_join"), MAIN], []),
        ([frame(None, AMONG, PROGRAM), MAIN], []),
        ([frame("write"), MAIN, frame(None, AMONG), frame("malloc"), MAIN], [2, 3]),  # a signal's handler
    ],
)
def test_by_name_and_by_place(frames: list[Frame], expected: list[int]) -> None:
    assert places(frames) == expected


def test_a_call_that_never_returns() -> None:
    """What it would return to may be the next function's first byte; the newest frame's is its own."""
    assert places([frame("abort"), frame(None, CODE.end), frame("free"), MAIN]) == [1, 2]
    assert places([frame(None, CODE.end), MAIN]) == []


def test_names_alone_where_they_tell() -> None:
    assert places([frame(None, AMONG), frame("_int_free"), frame("free"), MAIN], None) == [1, 2]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([frame(None), frame("raise"), frame("abort"), frame(None), frame(None, AMONG), frame("free"), MAIN], True),
        ([frame("abort"), frame(None, AMONG), MAIN], True),
        ([frame("abort"), frame("hook", 1, PROGRAM), frame("malloc"), MAIN], False),  # the program's own hook
        ([frame("abort", 1, PROGRAM), frame("malloc"), MAIN], False),
        ([frame("mmap64"), frame(None, AMONG), frame("malloc"), MAIN], False),
        ([frame("abort"), MAIN], False),
    ],
)
def test_who_ended_the_program(frames: list[Frame], expected: bool) -> None:
    assert aborts(frames, places(frames)) is expected
