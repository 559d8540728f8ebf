"""_int_malloc (malloc/malloc.c): how an arena serves a request, list by list, and what moves on the way."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import PREV_INUSE, RequestTooLarge
from gdbheap.ptmalloc.bins import bin_index, fastbin_index
from gdbheap.simulate import tcache_lists
from gdbheap.simulate.circle import Circle
from gdbheap.simulate.consolidate import malloc_consolidate
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.more_memory import from_kernel
from gdbheap.simulate.sorting import check_unsorted, sort_chunk, split_remainder

_FUNCTION = "_int_malloc"
#: Unsorted chunks that one call of malloc sorts at most (MAX_ITERS).
_MAX_ITERS = 10000
#: Unsorted chunks of which each has steps of its own; those after them are told in one step.
_TOLD = 16


def chunk_size_for(machine: Machine, request: int) -> int | None:
    """Return the chunk size of a request of ``request`` bytes, None where glibc refuses it (checked_request2size)."""
    if not machine.refuses_ptrdiff and request < machine.wrap - 2 * machine.min_size:
        size = machine.word_size
        return max(machine.min_size, (request + size + machine.align_mask) & ~machine.align_mask)
    try:
        return machine.abi.request_to_chunk(request)
    except RequestTooLarge:
        return None


def int_malloc(machine: Machine, arena: int, request: int) -> int | None:
    """Serve a request of ``request`` bytes from an arena (0: there is none); return the pointer, None for NULL.

    Where the memory came from is left in ``machine.source``.
    """
    nb = chunk_size_for(machine, request)
    if nb is None:
        return None
    if not arena:
        return from_kernel(machine, 0, nb)
    words, size = machine.words, machine.word_size
    if machine.has_fastbins and nb <= machine.largest_fast:
        found = _from_fastbin(machine, arena, nb)
        if found is not None:
            return found
    small = nb < machine.min_large
    if small:
        header = machine.bin_at(arena, bin_index(machine.abi, nb))
        if words[header + 3 * size] not in (header, 0):
            return _from_small_bin(machine, arena, nb, header)
        if machine.steps is not None:
            machine.note("look", _FUNCTION, f"Small bin {bin_index(machine.abi, nb)}, of its exact size, is empty.")
    elif machine.have_fastchunks(arena):
        malloc_consolidate(machine, arena)
    while True:
        found = _from_unsorted(machine, arena, nb)
        if found is not None:
            return found
        index = bin_index(machine.abi, nb)
        if not small:
            found = _from_large_bin(machine, arena, nb, index)
            if found is not None:
                return found
        found = _from_next_bins(machine, arena, nb, index + 1)
        if found is not None:
            return found
        found = _from_top(machine, arena, nb)
        if found is not None:
            return found
        if not machine.have_fastchunks(arena):
            return from_kernel(machine, arena, nb)
        if machine.steps is not None:
            machine.note("look", _FUNCTION, "Fastbins may hold chunks: they are merged, and malloc looks once more.")
        malloc_consolidate(machine, arena)


def _from_fastbin(machine: Machine, arena: int, nb: int) -> int | None:
    words, size, limit = machine.words, machine.word_size, machine.variables.max_fast
    index = fastbin_index(machine.abi, nb)
    place = arena + machine.fastbins_at + index * size
    victim, limit = words[place], machine.variables.max_fast
    if not victim:
        if machine.steps is not None and (limit is None or nb <= limit):
            machine.note("look", _FUNCTION, f"Fastbin {index} is empty.")
        return None
    if not machine.is_fast(nb):
        return None
    _check_fast(machine, victim, "malloc(): unaligned fastbin chunk detected 2", index)
    words[place] = _behind_front(machine, victim, index)
    if fastbin_index(machine.abi, machine.size(victim)) != index:
        raise machine.abort(
            _FUNCTION,
            "malloc(): memory corruption (fast)",
            f"the chunk at {victim:#x}, the front of fastbin {index}, has the size word {words[victim + size]:#x}",
        )
    if machine.steps is not None:
        machine.note("take", _FUNCTION, f"Fastbin {index} of {machine.name(arena)} has a chunk at its front.", victim)
    machine.source = "fastbin"
    _stash_fast(machine, place, nb, index)
    return victim + 2 * size


def _check_fast(machine: Machine, chunk: int, message: str, index: int) -> None:
    if (chunk + machine.header) & machine.align_mask:
        if not machine.safe_linking:
            machine.unchecked(_FUNCTION, chunk)
            return
        raise machine.abort(_FUNCTION, message, f"the chunk at {chunk:#x} on fastbin {index} is not aligned")


def _behind_front(machine: Machine, victim: int, index: int) -> int:
    """Return the chunk that becomes the front of a fastbin; with several threads it is checked at once (REMOVE_FB)."""
    following = machine.reveal(victim + machine.header)
    # Where there is one thread, the next look at the fastbin checks it.
    if following and (following + machine.header) & machine.align_mask and not machine.alone:
        _check_fast(machine, following, "malloc(): unaligned fastbin chunk detected", index)
    return following


def _stash_fast(machine: Machine, place: int, nb: int, index: int) -> None:
    """Move the other chunks of a fastbin to the tcache, while that takes them."""
    bin_number = _stash_bin(machine, nb)
    if bin_number is None:
        return
    words, moved = machine.words, 0
    while machine.tcache_places(bin_number):
        victim = words[place]
        if not victim:
            break
        _check_fast(machine, victim, "malloc(): unaligned fastbin chunk detected 3", index)
        if machine.counts_down and machine.small_index(machine.size(victim)) != bin_number:
            raise machine.abort(
                _FUNCTION,
                "malloc(): chunk size mismatch in fastbin",
                f"the chunk at {victim:#x} on fastbin {index} has {machine.size(victim):#x} bytes",
            )
        words[place] = _behind_front(machine, victim, index)
        tcache_lists.put(machine, victim, bin_number)
        moved += 1
    if moved and machine.steps is not None:
        machine.note(
            "move",
            _FUNCTION,
            f"{moved} more chunk{'s' * (moved != 1)} of fastbin {index} move to tcache bin {bin_number}, which has "
            "room for them: the one behind the front first, so that their order is turned round.",
        )


def _stash_bin(machine: Machine, nb: int) -> int | None:
    """Return the tcache bin that chunks of ``nb`` bytes are stashed in, None where there is none."""
    if not machine.has_tcache or not machine.has_own_tcache:
        return None
    index = machine.small_index(nb)
    return index if index < machine.tcache_bins() else None


def _from_small_bin(machine: Machine, arena: int, nb: int, header: int) -> int:
    words, size, flag = machine.words, machine.word_size, machine.flag(arena)
    victim = words[header + 3 * size]
    back = words[victim + 3 * size]
    if words[back + 2 * size] != victim:
        raise machine.abort(
            _FUNCTION,
            "malloc(): smallbin double linked list corrupted",
            f"bk of the last chunk, at {victim:#x}, is {back:#x}, whose fd does not lead back to it",
        )
    words[victim + nb + size] |= PREV_INUSE
    words[header + 3 * size] = back
    words[back + 2 * size] = header
    words[victim + size] |= flag
    number = bin_index(machine.abi, nb)
    if machine.steps is not None:
        machine.note(
            "take", _FUNCTION, f"Small bin {number} of {machine.name(arena)} has chunks: the oldest is taken.", victim
        )
    if machine.inits_tcache_inside and machine.thread.tcache == 0 and machine.small_index(nb) < machine.tcache_bins():
        tcache_init_in(machine, arena)
    machine.source = "small"
    index = _stash_bin(machine, nb)
    moved = 0
    if index is not None:
        while machine.tcache_places(index):
            other = words[header + 3 * size]
            if other == header:
                break
            if not other:
                raise machine.loop(f"Small bin {number}")
            back = words[other + 3 * size]
            words[other + nb + size] |= PREV_INUSE
            words[other + size] |= flag
            words[header + 3 * size] = back
            words[back + 2 * size] = header
            tcache_lists.put(machine, other, index)
            moved += 1
    if moved and machine.steps is not None:
        machine.note(
            "move",
            _FUNCTION,
            f"{moved} more chunk{'s' * (moved != 1)} of small bin {number} move to tcache bin {index}, which has room "
            "for them.",
        )
    return victim + 2 * size


def tcache_init_in(machine: Machine, arena: int) -> None:
    """Make a tcache in the middle of _int_malloc (glibc 2.43), from the arena that it works on.

    The size that is asked for there is padded already, and it is padded once more.
    """
    thread, layout = machine.thread, machine.layout
    assert layout.tcache is not None
    thread.tcache = -1
    if machine.mp("tcache_count") == 0:
        return
    source = machine.source
    pointer = int_malloc(machine, arena, machine.abi.request_to_chunk(layout.tcache.size))
    start_tcache(machine, pointer, "tcache_init")
    machine.source = source


def start_tcache(machine: Machine, pointer: int | None, function: str) -> None:
    """Let the memory at ``pointer`` be the calling thread's new tcache, which is empty."""
    layout, words, size = machine.layout, machine.words, machine.word_size
    assert layout.tcache is not None
    if pointer is None:
        if machine.steps is not None:
            machine.note("look", function, "There is no memory for a tcache: the thread goes on without one.")
        return
    machine.thread.tcache = pointer
    for place in range(pointer, pointer + layout.tcache.size, size):
        words[place] = 0
    if machine.counts_down:
        slots = layout.tcache.fields["num_slots"]
        width = slots.size // slots.count
        for index in range(slots.count):
            machine.set_number(pointer + slots.offset + index * width, width, machine.mp("tcache_count"))
    if machine.steps is not None:
        machine.note(
            "move",
            function,
            f"The thread's tcache is made: {layout.tcache.size} bytes at {pointer:#x}, in a chunk of "
            f"{machine.size(pointer - 2 * size):#x}.",
            pointer,
        )


