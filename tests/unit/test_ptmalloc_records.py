"""Layouts, arenas and their ring, parameters, heaps: what is read from hand-made memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdbheap.memory import MemoryFault, Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import ArenaRing, read_arena, read_arenas
from gdbheap.ptmalloc.heaps import HeapChain, heap_containing, heap_for, heap_max_size, read_heap, read_heaps
from gdbheap.ptmalloc.layout import Layout, LayoutUnknown
from gdbheap.ptmalloc.params import ParamFact, Params, describe, read_params
from gdbheap.symbols import Struct
from tests.support.heap_image import LAYOUTS, MAIN_BASE, FakeSymbols, Image, main_heap, symbols_of

EVERY = sorted(LAYOUTS)
HEAP = 0x7000_0000


def without(layout: Struct, *names: str) -> Struct:
    return replace(layout, fields={name: field for name, field in layout.fields.items() if name not in names})


def ring(image: Image) -> ArenaRing:
    return read_arenas(image.memory, image.abi, image.layout, image.MAIN_ARENA)


def thread_arena(image: Image, heap: int, following: int) -> int:
    """Write an arena whose first heap is at ``heap``, all of it top; return its address."""
    assert image.layout.heap_info is not None
    image.map(heap, 0x2000)
    address = heap + image.layout.heap_info.size
    image.heap(heap, address, 0, 0x2000)
    top = image.abi.first_chunk(address + image.layout.state.size)
    rows = image.chunks(top, [(heap + 0x2000 - top, "top")], main=False)
    image.arena(address, rows, next=following, flags=2, system_mem=0x2000)
    return address


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_a_layout_is_told_by_its_fields(version: str, bits: int) -> None:
    layout = Layout.from_symbols(symbols_of(LAYOUTS[version, bits]))
    assert layout == LAYOUTS[version, bits]
    assert layout.has_fastbins == (version != "2.43")
    assert layout.tcache_counts_down == (version == "2.43")


def test_heap_info_goes_by_two_names() -> None:
    layout = LAYOUTS["2.36", 64]
    symbols = symbols_of(layout)
    structs = dict(symbols.structs)
    structs["heap_info"] = structs.pop("_heap_info")
    assert Layout.from_symbols(FakeSymbols(structs)).heap_info == layout.heap_info


def test_a_missing_struct_or_field_is_named() -> None:
    layout = LAYOUTS["2.36", 64]
    with pytest.raises(LayoutUnknown, match="struct malloc_state"):
        Layout.from_symbols(FakeSymbols())
    with pytest.raises(LayoutUnknown, match="top, system_mem"):
        Layout.from_symbols(symbols_of(replace(layout, state=without(layout.state, "top", "system_mem"))))
    with pytest.raises(LayoutUnknown, match="struct malloc_par has no field sbrk_base"):
        Layout.from_symbols(symbols_of(replace(layout, par=without(layout.par, "sbrk_base"))))


def test_what_need_not_be_described_is_none() -> None:
    layout = LAYOUTS["2.36", 64]
    assert layout.heap_info is not None
    assert layout.tcache is not None
    bare = Layout.from_symbols(symbols_of(replace(layout, heap_info=None, tcache=None)))
    assert bare.heap_info is None
    assert bare.tcache is None
    assert not bare.tcache_counts_down
    odd = replace(layout, heap_info=without(layout.heap_info, "prev"), tcache=without(layout.tcache, "entries"))
    assert Layout.from_symbols(symbols_of(odd)) == bare


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_an_arena_is_read(version: str, bits: int, little: bool) -> None:
    image = Image(version, bits, little=little)
    rows = main_heap(image, [(0x40, "used"), (0x200, "unsorted"), (0x40, "used")])
    arena = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    assert (arena.top, arena.top_size) == (rows[-1].address, rows[-1].size)
    assert arena.next == arena.address == image.MAIN_ARENA
    assert arena.system_mem == arena.max_system_mem == rows[-1].address + rows[-1].size - MAIN_BASE
    assert (arena.mutex, arena.flags, arena.attached_threads) == (0, 0, 1)
    assert len(arena.bins) == 254
    assert arena.bins[0] == arena.bins[1] == rows[2].address
    assert arena.bins[2] == arena.bin_header(image.abi, 2)
    assert len(arena.binmap) == 4
    assert len(arena.fastbins) == (0 if version == "2.43" else 10 if bits == 64 else 11)
    assert (arena.name, arena.is_main, arena.contiguous) == ("main_arena", True, True)
    assert arena.has_top(image.abi)


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_before_the_first_memory_there_is_no_top(version: str, bits: int) -> None:
    image = Image(version, bits)
    image.field(image.layout.state, image.MAIN_ARENA, "next", image.MAIN_ARENA)
    zero = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    assert (zero.top, zero.top_size, zero.has_top(image.abi)) == (0, 0, False)
    image.arena(image.MAIN_ARENA, [], top=zero.bin_header(image.abi, 1))
    initial = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    assert (initial.top_size, initial.has_top(image.abi)) == (0, False)


def test_a_top_chunk_that_cannot_be_read_has_no_size() -> None:
    image = Image()
    image.arena(image.MAIN_ARENA, [], top=0xDEAD0000)
    assert read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0).top_size is None


def test_an_arena_that_cannot_be_read_raises() -> None:
    image = Image()
    with pytest.raises(MemoryFault):
        read_arena(image.memory, image.abi, image.layout, 0x10, 0)
    with pytest.raises(MemoryFault):
        read_arenas(image.memory, image.abi, image.layout, 0x10)


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_the_oldest_arena_is_number_one(version: str, bits: int) -> None:
    image = Image(version, bits)
    oldest = thread_arena(image, HEAP, image.MAIN_ARENA)
    newest = thread_arena(image, HEAP + 0x800_0000, oldest)
    image.arena(image.MAIN_ARENA, [], next=newest)
    found = ring(image)
    assert found.problem is None
    assert [(arena.address, arena.number) for arena in found.arenas] == [
        (image.MAIN_ARENA, 0),
        (newest, 2),
        (oldest, 1),
    ]
    assert [arena.name for arena in found.arenas] == ["main_arena", "arena 2", "arena 1"]
    assert not found.arenas[1].contiguous


def test_a_ring_that_turns_back_early_is_a_problem() -> None:
    image = Image()
    oldest = thread_arena(image, HEAP, 0)
    newest = thread_arena(image, HEAP + 0x800_0000, oldest)
    image.field(image.layout.state, oldest, "next", newest)
    image.arena(image.MAIN_ARENA, [], next=newest)
    found = ring(image)
    assert [arena.number for arena in found.arenas] == [0, 2, 1]
    assert found.problem is not None
    assert f"next of the arena at {oldest:#x} leads back to {newest:#x}" in found.problem


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (0x3001, "which is no multiple of 8"),
        (0xDEAD000, "no heap_info is before that"),
        (0x1000_3000, "ar_ptr of the heap_info before that, at 0x10002fd0, is 0x0; it should be 0x10003000"),
        (0, "no heap_info is before that"),
    ],
)
def test_a_stray_next_ends_the_ring(target: int, text: str) -> None:
    image = Image()
    image.arena(image.MAIN_ARENA, [], next=target)
    found = ring(image)
    assert len(found.arenas) == 1
    assert found.problem is not None
    assert text in found.problem
    assert f"{image.MAIN_ARENA:#x}" in found.problem


def facts(image: Image) -> dict[str, ParamFact]:
    params = read_params(image.memory, image.abi, image.layout, image.MP)
    return {fact.name: fact for fact in describe(params, image.abi, image.layout)}


def untouched(version: str, bits: int) -> Image:
    image = Image(version, bits)
    threshold = 0x20000
    image.par(trim_threshold=threshold, top_pad=threshold, mmap_threshold=threshold, n_mmaps_max=0x10000)
    image.par(arena_test=8 if bits == 64 else 2, tcache_count=16 if version == "2.43" else 7)
    image.par(**{"tcache_small_bins" if version == "2.43" else "tcache_bins": 64})
    limit = {64: 1032, 32: 1020}[bits]
    image.par(tcache_max_bytes={64: 1041, 32: 1025}[bits] if version == "2.43" else limit)
    if version == "2.43":
        image.par(thp_mode=3)
    return image


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_parameters_that_nobody_set_are_defaults(version: str, bits: int) -> None:
    found = facts(untouched(version, bits))
    assert list(found) == sorted(found, key=lambda name: LAYOUTS[version, bits].par.fields[name].offset)
    assert set(found) == set(LAYOUTS[version, bits].par.fields)
    counters = {name for name, fact in found.items() if fact.is_default is None}
    assert counters == {"n_mmaps", "max_n_mmaps", "mmapped_mem", "max_mmapped_mem", "sbrk_base"}
    for name, fact in found.items():
        assert name in counters or fact.is_default, fact
        assert fact.meaning.endswith(".")
        assert fact.default == (None if name in counters else fact.value)
        assert not fact.dynamic
    assert (found["top_pad"].mallopt, found["top_pad"].tunable) == ("M_TOP_PAD", "glibc.malloc.top_pad")
    assert found["top_pad"].environment == "MALLOC_TOP_PAD_"
    assert found["n_mmaps_max"].unit == "count"


@pytest.mark.parametrize(
    ("mode", "page", "is_default"),
    [(1, 2 << 20, True), (0, 2 << 20, True), (2, 2 << 20, True), (3, 0, True), (2, 0, False)],
)
def test_huge_pages_of_64_bit_arm_are_its_default(mode: int, page: int, is_default: bool) -> None:
    """From 2.43 on: nobody set them, unless glibc.malloc.hugetlb=0 switched them off."""
    image = untouched("2.43", 64)
    image.par(thp_mode=mode, thp_pagesize=page)
    params = read_params(image.memory, image.abi, image.layout, image.MP)
    found = {fact.name: fact for fact in describe(params, image.abi, image.layout, "aarch64")}
    assert found["thp_mode"].is_default is found["thp_pagesize"].is_default is is_default
    if not is_default:
        assert (found["thp_mode"].default, found["thp_pagesize"].default) == (1, 2 << 20)
    elsewhere = {fact.name: fact for fact in describe(params, image.abi, image.layout, "i386:x86-64")}
    assert elsewhere["thp_pagesize"].is_default is (page == 0)


def test_what_was_set_is_no_default() -> None:
    image = untouched("2.36", 64)
    image.par(top_pad=0, n_mmaps_max=-1, no_dyn_threshold=1, mmap_threshold=0x40000)
    found = facts(image)
    assert (found["top_pad"].value, found["top_pad"].default, found["top_pad"].is_default) == (0, 0x20000, False)
    assert found["n_mmaps_max"].value == -1
    assert found["mmap_threshold"].is_default is False
    assert not found["mmap_threshold"].dynamic
    assert found["mmap_threshold"].note == ""
    assert "was set" in found["no_dyn_threshold"].note


def test_thresholds_that_malloc_raised_are_not_called_set() -> None:
    image = untouched("2.36", 64)
    image.par(mmap_threshold=0x100000, trim_threshold=0x200000)
    found = facts(image)
    for name in ("mmap_threshold", "trim_threshold"):
        assert found[name].dynamic
        assert "Raised by free of an mmapped chunk" in found[name].note
        assert found[name].is_default is False


def test_a_threshold_that_huge_pages_set_says_so() -> None:
    image = untouched("2.36", 64)
    image.par(mmap_threshold=0x200000, hp_pagesize=0x200000, no_dyn_threshold=1)
    assert "huge page" in facts(image)["mmap_threshold"].note


def test_a_field_of_a_later_glibc_is_read_and_left_undescribed() -> None:
    image = untouched("2.36", 64)
    par = image.layout.par
    later = replace(par, fields={**par.fields, "novel": par.fields["top_pad"]})
    params = read_params(image.memory, image.abi, replace(image.layout, par=later), image.MP)
    names = [fact.name for fact in describe(params, image.abi, image.layout)]
    assert "novel" not in names
    assert params.get("nothing") == 0
    assert params.get("nothing", 5) == 5


@pytest.mark.parametrize(
    ("version", "bits", "huge", "expected"),
    [
        ("2.31", 64, 0, 64 << 20),
        ("2.31", 32, 0, 1 << 20),
        ("2.36", 64, 0, 64 << 20),
        ("2.36", 64, 2 << 20, 8 << 20),
        ("2.43", 64, 2 << 20, 64 << 20),
        ("2.43", 32, 0, 1 << 20),
    ],
)
def test_heap_max_size(version: str, bits: int, huge: int, expected: int) -> None:
    layout = LAYOUTS[version, bits]
    values = {"hp_pagesize": huge} if "hp_pagesize" in layout.par.fields else {}
    assert heap_max_size(Abi(bits // 8), layout, Params(0, values)) == expected
    assert heap_for(3 * expected + 5, expected) == 3 * expected


def chain_of(image: Image, arena: int) -> HeapChain:
    params = read_params(image.memory, image.abi, image.layout, image.MP)
    return read_heaps(
        image.memory, image.abi, image.layout, params, read_arena(image.memory, image.abi, image.layout, arena, 1)
    )


def two_heaps(image: Image, step: int) -> tuple[int, int, int]:
    """Write an arena with two heaps; return the arena and the heaps, oldest first."""
    arena = thread_arena(image, HEAP, image.MAIN_ARENA)
    second = HEAP + step
    image.map(second, 0x3000)
    image.heap(second, arena, HEAP, 0x3000)
    image.field(image.layout.state, arena, "top", second + 0x100)
    return arena, HEAP, second


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_heaps_come_newest_first(version: str, bits: int) -> None:
    image = Image(version, bits)
    step = 64 << 20 if bits == 64 else 1 << 20
    arena, first, second = two_heaps(image, step)
    chain = chain_of(image, arena)
    assert chain.problem is None
    assert [(heap.address, heap.size, heap.prev) for heap in chain.heaps] == [
        (second, 0x3000, first),
        (first, 0x2000, 0),
    ]
    assert chain.heaps[0].end == second + 0x3000
    assert chain.heaps[0].page_size == 0x1000
    params = read_params(image.memory, image.abi, image.layout, image.MP)
    found = heap_containing(image.memory, image.abi, image.layout, params, second + 0x100)
    assert found == chain.heaps[0]


def test_main_arena_has_no_heaps() -> None:
    image = Image()
    main_heap(image, [])
    params = read_params(image.memory, image.abi, image.layout, image.MP)
    arena = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    assert read_heaps(image.memory, image.abi, image.layout, params, arena) == HeapChain(())


@pytest.mark.parametrize(
    ("field", "value", "kept", "text"),
    [
        ("ar_ptr", 0x1234, 0, "its ar_ptr is 0x1234"),
        ("size", 0, 0, "its size is 0x0"),
        ("size", 1 << 40, 0, "its size is 0x10000000000"),
        ("prev", HEAP + (64 << 20), 1, "a loop"),
        ("prev", HEAP + 0x1000, 1, "no multiple of HEAP_MAX_SIZE"),
        ("prev", 0xDEAD_0000_0000, 1, "cannot read"),
        ("prev", 0, 0, "its prev is 0 as in an arena's first heap"),
    ],
)
def test_a_broken_chain_gives_what_is_sound(field: str, value: int, kept: int, text: str) -> None:
    image = Image()
    arena, _, second = two_heaps(image, 64 << 20)
    assert image.layout.heap_info is not None
    image.field(image.layout.heap_info, second, field, value)
    if value == HEAP + 0x1000:  # readable, but no place for a heap
        image.heap(value, arena, 0, 0x1000)
    chain = chain_of(image, arena)
    assert len(chain.heaps) == kept
    assert chain.problem is not None
    assert text in chain.problem


def test_heaps_need_their_layout() -> None:
    image = Image()
    layout = replace(image.layout, heap_info=None)
    with pytest.raises(LayoutUnknown):
        read_heap(image.memory, image.abi, layout, image.MP, 64 << 20)


def test_random_memory_is_no_arena() -> None:
    image = Image()
    memory = Snapshot([(0x1000_0000, b"\xa5" * 0x4000)])
    found = read_arenas(memory, image.abi, image.layout, image.MAIN_ARENA)
    assert len(found.arenas) == 1
    assert found.problem is not None
    assert found.arenas[0].top_size is None
