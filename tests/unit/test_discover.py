"""Promise: main_arena, mp_ and the tcache are found where they are, or not at all: never somewhere else."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gdbheap.elf import ElfImage, Segment, ThreadLocals
from gdbheap.memory import Memory
from gdbheap.ptmalloc.discover import Discovery, Found, Given, NotFound, Source, discover
from gdbheap.ptmalloc.thread_locals import ThreadVariables, find_variables
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image, main_heap

BOTH = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
PIECES = ((0x40, "tcache"), (0x90, "used"), (0x430, "unsorted"), (0x60, "used"), (0x500, "large"), (0x70, "used"))
TCACHE = {"tcache_count": 7, "tcache_max_bytes": 1032, "tcache_bins": 64, "tcache_small_bins": 64}
THREAD = 0x3000_0800
OFFSETS = (-0x20, -0x10, 0x8)


def release_of(layout: tuple[str, int]) -> tuple[int, int]:
    major, minor = layout[0].split(".")
    return int(major), int(minor)


def write_defaults(image: Image) -> None:
    """Give malloc_par the values that it has where nobody has set any."""
    image.par(
        trim_threshold=0x20000,
        top_pad=0x20000,
        mmap_threshold=0x20000,
        arena_test=8,
        n_mmaps_max=65536,
        **{name: value for name, value in TCACHE.items() if name in image.layout.par.fields},
    )


def heap(layout: tuple[str, int]) -> Image:
    """Return a heap whose mp_ has the values that it would have."""
    image = Image(*layout)
    main_heap(image, PIECES)
    write_defaults(image)
    return image


def elf(image: Image, dynamic: dict[int, int] | None = None) -> ElfImage:
    start, size = image.LIBC
    segment = Segment(start, start + size, True, False, 0, size)
    return ElfImage(0, 62 if image.abi.word_size == 8 else 3, image.abi.word_size, True, (segment,), dynamic or {}, "")


def source(image: Image, memory: Memory | None = None, initial: Memory | None = None) -> Source:
    return Source(memory or image.memory, elf(image), "libc.so.6", 0x1000, initial)


def is_right(found: Discovery, image: Image) -> bool:
    layout = found.layout
    return (
        found.main_arena.address == image.MAIN_ARENA
        and found.mp.address == image.MP
        and dict(layout.state.fields) == dict(image.layout.state.fields)
        and [field.offset for field in layout.par.fields.values()]
        == [field.offset for field in image.layout.par.fields.values()]
    )


@BOTH
def test_a_heap_without_its_file(layout: tuple[str, int]) -> None:
    image = heap(layout)
    found = discover(source(image), release_of(layout))
    assert is_right(found, image)
    assert found.layout.tcache is not None
    assert image.layout.tcache is not None
    assert found.layout.tcache.size == image.layout.tcache.size
    assert "libc.so.6" in found.main_arena.how
    assert "sbrk_base" in found.mp.how


@BOTH
@pytest.mark.parametrize("size", [0, 0x207369202C6B6E75, 0x41414141, 0x20])
def test_a_damaged_top_chunk_without_the_file(layout: tuple[str, int], size: int) -> None:
    """Its size tells no longer where the heap begins; that it is in the memory that malloc_par tells of does."""
    image = heap(layout)
    top = image.abi.read_word(image.memory, image.MAIN_ARENA + image.layout.state.fields["top"].offset)
    image.word(top + image.abi.word_size, size & ((1 << layout[1]) - 1))
    assert is_right(discover(source(image), release_of(layout)), image)


@BOTH
def test_the_initial_values_of_a_file_find_a_tuned_mp(layout: tuple[str, int]) -> None:
    image = heap(layout)
    image.par(sbrk_base=0)
    initial = image.memory
    image.par(sbrk_base=MAIN_BASE, trim_threshold=0x4000, top_pad=0, mmap_threshold=0x1000, n_mmaps_max=5)
    found = discover(source(image, initial=initial), release_of(layout))
    assert is_right(found, image)
    assert "file" in found.mp.how
    with pytest.raises(NotFound, match="agrees"):
        discover(source(image), release_of(layout))


@BOTH
def test_a_relocated_word_among_others(layout: tuple[str, int]) -> None:
    """With relocations only relocated words count, though another word of the data looks right too."""
    image = heap(layout)
    if image.abi.word_size == 4:
        pytest.skip("the table of this test is that of x86-64")
    offset = image.layout.state.fields["next"].offset
    table = image.LIBC[0] + 0x3000
    image.write(table, struct.pack("<3Q", image.MAIN_ARENA + offset, 8, image.MAIN_ARENA))
    with_table = replace(source(image), image=elf(image, {7: table, 8: 24}))
    found = discover(with_table, release_of(layout))
    assert is_right(found, image)
    assert "relocation" in found.main_arena.how
    image.write(table, struct.pack("<3Q", image.MP, 8, image.MAIN_ARENA))
    with pytest.raises(NotFound) as caught:
        discover(replace(source(image), image=elf(image, {7: table, 8: 24})))
    assert caught.value.what == "main_arena"


@BOTH
def test_a_ring_of_two_arenas(layout: tuple[str, int]) -> None:
    image = heap(layout)
    heap_info = image.layout.heap_info
    assert heap_info is not None
    start = 0x4000_0000
    arena = start + heap_info.size
    image.map(start, 0x21000)
    first = image.abi.first_chunk(arena + image.layout.state.size)
    rows = image.chunks(first, [(0x100, "used"), (start + 0x21000 - first - 0x100, "top")], main=False)
    image.arena(arena, rows, next=image.MAIN_ARENA, system_mem=0x21000, max_system_mem=0x21000, flags=2)
    image.heap(start, arena, 0, 0x21000)
    image.field(image.layout.state, image.MAIN_ARENA, "next", arena)
    assert is_right(discover(source(image), release_of(layout)), image)


@BOTH
def test_one_corrupt_bin_is_no_reason_to_doubt(layout: tuple[str, int]) -> None:
    image = heap(layout)
    image.field(image.layout.state, image.MAIN_ARENA, "bins", 0x4141_4140, 0)
    assert is_right(discover(source(image), release_of(layout)), image)


def test_several_places_are_none() -> None:
    image = heap(("2.36", 64))
    memory = image.memory
    for offset in range(0, image.layout.par.size, 8):
        image.write(image.MP + 0x400 + offset, memory.read(image.MP + offset, 8))
    with pytest.raises(NotFound, match="in the same way") as caught:
        discover(source(image))
    assert caught.value.what == "mp_"
    given_one = Given(mp=Found(image.MP, "given by hand"))
    found = discover(source(image), (2, 36), given_one)
    assert is_right(found, image)
    assert found.mp.how == "given by hand"


def test_what_was_given_is_checked() -> None:
    image = heap(("2.36", 64))
    with pytest.raises(NotFound, match="no main_arena of a known layout") as caught:
        discover(source(image), given=Given(main_arena=Found(image.MAIN_ARENA + 8, "given by hand")))
    assert caught.value.what == "main_arena"
    with pytest.raises(NotFound, match="does not agree") as caught:
        discover(source(image), given=Given(mp=Found(image.MP + 8, "given by hand")))
    assert caught.value.what == "mp_"


def test_before_the_first_malloc() -> None:
    image = Image("2.36", 64)
    image.field(image.layout.state, image.MAIN_ARENA, "next", image.MAIN_ARENA)
    image.field(image.layout.state, image.MAIN_ARENA, "attached_threads", 1)
    image.par(trim_threshold=0x20000, top_pad=0x20000, mmap_threshold=0x20000, arena_test=8, n_mmaps_max=65536)
    assert is_right(discover(source(image), (2, 36)), image)


def test_nothing_there() -> None:
    image = Image("2.36", 64)
    with pytest.raises(NotFound) as caught:
        discover(source(image))
    assert caught.value.what == "main_arena"


def before_the_program(layout: tuple[str, int]) -> Memory:
    """Return what libc's file has where the heap's variables are."""
    image = Image(*layout)
    image.field(image.layout.state, image.MAIN_ARENA, "next", image.MAIN_ARENA)
    image.field(image.layout.state, image.MAIN_ARENA, "attached_threads", 1)
    write_defaults(image)
    return image.memory


@settings(max_examples=150)
@example(("2.31", 64), [0x10000])  # looks like another release's malloc_par elsewhere
@given(layout=st.sampled_from(list(LAYOUTS)), words=st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=9))
def test_with_the_file_no_damage_hides_them(layout: tuple[str, int], words: list[int]) -> None:
    """Whatever is written over both structs, libc's file tells where they are."""
    image = heap(layout)
    for start, size in ((image.MAIN_ARENA, image.layout.state.size), (image.MP, image.layout.par.size)):
        for place in range(0, size, image.abi.word_size):
            image.word(start + place, words[place % len(words)])
    found = discover(source(image, initial=before_the_program(layout)), release_of(layout))
    assert is_right(found, image)


