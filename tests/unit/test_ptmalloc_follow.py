"""The fast ways through free lists find what the careful one finds, wherever the chunks lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdbheap.memory import BlockCache, Memory
from gdbheap.ptmalloc import bins, follow
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import read_arena
from gdbheap.ptmalloc.bins import FreeList, read_free_lists
from tests.support.heap_image import LAYOUTS, Image, Row, main_heap

EVERY = sorted(LAYOUTS)
SIZES = {"fastbin": (0x20, 0x30, 0x40), "unsorted": (0x200, 0x90), "small": (0x60, 0xA0), "large": (0x800, 0x840)}


def scattered_heap(image: Image, states: Sequence[str]) -> list[Row]:
    """Lay out free chunks of the given states, each with a used one of many pages behind it."""
    pieces = []
    for number, state in enumerate(states):
        sizes = SIZES[state]
        pieces += [(sizes[number % len(sizes)], state), (0x3000, "used")]
    return main_heap(image, pieces)


def lists_of(image: Image) -> tuple[FreeList, ...]:
    arena = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    return read_free_lists(image.memory, image.abi, image.layout, arena, image.safe_linking)


def plain(lists: Sequence[FreeList]) -> list[tuple[Any, ...]]:
    return [
        (item.kind, item.index, tuple(item.addresses), tuple(item.sizes), item.problems, item.complete)
        for item in lists
    ]


def nothing(memory: Memory, abi: Abi, starts: Sequence[follow.Start]) -> list[None]:
    return [None] * len(starts)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_all_ways_agree(monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    version, bits = data.draw(st.sampled_from(EVERY))
    image = Image(version, bits)
    kinds = [kind for kind in SIZES if kind != "fastbin" or image.layout.has_fastbins]
    rows = scattered_heap(image, data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=30)))
    broken = data.draw(st.booleans())
    if broken:  # a word of some free chunk points elsewhere
        chosen = data.draw(st.sampled_from([row for row in rows if row.state in SIZES]))
        place = chosen.address + image.abi.word_size * data.draw(st.integers(1, 3))
        image.word(place, data.draw(st.sampled_from([0, 8, image.MAIN_ARENA, *(row.address for row in rows)])))
    with monkeypatch.context() as patched:
        patched.setattr(bins, "follow", nothing)
        careful = plain(lists_of(image))
    together = plain(lists_of(image))
    with monkeypatch.context() as patched:
        patched.setattr(follow, "_TRIED", 1)
        patched.setattr(follow, "_WORTH", 1 << 30)
        alone = plain(lists_of(image))
    with monkeypatch.context() as patched:
        patched.setattr(follow, "_FLUSHED", 1)
        patched.setattr(follow, "_LOOKED", 1)
        patched.setattr(BlockCache, "MOST", 1)
        patched.setattr(bins, "_LONG", 0)
        small = plain(lists_of(image))
    assert together == alone == small == careful
    if not broken:
        assert all(item[-1] for item in careful)
        assert sum(len(item[2]) for item in careful) == sum(row.state in SIZES for row in rows)


@pytest.mark.parametrize("way", ["together", "alone"])
def test_a_sound_heap_needs_no_careful_way(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    image = Image()
    scattered_heap(image, [*SIZES, *SIZES, *SIZES])
    if way == "alone":
        monkeypatch.setattr(follow, "_TRIED", 1)
        monkeypatch.setattr(follow, "_WORTH", 1 << 30)
    seen: list[Any] = []
    real = follow.follow

    def watched(memory: Memory, abi: Abi, starts: Sequence[follow.Start]) -> Any:
        seen.extend(real(memory, abi, starts))
        return seen

    monkeypatch.setattr(bins, "follow", watched)
    lists_of(image)
    assert seen
    assert all(item is not None for item in seen)
