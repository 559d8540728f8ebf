"""One system call: by how much memory moved, whether it failed, and what was read at it."""

from __future__ import annotations

from typing import Any

import pytest

from gdbheap.growth.event import Event, plain_name
from gdbheap.ptmalloc.abi import Abi
from tests.support.records import BASE, ENOMEM, MAIN_ARENA, MP, a_reading

PAGE = 0x1000
WHERE = 0x7FFFF7D00000


def call(syscall: str, args: tuple[int, ...], result: int | None, **others: Any) -> Event:
    return Event(1, 1, 1, 1, syscall, args, (), result)._replace(**others)


def mmap(length: int, result: int | None = WHERE, flags: int = 0x22, **others: int) -> Event:
    return call("mmap", (WHERE if flags & 0x10 else 0, length, 3, flags, -1, 0), result, **others)


@pytest.mark.parametrize(
    ("event", "delta", "failed"),
    [
        (call("brk", (0,), BASE), 0, False),
        (call("brk", (0,), BASE, break_before=BASE), 0, False),
        (call("brk", (BASE + 0x21000,), BASE + 0x21000, break_before=BASE), 0x21000, False),
        (call("brk", (BASE + 0x1234,), BASE + 0x1234, break_before=BASE), 0x1234, False),
        (call("brk", (BASE,), BASE, break_before=BASE + 0x21000), -0x21000, False),
        (call("brk", (BASE,), BASE, break_before=BASE), 0, False),
        (call("brk", (BASE + PAGE,), BASE, break_before=BASE), 0, True),
        (call("brk", (BASE + PAGE,), BASE + PAGE), None, False),
        (call("brk", (BASE + PAGE,), None, break_before=BASE), None, False),
        (mmap(0x21000), 0x21000, False),
        (mmap(0x20001), 0x21000, False),
        (mmap(0x21000, ENOMEM), 0, True),
        (mmap(0x21000, -4095), 0, True),
        (mmap(0x21000, None), None, False),
        (mmap(0x3000, flags=0x32, mapped_before=0), 0x3000, False),
        (mmap(0x3000, flags=0x32, mapped_before=0x1000), 0x2000, False),
        (mmap(0x3000, flags=0x32, mapped_before=0x3000), 0, False),
        (call("munmap", (WHERE, 0x21000), 0), -0x21000, False),
        (call("munmap", (WHERE, 0x86F3), 0), -0x9000, False),
        (call("munmap", (WHERE, 0x9000), 0, mapped_before=0x3000), -0x3000, False),
        (call("munmap", (WHERE, 0x9000), 0, mapped_before=0), 0, False),
        (call("munmap", (WHERE, 0x9000), -22, mapped_before=0x9000), 0, True),
        (call("mremap", (WHERE, 0x1E9000, 0x4C5000, 1), WHERE), 0x2DC000, False),
        (call("mremap", (WHERE, 0x4C5000, 0x1E9000, 1), WHERE), -0x2DC000, False),
        (call("mremap", (WHERE, 0x1001, 0x1FFF, 1), WHERE), 0, False),
        (call("mremap", (WHERE, 0x1000, 0x3000, 3, BASE), BASE, mapped_before=0x2000), 0, False),
        (call("mremap", (WHERE, 0x1000, 0x3000, 1), ENOMEM), 0, True),
        (call("mprotect", (WHERE, 0x21000, 3), 0), 0, False),
        (call("mprotect", (WHERE, 0x21000, 3), ENOMEM), 0, True),
        (call("mprotect", (WHERE, 0x21000, 3), None), None, False),
        (call("madvise", (WHERE, 0x21000, 4), 0), 0, False),
        (call("madvise", (WHERE, 0x21000, 4), -22), 0, True),
    ],
)
def test_by_how_much_memory_moved(event: Event, delta: int | None, failed: bool) -> None:
    assert event.delta == delta
    assert event.failed is failed


def test_an_address_near_the_end_is_no_failure() -> None:
    assert not mmap(PAGE, -4096).failed
    assert mmap(PAGE, -4096).delta == PAGE


@pytest.mark.parametrize(
    ("function", "plain"),
    [
        ("__GI___libc_malloc", "__libc_malloc"),
        ("_IO_new_file_overflow", "_IO_file_overflow"),
        ("__GI__IO_file_doallocate", "_IO_file_doallocate"),
        ("__printf", "__printf"),
        ("main", "main"),
    ],
)
def test_internal_aliases_have_plain_names(function: str, plain: str) -> None:
    assert plain_name(function) == plain


def test_an_event_without_a_reading_has_no_state() -> None:
    event = mmap(PAGE)
    assert event.state is None
    reading = a_reading()
    assert event._replace(reading=reading).state == reading.state


@pytest.mark.parametrize("layout", [("2.31", 32), ("2.36", 64), ("2.43", 64)])
@pytest.mark.parametrize("little", [True, False])
def test_a_reading_is_decoded(layout: tuple[str, int], little: bool) -> None:
    reading = a_reading(
        0x56559290,
        0x20D70,
        curbrk=0x5657A000,
        layout=layout,
        abi=Abi(layout[1] // 8, little),
        mp={"n_mmaps": -1, "top_pad": 0xFFFF0000},
        arena={"flags": 2, "mutex": 1, "system_mem": 0x41000},
        may_shrink_heap=True,
    )
    state = reading.state
    assert state == reading.state
    assert (state.curbrk, state.may_shrink_heap, state.aligned_heap_area) == (0x5657A000, True, None)
    assert (state.params.address, state.params.get("top_pad"), state.params.get("n_mmaps")) == (MP, 0xFFFF0000, -1)
    arena = state.arena
    assert arena is not None
    assert (arena.address, arena.top, arena.top_size) == (MAIN_ARENA, 0x56559290, 0x20D70)
    assert (arena.mutex, arena.contiguous, arena.system_mem) == (1, False, 0x41000)
    assert state.malloc_state_size == reading.facts.layout.state.size
    assert reading.facts.layout.heap_info is not None
    assert state.heap_info_size == reading.facts.layout.heap_info.size


def test_the_arena_of_a_reading_has_a_name() -> None:
    assert a_reading().arena_name == "main_arena"
    assert a_reading(number=3).arena_name == "arena 3"
    alone = a_reading(with_arena=False)
    assert alone.arena_name is None
    assert alone.state.arena is None
