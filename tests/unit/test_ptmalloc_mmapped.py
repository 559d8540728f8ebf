"""Chunks with mappings of their own: found by their headers, and by nothing that merely looks like one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.mappings import MappedRange, Spans
from gdbheap.ptmalloc.abi import IS_MMAPPED, round_up
from gdbheap.ptmalloc.mmapped import MmappedChunks, find_mmapped, holder
from gdbheap.ptmalloc.params import read_params
from tests.support.heap_image import LAYOUTS, Image

START = 0x7000_0000
PAGE = 0x1000


class Maps:
    """One anonymous range in which mappings are laid out one behind the other, from START on."""

    def __init__(self, image: Image, size: int = 0x200000) -> None:
        self.image = image
        self.position = START
        self.end = START + size
        self.lengths: list[int] = []
        self.chunks: list[int] = []
        image.map(START, size)

    def foreign(self, size: int, words: Sequence[tuple[int, int]] = ()) -> None:
        """Memory of someone else; ``words`` are (offset, value)."""
        for offset, value in words:
            self.image.word(self.position + offset, value)
        self.position += size

    def chunk(self, request: int, alignment: int = 0, *, huge: bool = False) -> None:
        """What sysmalloc_mmap leaves, and _int_memalign where an alignment is asked for (malloc.c of the release)."""
        abi, modern = self.image.abi, "fastbinsY" not in self.image.layout.state.fields
        padded = abi.request_to_chunk(request + (alignment + abi.min_size if alignment else 0))
        length = round_up(padded + (abi.header if modern else abi.word_size) + abi.alignment - abi.header, PAGE)
        block, first = self.position, abi.first_chunk(self.position)
        self._header(first, block, length, modern, huge)
        chunk = first
        if alignment:
            pointer = round_up(first + abi.header, alignment)
            if pointer != first + abi.header:
                if not modern and pointer - abi.header - first < abi.min_size:
                    pointer += alignment
                chunk = pointer - abi.header
                self._header(chunk, block, length, modern, huge)
        self.position += length
        self.lengths.append(length)
        self.chunks.append(chunk)

    def _header(self, chunk: int, block: int, length: int, modern: bool, huge: bool) -> None:
        abi, offset = self.image.abi, chunk - block
        self.image.word(chunk, offset | (1 if modern and huge else 0))
        self.image.word(chunk + abi.word_size, length - offset - (abi.header if modern else 0) | IS_MMAPPED)

    def find(self, *, held: int | None = None, taken: Sequence[tuple[int, int]] = (), **counters: int) -> MmappedChunks:
        """Search, with malloc's counters as they should be, or as they are given."""
        image = self.image
        image.par(**{"n_mmaps": len(self.lengths), "mmapped_mem": sum(self.lengths), **counters})
        size = self.end - START
        ranges = [
            MappedRange(START - PAGE, START, "---p", "", PAGE),
            MappedRange(START, self.end, "rw-p", "", size if held is None else held),
        ]
        params = read_params(image.memory, image.abi, image.layout, image.MP)
        return find_mmapped(image.memory, image.abi, image.layout, params, ranges, taken)


@pytest.fixture(params=sorted(LAYOUTS), ids=lambda key: f"{key[0]}-{key[1]}")
def maps(request: pytest.FixtureRequest) -> Maps:
    version, bits = request.param
    return Maps(Image(version, bits))


def addresses(found: MmappedChunks) -> list[int]:
    return [chunk.address for chunk in found.chunks]


def test_chunks_that_follow_each_other(maps: Maps) -> None:
    for request in (200_000, 131_049, 300_000):
        maps.chunk(request)
    found = maps.find()
    assert addresses(found) == maps.chunks
    assert [chunk.length for chunk in found.chunks] == maps.lengths
    assert (found.proven, found.problem) == (True, None)
    assert all(chunk.usable >= request for chunk, request in zip(found.chunks, (200_000, 131_049, 300_000)))
    middle = found.chunks[1]
    assert holder(found.chunks, middle.block + 5) is middle
    assert holder(found.chunks, START - 1) is None
    row = middle.row(maps.image.abi, 0)
    assert (row.flags, row.state, row.request_max) == (IS_MMAPPED, "used", middle.usable)


