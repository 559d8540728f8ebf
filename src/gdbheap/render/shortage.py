"""Why nothing that was free could serve a request, as aligned lines and one sentence."""

from __future__ import annotations

from collections.abc import Iterator

from gdbheap.growth.shortage import BinShortage, Shortage, TcacheShortage
from gdbheap.ptmalloc.bins import ListSummary
from gdbheap.render.units import count_of


def shortage_lines(short: Shortage) -> Iterator[str]:
    """Yield a line for each place in which malloc looked, in its order, and at the end what it comes to."""
    if short.no_heap:
        yield "nothing is free: there is no heap yet"
        return
    rows = list(_rows(short))
    width = max(len(place) for place, _ in rows)
    for place, text in rows:
        yield f"{place:<{width}}  {text}"
    yield _verdict(short)


def _rows(short: Shortage) -> Iterator[tuple[str, str]]:
    if short.tcache.exists:
        yield "tcache", _tcache(short.tcache, short.nb)
    if not short.summary.lists:
        yield "bins", f"no chunk is free in the arena's {'fastbins and ' if short.fastbins else ''}bins"
    else:
        if short.fastbin is not None:
            yield _bin(short.fastbin)
        yield _bin(short.bin)
        yield "unsorted", _amount(short.unsorted)
        summary = short.summary
        yield "all lists", _amount(ListSummary("", 0, summary.chunks, summary.total, summary.largest, summary.complete))
    yield "top", _top(short)
    if short.other_arenas != 0:
        place = "other arenas" if short.other_arenas is None else count_of(short.other_arenas, "other arena")
        yield place, "not looked at: malloc searches only the arena that it has chosen"


def _tcache(tcache: TcacheShortage, nb: int) -> str:
    if tcache.being_made:
        return "the thread has none yet: this request is for it"
    if not tcache.bin:
        return f"has no bin for chunk {nb:#x}: it keeps chunks of up to {tcache.largest:#x} (tcache_max_bytes)"
    if tcache.count is None:
        return f"what its bin for chunk {nb:#x} holds could not be read"
    if not tcache.count:
        return f"its bin for chunk {nb:#x} is empty"
    held = f"its bin for chunk {nb:#x} has {count_of(tcache.count, 'chunk')}"
    if tcache.passed_by is not None:
        return f"{held}, but {tcache.passed_by} does not look there"
    return f"{held}; why malloc took none of them is not known"


def _bin(one: BinShortage) -> tuple[str, str]:
    name = one.kind if one.kind == "fastbin" else f"{one.kind} bin"
    if one.low == one.high:
        sizes = f"{one.low:#x}"
    else:
        sizes = f"{one.low:#x} to {one.high:#x}" if one.high is not None else f"{one.low:#x} and more"
    return f"{name} {one.index}", f"(for {sizes}) {_amount(one.held)}"


def _amount(held: ListSummary | None) -> str:
    if held is None:
        return "empty"
    bound = "" if held.complete else "at least "
    largest = "the largest" if held.complete else "the largest of those counted"
    return f"{bound}{count_of(held.chunks, 'chunk')}, {held.total:#x} bytes in all; {largest} has {held.largest:#x}"


def _top(short: Shortage) -> str:
    needed = f"{short.top_needed:#x} would do (nb {short.nb:#x} plus MINSIZE)"
    if short.top_size is None:
        return f"its size could not be read; {needed}"
    return f"{short.top_size:#x} bytes left; {needed}"


def _verdict(short: Shortage) -> str:
    summary, nb = short.summary, short.nb
    if short.verdict == "fragmentation":
        return (
            f"Fragmentation: {summary.total:#x} bytes are free, which would do for {nb:#x}, but in "
            f"{count_of(summary.chunks, 'piece')}; the largest has {summary.largest:#x}."
        )
    if short.verdict == "need" and not summary.chunks:
        return "Need: nothing is free but the top chunk, and that is too small."
    if short.verdict == "need":
        text = f"Need: {summary.total:#x} bytes are free besides the top chunk, too few for {nb:#x}."
        return (
            f"{text} With the top chunk they would do, but they are not in one piece."
            if short.enough_with_top
            else text
        )
    if not summary.complete:
        return (
            f"Only {count_of(summary.chunks, 'chunk')} were counted: whether this is fragmentation or need cannot be "
            "told."
        )
    return f"A chunk of {summary.largest:#x} bytes is free: why malloc did not take it is not known."