def _from_unsorted(machine: Machine, arena: int, nb: int) -> int | None:
    """Go through the unsorted list: take a chunk that fits exactly, sort the others into their bins."""
    words, size = machine.words, machine.word_size
    unsorted = machine.bin_at(arena, 1)
    victim = words[unsorted + 3 * size]
    if victim == unsorted:
        if machine.steps is not None:
            machine.note("look", _FUNCTION, "The unsorted list is empty.")
        return None
    small = nb < machine.min_large
    flag = machine.flag(arena)
    system_mem = words[arena + machine.system_mem_at]
    index = _stash_bin(machine, nb)
    limit = machine.mp("tcache_unsorted_limit") if machine.has_tcache else 0
    cached, sorted_count, stopped = False, 0, ""
    while victim != unsorted:
        back = words[victim + 3 * size]
        length = words[victim + size] & -8
        told = machine.steps is not None and sorted_count < _TOLD
        check_unsorted(machine, unsorted, victim, back, length, system_mem, told)
        alone = back == unsorted and victim == words[arena + machine.remainder_at]
        if small and alone and length > nb + machine.min_size:
            return split_remainder(machine, arena, unsorted, victim, length, nb)
        if words[back + 2 * size] != victim and machine.checks_removal:
            raise machine.abort(
                _FUNCTION,
                "malloc(): corrupted unsorted chunks 3",
                f"bk of the chunk at {victim:#x} is {back:#x}, whose fd does not lead back to it",
            )
        words[unsorted + 3 * size] = back
        words[back + 2 * size] = unsorted
        if length == nb:
            words[victim + length + size] |= PREV_INUSE
            words[victim + size] |= flag
            if machine.inits_tcache_inside and machine.thread.tcache == 0:
                tcache_init_in(machine, arena)
                index, system_mem = _stash_bin(machine, nb), words[arena + machine.system_mem_at]
            if index is not None and machine.tcache_places(index):
                if machine.steps is not None:
                    machine.note(
                        "move",
                        _FUNCTION,
                        f"The unsorted chunk at {victim:#x} has exactly {nb:#x} bytes: it goes to tcache bin {index}, "
                        "which has room, and malloc looks for more of them.",
                        victim,
                    )
                tcache_lists.put(machine, victim, index)
                cached = True
                victim = words[unsorted + 3 * size]
                continue
            if machine.steps is not None:
                machine.note("take", _FUNCTION, f"The unsorted chunk at {victim:#x} has exactly {nb:#x} bytes.", victim)
            machine.source = "unsorted"
            return victim + 2 * size
        sort_chunk(machine, arena, victim, length, told)
        sorted_count += 1
        if cached and 0 < limit < sorted_count:
            stopped = f"more than tcache_unsorted_limit, {limit}"
            break
        if sorted_count >= _MAX_ITERS:
            stopped = f"the most that one call sorts (MAX_ITERS, {_MAX_ITERS:,})"
            break
        victim = words[unsorted + 3 * size]
    if machine.steps is not None and sorted_count > _TOLD:
        machine.note(
            "move",
            _FUNCTION,
            f"{sorted_count - _TOLD:,} more unsorted chunks are looked at, none of them of exactly {nb:#x} bytes, and "
            "sorted into their bins.",
        )
    stopped = stopped if words[unsorted + 3 * size] != unsorted else ""
    if machine.steps is not None and stopped:
        machine.note(
            "look",
            _FUNCTION,
            f"The search ends after {sorted_count:,} chunks, {stopped}; chunks are left unsorted, and whether one of "
            f"them has {nb:#x} bytes is not looked at.",
        )
    if cached:
        assert index is not None
        machine.source = "unsorted"
        if machine.steps is not None:
            machine.note(
                "take", _FUNCTION, f"One of the chunks that went to tcache bin {index} is taken: the last of them."
            )
        return tcache_lists.get(machine, index, _FUNCTION)
    if machine.steps is not None and not stopped:
        machine.note("look", _FUNCTION, f"No unsorted chunk has exactly {nb:#x} bytes.")
    return None


