"""Giving a chunk back to its arena: the parts of free that realloc, memalign and sysmalloc use as well (malloc.c)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gdbheap.ptmalloc.abi import IS_MMAPPED, PREV_INUSE
from gdbheap.ptmalloc.bins import bin_index, fastbin_index
from gdbheap.simulate import tcache_lists
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.consolidate import malloc_consolidate
from gdbheap.simulate.kernel_calls import drive, state_of, trim_after
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.mmapped import free_mmapped, munmap_chunk
from gdbheap.simulate.trace import Freed
from gdbheap.simulate.trim import TRIM_OCCASION


def int_free(machine: Machine, arena: int, chunk: int, locked: bool) -> None:
    """Free a chunk of an arena as _int_free does (up to glibc 2.41): perhaps into the tcache."""
    size = machine.size(chunk)
    check_chunk(machine, chunk, size)
    if not tcache_free(machine, chunk, size, "_int_free"):
        free_chunk(machine, arena, chunk, size, locked)


def free_inner(machine: Machine, arena: int, chunk: int) -> None:
    """Free a chunk on behalf of realloc or sysmalloc, which hold the arena's lock.

    _int_free, and from glibc 2.42 on _int_free_chunk, which leaves the tcache out.
    """
    if machine.counts_down:
        free_chunk(machine, arena, chunk, machine.size(chunk), True)
    else:
        int_free(machine, arena, chunk, True)


def check_chunk(machine: Machine, chunk: int, size: int) -> None:
    """Check pointer and size of a chunk as _int_free does (_int_free_check in glibc 2.41)."""
    pointer = chunk + machine.header
    if chunk > -size % machine.wrap or pointer & machine.align_mask:
        reason = f"the size word at {chunk + machine.word_size:#x} is {machine.words[chunk + machine.word_size]:#x}, "
        reason += (
            f"and a chunk of {size:#x} bytes at {chunk:#x} would reach beyond the last address"
            if size
            else ("and no chunk has 0 bytes")
        )
        if pointer & machine.align_mask:
            reason = (
                f"the pointer {pointer:#x} is no multiple of {machine.align_mask + 1:#x}, as every pointer of "
                "malloc's is"
            )
        raise machine.abort("_int_free", "free(): invalid pointer", reason)
    if size < machine.min_size or size & machine.align_mask:
        raise machine.abort(
            "_int_free",
            "free(): invalid size",
            f"the size word at {chunk + machine.word_size:#x} is {machine.words[chunk + machine.word_size]:#x}; a size "
            f"is a multiple of {machine.align_mask + 1:#x}, at least {machine.min_size:#x}",
        )
    if machine.steps is not None:
        machine.note(
            "check",
            "_int_free",
            f"The pointer {pointer:#x} and the size {size:#x} are multiples of {machine.align_mask + 1:#x}, the size "
            f"is at least {machine.min_size:#x}, and the chunk does not wrap around.",
            chunk,
        )


def tcache_free(machine: Machine, chunk: int, size: int, function: str) -> bool:
    """Try to put a chunk into the calling thread's tcache (up to glibc 2.41); return whether it went there."""
    if not machine.has_tcache or not machine.has_own_tcache:
        return False
    index = machine.small_index(size)
    bins = machine.mp("tcache_bins")
    if index >= bins:
        if machine.steps is not None:
            machine.note("look", function, f"The chunk has {size:#x} bytes, more than the tcache takes.")
        return False
    entry = chunk + machine.header
    if machine.marks and is_marked(machine, entry, (index,)):
        look_for_double_free(machine, entry, (index,), function)
    elif machine.marks and machine.steps is not None:
        machine.note(
            "check", function, "Its second word is not the mark of chunks in a tcache: it is in none already.", chunk
        )
    count, limit = machine.tcache_number(index), machine.mp("tcache_count")
    if count < limit:
        if machine.steps is not None:
            machine.note(
                "take",
                function,
                f"tcache bin {index} has {count} of {limit} chunks (mp_.tcache_count): the chunk becomes its front.",
                chunk,
            )
            machine.freed = Freed("tcache", chunk, size, index=index)
        tcache_lists.put(machine, chunk, index)
        return True
    if machine.steps is not None:
        machine.note(
            "look", function, f"tcache bin {index} is full: {count} chunks, and mp_.tcache_count allows {limit}."
        )
    return False