@pytest.mark.parametrize("alignment", [32, 64, 256, 1024, 4096, 8192, 65536])
def test_aligned_chunks(maps: Maps, alignment: int) -> None:
    maps.chunk(200_000)
    maps.chunk(140_000, alignment)
    maps.chunk(150_000, alignment)
    found = maps.find()
    assert addresses(found) == maps.chunks
    assert found.proven
    assert all((chunk.address + maps.image.abi.header) % alignment == 0 for chunk in found.chunks[1:])
    assert all(chunk.usable >= 140_000 for chunk in found.chunks)


def test_foreign_memory_between(maps: Maps) -> None:
    """A stack, zeros, and what almost looks like a header."""
    abi = maps.image.abi
    odd = [(2 * PAGE + abi.first_chunk(0) + abi.word_size, 2 * PAGE | 3), (5 * PAGE + abi.word_size, 0x1232)]
    maps.foreign(0x21000, odd)
    maps.chunk(200_000)
    maps.foreign(0x3000)
    maps.chunk(140_000, 4096)
    maps.foreign(0x5000)
    found = maps.find()
    assert addresses(found) == maps.chunks
    assert found.proven


def test_huge_pages(maps: Maps) -> None:
    maps.chunk(200_000, huge=True)
    maps.chunk(200_000, 4096, huge=True)
    assert addresses(maps.find()) == maps.chunks


def test_what_does_not_add_up_is_called_so(maps: Maps) -> None:
    maps.chunk(200_000)
    maps.chunk(140_000)
    few = maps.find(n_mmaps=3)
    assert not few.proven
    assert few.problem is not None
    assert few.problem.startswith("Not all mmapped chunks are known: malloc counts 3")
    many = maps.find(n_mmaps=1)
    assert not many.proven
    assert many.problem is not None
    assert "candidates" in many.problem
    cut = maps.find(held=PAGE)
    assert (cut.proven, len(cut.chunks)) == (False, 1)
    assert cut.problem is not None
    assert f"{maps.end - START - PAGE:#x} bytes of anonymous memory cannot be read" in cut.problem


def test_no_map_and_no_chunks(maps: Maps) -> None:
    image = maps.image
    image.par(n_mmaps=2, mmapped_mem=0x50000)
    params = read_params(image.memory, image.abi, image.layout, image.MP)
    unknown = find_mmapped(image.memory, image.abi, image.layout, params, ())
    assert (unknown.proven, unknown.known) == (False, False)
    assert unknown.problem is not None
    assert "is not known here" in unknown.problem
    none = maps.find(n_mmaps=0, mmapped_mem=0)
    assert (none.chunks, none.proven, none.problem) == ((), True, None)


def test_where_an_arena_is_no_chunk_can_be(maps: Maps) -> None:
    maps.chunk(200_000)
    first = maps.position
    maps.chunk(200_000)
    maps.chunk(140_000)
    found = maps.find(
        taken=[(first, first + maps.lengths[1])], n_mmaps=2, mmapped_mem=maps.lengths[0] + maps.lengths[2]
    )
    assert addresses(found) == [maps.chunks[0], maps.chunks[2]]
    assert found.proven


def test_the_counter_that_drifts() -> None:
    """mremap_chunk of 2.43 adds a header too much to mmapped_mem; a difference like that is no doubt about chunks."""
    for version, proven in (("2.43", True), ("2.36", False)):
        maps = Maps(Image(version))
        maps.chunk(200_000)
        found = maps.find(mmapped_mem=maps.lengths[0] + 0x30)
        assert found.proven == proven
        assert found.problem is not None
        assert ("0x30 bytes too high" in found.problem) == proven


@given(st.data())
def test_any_layout_is_found(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(LAYOUTS)))
    maps = Maps(Image(*key), 0x800000)
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            maps.foreign(PAGE * data.draw(st.integers(1, 40)))
        alignment = data.draw(st.sampled_from([0, 0, 64, 4096, 16384]))
        maps.chunk(data.draw(st.integers(131_049, 400_000)), alignment)
    found = maps.find()
    assert addresses(found) == maps.chunks
    assert found.proven


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8), st.integers(0, 60), st.integers(0, 60))
def test_spans(spans: list[tuple[int, int]], start: int, end: int) -> None:
    inside = {number for low, high in spans for number in range(low, high)}
    made = Spans(spans)
    asked = set(range(start, end))
    for parts, expected in ((made.inside(start, end), asked & inside), (made.outside(start, end), asked - inside)):
        found = [number for low, high in parts for number in range(low, high)]
        assert found == sorted(expected)