def _from_large_bin(machine: Machine, arena: int, nb: int, index: int) -> int | None:
    words, size = machine.words, machine.word_size
    header = machine.bin_at(arena, index)
    first = words[header + 2 * size]
    if first == header:
        if machine.steps is not None:
            machine.note("look", _FUNCTION, f"Large bin {index}, of its range of sizes, is empty.")
        return None
    if words[first + size] < nb:
        if machine.steps is not None:
            machine.note(
                "look",
                _FUNCTION,
                f"The largest chunk of large bin {index} has {words[first + size] & -8:#x} bytes, fewer than {nb:#x}.",
                first,
            )
        return None
    victim, circle = words[first + 5 * size], Circle(machine, f"The list of sizes in large bin {index}")
    while (length := words[victim + size] & -8) < nb:
        circle.visit(victim)
        victim = words[victim + 5 * size]
    if victim != words[header + 3 * size]:
        following = words[victim + 2 * size]
        if words[victim + size] == words[following + size]:
            victim = following
    if machine.steps is not None:
        machine.note(
            "take",
            _FUNCTION,
            f"Large bin {index} of {machine.name(arena)} has a chunk of {length:#x} bytes, the smallest there that is "
            "large enough.",
            victim,
        )
    machine.source = "large"
    return _cut(machine, arena, victim, length, nb, "malloc(): corrupted unsorted chunks", False)


