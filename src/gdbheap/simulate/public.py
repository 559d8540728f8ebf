"""malloc, calloc and free as programs call them, with the tcache before the arena (malloc/malloc.c)."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import IS_MMAPPED, PREV_INUSE
from gdbheap.ptmalloc.tcache import SMALL_BINS
from gdbheap.simulate import tcache_lists
from gdbheap.simulate.arena_get import arena_get, arena_get_retry, start_malloc
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.int_free import free_chunk, free_mapping, int_free, is_marked, look_for_double_free
from gdbheap.simulate.int_malloc import chunk_size_for, int_malloc, start_tcache
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.trace import Freed


def check_hooks(machine: Machine, name: str) -> None:
    """Raise Unpredictable where a hook of glibc's (up to 2.33) takes the call."""
    if name in machine.glibc.hooks:
        raise Unpredictable(f"{name} is set: glibc calls that function and does nothing itself.")


def init_tcache(machine: Machine) -> None:
    """Make the calling thread's tcache, where it has none (tcache_init up to glibc 2.42, and free's in 2.43)."""
    thread, layout = machine.thread, machine.layout
    if not machine.has_tcache or machine.has_own_tcache or thread.tcache == -1:
        return
    assert layout.tcache is not None
    size = layout.tcache.size
    if machine.inits_tcache_inside:  # 2.43
        thread.tcache = -1
        if machine.mp("tcache_count") == 0:
            return
    if machine.steps is not None:
        machine.note("look", "tcache_init", f"The thread has no tcache yet: one is made first, malloc({size}).")
    pointer = from_arena(machine, size, "__libc_malloc2") if machine.counts_down else _in_own_arena(machine, size)[0]
    start_tcache(machine, pointer, "tcache_init")


def _in_own_arena(machine: Machine, request: int) -> tuple[int | None, int]:
    """Serve a request from the thread's arena, or another one; return the pointer, and which it was in the end."""
    arena = arena_get(machine, request)
    pointer = int_malloc(machine, arena, request)
    if pointer is None and arena:
        arena = arena_get_retry(machine, arena, request)
        pointer = int_malloc(machine, arena, request)
    return pointer, arena


def from_arena(machine: Machine, request: int, function: str) -> int | None:
    """Serve a request without the tcache: from main_arena while there is one thread, else from the thread's arena.

    ``function`` asserts that the chunk is of that arena by its own flag.
    """
    if machine.asks_single and machine.single:
        pointer, arena = int_malloc(machine, machine.main_arena, request), machine.main_arena
    else:
        pointer, arena = _in_own_arena(machine, request)
    if pointer is not None:
        chunk = pointer - machine.header
        word = machine.words[chunk + machine.word_size]
        if not word & IS_MMAPPED and machine.arena_for_chunk(chunk, word) != arena:
            raise machine.assertion(function, f"the chunk at {chunk:#x} is of {machine.name(arena)}, by its flags")
    return pointer


def from_tcache(machine: Machine, nb: int, function: str) -> int | None:
    """Take a chunk of ``nb`` bytes from the calling thread's tcache, None where that has none."""
    if not machine.has_tcache or not machine.has_own_tcache:
        return None
    if machine.counts_down and nb >= machine.mp("tcache_max_bytes"):
        return None
    index = machine.small_index(nb)
    if machine.counts_down:
        if index >= SMALL_BINS:
            return _from_large_bin(machine, nb, function)
    elif index >= machine.mp("tcache_bins"):
        if machine.steps is not None:
            machine.note("look", function, f"nb {nb:#x} is too large for the tcache.")
        return None
    if not tcache_lists.has_entry(machine, index):
        if machine.steps is not None:
            machine.note("look", function, f"tcache bin {index}, for chunks of {nb:#x}, is empty.")
        return None
    pointer = tcache_lists.get(machine, index, function)
    machine.source = "tcache"
    if machine.steps is not None:
        machine.note("take", function, f"tcache bin {index}, for chunks of {nb:#x}, has one at its front.", pointer)
    return pointer


