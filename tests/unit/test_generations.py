"""Promise: the layouts for a glibc without symbols are those that Debian's debug packages describe."""

from __future__ import annotations

import pytest

from gdbheap.ptmalloc.generations import GENERATIONS, Generation
from tests.support.heap_image import LAYOUTS

#: The release that brought the layout which each of the described ones has.
SINCE = {"2.31": (2, 30), "2.36": (2, 35), "2.43": (2, 43)}
#: sizeof(malloc_state), sizeof(malloc_par), sizeof(heap_info) and the chunk that a tcache gets (0: there is none), as
#: the debug information of each release has them, by bits.
SIZES = {
    ((2, 23), 64): (2192, 88, 32, 0),
    ((2, 24), 64): (2192, 80, 32, 0),
    ((2, 26), 64): (2192, 112, 32, 0x250),
    ((2, 27), 64): (2200, 112, 32, 0x250),
    ((2, 30), 64): (2200, 112, 32, 0x290),
    ((2, 35), 64): (2200, 136, 48, 0x290),
    ((2, 42), 64): (2200, 136, 48, 0x300),
    ((2, 43), 64): (2112, 144, 48, 0x300),
    ((2, 23), 32): (1108, 52, 16, 0),
    ((2, 24), 32): (1108, 48, 16, 0),
    ((2, 26), 32): (1112, 64, 24, 0x150),
    ((2, 27), 32): (1116, 64, 24, 0x150),
    ((2, 30), 32): (1116, 64, 24, 0x190),
    ((2, 35), 32): (1116, 76, 24, 0x190),
    ((2, 42), 32): (1116, 76, 24, 0x1D0),
    ((2, 43), 32): (1068, 80, 24, 0x1D0),
}


def generation(since: tuple[int, int], bits: int) -> Generation:
    return next(found for found in GENERATIONS[bits // 8] if found.since == since)


@pytest.mark.parametrize(("release", "bits"), LAYOUTS)
def test_as_the_debug_information_has_it(release: str, bits: int) -> None:
    found, described = generation(SINCE[release], bits).layout, LAYOUTS[release, bits]
    for one, other in ((found.state, described.state), (found.par, described.par), (found.tcache, described.tcache)):
        assert one is not None
        assert other is not None
        assert (one.name, one.size, dict(one.fields)) == (other.name, other.size, dict(other.fields))
    assert found.heap_info is not None
    assert described.heap_info is not None
    assert found.heap_info.size == described.heap_info.size
    assert dict(found.heap_info.fields) == dict(described.heap_info.fields)


@pytest.mark.parametrize(("since", "bits"), SIZES)
def test_sizes(since: tuple[int, int], bits: int) -> None:
    found = generation(since, bits)
    layout = found.layout
    assert layout.heap_info is not None
    chunk = 0
    if layout.tcache is not None:
        chunk = -(-(layout.tcache.size + bits // 8) // found.alignment) * found.alignment
    assert (layout.state.size, layout.par.size, layout.heap_info.size, chunk) == SIZES[since, bits]


@pytest.mark.parametrize("bits", [64, 32])
def test_each_is_there_once_and_oldest_first(bits: int) -> None:
    releases = [found.since for found in GENERATIONS[bits // 8]]
    assert releases == sorted(set(releases))
    assert {(since, bits) for since in releases} == {key for key in SIZES if key[1] == bits}
    assert all(found.word_size == bits // 8 for found in GENERATIONS[bits // 8])