def _from_next_bins(machine: Machine, arena: int, nb: int, index: int) -> int | None:
    """Look for the first bin with larger chunks, by the arena's binmap."""
    words, size = machine.words, machine.word_size
    first, cleared = index, 0
    while index < 128:
        place = arena + machine.binmap_at + (index >> 5) * 4
        bits = machine.number(place, 4) >> (index & 31) << (index & 31)
        if not bits:
            index = (index | 31) + 1
            continue
        index = index & ~31 | (bits & -bits).bit_length() - 1
        header = machine.bin_at(arena, index)
        victim = words[header + 3 * size]
        if victim == header:
            machine.set_number(place, 4, machine.number(place, 4) & ~(1 << (index & 31)))
            cleared += 1
            index += 1
            continue
        length = words[victim + size] & -8
        if length < nb:
            raise machine.assertion(
                _FUNCTION, f"the chunk at {victim:#x} in bin {index} has {length:#x} bytes, at least nb {nb:#x}"
            )
        if machine.steps is not None:
            machine.note(
                "take",
                _FUNCTION,
                f"Bin {index} is the first from {first} on with a chunk: its smallest, at {victim:#x}, has "
                f"{length:#x} bytes.",
                victim,
            )
        machine.source = "bin"
        return _cut(machine, arena, victim, length, nb, "malloc(): corrupted unsorted chunks 2", True)
    if machine.steps is not None:
        stale = f" {cleared} bits of the binmap that stood for empty bins are cleared." if cleared else ""
        machine.note("look", _FUNCTION, f"No bin from {first} on, of larger chunks, has any.{stale}")
    return None