def _from_large_bin(machine: Machine, nb: int, function: str) -> int | None:
    index = tcache_lists.large_index(machine, nb)
    place, entry = tcache_lists.large_place(machine, index, nb)
    if not entry or (machine.inits_tcache_inside and machine.size(entry - machine.header) != nb):
        if machine.steps is not None:
            machine.note("look", function, f"tcache bin {index} has no chunk for nb {nb:#x}.")
        return None
    front = tcache_lists.is_front(machine, index, place)
    pointer = tcache_lists.take(machine, index, place, front, function)
    machine.source = "tcache"
    if machine.steps is not None:
        machine.note("take", function, f"tcache bin {index} has a chunk that is large enough.", pointer)
    return pointer


def malloc(machine: Machine, request: int) -> int | None:
    """Do malloc(``request``); return the pointer, None for NULL with ENOMEM."""
    check_hooks(machine, "__malloc_hook")
    start_malloc(machine)
    return _allocate(machine, request, "__libc_malloc")


def _allocate(machine: Machine, request: int, function: str) -> int | None:
    nb = chunk_size_for(machine, request)
    if nb is None:
        note_refusal(machine, request, function)
        return None
    if machine.steps is not None:
        machine.note(
            "look",
            function,
            f"{request} bytes become a chunk of {nb:#x}: the request and its header of {machine.word_size} bytes, "
            f"rounded up to a multiple of {machine.align_mask + 1}, at least {machine.min_size:#x}.",
        )
    if machine.has_tcache:
        if not machine.counts_down:
            init_tcache(machine)
        elif not machine.inits_tcache_inside and nb < machine.mp("tcache_max_bytes") and not machine.has_own_tcache:
            init_tcache(machine)
            return from_arena(machine, request, _slow(machine, function))
        pointer = from_tcache(machine, nb, function)
        if pointer is not None:
            return pointer
    return from_arena(machine, request, _slow(machine, function))


def _slow(machine: Machine, function: str) -> str:
    """Return the function that goes on where the tcache does not serve: another one from glibc 2.42 on."""
    return f"{function}2" if machine.counts_down else function


def note_refusal(machine: Machine, request: int, function: str) -> None:
    """Note that a request is too large for any chunk."""
    if machine.steps is not None:
        limit = (machine.wrap >> 1) - 1
        machine.note(
            "fail",
            function,
            f"{request:#x} bytes are more than PTRDIFF_MAX, {limit:#x}: glibc refuses them before it looks anywhere."
            if machine.refuses_ptrdiff
            else f"{request:#x} bytes do not fit the address space.",
        )


def calloc(machine: Machine, count: int, size: int) -> int | None:
    """Do calloc(``count``, ``size``); return the pointer, None for NULL with ENOMEM."""
    check_hooks(machine, "__malloc_hook")
    request = count * size
    limit = machine.wrap >> 1 if machine.refuses_ptrdiff else machine.wrap
    if request >= limit:
        if machine.steps is not None:
            machine.note(
                "fail",
                "__libc_calloc",
                f"{count:#x} times {size:#x} is more than {limit - 1:#x}: it is refused before malloc looks anywhere.",
            )
        return None
    start_malloc(machine)
    if machine.released_241:
        return _allocate(machine, request, "__libc_calloc")
    init_tcache(machine)
    if machine.steps is not None and machine.has_tcache:
        machine.note("look", "__libc_calloc", "calloc takes nothing from the tcache (up to glibc 2.40).")
    return from_arena(machine, request, "__libc_calloc")


