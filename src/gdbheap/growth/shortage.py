"""Why nothing that was free could serve a request, place by place in the order in which malloc looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gdbheap.growth.event import Event, Frame, FreeLists
from gdbheap.growth.names import PUBLIC, function_of
from gdbheap.growth.predict import Prediction
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import UNSORTED_BIN, FreeSummary, ListSummary, bin_index, bin_range, fastbin_index
from gdbheap.ptmalloc.params import Params

#: The branches that give memory back: no request stands behind them, or one that malloc goes on with.
_GIVING_BACK = frozenset({"trim", "heap-trim", "heap-unmap", "heap-align", "munmap-chunk"})
#: What asks an arena without looking into the thread's tcache (calloc up to glibc 2.40), by the name programs use.
_PAST_TCACHE: Mapping[str, str] = {"calloc": "calloc", "_int_realloc": "realloc", "_int_memalign": "memalign"}


@dataclass(frozen=True)
class TcacheShortage:
    """Why the thread's tcache did not serve.

    ``exists`` is False where this glibc has no tcache. ``largest`` is the largest chunk that it keeps, in bytes, and
    ``bin`` whether it has a bin for the chunk that was needed. ``count`` is the number of chunks in that bin, None
    where it is not known. ``being_made`` says that the request was for the tcache itself. ``passed_by`` names the
    function that may ask the arena without looking there, None where it is none such.
    """

    exists: bool
    largest: int
    bin: bool
    count: int | None
    being_made: bool
    passed_by: str | None


@dataclass(frozen=True)
class BinShortage:
    """What one fastbin or bin held that could have served.

    ``low`` and ``high`` are the chunk sizes that belong in it (``high`` is None where there is no largest). ``held`` is
    None where it was empty.
    """

    kind: str
    index: int
    low: int
    high: int | None
    held: ListSummary | None


@dataclass(frozen=True)
class Shortage:
    """What was free before a request that needed the kernel, all in bytes; ``nb`` is the size of the chunk.

    ``fastbin`` is None where no fastbin is for that size, and ``fastbins`` says whether this glibc has any. ``bin`` is
    the small or large bin for that size. ``summary`` is all that the arena's fastbins and bins held. ``top_size`` is
    what was left in the top chunk (0: there was none), ``top_needed`` what it would have needed (nb plus MINSIZE).
    ``no_heap`` says that the arena had no memory at all. ``other_arenas`` is how many there are besides, None where
    that is not known.
    """

    nb: int
    tcache: TcacheShortage
    fastbins: bool
    fastbin: BinShortage | None
    unsorted: ListSummary | None
    bin: BinShortage
    summary: FreeSummary
    top_size: int | None
    top_needed: int
    no_heap: bool
    other_arenas: int | None

    @property
    def verdict(self) -> str | None:
        """``fragmentation``: enough was free in bins, but in no single chunk; ``need``: not enough was free there.

        None where not every chunk was counted, or a chunk that was counted could have served.
        """
        if not self.summary.complete or self.summary.largest >= self.nb:
            return None
        return "fragmentation" if self.summary.total >= self.nb else "need"

    @property
    def enough_with_top(self) -> bool:
        """Whether the free chunks and the top chunk together had enough."""
        return self.summary.total + (self.top_size or 0) >= self.top_needed


def shortage(event: Event, prediction: Prediction | None) -> Shortage | None:
    """Return why nothing free served the request of ``event``.

    None where that was not read, and for calls that give memory back.
    """
    if prediction is not None and prediction.call is not None and prediction.call.path in _GIVING_BACK:
        return None
    free, state, requested = event.free, event.state, event.requested
    if free is None or state is None or state.arena is None or requested is None or requested.nb is None:
        return None
    abi, arena, nb = state.abi, state.arena, requested.nb
    facts = event.reading.arena_facts if event.reading is not None else None
    count = facts.narenas if facts is not None else None
    held = {(item.kind == "fastbin", item.number): item for item in free.summary.lists}
    index = bin_index(abi, nb)
    low, high = bin_range(abi, index)
    kind = "small" if nb < abi.min_large_size else "large"
    return Shortage(
        nb=nb,
        tcache=_tcache(event, abi, state.params, nb, free),
        fastbins=bool(arena.fastbins),
        fastbin=_fastbin(abi, arena, nb, held),
        unsorted=held.get((False, UNSORTED_BIN)),
        bin=BinShortage(kind, index, low, high, held.get((False, index))),
        summary=free.summary,
        top_size=arena.top_size,
        top_needed=nb + abi.min_size,
        no_heap=not arena.top_size and arena.top_size is not None and not free.summary.lists,
        other_arenas=None if count is None else count - 1,
    )


def _fastbin(abi: Abi, arena: Arena, nb: int, held: Mapping[tuple[bool, int], ListSummary]) -> BinShortage | None:
    index = fastbin_index(abi, nb)
    if not 0 <= index < len(arena.fastbins):
        return None
    return BinShortage("fastbin", index, nb, nb, held.get((True, index)))


def _passed_by(frames: Sequence[Frame]) -> str | None:
    for frame in frames:
        name = function_of(frame)
        public = PUBLIC.get(name)
        if name in _PAST_TCACHE or public in _PAST_TCACHE:
            return _PAST_TCACHE[name if name in _PAST_TCACHE else str(public)]
        if public is not None:
            return None
    return None


def _tcache(event: Event, abi: Abi, params: Params, nb: int, free: FreeLists) -> TcacheShortage:
    if "tcache_small_bins" in params.values:  # 2.42
        largest = (params.get("tcache_max_bytes") - 1) // abi.alignment * abi.alignment
    else:
        largest = abi.min_size + (params.get("tcache_bins") - 1) * abi.alignment
    return TcacheShortage(
        exists="tcache_count" in params.values,
        largest=largest,
        bin=nb <= largest,
        count=free.tcache_count,
        being_made=event.requested is not None and event.requested.function == "tcache_init",
        passed_by=_passed_by(event.frames),
    )
