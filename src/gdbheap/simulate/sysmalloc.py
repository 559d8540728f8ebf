"""sysmalloc (malloc/malloc.c): every way in which malloc gets memory for a request that its arena cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gdbheap.ptmalloc.abi import round_up
from gdbheap.ptmalloc.arena import NONCONTIGUOUS_BIT, Arena
from gdbheap.simulate.arenas import extend_heap, open_heap, top_to_heap_end
from gdbheap.simulate.calls import Call, Calling, Outcome, Steps, Term, failed, outcome, total
from gdbheap.simulate.facts import (
    arena_of,
    heap_info_size_of,
    heap_of,
    setting,
    since,
    top_size_of,
    with_settings,
    with_system_mem,
    with_top,
)
from gdbheap.simulate.hugepages import madvise_thp
from gdbheap.simulate.kernel import MAP_MALLOC, PROT_READ, PROT_WRITE
from gdbheap.simulate.mmapped import NB_NOTE, map_chunk
from gdbheap.simulate.morecore import break_of, morecore_fails, move_break, query_break
from gdbheap.simulate.state import GrowthState, OlderHeap
from gdbheap.simulate.trim import trim_after_free

#: The least size in bytes of a mapping that takes the place of the break (MMAP_AS_MORECORE_SIZE).
FALLBACK_SIZE = 1 << 20

TOP_PAD_NOTE = "spare; M_TOP_PAD or glibc.malloc.top_pad changes it"
MINSIZE_NOTE = "the least that must be left as top"


@dataclass(frozen=True)
class ClosedTop:
    """A top chunk that no memory follows, and that fenceposts end: ``size`` bytes, ``rest`` of which become free."""

    arena: Arena
    size: int
    rest: int


#: What a closed top chunk does to the memory and the lists, and which state is left; where there is no memory to
#: write to, only what it gives back to the kernel is predicted.
Settle = Callable[[GrowthState, ClosedTop], GrowthState]


def sysmalloc(state: GrowthState, nb: int, settle: Settle | None = None) -> Steps:
    """Predict sysmalloc (malloc/malloc.c, glibc 2.23 to 2.43) for a chunk of ``nb`` bytes.

    ``state`` has the arena that malloc works on, whose top chunk is too small for the request. The Outcome's chunk is
    the one that malloc gets. Its error says that sysmalloc fails, after which the public function tries once more in
    another arena where there are threads, or that malloc aborts. Memory tagging (MTE) is not taken into account.
    Raises Unpredictable where the state lacks a fact that decides the next call.
    """
    before = state
    mapped, reason = _wants_mapping(state, nb)
    why: tuple[str, ...] = (reason,)
    if mapped:
        state, chunk = yield from _map_either_way(state, nb, why)
        if chunk is not None:
            return outcome(before, state, chunk)
        why += ("But the kernel refused the mapping.",)
    arena = arena_of(state)
    top_size, page = top_size_of(arena), state.abi.page_size
    if top_size and (top_size < state.abi.min_size or (arena.top + top_size) % page):
        # a brk-align that was refused leaves such a top chunk, and so does a foreign sbrk after a fallback
        error = f"malloc aborts: sysmalloc asserts that the top chunk ends on a page, not at {arena.top + top_size:#x}."
        return outcome(before, state, error=error)
    if state.top_is_damaged:
        error = "malloc aborts: sysmalloc asserts that top is MINSIZE or more, and that the chunk before it is in use."
        return outcome(before, state, error=error)
    if arena.is_main:
        return (yield from _grow_main(state, arena, nb, why, settle))
    return (yield from _grow_heap(state, arena, nb, why, settle, tried_mapping=mapped))


def map_without_arena(state: GrowthState, nb: int) -> Steps:
    """Predict sysmalloc for a thread that could get no arena (its ``av`` is NULL): a mapping, whatever the size."""
    why = (
        "No arena could be made for this request or lent to it, so it gets a mapping of its own, whatever its size.",
    )
    after, chunk = yield from _map_either_way(state, nb, why)
    error = None if chunk is not None else "sysmalloc fails with ENOMEM: there is no arena, and no mapping."
    return outcome(state, after, chunk, error=error)


def _map_either_way(state: GrowthState, nb: int, why: tuple[str, ...]) -> Calling[tuple[GrowthState, int | None]]:
    """Map a chunk, of huge pages if those are to be used and the kernel has them; return it, None where that fails."""
    hp_pagesize = state.params.get("hp_pagesize")
    if hp_pagesize and nb >= hp_pagesize:
        huge = (f"Huge pages of {hp_pagesize:#x} bytes are to be used (glibc.malloc.hugetlb), and nb fills one.",)
        state, chunk = yield from map_chunk(state, nb, why + huge, huge=True)
        if chunk is not None:
            return state, chunk
    return (yield from map_chunk(state, nb, why))


def _wants_mapping(state: GrowthState, nb: int) -> tuple[bool, str]:
    threshold = setting(state, "mmap_threshold")
    if nb < threshold:
        return False, f"nb {nb:#x} is below mmap_threshold {threshold:#x}."
    count, most = setting(state, "n_mmaps"), setting(state, "n_mmaps_max")
    large = f"nb {nb:#x} is at least mmap_threshold {threshold:#x}"
    if count < most:
        return True, f"{large}, and {count:,} of at most {most:,} mmapped chunks exist."
    return False, f"{large}, but {count:,} of at most {most:,} mmapped chunks exist already."


def _top_is_small(state: GrowthState, arena: Arena, nb: int) -> str:
    top_size = top_size_of(arena)
    if not top_size:
        return "The arena has no top chunk yet."
    return (
        f"The top chunk at {arena.top:#x} has {top_size:#x} bytes, fewer than nb {nb:#x} plus MINSIZE "
        f"{state.abi.min_size:#x}."
    )


def _signed(state: GrowthState, value: int) -> int:
    """Return ``value`` as the C type long of the target holds it."""
    bits = 8 * state.abi.word_size
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def _cut(before: GrowthState, state: GrowthState, nb: int, changes: tuple[str, ...]) -> Outcome:
    """Cut ``nb`` bytes from the top chunk, as the end of sysmalloc does."""
    arena = arena_of(state)
    arena = replace(arena, max_system_mem=max(arena.max_system_mem, arena.system_mem))
    state = replace(state, arena=arena)
    top_size = top_size_of(arena)
    if top_size < nb + state.abi.min_size:
        error = (
            f"sysmalloc fails with ENOMEM: the top chunk has {top_size:#x} bytes, fewer than nb {nb:#x} plus MINSIZE "
            f"{state.abi.min_size:#x}."
        )
        return outcome(before, state, None, changes, error)
    return outcome(before, with_top(state, arena.top + nb, top_size - nb), arena.top, changes)


def _grow_main(state: GrowthState, arena: Arena, nb: int, why: tuple[str, ...], settle: Settle | None) -> Steps:
    before = state
    old_size = top_size_of(arena)
    old_end = arena.top + old_size
    changes: tuple[str, ...] = ()
    why = (_top_is_small(state, arena, nb), *why)
    size, sum_of_size = _break_size(state, arena, nb)
    start: int | None = None
    end: int | None = None
    if size > 0 and not morecore_fails(state):
        if state.params.get("thp_pagesize") and since(state, 2, 43):
            state = yield from query_break(state)  # the size depends on it there
            size, sum_of_size = _break_size(state, arena, nb)
        state = yield from query_break(state)
        old_break = break_of(state)
        call = _break_call(state, arena, size, sum_of_size, why)
        state, moved = yield from move_break(state, size, call)
        if moved:
            start = old_break
            yield from madvise_thp(state, start, size)
        else:
            why += (f"The break could not be moved: the kernel left it at {break_of(state):#x}.",)
    elif size > 0:
        why += ("This libc never moves the break (__always_fail_morecore is set).",)
    else:
        why += ("The size is so large that it would be negative as an argument of sbrk.",)
    if start is None:
        state, start, size = yield from _fall_back(state, arena, nb, size, why)
        if start is None:
            return _cut(before, state, nb, changes)
        end = start + size
        if arena.contiguous:
            changes += (
                "The arena is not contiguous any more, for good: from now on the old top chunk is not counted on.",
            )
        arena = replace(arena_of(state), flags=arena.flags | NONCONTIGUOUS_BIT)
        state = replace(state, arena=arena)
    if not setting(state, "sbrk_base"):
        state = with_settings(state, sbrk_base=start)
    state = with_system_mem(state, size)
    if start == old_end and end is None:
        return _cut(before, with_top(state, arena.top, old_size + size), nb, changes)
    if arena.contiguous and old_size and start < old_end:
        error = "malloc aborts with: break adjusted to free malloc space."
        return outcome(before, state, None, changes, error)
    correction = 0
    top = state.abi.first_chunk(start)
    if arena.contiguous:
        if old_size:
            state = with_system_mem(state, start - old_end)
            if start > old_end:
                changes += (f"{start - old_end:#x} bytes that someone else took with sbrk are counted in system_mem.",)
        state, correction, end = yield from _align(state, start, size, top, old_size)
    elif end is None:
        if state.abi.alignment == state.abi.header and top != start:
            error = f"malloc aborts: sysmalloc asserts that the break is aligned here, but it was at {start:#x}."
            return outcome(before, state, None, changes, error)
        end = break_of(state)
    state = with_system_mem(with_top(state, top, end - top + correction), correction)
    if old_size:
        header, alignment = state.abi.header, state.abi.alignment
        rest = (old_size - 2 * header) // alignment * alignment
        changes += (
            f"The old top chunk at {arena.top:#x} is closed with two fenceposts; {rest:#x} bytes of it are free.",
        )
        if settle is not None:
            state = settle(state, ClosedTop(arena, old_size, rest))
        elif rest >= state.abi.min_size:
            done = yield from trim_after_free(state, rest)
            state = done.state
            changes += done.changes
    return _cut(before, state, nb, changes)


def _break_size(state: GrowthState, arena: Arena, nb: int) -> tuple[int, tuple[Term, ...]]:
    """Return how far sysmalloc wants to move the break, as a signed number of bytes, and the sum before rounding."""
    old_size = top_size_of(arena)
    terms: tuple[Term, ...] = (
        Term("nb", nb, NB_NOTE),
        Term("top_pad", setting(state, "top_pad"), TOP_PAD_NOTE),
        Term("MINSIZE", state.abi.min_size, MINSIZE_NOTE),
        Term("old top", -old_size, "joined with the new memory" if old_size else "there is none yet")
        if arena.contiguous
        else Term("old top", 0, f"its {old_size:#x} bytes are not counted on: the arena is not contiguous"),
    )
    size = total(terms)
    thp_pagesize = state.params.get("thp_pagesize")
    if not thp_pagesize:
        return _signed(state, round_up(size, state.abi.page_size)), terms
    aligned = round_up(break_of(state) + size, thp_pagesize) - break_of(state)
    terms += (Term("huge page", aligned - size, f"so that the break ends at a multiple of {thp_pagesize:#x}"),)
    return _signed(state, aligned), terms


def _break_call(state: GrowthState, arena: Arena, size: int, terms: tuple[Term, ...], why: tuple[str, ...]) -> Call:
    old_end = arena.top + top_size_of(arena)
    now = break_of(state)
    if not arena.top_size:
        path = "brk-first"
    elif now == old_end:
        path = "brk-extend"
        why += (f"The break is where the top chunk ends, {old_end:#x}.",)
    elif arena.contiguous:
        path = "brk-moved"
        why += (f"Someone else moved the break: it is at {now:#x}, but the top chunk ends at {old_end:#x}.",)
    else:
        path = "brk-moved"
        why += (f"The break is at {now:#x}; the top chunk lies elsewhere and ends at {old_end:#x}.",)
    return Call(
        syscall="brk",
        args=(),
        path=path,
        terms=terms,
        total=total(terms),
        rounded=size,
        multiple=1 if state.params.get("thp_pagesize") else state.abi.page_size,
        why=why,
        source="sysmalloc (malloc/malloc.c)",
    )


def _align(state: GrowthState, start: int, size: int, top: int, old_size: int) -> Calling[tuple[GrowthState, int, int]]:
    """Move the break again, so that the new top chunk ends on a page; return by how much, and where it was before."""
    page = state.abi.page_size
    terms: tuple[Term, ...] = (
        Term("alignment", top - start, "before the first chunk"),
        Term("old top", old_size, "counted on before, but it cannot be joined" if old_size else ""),
    )
    end = start + size + total(terms)
    terms += (Term("page", round_up(end, page) - end, f"so that the break ends at a multiple of {page:#x}"),)
    correction = total(terms)
    now = break_of(state)
    if not correction:
        return state, 0, now
    why = "The new memory does not follow the top chunk." if old_size else "This is the first memory from the break."
    call = Call(
        syscall="brk",
        args=(),
        path="brk-align",
        terms=terms,
        total=correction,
        rounded=correction,
        multiple=1,
        why=(why, f"The break is at {now:#x}."),
        source="sysmalloc (malloc/malloc.c)",
    )
    state, moved = yield from move_break(state, correction, call)
    if not moved:
        return state, 0, break_of(state)
    yield from madvise_thp(state, now, correction)
    return state, correction, now


def _fall_back(
    state: GrowthState, arena: Arena, nb: int, size: int, why: tuple[str, ...]
) -> Calling[tuple[GrowthState, int | None, int]]:
    """Map memory in place of the break (sysmalloc_mmap_fallback from glibc 2.35 on); return where, and how much."""
    page = state.abi.page_size
    hp_pagesize = state.params.get("hp_pagesize")
    tries = [(page, FALLBACK_SIZE, 0)]
    if not since(state, 2, 43) and since(state, 2, 35) and not since(state, 2, 38):
        tries = [(FALLBACK_SIZE, page, 0)]  # these releases pass the two in the wrong order
    if hp_pagesize:
        tries.insert(0, (hp_pagesize, hp_pagesize, state.params.get("hp_flags")))
    for multiple, least, flags in tries:
        terms, length, multiple = _fallback_size(state, arena, nb, size, multiple, least)
        if not since(state, 2, 43) and length <= nb:  # it wraps around, and malloc does not try
            continue
        address = yield Call(
            syscall="mmap",
            args=(0, length, PROT_READ | PROT_WRITE, MAP_MALLOC | flags, -1, 0),
            path="mmap-fallback",
            terms=terms,
            total=total(terms),
            rounded=length,
            multiple=multiple,
            why=why,
            source="sysmalloc (malloc/malloc.c)",
        )
        if failed(address):
            continue
        if not flags:
            yield from madvise_thp(state, address, length)
        return state, address, length
    return state, None, size


def _fallback_size(
    state: GrowthState, arena: Arena, nb: int, size: int, multiple: int, least: int
) -> tuple[tuple[Term, ...], int, int]:
    """Return the sum, the length of the mapping, and what it is rounded to."""
    terms: tuple[Term, ...]
    asked = size % (1 << 8 * state.abi.word_size)  # mmap takes an unsigned size
    if since(state, 2, 43):
        terms = (
            Term("nb", nb, NB_NOTE),
            Term("top_pad", setting(state, "top_pad"), TOP_PAD_NOTE),
            Term("MINSIZE", state.abi.min_size, MINSIZE_NOTE),
        )
        length = round_up(total(terms), multiple)
    elif arena.contiguous:
        terms = (
            Term("size", asked, "what the break should have been moved by"),
            Term("old top", top_size_of(arena), "a mapping cannot be joined with it"),
        )
        length = round_up(total(terms), multiple)
    else:
        terms = (Term("size", asked, "what the break should have been moved by"),)
        length, multiple = asked, 1
    if length < least:
        terms += (Term("least", least - total(terms), f"up to the least size of such a mapping, {least:#x}"),)
        length = least
    return terms, length, multiple


def _grow_heap(
    state: GrowthState, arena: Arena, nb: int, why: tuple[str, ...], settle: Settle | None, tried_mapping: bool
) -> Steps:
    before = state
    min_size = state.abi.min_size
    old_size = top_size_of(arena)
    old_heap = heap_of(state)
    why = (_top_is_small(state, arena, nb), *why)
    terms = (
        Term("nb", nb, NB_NOTE),
        Term("MINSIZE", min_size, MINSIZE_NOTE),
        Term("old top", -old_size, "joined with the new memory; no top_pad is added here"),
    )
    state, grown = yield from extend_heap(state, terms, why)
    if grown:
        return _cut(before, top_to_heap_end(state, heap_of(state).size - old_heap.size), nb, ())
    why += (
        f"The heap at {old_heap.address:#x} has {old_heap.size:#x} bytes and can have {old_heap.max_size:#x}: it "
        "cannot be made large enough.",
    )
    sum_of_size = (
        Term("nb", nb, NB_NOTE),
        Term("MINSIZE", min_size, MINSIZE_NOTE),
        Term("heap_info", heap_info_size_of(state), "at the start of every heap"),
    )
    state, heap = yield from open_heap(state, sum_of_size, setting(state, "top_pad"), why)
    if heap is None:
        if tried_mapping:
            return _cut(before, state, nb, ())
        why += ("No further heap could be made, so the request is mapped although it is below mmap_threshold.",)
        state, chunk = yield from map_chunk(state, nb, why)
        if chunk is None:
            return _cut(before, state, nb, ())
        return outcome(before, state, chunk)
    start = heap.address + heap_info_size_of(state)
    older = (OlderHeap(old_heap, old_size), *(state.older_heaps or ()))
    state = replace(state, heap=replace(heap, arena=arena.address, prev=old_heap.address), older_heaps=older)
    state = with_system_mem(with_top(state, start, heap.address + heap.size - start), heap.size)
    rest = (old_size - min_size) // state.abi.alignment * state.abi.alignment
    changes: tuple[str, ...] = (
        f"A further heap is at {heap.address:#x}; the old top chunk at {arena.top:#x} is closed with a fencepost.",
    )
    if rest >= min_size:
        changes += (f"{rest:#x} bytes of the old top chunk are free.",)
    if settle is not None:
        state = settle(state, ClosedTop(arena, old_size, rest))
    elif rest >= min_size:
        done = yield from trim_after_free(state, rest)
        state = done.state
        changes += done.changes
    return _cut(before, state, nb, changes)