def free(machine: Machine, pointer: int) -> None:
    """Do free(``pointer``)."""
    check_hooks(machine, "__free_hook")
    if not pointer:
        if machine.steps is not None:
            machine.note("take", "__libc_free", "The pointer is 0: free does nothing.")
        return
    chunk = pointer - machine.header
    if machine.counts_down:
        _free_242(machine, chunk)
        return
    start_malloc(machine)
    word = machine.words[chunk + machine.word_size]
    if word & IS_MMAPPED:
        free_mapping(machine, chunk)
        return
    init_tcache(machine)
    int_free(machine, machine.arena_for_chunk(chunk, word), chunk, False)


def _free_242(machine: Machine, chunk: int) -> None:
    words, size_at = machine.words, chunk + machine.word_size
    pointer = chunk + machine.header
    word = words[size_at]
    size = word & -8
    if pointer & machine.align_mask:
        raise machine.abort(
            "free",
            "free(): invalid pointer",
            f"the pointer {pointer:#x} is no multiple of {machine.align_mask + 1:#x}, as every pointer of malloc's is",
        )
    if size < machine.mp("tcache_max_bytes") and (machine.inits_tcache_inside or machine.has_own_tcache):
        if _to_tcache_242(machine, chunk, size):
            return
    elif machine.steps is not None:
        machine.note("look", "free", f"The chunk has {size:#x} bytes, more than the tcache takes.")
    if size < machine.min_size or chunk + size - machine.min_size >= machine.wrap:
        raise machine.abort(
            "free",
            "free(): invalid size",
            f"the size word at {size_at:#x} is {word:#x}; the size should be at least {machine.min_size:#x} and end "
            "within the address space",
        )
    if machine.steps is not None:
        machine.note(
            "check",
            "free",
            f"The pointer is aligned, and {size:#x} bytes from {chunk:#x} on do not wrap around.",
            chunk,
        )
    arena = machine.arena_for_chunk(chunk, word)  # looked up before IS_MMAPPED is looked at
    if word & IS_MMAPPED:
        free_mapping(machine, chunk)
        return
    free_chunk(machine, arena, chunk, size, False)


def _to_tcache_242(machine: Machine, chunk: int, size: int) -> bool:
    words, entry = machine.words, chunk + machine.header
    if machine.key and machine.has_own_tcache and is_marked(machine, entry, range(machine.entries_count)):
        look_for_double_free(machine, entry, range(machine.entries_count), "tcache_double_free_verify")
        words[entry + machine.word_size] = 0
    if not machine.has_own_tcache:
        if machine.thread.tcache == -1:
            return False
        init_tcache(machine)
        return _to_tcache_242(machine, chunk, size) if machine.has_own_tcache else False
    index = machine.small_index(size) if size >= machine.min_size else -1
    large = index >= SMALL_BINS
    if large:
        index = tcache_lists.large_index(machine, size)
    if index < 0 or index >= machine.entries_count:
        return False
    if not machine.tcache_places(index):
        if machine.steps is not None:
            limit = machine.mp("tcache_count")
            machine.note("look", "free", f"tcache bin {index} is full: mp_.tcache_count allows {limit}.")
        return False
    if machine.steps is not None:
        machine.note(
            "take",
            "free",
            f"tcache bin {index} has room for {machine.tcache_places(index)} more: the chunk "
            + ("is put at its place by size." if large else "becomes its front."),
            chunk,
        )
        machine.freed = Freed("tcache", chunk, size, index=index)
        machine.changes += ["The bin is kept in order of size."] * large
    if large:
        tcache_lists.put_large(machine, chunk, index)
    else:
        tcache_lists.put(machine, chunk, index)
    return True


def usable_size(machine: Machine, pointer: int) -> int:
    """Return what malloc_usable_size answers: 0 for a chunk that the one behind it says is free (musable)."""
    word = machine.words[pointer - machine.word_size]
    size = word & -8
    if word & IS_MMAPPED:
        return size - (machine.header if machine.has_fastbins else machine.word_size)
    in_use = machine.words[pointer - machine.word_size + size] & PREV_INUSE
    return size - machine.word_size if in_use else 0