def is_marked(machine: Machine, entry: int, bins: range | tuple[int, ...]) -> bool:
    """Return whether the second word of ``entry`` is the mark of chunks in a tcache.

    Raises Unpredictable where that mark is not known and the chunk is in one of ``bins`` indeed.
    """
    if machine.words[entry + machine.word_size] == machine.key:
        return True
    if machine.glibc.key_known:
        return False
    assert machine.thread.tcache is not None
    for index in bins:
        found = machine.words[machine.thread.tcache + machine.entries_at + index * machine.word_size]
        for _ in range(machine.mp("tcache_count") + 1):
            if found == entry:
                raise Unpredictable("tcache_key is not known, by which free notices that the chunk is in the tcache.")
            if not found or found & machine.align_mask:
                break
            found = machine.reveal(found)
    return False


def look_for_double_free(machine: Machine, entry: int, bins: range | tuple[int, ...], function: str) -> None:
    """Look for ``entry`` in bins of the tcache, as free does where its second word is the mark of chunks there."""
    words, tcache = machine.words, machine.thread.tcache
    assert tcache is not None
    limit = machine.mp("tcache_count")
    if machine.steps is not None:
        key = f"{machine.key:#x}, " if machine.glibc.key_known else ""
        machine.note(
            "look",
            function,
            f"The second word of the memory at {entry:#x} is {key}the mark of chunks in a tcache: it may be there "
            "already.",
        )
    for index in bins:
        found, count = words[tcache + machine.entries_at + index * machine.word_size], 0
        while found:
            if count >= limit and machine.released_233:
                raise machine.abort(
                    function,
                    "free(): too many chunks detected in tcache",
                    f"tcache bin {index} has more than {limit} chunks",
                )
            if found & machine.align_mask:
                if machine.safe_linking:
                    raise machine.abort(
                        function,
                        "free(): unaligned chunk detected in tcache 2",
                        f"the entry {found:#x} of tcache bin {index} is not aligned",
                    )
                machine.unchecked(function, found)
            if found == entry:
                raise machine.abort(
                    function,
                    "free(): double free detected in tcache 2",
                    f"the chunk is in tcache bin {index} already",
                )
            if count > 0xFFFF:
                raise machine.loop(f"tcache bin {index}")
            found, count = machine.reveal(found), count + 1
    if machine.steps is not None:
        machine.note("look", function, "It is in no such bin: that word is there by chance.")


def free_chunk(machine: Machine, arena: int, chunk: int, size: int, locked: bool) -> None:
    """Give a chunk back to its arena (_int_free_chunk): to a fastbin, to its neighbours, or to the kernel."""
    words, word_size = machine.words, machine.word_size
    function = "_int_free_chunk" if machine.released_241 else "_int_free"
    if machine.is_fast(size):
        _to_fastbin(machine, arena, chunk, size, locked, function)
    elif words[chunk + word_size] & IS_MMAPPED:
        if machine.counts_down:
            free_mapping(machine, chunk)
        else:
            unmap(machine, chunk)
    else:
        if not locked:
            machine.lock(arena)
        merge_chunk(machine, arena, chunk, size)


def _to_fastbin(machine: Machine, arena: int, chunk: int, size: int, locked: bool, function: str) -> None:
    words, word_size = machine.words, machine.word_size
    following = words[chunk + size + word_size]
    if following <= machine.header or following & -8 >= words[arena + machine.system_mem_at]:
        raise machine.abort(
            function,
            "free(): invalid next size (fast)",
            f"the size word of the chunk behind it, at {chunk + size:#x}, is {following:#x}",
        )
    machine.set_fastchunks(arena, True)
    index = fastbin_index(machine.abi, size)
    place = arena + machine.fastbins_at + index * word_size
    head = words[place]
    if head == chunk:
        raise machine.abort(
            function, "double free or corruption (fasttop)", f"the chunk is the front of fastbin {index} already"
        )
    if machine.steps is not None:
        machine.note(
            "check",
            function,
            f"The size word behind it, at {chunk + size:#x}, is {following:#x}, a size below system_mem, and it is not "
            f"the front of fastbin {index} already.",
            chunk,
        )
    entry = chunk + 2 * word_size
    words[entry] = head ^ (entry >> 12) if machine.safe_linking else head
    words[place] = chunk
    if locked and head and fastbin_index(machine.abi, machine.size(head)) != index:
        raise machine.abort(
            function,
            "invalid fastbin entry (free)",
            f"the chunk at {head:#x}, the front of fastbin {index}, has {machine.size(head):#x} bytes",
        )
    if machine.steps is not None:
        limit = "" if machine.variables.max_fast is None else f" {machine.variables.max_fast:#x}"
        machine.note(
            "take",
            function,
            f"The chunk has {size:#x} bytes, at most global_max_fast{limit}: it becomes the front of fastbin "
            f"{index} of {machine.name(arena)}.",
            chunk,
        )
        machine.freed = Freed("fastbin", chunk, size, arena, index)


