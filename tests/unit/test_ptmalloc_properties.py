"""What holds for every heap: sound ones walk back exactly, and no bytes at all make the reading fail or run on."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gdbheap.memory import MemoryFault, PageCache, Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import read_arena, read_arenas
from gdbheap.ptmalloc.bins import bin_index, fastbin_index, free_summary, read_free_lists
from gdbheap.ptmalloc.heaps import read_heaps
from gdbheap.ptmalloc.params import describe, read_params
from gdbheap.ptmalloc.problems import MOST
from gdbheap.ptmalloc.quick import quick_totals
from gdbheap.ptmalloc.regions import regions
from gdbheap.ptmalloc.rows import Rows, Wanted
from gdbheap.ptmalloc.sizes import Sizes
from gdbheap.ptmalloc.tcache import observe_safe_linking, read_tcache, tcache_index
from gdbheap.ptmalloc.totals import ArenaTotals, careful_totals, totals
from gdbheap.ptmalloc.walk import membership, walk_arena, walk_region
from tests.support.heap_image import LAYOUTS, MAIN_BASE, MERGED, Image, Row, main_heap

EVERY = sorted(LAYOUTS)
#: The sizes of blocks with which the last heap could be summed up the fast way.
QUICK: set[int] = set()


class Counting:
    """Memory that counts what is read of it."""

    def __init__(self, memory: Snapshot) -> None:
        self._memory = memory
        self.reads = 0
        self.size = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        data = self._memory.read(address, size)
        self.size += size
        return data


@st.composite
def pieces(draw: st.DrawFn, version: str, bits: int) -> list[tuple[int, str]]:
    """Return sizes and states of chunks as malloc could leave them: two merged ones never meet, nor one and top."""
    abi, layout = Abi(bits // 8), LAYOUTS[version, bits]
    found: list[tuple[int, str]] = []
    for _ in range(draw(st.integers(0, 40))):
        size = abi.min_size + abi.alignment * draw(st.one_of(st.integers(0, 12), st.integers(0, 300)))
        choices = ["used", "used"]
        if tcache_index(abi, layout, size) is not None:
            choices.append("tcache")
        if layout.has_fastbins and size <= (0x80 if bits == 64 else 0x60):
            choices.append("fastbin")
        if not found or found[-1][1] not in MERGED:
            choices += ["unsorted", "small" if size < abi.min_large_size else "large"]
        found.append((size, draw(st.sampled_from(choices))))
    if found and found[-1][1] in MERGED:
        found.append((abi.min_size, "used"))
    return found


def everything(image: Image, memory: Any, base: int = MAIN_BASE, block: int = 1 << 20) -> tuple[ArenaTotals, list[Row]]:
    """Read all that there is to read of main_arena and its neighbours."""
    abi, layout = image.abi, image.layout
    params = read_params(memory, abi, layout, image.MP)
    describe(params, abi, layout)
    for arena in read_arenas(memory, abi, layout, image.MAIN_ARENA).arenas:
        read_heaps(memory, abi, layout, params, arena)
    arena = read_arena(memory, abi, layout, image.MAIN_ARENA, 0)
    lists = read_free_lists(memory, abi, layout, arena, image.safe_linking)
    free_summary(memory, abi, layout, arena, image.safe_linking, limit=3)
    caches = []
    try:
        caches.append(read_tcache(memory, abi, layout, abi.first_chunk(base) + abi.header, image.safe_linking, 5))
        observe_safe_linking(memory, abi, [pointer for item in caches[0].bins for pointer in item.pointers])
    except MemoryFault:
        pass
    free = membership(lists, caches)
    plan = regions(abi, layout, params, arena, read_heaps(memory, abi, layout, params, arena))
    for region in plan.regions:
        for _ in walk_region(memory, abi, region, block):
            pass
    chunks = Rows(abi, walk_arena(memory, abi, plan, free))
    rows = [Row(chunk.address, chunk.size, chunk.state) for chunk in chunks]
    sizes = Sizes()
    agreed = careful_totals(image.memory, abi, plan, free, lambda block: sizes.see(block.states, block.columns.sizes))
    QUICK.clear()
    for most in (0x20, 0x48, 0x1000, 1 << 20):
        quick = quick_totals(image.memory, abi, plan, free, most, sized=True)
        if quick is not None:
            QUICK.add(most)
            assert (quick.headers, quick.alignment, tuple(quick.spans)) == (
                agreed.headers,
                agreed.alignment,
                agreed.spans,
            )
            assert quick.counts == list(agreed.counts.values())
            assert quick.sizes == list(agreed.sizes.values())
            assert quick.by_size is not None
            assert sorted(quick.by_size.each()) == sorted(sizes.each())
            assert not agreed.gaps
            assert agreed.problems == totals(image.memory, abi, plan, free).problems
    return totals(memory, abi, plan, free), rows


@given(st.data())
def test_a_sound_heap_walks_back(data: st.DataObject) -> None:
    version, bits = data.draw(st.sampled_from(EVERY))
    image = Image(version, bits, little=data.draw(st.booleans()))
    base = MAIN_BASE + image.abi.word_size * data.draw(st.integers(0, 600))
    rows = main_heap(image, data.draw(pieces(version, bits)), base=base, tcache_key=5)
    summed, found = everything(image, image.memory, base, data.draw(st.sampled_from((0x20, 0x100, 1 << 20))))
    assert found == rows
    assert (1 << 20 in QUICK) == (bits == 64), "a sound heap is one for the fast way"
    assert summed.problems == ()
    assert summed.unaccounted == 0
    assert summed.complete
    assert sum(summed.counts.values()) == len(rows)


@given(st.data())
def test_no_damage_makes_the_reading_fail(data: st.DataObject) -> None:
    version, bits = data.draw(st.sampled_from(EVERY))
    image = Image(version, bits)
    rows = main_heap(image, data.draw(pieces(version, bits)), tcache_key=5)
    word = image.abi.word_size
    interesting = [MAIN_BASE, image.MAIN_ARENA, image.MP, *(row.address for row in rows)]
    values = st.one_of(
        st.sampled_from(interesting),
        st.integers(0, 0x1000),
        st.integers(0, (1 << bits) - 1),
        st.just(rows[-1].address + 1),
    )
    end = rows[-1].address + rows[-1].size
    state = image.layout.state
    for _ in range(data.draw(st.integers(1, 12))):
        place = data.draw(
            st.one_of(
                st.sampled_from(rows).map(lambda row: row.address + word),
                st.sampled_from(rows).map(lambda row: row.address + 2 * word),
                st.integers(0, (end - MAIN_BASE) // word - 1).map(lambda index: MAIN_BASE + index * word),
                st.integers(0, state.size // word - 1).map(lambda index: image.MAIN_ARENA + index * word),
                st.just(image.MP + image.layout.par.fields["sbrk_base"].offset),
            )
        )
        image.word(place, data.draw(values))
    memory = Counting(image.memory)
    summed, found = everything(image, PageCache(memory))
    assert len(summed.problems) <= MOST + 1
    assert all(text.endswith(".") for text in summed.problems)
    assert len(found) <= (end - MAIN_BASE) // image.abi.header + 1
    assert memory.size <= 64 * (end - MAIN_BASE) + (1 << 20)
    if summed.unaccounted and summed.system_mem == end - MAIN_BASE:
        assert summed.problems or summed.gaps


@given(st.integers(0, 1 << 64), st.data())
def test_random_bytes_are_no_heap(seed: int, data: st.DataObject) -> None:
    noise = random.Random(seed).randbytes(0x4000)
    version, bits = data.draw(st.sampled_from(EVERY))
    image = Image(version, bits)
    image.write(image.LIBC[0], noise)
    image.map(MAIN_BASE, 0x2000)
    image.write(MAIN_BASE, noise[:0x2000])
    image.par(sbrk_base=data.draw(st.sampled_from((0, MAIN_BASE, MAIN_BASE + 8, image.MP))))
    if data.draw(st.booleans()):
        top = data.draw(st.sampled_from((MAIN_BASE + 0x1000, MAIN_BASE + 0x1008, MAIN_BASE + 1, 0, image.MP)))
        image.field(image.layout.state, image.MAIN_ARENA, "top", top)
        image.field(
            image.layout.state, image.MAIN_ARENA, "system_mem", data.draw(st.sampled_from((0, 0x2000, 1 << 31)))
        )
    memory = Counting(image.memory)
    summed, found = everything(image, memory)
    assert len(summed.problems) <= MOST + 1
    assert memory.reads < 50_000
    assert len(found) < 0x2000


@given(st.sampled_from((Abi(8), Abi(4), Abi(4, alignment=8))), st.integers(0, 1 << 24))
def test_a_request_fits_its_chunk(abi: Abi, request: int) -> None:
    size = abi.request_to_chunk(request)
    assert size % abi.alignment == 0
    assert size >= abi.min_size
    assert abi.max_request(size) >= request
    assert size == abi.min_size or abi.max_request(size - abi.alignment) < request
    assert abi.request_to_chunk(abi.max_request(size)) == size


@given(st.sampled_from((Abi(8), Abi(4), Abi(4, alignment=8))), st.integers(2, 1 << 17), st.integers(0, 1 << 17))
def test_larger_chunks_never_have_a_lower_bin(abi: Abi, units: int, more: int) -> None:
    size = max(units * abi.alignment, abi.min_size)
    larger = size + more * abi.alignment
    assert bin_index(abi, size) <= bin_index(abi, larger)
    assert fastbin_index(abi, size) <= fastbin_index(abi, larger)


@given(st.data())
def test_filters_lose_nothing(data: st.DataObject) -> None:
    image = Image()
    laid = main_heap(image, data.draw(pieces("2.36", 64)))
    abi, memory, layout = image.abi, image.memory, image.layout
    arena = read_arena(memory, abi, layout, image.MAIN_ARENA, 0)
    params = read_params(memory, abi, layout, image.MP)
    cache = read_tcache(memory, abi, layout, laid[0].address + 16, True)
    free = membership(read_free_lists(memory, abi, layout, arena, True), [cache])
    plan = regions(abi, layout, params, arena, read_heaps(memory, abi, layout, params, arena))
    low, high = data.draw(st.integers(0, 0x400)), data.draw(st.one_of(st.none(), st.integers(0, 0x800)))
    states = data.draw(st.one_of(st.none(), st.frozensets(st.sampled_from(("used", "tcache", "unsorted", "top")))))
    start = MAIN_BASE + data.draw(st.integers(-16, 0x2000))
    limit = data.draw(st.one_of(st.none(), st.integers(0, 50)))
    expected = [
        row.address
        for row in laid
        if row.size >= low
        and (high is None or row.size <= high)
        and (states is None or row.state in states)
        and row.address + row.size > start
    ]
    rows = Rows(abi, walk_arena(memory, abi, plan, free), Wanted(low, high, states, start), limit)
    shown = [chunk.address for chunk in rows]
    assert shown == expected[:limit]
    assert rows.left_out == len(expected) - len(shown)
