"""The map of a process, divided: every byte under one name, and what malloc counts but nobody has mapped is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdbheap.mappings import MappedRange
from gdbheap.ptmalloc.account import FreeFacts, read_account
from gdbheap.ptmalloc.kernel import KernelFacts
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.render.account import account_lines, account_object
from gdbheap.render.style import Plain
from tests.support.heap_image import MAIN_BASE, Image, main_heap

HEAP = 0x7000_0000
STACK = 0x7FFF_0000


def build() -> tuple[Image, HeapState, int]:
    """Return a main_arena and an arena with one heap that was once larger; the address where main_arena ends."""
    image = Image()
    rows = main_heap(image, [(0x40, "used"), (0x60, "unsorted"), (0x40, "used")])
    assert image.layout.heap_info is not None
    address = HEAP + image.layout.heap_info.size
    image.map(HEAP, 0x21000)
    image.heap(HEAP, address, 0, 0x21000)
    image.field(image.layout.heap_info, HEAP, "mprotect_size", 0x25000)
    top = image.abi.first_chunk(address + image.layout.state.size)
    tops = image.chunks(top, [(HEAP + 0x21000 - top, "top")], main=False)
    image.arena(address, tops, next=image.MAIN_ARENA, flags=2, system_mem=0x21000, max_system_mem=0x25000)
    image.field(image.layout.state, image.MAIN_ARENA, "next", address)
    state = read_heap_state(image.memory, image.abi, image.layout, image.MAIN_ARENA, image.MP)
    return image, state, rows[-1].address + rows[-1].size


def ranges(end: int) -> list[MappedRange]:
    """Return a map with something of every kind."""

    def item(start: int, stop: int, permissions: str, name: str = "") -> MappedRange:
        return MappedRange(start, stop, permissions, name, stop - start)

    return [
        item(MAIN_BASE - 0x9000, MAIN_BASE - 0x4000, "r-xp", "/bin/program"),
        item(MAIN_BASE - 0x1000, end + 0x3000, "rw-p", "[heap]"),
        item(HEAP, HEAP + 0x25000, "rw-p"),
        item(HEAP + 0x25000, HEAP + (64 << 20), "---p"),
        item(STACK - 0x1000, STACK, "---p"),
        item(STACK, STACK + 0x8000, "rw-p"),
        item(STACK + 0x10000, STACK + 0x12000, "rw-p"),
        item(STACK + 0x20000, STACK + 0x22000, "r--p", "[vvar]"),
    ]


EXPECTED = {
    "heap-kept": 0x4000,
    "heap-reserved": (64 << 20) - 0x25000,
    "break": 0x4000,
    "stack": 0x8000,
    "file": 0x5000,
    "kernel": 0x2000,
    "guard": 0x1000,
    "anonymous": 0x2000,
}


def test_every_byte_has_one_name() -> None:
    image, state, end = build()
    mapped = ranges(end)
    facts = KernelFacts(mapped, (STACK + 0x7FF0,), None, lambda start, stop: (stop - start) // 2)
    account = read_account(image.memory, state, FreeFacts([], True), facts)
    kernel = account.kernel
    assert kernel is not None
    assert {kind: item.mapped for kind, item in kernel.others.items()} == EXPECTED
    assert [kernel.arenas[arena.address].mapped for arena, _ in account.arenas] == [end - MAIN_BASE, 0x21000]
    assert kernel.whole.mapped == sum(item.size for item in mapped)
    assert kernel.whole.resident == kernel.whole.mapped // 2
    assert kernel.problem is None
    text = "\n".join(account_lines(account, Plain()))
    assert f"{kernel.whole.mapped:#x}" in text
    assert "not in the core file" not in text
    assert account.problems == ()
    found = account_object(account)["kernel"]
    assert isinstance(found, dict)
    assert {item["kind"]: item["mapped"] for item in found["others"]} == EXPECTED


def test_without_names_the_break_is_told_by_its_end() -> None:
    """As in a core file: what is behind main_arena's memory, up to the break, is the break area's."""
    image, state, end = build()
    mapped = [replace(item, name="") if item.name == "[heap]" else item for item in ranges(end)]
    kernel = read_account(image.memory, state, FreeFacts([], True), KernelFacts(mapped, (), end + 0x3000)).kernel
    assert kernel is not None
    assert kernel.others["break"].mapped == 0x3000
    assert "stack" not in kernel.others
    assert kernel.others["anonymous"].mapped == 0x2000 + 0x8000 + 0x1000


@pytest.mark.parametrize("between", ["/lib/libc.so.6", "gap"])
def test_a_break_above_others_mappings_is_not_the_end_of_an_area(between: str) -> None:
    """Where the break could not be moved malloc's memory is a mapping, below it or above."""
    image, state, end = build()
    after = [replace(item, name="") if item.name == "[heap]" else item for item in ranges(end)]
    if between == "gap":
        above = [MappedRange(end + 0x8000, end + 0x9000, "rw-p", "", 0x1000)]
    else:
        above = [
            MappedRange(end + 0x3000, end + 0x4000, "r-xp", between, 0x1000),
            MappedRange(end + 0x4000, end + 0x5000, "rw-p", "", 0x1000),
        ]
    place = next(place for place, item in enumerate(after) if item.start == HEAP)
    facts = KernelFacts([*after[:place], *above, *after[place:]], (), above[-1].end)
    kernel = read_account(image.memory, state, FreeFacts((), True), facts).kernel
    assert kernel is not None
    assert "break" not in kernel.others


def test_what_is_not_mapped_and_what_a_core_lacks() -> None:
    image, state, end = build()
    mapped = ranges(end)
    lacking = [item for item in mapped if item.start != HEAP]
    account = read_account(image.memory, state, FreeFacts([], True), KernelFacts(lacking, why_not_resident="a reason"))
    assert account.kernel is not None
    assert account.kernel.problem == "0x21000 bytes that malloc counts as its own are not mapped."
    text = "\n".join(account_lines(account, Plain()))
    assert account.kernel.problem in text
    assert "Resident memory is not known: a reason." in text
    cut = [replace(item, held=0x1000) if item.name != "/bin/program" else replace(item, held=0) for item in mapped]
    account = read_account(image.memory, state, FreeFacts([], True), KernelFacts(cut))
    assert account.kernel is not None
    # Neither reserved addresses nor files nor the kernel's pages are missed.
    heap = end + 0x3000 - (MAIN_BASE - 0x1000)
    assert account.kernel.whole.missing == (heap - 0x1000) + 0x24000 + 0x7000 + 0x1000
    assert "not in the core file" in "\n".join(account_lines(account, Plain()))