def unmap(machine: Machine, chunk: int) -> None:
    """Give back a chunk that is a mapping of its own (munmap_chunk)."""
    words = machine.words
    before = state_of(machine, None)
    done = drive(machine, munmap_chunk(before, chunk, words[chunk], words[chunk + machine.word_size]))
    _finish_mapping(machine, before.params.values, done.state.params.values, done.error, chunk)


def free_mapping(machine: Machine, chunk: int) -> None:
    """Free a chunk that is a mapping of its own: the thresholds may follow it."""
    words = machine.words
    word = words[chunk + machine.word_size]
    if machine.steps is not None:
        machine.note(
            "take",
            "_int_free_chunk" if machine.counts_down else "__libc_free",
            f"IS_MMAPPED is set in the size word {word:#x}: the chunk is a mapping of its own and goes back.",
            chunk,
        )
        machine.freed = Freed("munmap", chunk, word & -8)
    before = state_of(machine, None)
    done = drive(machine, free_mmapped(before, chunk, words[chunk], word))
    _finish_mapping(machine, before.params.values, done.state.params.values, done.error, chunk)
    for change in done.changes:
        machine.changes.append(change)
        machine.note("move", "__libc_free", change)


def _finish_mapping(
    machine: Machine, before: Mapping[str, int], after: Mapping[str, int], error: str | None, chunk: int
) -> None:
    if error is not None:
        raise machine.abort(
            "munmap_chunk",
            "munmap_chunk(): invalid pointer",
            f"prev_size and size word of the chunk at {chunk:#x} do not make up a mapping of whole pages, or the "
            "pointer is at no place that malloc gives out in one",
        )
    for name, value in after.items():
        if value != before.get(name):
            machine.set_mp(name, value)


def merge_chunk(machine: Machine, arena: int, chunk: int, size: int) -> None:
    """Merge a chunk with its free neighbours and put it on a list (_int_free_merge_chunk)."""
    words, word_size = machine.words, machine.word_size
    function = "_int_free_merge_chunk" if machine.has_merge_chunk else "_int_free"
    following, freed = chunk + size, chunk
    top = words[arena + machine.top_at]
    if chunk == top:
        raise machine.abort(function, "double free or corruption (top)", f"the chunk at {chunk:#x} is the top chunk")
    if following >= top + (words[top + word_size] & -8) and machine.contiguous(arena):
        raise machine.abort(
            function,
            "double free or corruption (out)",
            f"the chunk ends at {following:#x}, not before the end of the top chunk, "
            f"{top + (words[top + word_size] & -8):#x}",
        )
    next_word = words[following + word_size]
    if not next_word & PREV_INUSE:
        raise machine.abort(
            function,
            "double free or corruption (!prev)",
            f"PREV_INUSE is clear in the size word {next_word:#x} of the chunk behind it, at {following:#x}: it is "
            "free already",
        )
    next_size = next_word & -8
    if next_word <= machine.header or next_size >= words[arena + machine.system_mem_at]:
        raise machine.abort(
            function,
            "free(): invalid next size (normal)",
            f"the size word of the chunk behind it, at {following:#x}, is {next_word:#x}",
        )
    if machine.steps is not None:
        machine.note(
            "check",
            function,
            f"It is not the top chunk and does not end behind that; the chunk behind it, at {following:#x}, has "
            f"PREV_INUSE set and a size below system_mem, {next_size:#x}.",
            chunk,
        )
    if not words[chunk + word_size] & PREV_INUSE:
        before = words[chunk]
        size += before
        chunk -= before
        if words[chunk + word_size] & -8 != before and machine.checks_merge:
            raise machine.abort(
                function,
                "corrupted size vs. prev_size while consolidating",
                f"the free chunk before it, at {chunk:#x}, has {words[chunk + word_size] & -8:#x} bytes, but prev_size "
                f"is {before:#x}",
            )
        if machine.steps is not None:
            machine.note(
                "move", function, f"The chunk before it, at {chunk:#x}, is free: they become one of {size:#x}.", chunk
            )
        machine.unlink(function, chunk)
    whole = create_chunk(machine, arena, chunk, size, following, next_size)
    if machine.freed is not None:
        behind = (following,) if whole > size and machine.freed.kind != "top" else ()
        before_it = () if chunk == freed else (chunk,)
        machine.freed = replace(machine.freed, merged=(*before_it, *behind))
    maybe_trim(machine, arena, whole)


