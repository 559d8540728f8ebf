"""The layouts that glibc's allocator has had from 2.23 on, for targets that do not describe theirs.

Which of them a target has is never taken from its release: distributions carry layouts back. `locate` chooses by what
fits the target's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gdbheap.ptmalloc.layout import Layout
from gdbheap.symbols import Field, Struct

_INTS = frozenset(
    "mutex flags have_fastchunks thp_mode hp_flags n_mmaps n_mmaps_max max_n_mmaps no_dyn_threshold binmap".split()
)
_BINS, _BINMAP, _SMALL, _LARGE = 254, 4, 64, 12


@dataclass(frozen=True)
class Generation:
    """A layout, and the release that brought it (``since``), for machines with words of ``word_size`` bytes.

    ``alignment`` is MALLOC_ALIGNMENT in bytes.
    """

    since: tuple[int, int]
    word_size: int
    alignment: int
    layout: Layout


def _packed(name: str, word: int, members: Sequence[tuple[str, int, int]], size: int | None = None) -> Struct:
    """Return the struct that a C compiler makes of ``members``: (name, bytes of an element, count) in order."""
    fields: dict[str, Field] = {}
    offset = 0
    for member, element, count in members:
        offset = -(-offset // element) * element
        fields[member] = Field(offset, element * count, count)
        offset += element * count
    return Struct(name, -(-offset // word) * word if size is None else size, fields)


def _members(names: str, word: int, counts: Mapping[str, int]) -> list[tuple[str, int, int]]:
    return [(name, 4 if name in _INTS else word, counts.get(name, 1)) for name in names.split()]


def _state(word: int, fastbins: int, have_fastchunks: bool) -> Struct:
    names = "mutex flags"
    names += " have_fastchunks" if have_fastchunks else ""
    names += " fastbinsY" if fastbins else ""
    names += " top last_remainder bins binmap next next_free attached_threads system_mem max_system_mem"
    return _packed(
        "malloc_state", word, _members(names, word, {"fastbinsY": fastbins, "bins": _BINS, "binmap": _BINMAP})
    )


def _par(word: int, *, total: bool = False, huge: bool = False, thp_mode: bool = False, tcache: str = "") -> Struct:
    names = "trim_threshold top_pad mmap_threshold arena_test arena_max"
    names += " thp_mode" if thp_mode else ""
    names += " thp_pagesize hp_pagesize hp_flags" if huge else ""
    names += " n_mmaps n_mmaps_max max_n_mmaps no_dyn_threshold mmapped_mem max_mmapped_mem"
    names += " max_total_mem" if total else ""
    names += " sbrk_base"
    names += f" {tcache} tcache_max_bytes tcache_count tcache_unsorted_limit" if tcache else ""
    return _packed("malloc_par", word, _members(names, word, {}))


def _heap_info(word: int, alignment: int, page_size: bool) -> Struct:
    names = "ar_ptr prev size mprotect_size" + (" pagesize" if page_size else "")
    # pad (arena.c), so that the malloc_state behind it is aligned as a chunk's memory is.
    pad = -(3 if page_size else 6) * word & (alignment - 1)
    size = word * len(names.split()) + pad
    return _packed("_heap_info", word, _members(names, word, {}), size)


def _tcache(word: int, counter: str, width: int, bins: int) -> Struct:
    return _packed("tcache_perthread_struct", word, [(counter, width, bins), ("entries", word, bins)])


def _generations(word: int) -> Iterator[Generation]:
    """Yield the generations, oldest first."""

    def make(
        since: tuple[int, int], alignment: int, state: Struct, par: Struct, page_size: bool, tcache: Struct | None
    ) -> Generation:
        return Generation(since, word, alignment, Layout(state, par, _heap_info(word, alignment, page_size), tcache))

    old = 2 * word  # i386 aligns to 16 from 2.26 on
    byte_counts, counts = _tcache(word, "counts", 1, _SMALL), _tcache(word, "counts", 2, _SMALL)
    slots = _tcache(word, "num_slots", 2, _SMALL + _LARGE)
    before, fast = _state(word, 10, False), 10 if word == 8 else 11
    after, last = _state(word, fast, True), _state(word, 0, False)
    old_par, huge_par = _par(word, tcache="tcache_bins"), _par(word, huge=True, tcache="tcache_bins")
    yield make((2, 23), old, before, _par(word, total=True), False, None)
    yield make((2, 24), old, before, _par(word), False, None)
    yield make((2, 26), 16, _state(word, fast, False), old_par, False, byte_counts)
    yield make((2, 27), 16, after, old_par, False, byte_counts)
    yield make((2, 30), 16, after, old_par, False, counts)
    yield make((2, 35), 16, after, huge_par, True, counts)
    yield make((2, 42), 16, after, _par(word, huge=True, tcache="tcache_small_bins"), True, slots)
    yield make((2, 43), 16, last, _par(word, huge=True, thp_mode=True, tcache="tcache_small_bins"), True, slots)


#: By word size in bytes, oldest first.
GENERATIONS: Mapping[int, tuple[Generation, ...]] = {word: tuple(_generations(word)) for word in (8, 4)}
