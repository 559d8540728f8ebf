"""Arenas other than main_arena: the regions called heaps, and the calls that make and change them (malloc/arena.c)."""

from __future__ import annotations

from dataclasses import replace

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import PREV_INUSE, Abi, round_down, round_up
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.simulate.calls import (
    Call,
    Calling,
    Outcome,
    Steps,
    Term,
    Unpredictable,
    failed,
    outcome,
    total,
)
from gdbheap.simulate.facts import (
    arena_of,
    heap_info_size_of,
    heap_of,
    setting,
    since,
    top_size_of,
    with_system_mem,
    with_top,
)
from gdbheap.simulate.hugepages import madvise_thp
from gdbheap.simulate.kernel import (
    MADV_DONTNEED,
    MAP_FIXED,
    MAP_MALLOC,
    MAP_NORESERVE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from gdbheap.simulate.state import GrowthState

HEAP_MIN_SIZE = 32 * 1024


def heap_max_size(state: GrowthState) -> int:
    """Return HEAP_MAX_SIZE in bytes: how much address space one heap takes, and what its address is a multiple of.

    64 MiB, or 1 MiB on 32-bit; four huge pages in glibc 2.35 to 2.41 where malloc was told to use huge pages.
    """
    if state.heap is not None:
        return state.heap.max_size
    hp_pagesize = state.params.get("hp_pagesize")
    if hp_pagesize and not since(state, 2, 42):
        return 4 * hp_pagesize
    return 64 << 20 if state.abi.word_size == 8 else 1 << 20


def _heap_min_size(state: GrowthState) -> int:
    hp_pagesize = state.params.get("hp_pagesize")
    if not hp_pagesize or (since(state, 2, 42) and hp_pagesize > heap_max_size(state)):
        return HEAP_MIN_SIZE
    return hp_pagesize


def _unmap(path: str, address: int, term: Term, why: str) -> Call:
    return Call(
        syscall="munmap",
        args=(address, term.value),
        path=path,
        terms=(term,),
        total=term.value,
        rounded=term.value,
        multiple=1,
        why=(why,),
        source="new_heap (malloc/arena.c)",
    )


def _reserve(state: GrowthState, flags: int, why: tuple[str, ...]) -> Calling[tuple[GrowthState, int | None]]:
    """Reserve HEAP_MAX_SIZE bytes at a multiple of it; return where, or None where the kernel refuses."""
    max_size = heap_max_size(state)
    hint = state.aligned_heap_area
    if hint is None:
        raise Unpredictable("arena.c's aligned_heap_area could not be read: a heap may be asked for at a hint.")

    def reserve(address: int, terms: tuple[Term, ...], reason: str) -> Call:
        length = total(terms)
        return Call(
            syscall="mmap",
            args=(address, length, PROT_NONE, MAP_MALLOC | flags, -1, 0),
            path="heap-reserve",
            terms=terms,
            total=length,
            rounded=length,
            multiple=1,
            why=(*why, reason),
            source="new_heap (malloc/arena.c)",
        )

    one = (Term("HEAP_MAX_SIZE", max_size),)
    if hint:
        address = yield reserve(
            hint, one, f"The area behind an earlier heap, at {hint:#x}, is aligned and may still be free."
        )
        state = replace(state, aligned_heap_area=0)
        if not failed(address) and address % max_size == 0:
            return state, address
        if not failed(address):
            yield _unmap(
                "heap-align",
                address,
                Term("HEAP_MAX_SIZE", max_size),
                f"The kernel chose {address:#x}, which is no multiple of {max_size:#x}.",
            )
    address = yield reserve(
        0,
        (Term("HEAP_MAX_SIZE", max_size), Term("HEAP_MAX_SIZE", max_size, "so that an aligned one is in it")),
        f"A heap must lie at a multiple of {max_size:#x}, so twice that is reserved.",
    )
    if failed(address):
        address = yield reserve(0, one, "Twice that was refused; one heap's size may be aligned by luck.")
        if failed(address):
            return state, None
        if address % max_size:
            yield _unmap(
                "heap-align",
                address,
                Term("HEAP_MAX_SIZE", max_size),
                f"The kernel chose {address:#x}, which is no multiple of {max_size:#x}.",
            )
            return state, None
        return state, address
    start = round_up(address, max_size)
    if start > address:
        yield _unmap(
            "heap-align",
            address,
            Term("before the heap", start - address),
            f"The heap starts at {start:#x}, the first multiple of {max_size:#x}.",
        )
    else:
        state = replace(state, aligned_heap_area=start + max_size)
    yield _unmap(
        "heap-align",
        start + max_size,
        Term("behind the heap", max_size - (start - address)),
        f"The heap ends at {start + max_size:#x}.",
    )
    return state, start


def _alloc_new_heap(
    state: GrowthState, terms: tuple[Term, ...], top_pad: int, page: int, flags: int, why: tuple[str, ...]
) -> Calling[tuple[GrowthState, HeapInfo | None]]:
    max_size = heap_max_size(state)
    min_size = _heap_min_size(state)
    size = total(terms)
    if size + top_pad < min_size:
        terms += (
            Term("top_pad", top_pad, "M_TOP_PAD or glibc.malloc.top_pad changes it"),
            Term("HEAP_MIN_SIZE", min_size - size - top_pad, f"up to the least size of a heap, {min_size:#x}"),
        )
    elif size + top_pad <= max_size:
        terms += (Term("top_pad", top_pad, "M_TOP_PAD or glibc.malloc.top_pad changes it"),)
    elif size <= max_size:
        terms += (Term("top_pad", max_size - size, f"cut from {top_pad:#x}: a heap has at most {max_size:#x}"),)
    else:
        return state, None
    state, start = yield from _reserve(state, flags, why)
    if start is None:
        return state, None
    wanted = total(terms)
    size = round_up(wanted, page)
    answer = yield Call(
        syscall="mprotect",
        args=(start, size, PROT_READ | PROT_WRITE),
        path="heap-commit",
        terms=terms,
        total=wanted,
        rounded=size,
        multiple=page,
        why=why,
        source="new_heap (malloc/arena.c)",
    )
    if failed(answer):
        yield _unmap("heap-unmap", start, Term("HEAP_MAX_SIZE", max_size), "The heap could not be made accessible.")
        return state, None
    yield from madvise_thp(state, start, size)
    return state, HeapInfo(start, 0, 0, size, size, page, max_size)


def open_heap(
    state: GrowthState, terms: tuple[Term, ...], top_pad: int, why: tuple[str, ...]
) -> Calling[tuple[GrowthState, HeapInfo | None]]:
    """Make a heap with room for the sum of ``terms``, as new_heap does; return it, or None where that fails.

    new_heap and alloc_new_heap (malloc/arena.c). The heap belongs to no arena yet.
    """
    page = state.params.get("hp_pagesize")
    flags = state.params.get("hp_flags")
    if not page and state.params.get("thp_pagesize") and since(state, 2, 43):
        page = state.params.get("thp_pagesize")
    if page and (page <= heap_max_size(state) or not since(state, 2, 42)):
        state, heap = yield from _alloc_new_heap(state, terms, top_pad, page, flags, why)
        if heap is not None:
            return state, heap
    flags = 0 if since(state, 2, 37) else MAP_NORESERVE
    return (yield from _alloc_new_heap(state, terms, top_pad, state.abi.page_size, flags, why))


def new_heap(state: GrowthState, size: int, top_pad: int) -> Steps:
    """Predict new_heap (malloc/arena.c): a heap with room for ``size`` and, if it fits, ``top_pad`` bytes more.

    The Outcome's state has the new heap. Raises Unpredictable where aligned_heap_area or the release is not known.
    """
    after, heap = yield from open_heap(state, (Term("size", size),), top_pad, ())
    if heap is None:
        return outcome(state, after, error="No heap could be made.")
    after = replace(after, heap=heap)
    return Outcome(after, None, None, None, heap.size)


def new_arena(state: GrowthState, request: int) -> Steps:
    """Predict _int_new_arena (malloc/arena.c): an arena whose first heap has room for ``request`` bytes.

    The Outcome has the first top chunk of the arena and its heap, but no record of the arena itself. Raises
    Unpredictable where the sizes of glibc's structs, aligned_heap_area or the release are not known.
    """
    if state.malloc_state_size is None:
        raise Unpredictable("The size of struct malloc_state is not known.")
    fixed = (
        Term("heap_info", heap_info_size_of(state), "at the start of every heap"),
        Term("malloc_state", state.malloc_state_size, "the arena itself, in its first heap"),
        Term("MALLOC_ALIGNMENT", state.abi.alignment),
    )
    top_pad = setting(state, "top_pad")
    why = ("A new arena needs its first heap.",)
    after = replace(state, heap=None, older_heaps=())
    after, heap = yield from open_heap(after, (Term("request", request), *fixed), top_pad, why)
    if heap is None:
        why = (f"A heap with room for {request:#x} bytes could not be made, so one without is tried.",)
        after, heap = yield from open_heap(after, fixed, top_pad, why)
    if heap is None:
        return Outcome(after, None, None, None, 0, error="No arena could be made; another one has to serve.")
    arena = heap.address + heap_info_size_of(state)
    top = state.abi.first_chunk(arena + state.malloc_state_size)
    after = replace(after, arena=None, heap=replace(heap, arena=arena))
    return Outcome(
        after,
        None,
        top,
        heap.address + heap.size - top,
        heap.size,
        (f"A new arena is at {arena:#x}, in a heap of {heap.size:#x} bytes.",),
    )


def extend_heap(state: GrowthState, terms: tuple[Term, ...], why: tuple[str, ...]) -> Calling[tuple[GrowthState, bool]]:
    """Make the heap of the top chunk larger by the sum of ``terms``, as grow_heap does; return whether that worked.

    grow_heap (malloc/arena.c). The top chunk and system_mem are left as they were.
    """
    heap = heap_of(state)
    size = heap.size + round_up(total(terms), heap.page_size)
    if size > heap.max_size:
        return state, False
    if size > heap.mprotect_size:
        reused = heap.mprotect_size - heap.size
        if reused:
            terms += (Term("accessible", -reused, "from before the heap was trimmed"),)
        answer = yield Call(
            syscall="mprotect",
            args=(heap.address + heap.mprotect_size, size - heap.mprotect_size, PROT_READ | PROT_WRITE),
            path="heap-grow",
            terms=terms,
            total=total(terms),
            rounded=size - heap.mprotect_size,
            multiple=heap.page_size,
            why=why,
            source="grow_heap (malloc/arena.c)",
        )
        if failed(answer):
            return state, False
    if heap.size < state.params.get("thp_pagesize") and since(state, 2, 43):
        yield from madvise_thp(state, heap.address, size)
    grown = replace(heap, size=size, mprotect_size=max(size, heap.mprotect_size))
    return replace(state, heap=grown), True


def grow_heap(state: GrowthState, diff: int) -> Steps:
    """Predict grow_heap (malloc/arena.c): the heap of the top chunk gets ``diff`` bytes more, rounded up to pages.

    The Outcome's top chunk reaches to the heap's new end. There is no call where the space was accessible before.
    Raises Unpredictable where the heap is not known.
    """
    after, grown = yield from extend_heap(state, (Term("diff", diff),), ())
    if not grown:
        return outcome(state, after, error="The heap could not be made larger.")
    return outcome(state, top_to_heap_end(after, heap_of(after).size - heap_of(state).size))


def top_to_heap_end(state: GrowthState, delta: int) -> GrowthState:
    """Return ``state`` with the top chunk reaching to its heap's end, after the heap grew by ``delta`` bytes."""
    heap, arena = heap_of(state), arena_of(state)
    return with_system_mem(with_top(state, arena.top, heap.address + heap.size - arena.top), delta)


def _give_back(state: GrowthState, terms: tuple[Term, ...], why: tuple[str, ...]) -> Calling[tuple[GrowthState, bool]]:
    """Give back the end of the heap: the sum of ``terms``, rounded down to the heap's pages, as shrink_heap does."""
    heap = heap_of(state)
    diff = round_down(total(terms), heap.page_size)
    if state.may_shrink_heap is None:
        raise Unpredictable(
            "It is not known whether a heap is shrunk with mmap (setuid programs, and where vm.overcommit_memory is 2) "
            "or with madvise."
        )
    size = heap.size - diff
    call = Call(
        syscall="madvise",
        args=(heap.address + size, diff, MADV_DONTNEED),
        path="heap-trim",
        terms=terms,
        total=total(terms),
        rounded=diff,
        multiple=heap.page_size,
        why=why,
        source="shrink_heap (malloc/arena.c)",
    )
    if not state.may_shrink_heap:
        yield call
        return replace(state, heap=replace(heap, size=size)), True
    args = (heap.address + size, diff, PROT_NONE, MAP_MALLOC | MAP_FIXED, -1, 0)
    answer = yield replace(call, syscall="mmap", args=args)
    if failed(answer):
        return state, False
    return replace(state, heap=replace(heap, size=size, mprotect_size=size)), True


def shrink_heap(state: GrowthState, diff: int) -> Steps:
    """Predict shrink_heap (malloc/arena.c): the last ``diff`` bytes of the heap, a multiple of its page, go back.

    The Outcome's top chunk ends where the heap then ends. Raises Unpredictable where the heap is not known, or whether
    it is shrunk with mmap or with madvise.
    """
    after, shrunk = yield from _give_back(state, (Term("diff", diff),), ())
    if not shrunk:
        return outcome(state, after, error="The end of the heap could not be given back.")
    return outcome(state, top_to_heap_end(after, -diff))


def leftover(memory: Memory, abi: Abi, heap: HeapInfo) -> int:
    """Return how many bytes at the end of ``heap`` become the top chunk when the newer heap of its arena goes.

    They are the fencepost and the free chunk before it, if there is one; as heap_trim (malloc/arena.c) adds them up.
    ``heap`` must not hold the top chunk. Raises MemoryFault where its end cannot be read.
    """
    end = heap.address + heap.size
    fencepost = round_down(end - (abi.min_size - abi.header), abi.alignment)
    last = fencepost - abi.read_word(memory, fencepost)
    if abi.read_word(memory, last + abi.word_size) & PREV_INUSE:
        return end - last
    return end - last + abi.read_word(memory, last)


def heap_trim(state: GrowthState, pad: int) -> Steps:
    """Predict heap_trim (malloc/arena.c): what an arena other than main_arena gives back, all but ``pad`` bytes of top.

    Heaps whose only chunk is the top chunk go whole, and then the end of the top chunk is given back. Raises
    Unpredictable where a heap could go and ``older_heaps`` is not known, and as shrink_heap does.
    """
    after = state
    changes: tuple[str, ...] = ()
    min_size = state.abi.min_size
    while True:
        arena, heap = arena_of(after), heap_of(after)
        if not heap.prev or arena.top != heap.address + heap_info_size_of(after):
            break
        older_heaps = after.older_heaps
        if not older_heaps:
            raise Unpredictable("The heap is empty, but what is at the end of the heap before it is not known.")
        older = older_heaps[0]
        room = older.leftover + older.heap.max_size - older.heap.size
        if room < pad + min_size + heap.page_size:
            break
        if after.aligned_heap_area == heap.address + heap.max_size:
            after = replace(after, aligned_heap_area=0)
        yield Call(
            syscall="munmap",
            args=(heap.address, heap.max_size),
            path="heap-unmap",
            terms=(Term("HEAP_MAX_SIZE", heap.max_size),),
            total=heap.max_size,
            rounded=heap.max_size,
            multiple=1,
            why=(
                f"The top chunk is all there is in the heap at {heap.address:#x}.",
                f"The heap before it, at {older.heap.address:#x}, has room for {room:#x} bytes, at least top_pad "
                f"{pad:#x} plus MINSIZE {min_size:#x} plus a page of {heap.page_size:#x}.",
            ),
            source="heap_trim (malloc/arena.c)",
        )
        after = replace(after, heap=older.heap, older_heaps=older_heaps[1:])
        top = older.heap.address + older.heap.size - older.leftover
        after = with_system_mem(with_top(after, top, older.leftover), -heap.size)
        changes += (f"The top chunk is now at {top:#x}, at the end of the heap at {older.heap.address:#x}.",)
    top_size = top_size_of(arena)
    threshold = setting(state, "trim_threshold")
    terms = (
        Term("top", top_size),
        Term("MINSIZE", -min_size),
        Term("one byte", -1, "so that more than MINSIZE stays"),
        Term("pad", -pad, "what stays; top_pad, which M_TOP_PAD or glibc.malloc.top_pad changes"),
    )
    if top_size < threshold or round_down(total(terms), heap.page_size) <= 0:
        return outcome(state, after, changes=changes)
    why = (f"The top chunk has {top_size:#x} bytes, at least trim_threshold {threshold:#x}.",)
    after, shrunk = yield from _give_back(after, terms, why)
    if shrunk:
        after = top_to_heap_end(after, heap_of(after).size - heap.size)
    return outcome(state, after, changes=changes)
