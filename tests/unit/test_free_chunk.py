"""What free would do, on heaps made by hand: where a chunk goes in each release, each check, what is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbheap.ptmalloc.abi import IS_MMAPPED, NON_MAIN_ARENA
from gdbheap.ptmalloc.arena import read_arena
from gdbheap.ptmalloc.bins import bin_index
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import read_params
from gdbheap.ptmalloc.tcache import tcache_index
from gdbheap.simulate.free_chunk import ENDS, Foretold, Freed, foretell
from gdbheap.simulate.glibc import Glibc
from gdbheap.simulate.linux import WillingKernel
from gdbheap.simulate.machine import Globals, Machine, Thread
from gdbheap.simulate.state import Release
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image, Row, main_heap

KEY = 0x1122334455667788 & 0xFFFFFFFF
LIMIT = 7
RELEASES = {"2.31": (2, 31), "2.36": (2, 36), "2.43": (2, 43)}
EVERY = sorted(LAYOUTS)


def prepared(version: str = "2.36", bits: int = 64, **settings: int) -> Image:
    """Return an image whose mp_ has the defaults, with a tcache limit of LIMIT."""
    image = Image(version, bits)
    abi, small = image.abi, 64
    largest = abi.min_size + 63 * abi.alignment
    values = {"trim_threshold": 0x20000, "mmap_threshold": 0x20000, "top_pad": 0x20000, "tcache_count": LIMIT}
    if version == "2.43":
        values.update(tcache_small_bins=small, tcache_max_bytes=largest + 1)
    else:
        values.update(tcache_bins=small, tcache_max_bytes=largest - abi.word_size)
    image.par(**{**values, **settings})
    return image


def state_of(
    image: Image,
    version: tuple[int, int] | None = None,
    layout: Layout | None = None,
    *,
    tcache: int | None = -2,
    key: bool = True,
    max_fast: int | None = -1,
    hooks: tuple[str, ...] = (),
) -> Machine:
    """Return the allocator of an image whose heap main_heap made, as its thread calls it.

    ``tcache`` is the thread's: -2 stands for the image's own. ``max_fast`` is global_max_fast: -1 for the default.
    """
    layout, abi = layout or image.layout, image.abi
    arena = read_arena(image.memory, abi, layout, image.MAIN_ARENA, 0)
    assert arena.top_size is not None
    glibc = Glibc(
        abi=abi,
        layout=layout,
        release=Release(version),
        mp=image.MP,
        main_arena=image.MAIN_ARENA,
        params=read_params(image.memory, abi, layout, image.MP),
        safe_linking=image.safe_linking,
        key=KEY if key else None,
        marks=key,
        hooks=hooks,
    )
    variables = Globals(
        curbrk=arena.top + arena.top_size,
        max_fast=16 * abi.word_size if max_fast == -1 else max_fast,
        single=True,
        numbers={image.MAIN_ARENA: 0},
    )
    own = abi.first_chunk(MAIN_BASE) + abi.header if tcache == -2 else tcache
    thread = Thread(1, own, image.MAIN_ARENA)
    return Machine(glibc, image.memory, thread, variables, WillingKernel(abi.word_size))


def ending(found: Foretold) -> Freed:
    assert found.unknown is None, found.unknown
    assert found.end is not None
    assert found.end.kind in ENDS
    return found.end


def made(version: str, bits: int, pieces: list[tuple[int, str]], **settings: int) -> tuple[Image, list[Row], Machine]:
    """Return a heap of these pieces (behind the tcache's own chunk), its rows, and what free sees of it."""
    image = prepared(version, bits, **settings)
    rows = main_heap(image, pieces, tcache_key=KEY)
    return image, rows[1:], state_of(image, RELEASES[version])


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_a_tcache_bin_with_room(version: str, bits: int) -> None:
    image, rows, state = made(version, bits, [(0x40, "used"), (0x40, "tcache"), (0x40, "tcache"), (0x20, "used")])
    # The image's tcache of 2.43 counts down from 16 places.
    end = ending(foretell(state, rows[0].address + image.abi.header))
    assert (end.kind, end.chunk, end.size) == ("tcache", rows[0].address, 0x40)
    assert end.index == tcache_index(image.abi, image.layout, 0x40)


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_a_full_tcache_bin(version: str, bits: int) -> None:
    """A fastbin takes the chunk where there are any; else it is merged, and goes to its own bin from 2.41 on."""
    count = 16 if version == "2.43" else LIMIT
    pieces = [(0x40, "used"), *[(0x40, "tcache")] * count, (0x20, "used")]
    image, rows, state = made(version, bits, pieces)
    pointer = rows[0].address + image.abi.header
    end = ending(foretell(state, pointer))
    if version == "2.43":
        assert (end.kind, end.index, end.merged) == ("small", bin_index(image.abi, 0x40), ())
    else:
        assert end.kind == "fastbin"
        merged = ending(foretell(state_of(image, RELEASES[version], max_fast=0x10), pointer))
        assert (merged.kind, merged.index) == ("unsorted", 1)
        merged = ending(foretell(state_of(image, (2, 41), max_fast=0x10), pointer))
        assert (merged.kind, merged.index) == ("small", bin_index(image.abi, 0x40))


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_neighbours_are_merged(version: str, bits: int) -> None:
    pieces = [(0x600, "unsorted"), (0x800, "used"), (0x700, "unsorted"), (0x20, "used")]
    image, rows, state = made(version, bits, pieces)
    end = ending(foretell(state, rows[1].address + image.abi.header))
    assert end.kind == "unsorted"
    assert (end.chunk, end.size) == (rows[0].address, 0x600 + 0x800 + 0x700)
    assert end.merged == (rows[0].address, rows[2].address)


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_top_takes_it(version: str, bits: int) -> None:
    image, rows, state = made(version, bits, [(0x20, "used"), (0x800, "used")])
    end = ending(foretell(state, rows[1].address + image.abi.header))
    assert (end.kind, end.chunk, end.size) == ("top", rows[1].address, 0x800 + rows[2].size)


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_the_end_of_top_goes_back(version: str, bits: int) -> None:
    image, rows, state = made(version, bits, [(0x20, "used"), (0x90000, "used")])
    found = foretell(state, rows[1].address + image.abi.header)
    end = ending(found)
    assert end.size is not None
    assert [call.syscall for call in found.calls] == ["brk"]
    (address,) = found.calls[0].args
    # MINSIZE and top_pad stay, and what does not fill a page.
    left = address - rows[1].address
    assert 0x20000 + image.abi.min_size < left <= 0x20000 + image.abi.min_size + 0x1000
    assert address % 0x1000 == 0


def test_large_tcache_bins() -> None:
    """From 2.42 on, where glibc.malloc.tcache_max was raised."""
    image, rows, state = made("2.43", 64, [(0x1200, "used"), (0x9000, "used"), (0x20, "used")], tcache_max_bytes=0x8001)
    end = ending(foretell(state, rows[0].address + 16))
    assert (end.kind, end.index) == ("tcache", tcache_index(image.abi, image.layout, 0x1200))
    assert end.index is not None
    assert end.index >= 64
    assert end.changes == ("The bin is kept in order of size.",)
    assert ending(foretell(state, rows[1].address + 16)).kind == "unsorted"


def mapped(image: Image, address: int, size: int) -> None:
    image.map(address, 0x2000)
    image.word(address + image.abi.word_size, size | IS_MMAPPED)


@pytest.mark.parametrize("version", ["2.31", "2.36", "2.43"])
def test_a_mapping_of_its_own(version: str) -> None:
    """It goes back to the kernel, and the thresholds rise to its size; in 2.43 a tcache can take it instead."""
    image, _, _ = made(version, 64, [(0x20, "used")], n_mmaps=1, mmapped_mem=0x40000)
    header = 16 if version == "2.43" else 0
    mapped(image, 0x3000_0000, 0x40000 - header)
    found = foretell(state_of(image, RELEASES[version]), 0x3000_0010)
    assert ending(found).kind == "munmap"
    assert [call.args for call in found.calls] == [(0x3000_0000, 0x40000)]
    assert f"mmap_threshold is set to {0x40000 - header:#x}" in ending(found).changes[0]
    image.par(no_dyn_threshold=1)
    assert not ending(foretell(state_of(image, RELEASES[version]), 0x3000_0010)).changes
    if version == "2.43":
        image.par(tcache_max_bytes=0x100000)
        assert ending(foretell(state_of(image, RELEASES[version]), 0x3000_0010)).kind == "tcache"
    image.word(0x3000_0008, (0x40100 - header) | IS_MMAPPED)
    image.par(tcache_max_bytes=0x400)
    end = ending(foretell(state_of(image, RELEASES[version]), 0x3000_0010))
    assert (end.kind, end.message) == ("abort", "munmap_chunk(): invalid pointer")


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_a_double_free_in_the_tcache(version: str, bits: int) -> None:
    image, rows, state = made(version, bits, [(0x40, "tcache"), (0x40, "tcache"), (0x20, "used")])
    for row in rows[:2]:
        end = ending(foretell(state, row.address + image.abi.header))
        assert end.message == "free(): double free detected in tcache 2"
        # Before that mark there was no such check.
        assert (
            ending(foretell(state_of(image, RELEASES[version], key=False), row.address + image.abi.header)).kind
            == "tcache"
        )


def test_a_double_free_in_another_bin() -> None:
    """2.42 looks through all bins, so it notices where the size was overwritten; older releases do not."""
    image, rows, _ = made("2.43", 64, [(0x40, "tcache"), (0x40, "used"), (0x20, "used")])
    image.word(rows[0].address + 8, 0x51)
    end = ending(foretell(state_of(image, (2, 43)), rows[0].address + 16))
    assert end.message == "free(): double free detected in tcache 2"
    image, rows, _ = made("2.36", 64, [(0x40, "tcache"), (0x40, "used"), (0x20, "used")])
    image.word(rows[0].address + 8, 0x51)
    found = foretell(state_of(image, (2, 36)), rows[0].address + 16)
    assert ending(found).kind == "tcache"
    assert "by chance" in found.steps[1].text


def test_the_glibc_with_both_fastbins_and_places() -> None:
    """2.42 has fastbins, and a tcache that counts places."""
    image = prepared("2.43")
    layout = replace(LAYOUTS["2.36", 64], tcache=LAYOUTS["2.43", 64].tcache, par=LAYOUTS["2.43", 64].par)
    image.layout = layout
    image.par(tcache_max_bytes=0x421)
    rows = main_heap(image, [(0x40, "used"), *[(0x40, "tcache")] * 16, (0x20, "used")], tcache_key=KEY)[1:]
    state = state_of(image, (2, 42), layout)
    found = foretell(state, rows[0].address + 16)
    assert (ending(found).kind, ending(found).index) == ("fastbin", 2)
    assert [step.function for step in found.steps] == ["free", "_int_free_chunk"]


@pytest.mark.parametrize(
    ("version", "word", "message"),
    [
        ("2.36", 0x39, "free(): invalid size"),
        ("2.36", 0x11, "free(): invalid size"),
        ("2.36", 0x1, "free(): invalid pointer"),
        ("2.36", (1 << 64) - 15, "free(): invalid pointer"),
        ("2.36", (1 << 64) - 0x1FFFFFFF, "free(): invalid pointer"),
        ("2.43", 0x11, "free(): invalid size"),
        ("2.43", 0x1, "free(): invalid size"),
        ("2.43", (1 << 64) - 15, "free(): invalid size"),
    ],
)
def test_sizes_that_cannot_be(version: str, word: int, message: str) -> None:
    image, rows, _ = made(version, 64, [(0x40, "used"), (0x20, "used")])
    image.word(rows[0].address + 8, word)
    end = ending(foretell(state_of(image, RELEASES[version]), rows[0].address + 16))
    assert (end.kind, end.message) == ("abort", message)


def test_a_size_that_is_rounded() -> None:
    """From 2.42 on free does not check the size before the tcache takes the chunk, into the bin of the size below."""
    image, rows, _ = made("2.43", 64, [(0x40, "used"), (0x20, "used")])
    image.word(rows[0].address + 8, 0x39)
    end = ending(foretell(state_of(image, (2, 43)), rows[0].address + 16))
    assert (end.kind, end.index) == ("tcache", 1)


@pytest.mark.parametrize("version", ["2.31", "2.36", "2.43"])
def test_a_pointer_that_is_not_aligned(version: str) -> None:
    _, rows, state = made(version, 64, [(0x40, "used"), (0x20, "used")])
    end = ending(foretell(state, rows[0].address + 24))
    assert end.message == "free(): invalid pointer"


def test_pointers_that_lead_nowhere() -> None:
    _, _, state = made("2.36", 64, [(0x40, "used")])
    assert ending(foretell(state, 0)).kind == "nothing"
    for pointer in (8, 16, 0x7000_0000_0000, (1 << 64) - 16):
        found = foretell(state, pointer)
        assert ending(found).kind == "crash", pointer
        assert "cannot be read" in found.steps[-1].text


def test_what_is_not_known() -> None:
    image, rows, _ = made("2.36", 64, [(0x40, "used"), (0x800, "used"), (0x20, "used")])
    pointer, large = rows[0].address + 16, rows[1].address + 16
    cases = {
        "cannot be found": state_of(image, (2, 36), tcache=None),
        "__free_hook": state_of(image, (2, 36), hooks=("__free_hook",)),
    }
    for words, changed in cases.items():
        found = foretell(changed, pointer)
        assert found.end is None
        assert words in (found.unknown or "")
    assert ending(foretell(state_of(image, (2, 36), tcache=-1), pointer)).kind == "fastbin"
    limit = state_of(image, (2, 36), tcache=-1, max_fast=None)
    assert "global_max_fast" in (foretell(limit, pointer).unknown or "")
    assert ending(foretell(limit, large)).kind == "unsorted", "no fastbin takes that much"
    making = state_of(image, (2, 36), tcache=0)
    assert ending(foretell(making, pointer)).kind == "tcache"
    made_first = foretell(making, large)
    assert ending(made_first).kind == "unsorted"
    assert any("one is made first" in step.text for step in made_first.steps)
    image.word(rows[0].address + 8, 0x41 | NON_MAIN_ARENA)
    image.word(MAIN_BASE, 0x4242)  # where ar_ptr would be, if a heap began at that multiple of 64 MiB
    outside = foretell(state_of(image, (2, 36)), pointer)
    assert ending(outside).kind == "tcache", "what is there of an arena is not looked at"
    assert any("0x4242" in step.text for step in outside.steps)
    full = foretell(state_of(image, (2, 36), tcache=-1, max_fast=0), pointer)
    assert ending(full).kind == "crash", "with no tcache it is read, and there is no memory"


def test_chunks_of_fastbins_are_merged_before_top_is_looked_at() -> None:
    """malloc_consolidate first: a chunk that only fastbin chunks keep from top lets top shrink."""
    pieces = [(0x20, "used"), (0x90000, "used"), (0x40, "fastbin"), (0x30, "fastbin")]
    image, rows, state = made("2.36", 64, pieces)
    image.field(image.layout.state, image.MAIN_ARENA, "have_fastchunks", 1)
    found = foretell(state_of(image, (2, 36)), rows[1].address + 16)
    assert (ending(found).kind, ending(found).chunk) == ("top", rows[1].address)
    assert [call.syscall for call in found.calls] == ["brk"]
    without = foretell(state, rows[1].address + 16)
    assert ending(without).kind == "unsorted", "the flag says that there are none"
    assert not without.calls


PIECES = st.lists(
    st.tuples(
        st.integers(2, 0x90).map(lambda count: count * 16),
        st.sampled_from(["used", "used", "tcache", "fastbin", "unsorted", "small", "large"]),
    ),
    min_size=1,
    max_size=12,
)


def sized(pieces: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return pieces whose sizes their lists can have, with a used one between those that would be merged."""
    fitting: list[tuple[int, str]] = []
    for size, kind in pieces:
        if kind == "fastbin":
            size = min(size, 0x80)
        elif kind in ("tcache", "small"):
            size = min(size, 0x3F0)
        elif kind == "large":
            size = max(size, 0x400)
        fitting += [(size, kind), (0x20, "used")]
    return fitting


@settings(max_examples=150)
@given(PIECES, st.data())
def test_no_heap_is_too_broken(pieces: list[tuple[int, str]], data: st.DataObject) -> None:
    """Whatever is overwritten, and whatever is freed: it ends, in one of the ways, or says why it cannot tell."""
    image, rows, _ = made("2.36", 64, sized(pieces))
    row = data.draw(st.sampled_from(rows))
    words = st.sampled_from([0, 1, 0x21, 0x41, 0x7FFFFFFFFFFFFFF1, row.address, row.address + 16, rows[0].address])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.sampled_from(rows)).address + 8 * data.draw(st.integers(0, 3))
        image.word(place, data.draw(words | st.integers(0, (1 << 64) - 1)))
    pointer = row.address + data.draw(st.sampled_from([16, 16, 16, 0, 8, 32]))
    found = foretell(state_of(image, (2, 36)), pointer)
    assert (found.end is None) != (found.unknown is None)
    if found.end is not None:
        assert found.end.kind in ENDS
        assert (found.end.message is not None) == (found.end.kind == "abort")


@settings(max_examples=100)
@given(PIECES)
def test_a_sound_heap_never_aborts(pieces: list[tuple[int, str]]) -> None:
    """Every used chunk of a sound heap can be freed, in each release."""
    for version in ("2.31", "2.36", "2.43"):
        chosen = [piece for piece in sized(pieces) if version != "2.43" or piece[1] != "fastbin"]
        _, rows, state = made(version, 64, chosen)
        for row in rows:
            if row.state == "used":
                end = ending(foretell(state, row.address + 16))
                assert end.kind not in ("abort", "crash")
                assert end.chunk is not None
                assert end.size is not None
                assert end.chunk <= row.address < end.chunk + end.size