def create_chunk(machine: Machine, arena: int, chunk: int, size: int, following: int, next_size: int) -> int:
    """Make a free chunk, merge it with the one that follows, put it on a list; return its size then.

    The middle of _int_free, _int_free_create_chunk from glibc 2.39 on.
    """
    words, word_size = machine.words, machine.word_size
    function = "_int_free_create_chunk" if machine.has_merge_chunk else "_int_free"
    if following == words[arena + machine.top_at]:
        size += next_size
        words[chunk + word_size] = size | PREV_INUSE
        words[arena + machine.top_at] = chunk
        if machine.steps is not None:
            machine.note(
                "take", function, f"The top chunk follows: the chunk becomes part of it, {size:#x} bytes now.", chunk
            )
            machine.freed = Freed("top", chunk, size, arena)
        return size
    if not words[following + next_size + word_size] & PREV_INUSE:
        machine.unlink(function, following)
        size += next_size
        if machine.steps is not None:
            machine.note(
                "move",
                function,
                f"The chunk behind it, at {following:#x}, is free: they become one of {size:#x}.",
                following,
            )
    else:
        words[following + word_size] &= ~PREV_INUSE
    index = 1
    if machine.released_241 and size < machine.min_large:
        index = bin_index(machine.abi, size)
    bin_header = machine.bin_at(arena, index)
    first = words[bin_header + 2 * word_size]
    if words[first + 3 * word_size] != bin_header:
        message = "free(): corrupted unsorted chunks" if index == 1 else "free(): chunks in smallbin corrupted"
        raise machine.abort(
            function,
            message,
            f"bk of the first chunk on the list, at {first:#x}, is {words[first + 3 * word_size]:#x}, not the list",
        )
    if index > 1:
        machine.mark_bin(arena, index)
    elif size >= machine.min_large:
        words[chunk + 4 * word_size] = words[chunk + 5 * word_size] = 0
    words[chunk + 3 * word_size] = bin_header
    words[chunk + 2 * word_size] = first
    words[bin_header + 2 * word_size] = chunk
    words[first + 3 * word_size] = chunk
    words[chunk + word_size] = size | PREV_INUSE
    words[chunk + size] = size
    if machine.steps is not None:
        where = "the unsorted list" if index == 1 else f"small bin {index}"
        machine.note(
            "take",
            function,
            f"The free chunk at {chunk:#x}, {size:#x} bytes, goes to the front of {where} of {machine.name(arena)}.",
            chunk,
        )
        machine.freed = Freed("unsorted" if index == 1 else "small", chunk, size, arena, index)
    return size


def maybe_trim(machine: Machine, arena: int, size: int) -> None:
    """Do what follows a large free chunk: fastbins are merged, the end of the top chunk may go back.

    The end of _int_free (_int_free_maybe_consolidate from glibc 2.39 on, _int_free_maybe_trim from 2.43 on).
    """
    if size < TRIM_OCCASION:
        return
    if machine.steps is not None:
        machine.note(
            "look",
            "_int_free",
            f"The free chunk has {size:#x} bytes, at least {TRIM_OCCASION:#x}: free looks at the top chunk.",
        )
    if machine.have_fastchunks(arena):
        malloc_consolidate(machine, arena)
        top, left = machine.words[arena + machine.top_at], machine.freed
        if left is not None and left.kind != "top" and left.arena == arena and top <= left.chunk:
            machine.freed = replace(left, kind="top", chunk=top, size=machine.size(top), index=None)
    trim_after(machine, arena, size)
