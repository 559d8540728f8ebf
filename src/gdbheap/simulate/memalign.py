"""memalign, aligned_alloc, posix_memalign, valloc and pvalloc (malloc/malloc.c)."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import IS_MMAPPED, PREV_INUSE, round_up
from gdbheap.ptmalloc.tcache import SMALL_BINS
from gdbheap.simulate import tcache_lists
from gdbheap.simulate.arena_get import arena_get, arena_get_retry, start_malloc
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.int_free import create_chunk, int_free, maybe_trim, merge_chunk
from gdbheap.simulate.int_malloc import chunk_size_for, int_malloc
from gdbheap.simulate.kernel_calls import write_mapped_chunk
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.memalign_scan import take_from_bins
from gdbheap.simulate.mmapped import MMAP_HP
from gdbheap.simulate.public import check_hooks, init_tcache, malloc, note_refusal

_FUNCTION = "_int_memalign"


def memalign(machine: Machine, alignment: int, request: int) -> int | None:
    """Do memalign(``alignment``, ``request``); return the pointer, None for NULL (_mid_memalign)."""
    check_hooks(machine, "__memalign_hook")
    start_malloc(machine)
    if alignment <= machine.align_mask + 1:
        if machine.steps is not None:
            machine.note("look", "_mid_memalign", "malloc aligns as much anyway.")
        return malloc(machine, request)
    alignment = max(alignment, machine.min_size)
    if alignment > machine.wrap >> 1:
        _refuse(machine, "_mid_memalign", f"No power of two is {alignment:#x} or more.")
        return None
    if alignment & (alignment - 1):
        alignment = 1 << alignment.bit_length()
        if machine.steps is not None:
            machine.note("look", "_mid_memalign", f"The next power of two, {alignment:#x}, is taken.")
    nb = chunk_size_for(machine, request)
    if machine.glibc.since(2, 38):
        if nb is None:
            note_refusal(machine, request, "_mid_memalign")
            return None
        if machine.counts_down and not machine.inits_tcache_inside and nb < machine.mp("tcache_max_bytes"):
            init_tcache(machine)
        found = _from_tcache(machine, nb, alignment)
        if found is not None:
            return found
    if machine.asks_single and machine.single:
        return _int_memalign(machine, machine.main_arena, alignment, request)
    arena = arena_get(machine, request + alignment + machine.min_size)
    found = _int_memalign(machine, arena, alignment, request)
    if found is None and arena:
        found = _int_memalign(machine, arena_get_retry(machine, arena, request), alignment, request)
    return found


def _refuse(machine: Machine, function: str, reason: str) -> None:
    """Note that an alignment is none."""
    machine.errno = "EINVAL"
    machine.note("fail", function, reason)


def aligned_alloc(machine: Machine, alignment: int, request: int) -> int | None:
    """Do aligned_alloc(``alignment``, ``request``): memalign by another name, but stricter from glibc 2.38 on."""
    start_malloc(machine)
    if machine.glibc.since(2, 38) and (not alignment or alignment & (alignment - 1)):
        _refuse(machine, "aligned_alloc", f"{alignment:#x} is no power of two (C17 demands one).")
        return None
    return memalign(machine, alignment, request)


def posix_memalign(machine: Machine, alignment: int, request: int) -> int | None:
    """Do posix_memalign(``alignment``, ``request``); return the pointer that it stores, None where it stores none."""
    start_malloc(machine)
    if alignment % machine.word_size or not alignment or alignment & (alignment - 1):
        reason = f"{alignment:#x} is no power of two that is a multiple of sizeof (void *), {machine.word_size}."
        _refuse(machine, "__posix_memalign", reason)
        return None
    return memalign(machine, alignment, request)


def valloc(machine: Machine, request: int) -> int | None:
    """Do valloc(``request``)."""
    return memalign(machine, machine.abi.page_size, request)


def pvalloc(machine: Machine, request: int) -> int | None:
    """Do pvalloc(``request``): whole pages; glibc 2.30 to 2.41 mask one bit too few and ask for a byte more."""
    page = machine.abi.page_size
    if request + page - 1 >= machine.wrap:
        note_refusal(machine, request, "__libc_pvalloc")
        return None
    mask = page - 1 if machine.glibc.since(2, 30) and not machine.glibc.since(2, 42) else page
    return memalign(machine, page, (request + page - 1) & -mask)


def _from_tcache(machine: Machine, nb: int, alignment: int) -> int | None:
    """Look through a tcache bin for a chunk that is aligned (from glibc 2.38 on)."""
    if not machine.has_tcache or not machine.has_own_tcache:
        return None
    index, exact = machine.small_index(nb), True
    if machine.counts_down:
        if nb >= machine.mp("tcache_max_bytes"):
            return None
        if index >= SMALL_BINS:
            index, exact = tcache_lists.large_index(machine, nb), False
    elif index >= machine.mp("tcache_bins") or not tcache_lists.has_entry(machine, index):
        return None
    words, size = machine.words, machine.word_size
    assert machine.thread.tcache is not None
    place = machine.thread.tcache + machine.entries_at + index * size
    front, visited = True, 0
    entry = words[place]
    while entry:
        length = nb if exact else words[entry - size] & -8
        if length > nb or (length == nb and not entry % alignment):
            break
        place, front = entry, False
        entry = machine.reveal(place)
        visited += 1
        if visited > 0xFFFF:
            raise machine.loop(f"tcache bin {index}")
    if not entry or (not exact and words[entry - size] & -8 != nb):
        if machine.steps is not None:
            machine.note("look", "_mid_memalign", f"tcache bin {index} has no chunk that is aligned to {alignment:#x}.")
        return None
    machine.source = "tcache"
    if machine.steps is not None:
        machine.note("take", "_mid_memalign", f"tcache bin {index} has a chunk that is aligned.", entry)
    return tcache_lists.take(machine, index, place, front, "_mid_memalign")


def _int_memalign(machine: Machine, arena: int, alignment: int, request: int) -> int | None:
    nb = chunk_size_for(machine, request)
    if nb is None or alignment >= machine.wrap >> 1:
        note_refusal(machine, request, _FUNCTION)
        return None
    if machine.scans_bins is None:
        raise Unpredictable(
            "memalign of glibc 2.38.0 and of 2.38's later fixes differ, and which of them this is is not known."
        )
    chunk = take_from_bins(machine, arena, alignment, nb) if machine.scans_bins and arena else None
    if chunk is not None:
        return _align(machine, arena, chunk, alignment, nb)
    padded = nb + alignment + machine.min_size
    if machine.steps is not None:
        machine.note(
            "look",
            _FUNCTION,
            f"A chunk of {nb:#x} is wanted at a multiple of {alignment:#x}: {padded:#x} bytes are asked for, so that "
            "one is inside.",
        )
    pointer = int_malloc(machine, arena, padded)
    if pointer is None:
        return None
    return _align(machine, arena, pointer - machine.header, alignment, nb)


def _align(machine: Machine, arena: int, chunk: int, alignment: int, nb: int) -> int:
    """Cut ``nb`` bytes out of a chunk at a multiple of ``alignment``, give the rest back; return the pointer."""
    words, size = machine.words, machine.word_size
    pointer = chunk + machine.header
    flag = machine.flag(arena)
    mapped = bool(words[chunk + size] & IS_MMAPPED)
    if pointer % alignment:
        if machine.inits_tcache_inside and not mapped:
            aligned = round_up(pointer + machine.min_size, alignment) - machine.header
        else:
            aligned = round_up(pointer, alignment) - machine.header
            if aligned - chunk < machine.min_size and not machine.inits_tcache_inside:
                aligned += alignment
        lead = aligned - chunk
        if mapped:
            if machine.steps is not None and alignment > machine.abi.page_size:
                text = "Where the aligned place is in the mapping depends on the address that the kernel chooses."
                machine.note("look", _FUNCTION, text)
            _move_mapped(machine, chunk, lead)
            machine.source = "mapping"
            return aligned + machine.header
        length = (words[chunk + size] & -8) - lead
        words[aligned + size] = length | PREV_INUSE | flag
        words[aligned + length + size] |= PREV_INUSE
        words[chunk + size] = words[chunk + size] & 7 | lead | flag
        if machine.steps is not None:
            machine.note("move", _FUNCTION, f"The {lead:#x} bytes before it, at {chunk:#x}, are freed.", chunk)
        if machine.has_merge_chunk:
            merge_chunk(machine, arena, chunk, lead)
        else:
            int_free(machine, arena, chunk, True)
        chunk = aligned
    if not mapped:
        _give_tail(machine, arena, chunk, nb)
        machine.source = "aligned"
    return chunk + machine.header


def _move_mapped(machine: Machine, chunk: int, lead: int) -> None:
    words, size = machine.words, machine.word_size
    word, offset = words[chunk + size], words[chunk]
    if machine.has_fastbins:
        write_mapped_chunk(machine, chunk + lead, (word & -8) - lead, offset + lead)
    else:
        huge = bool(offset & MMAP_HP)
        length = (word & -8) + machine.header
        write_mapped_chunk(machine, chunk + lead, length - lead, (offset & ~MMAP_HP) + lead, huge)


def _give_tail(machine: Machine, arena: int, chunk: int, nb: int) -> None:
    """Give back what lies behind the ``nb`` bytes of a chunk that are wanted."""
    words, size = machine.words, machine.word_size
    length = words[chunk + size] & -8
    rest = length - nb
    tail, following = chunk + nb, chunk + length
    if not machine.has_merge_chunk:
        if length <= nb + machine.min_size:
            return
        words[tail + size] = rest | PREV_INUSE | machine.flag(arena)
        words[chunk + size] = words[chunk + size] & 7 | nb
        _note_tail(machine, tail, rest)
        int_free(machine, arena, tail, True)
        return
    next_size = words[following + size] & -8
    gives = rest >= machine.min_size
    if not gives and rest and machine.has_fastbins:
        top = words[arena + machine.top_at]
        gives = following == top or not words[following + next_size + size] & PREV_INUSE
    if gives:
        words[chunk + size] = words[chunk + size] & 7 | nb
        _note_tail(machine, tail, rest)
        maybe_trim(machine, arena, create_chunk(machine, arena, tail, rest, following, next_size))


def _note_tail(machine: Machine, tail: int, rest: int) -> None:
    if machine.steps is not None:
        machine.note("move", _FUNCTION, f"The {rest:#x} bytes behind it, at {tail:#x}, are freed.", tail)