def _cut(machine: Machine, arena: int, victim: int, length: int, nb: int, message: str, remember: bool) -> int:
    """Take a chunk from its bin, as a whole or the ``nb`` bytes at its front; return the pointer."""
    words, size = machine.words, machine.word_size
    machine.unlink("unlink_chunk", victim)
    left = length - nb
    if left < machine.min_size:
        words[victim + length + size] |= PREV_INUSE
        words[victim + size] |= machine.flag(arena)
        return victim + 2 * size
    rest = victim + nb
    unsorted = machine.bin_at(arena, 1)
    first = words[unsorted + 2 * size]
    if words[first + 3 * size] != unsorted:
        raise machine.abort(
            _FUNCTION, message, f"bk of the first unsorted chunk, at {first:#x}, does not lead to the list"
        )
    words[rest + 3 * size] = unsorted
    words[rest + 2 * size] = first
    words[unsorted + 2 * size] = rest
    words[first + 3 * size] = rest
    if remember and nb < machine.min_large:
        words[arena + machine.remainder_at] = rest
    if left >= machine.min_large:
        words[rest + 4 * size] = words[rest + 5 * size] = 0
    words[victim + size] = nb | PREV_INUSE | machine.flag(arena)
    words[rest + size] = left | PREV_INUSE
    words[rest + left] = left
    if machine.steps is not None:
        last = ", and is the last remainder now" if remember and nb < machine.min_large else ""
        machine.note(
            "move",
            _FUNCTION,
            f"It is split: {nb:#x} bytes serve the request, and the remainder of {left:#x} at {rest:#x} goes to the "
            f"front of the unsorted list{last}.",
            rest,
        )
    return victim + 2 * size


def _from_top(machine: Machine, arena: int, nb: int) -> int | None:
    words, size = machine.words, machine.word_size
    top = words[arena + machine.top_at]
    length = words[top + size] & -8
    if length > words[arena + machine.system_mem_at] and machine.checks_merge:
        raise machine.abort(
            _FUNCTION,
            "malloc(): corrupted top size",
            f"the top chunk at {top:#x} has the size word {words[top + size]:#x}, more than system_mem, "
            f"{words[arena + machine.system_mem_at]:#x}",
        )
    if machine.steps is not None and length and machine.checks_merge:
        system_mem = words[arena + machine.system_mem_at]
        machine.note(
            "check", _FUNCTION, f"The size of the top chunk, {length:#x}, is at most system_mem, {system_mem:#x}.", top
        )
    if length < nb + machine.min_size:
        if machine.steps is not None:
            machine.note(
                "look",
                _FUNCTION,
                f"The top chunk has {length:#x} bytes, fewer than nb {nb:#x} plus MINSIZE {machine.min_size:#x}."
                if length
                else "There is no top chunk yet.",
                top,
            )
        return None
    rest = top + nb
    words[arena + machine.top_at] = rest
    words[top + size] = nb | PREV_INUSE | machine.flag(arena)
    words[rest + size] = length - nb | PREV_INUSE
    if machine.steps is not None:
        machine.note(
            "take",
            _FUNCTION,
            f"The top chunk at {top:#x} has {length:#x} bytes: the request is cut from it, and {length - nb:#x} are "
            "left.",
            top,
        )
    machine.source = "top"
    return top + 2 * size