@settings(max_examples=150)
@given(
    data=st.data(),
    layout=st.sampled_from(list(LAYOUTS)),
    writes=st.integers(1, 12),
)
def test_damage_never_leads_elsewhere(data: st.DataObject, layout: tuple[str, int], writes: int) -> None:
    """Whatever is written over libc's data, the answer is the right one or none."""
    image = heap(layout)
    start, size = image.LIBC
    word = image.abi.word_size
    values = st.one_of(
        st.sampled_from([0, 1, 0x20000, image.MAIN_ARENA, image.MP, MAIN_BASE, 64, 65536]),
        st.integers(0, size // word - 1).map(lambda place: start + place * word),
        st.integers(0, (1 << 8 * word) - 1),
    )
    for _ in range(writes):
        place = data.draw(st.integers(0, size // word - 1))
        image.word(start + place * word, data.draw(values))
    try:
        found = discover(source(image), release_of(layout))
    except NotFound:
        return
    assert found.main_arena.address == image.MAIN_ARENA
    assert found.mp.address == image.MP


def variables(image: Image, **words: int) -> ThreadVariables:
    """Return what is found of a thread whose thread-local words are those at OFFSETS."""
    image.map(THREAD - 0x800, 0x1000)
    for offset, value in zip(OFFSETS, (words["first"], words["second"], words["third"])):
        image.word(THREAD + offset, value)
    found = discover(source(image), (2, 36))
    return find_variables(image.memory, image.abi, found.fitting, {image.MAIN_ARENA}, OFFSETS, [THREAD], found.dummy)


@BOTH
def test_the_variables_of_a_thread(layout: tuple[str, int]) -> None:
    image = heap(layout)
    tcache = image.abi.first_chunk(MAIN_BASE) + image.abi.header
    found = variables(image, first=0x5555, second=tcache, third=image.MAIN_ARENA)
    assert (found.tcache, found.thread_arena) == (OFFSETS[1], OFFSETS[2])
    assert found.generation is not None
    assert found.generation.layout.tcache is not None
    assert image.layout.tcache is not None
    assert found.generation.layout.tcache.size == image.layout.tcache.size


def test_variables_that_several_words_can_be() -> None:
    image = heap(("2.36", 64))
    tcache = image.abi.first_chunk(MAIN_BASE) + image.abi.header
    found = variables(image, first=tcache, second=tcache, third=0)
    assert (found.tcache, found.thread_arena) == (None, None)


def test_a_chunk_that_is_no_tcache() -> None:
    """It has the size of a tcache, but not its content."""
    image = heap(("2.36", 64))
    tcache = image.abi.first_chunk(MAIN_BASE) + image.abi.header
    image.write(tcache, b"\x41" * 64)
    found = variables(image, first=tcache, second=0, third=image.MAIN_ARENA)
    assert (found.tcache, found.thread_arena) == (None, OFFSETS[2])


def test_the_dummy_of_a_thread_without_a_tcache() -> None:
    """From 2.43 on a thread without a tcache has a pointer to zeros in libc, which is where its variable began."""
    image = heap(("2.43", 64))
    zeros, initial = image.LIBC[0] + 0x2800, image.LIBC[0] + 0x3F00
    image.word(initial, zeros)
    known = elf(image)
    constants = Segment(zeros, zeros + 0x800, False, False, 0x2800, 0x800)
    with_locals = replace(known, segments=(constants, *known.segments), thread_locals=ThreadLocals(initial, 8, 0x40, 8))
    found = discover(replace(source(image), image=with_locals), (2, 43))
    assert found.dummy == zeros
    # Such a variable as __resp leads to zeros, too, but to those of _res, which are no constants.
    found = discover(replace(source(image), image=replace(with_locals, segments=known.segments)), (2, 43))
    assert found.dummy is None
