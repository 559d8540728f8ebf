"""What free(p) does, as a function of the state and the pointer (malloc/malloc.c): its decisions and how it ends.

It follows _int_free up to glibc 2.41, and from 2.42 on free itself with _int_free_chunk. What differs between releases
is told by the fields of the structs where they tell it, and by the release where only the code changed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Union

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, Abi
from gdbheap.ptmalloc.bins import bin_index, fastbin_index
from gdbheap.ptmalloc.heaps import heap_for
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.tcache import MAX_BIN_CHUNKS, SMALL_BINS, tcache_index
from gdbheap.simulate.calls import Call, Unpredictable
from gdbheap.simulate.facts import arena_of, since, top_size_of, with_top
from gdbheap.simulate.mmapped import free_mmapped
from gdbheap.simulate.state import GrowthState
from gdbheap.simulate.trim import TRIM_OCCASION, trim_after_free

#: How free can end, and one sentence that says what each is.
ENDS: Mapping[str, str] = {
    "nothing": "The pointer is 0, and free does nothing.",
    "tcache": "The chunk goes to the front of a bin of the thread's tcache, in large bins to its place by size.",
    "fastbin": "The chunk goes to the front of a fastbin of its arena.",
    "unsorted": "The chunk, merged with free neighbours, goes to the front of its arena's unsorted list.",
    "small": "The chunk, merged with free neighbours, goes to the front of a small bin of its arena.",
    "top": "The chunk becomes part of the top chunk of its arena.",
    "munmap": "The chunk is a mapping of its own and goes back to the kernel.",
    "abort": "A check fails: glibc prints a message and aborts the program.",
    "crash": "free reads memory that is not mapped, and the program gets a SIGSEGV.",
}
#: A chunk that is larger than this never goes to a fastbin (MAX_FAST_SIZE, as a chunk).
_LARGEST_FAST_WORDS = 22


@dataclass(frozen=True)
class FreeState:
    """All that free looks at.

    ``growth`` has mp_, the release and the ABI; its arena takes no part. ``arena_at`` returns the state with the arena
    at an address, None where no arena of the ring is there. ``heap_max_size`` is HEAP_MAX_SIZE. ``tcache`` is the
    address of the calling thread's tcache, 0 where it has none, None where that is not known; ``makes_tcache`` is
    whether free makes one where there is none. ``key`` marks chunks in a tcache: tcache_key (glibc 2.34) or the
    tcache's address (2.29), None where there is no such mark. ``safe_linking`` says whether links are mangled.
    ``max_fast`` is global_max_fast, None where it is not known. ``hook`` is __free_hook where that is honoured (up to
    2.33), else 0.
    """

    memory: Memory
    layout: Layout
    growth: GrowthState
    arena_at: Callable[[int], GrowthState | None]
    main_arena: int
    heap_max_size: int
    tcache: int | None
    makes_tcache: bool
    key: int | None
    safe_linking: bool
    max_fast: int | None
    hook: int = 0

    @property
    def abi(self) -> Abi:
        """What malloc.c is compiled for."""
        return self.growth.abi

    def word(self, address: int) -> int:
        """Return the word at ``address``; raise MemoryFault where it is unreadable, as free would crash there."""
        return self.abi.read_word(self.memory, address % (1 << 8 * self.abi.word_size))

    def size_word(self, chunk: int) -> int:
        """Return the size word of the chunk at ``chunk``; raise MemoryFault as ``word`` does."""
        return self.word(chunk + self.abi.word_size)


@dataclass(frozen=True)
class Step:
    """One decision: ``function`` is glibc's function that takes it, ``text`` the condition with its values."""

    function: str
    text: str


@dataclass(frozen=True)
class Freed:
    """How free ends: ``kind`` is one of ENDS.

    ``message`` is what glibc prints before it aborts. ``chunk`` and ``size`` (bytes) are the free chunk that is left,
    merged with its neighbours; the top chunk before anything of it is given back; or the mapping's chunk. ``arena`` is
    the address of its arena, ``index`` the bin that it goes to, each None where there is none. ``merged`` are the
    addresses of the neighbours that it took in. ``changes`` are full sentences about what else is different.
    """

    kind: str
    message: str | None = None
    chunk: int | None = None
    size: int | None = None
    arena: int | None = None
    index: int | None = None
    merged: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()


#: free under way: it yields a decision or a call, is sent the kernel's answer to a call, and returns how it ends.
Freeing = Generator[Union[Step, Call], int, Freed]


@dataclass(frozen=True)
class Foretold:
    """free of ``pointer``, if it were called now and the kernel refused nothing.

    ``end`` is None where ``unknown`` says why it cannot be told.
    """

    pointer: int
    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    end: Freed | None
    unknown: str | None = None


def foretell(state: FreeState, pointer: int) -> Foretold:
    """Return what free(``pointer``) would do; nothing is raised for a fact that is missing."""
    steps: list[Step] = []
    calls: list[Call] = []
    freeing = free_chunk(state, pointer)
    answer: int | None = None
    try:
        while True:
            item = next(freeing) if answer is None else freeing.send(answer)
            answer = None
            if isinstance(item, Step):
                steps.append(item)
            else:
                calls.append(item)
                answer = item.args[0] if item.syscall == "brk" else 0
    except StopIteration as end:
        return Foretold(pointer, tuple(steps), tuple(calls), end.value)
    except Unpredictable as unknown:
        return Foretold(pointer, tuple(steps), tuple(calls), None, unknown.reason)


class _Abort(Exception):
    """A check that failed; the argument is glibc's message."""


def free_chunk(state: FreeState, pointer: int) -> Freeing:
    """Predict free(``pointer``) in the calling thread, decision by decision.

    A check that fails and memory that is not there are ways for it to end, not errors. Raises Unpredictable where a
    fact that decides is not known.
    """
    try:
        return (yield from _free(state, pointer))
    except _Abort as abort:
        return Freed("abort", message=str(abort))
    except MemoryFault as fault:
        yield Step("free", f"It reads {fault.size} bytes at {fault.address:#x}, which cannot be read: {fault.reason}.")
        return Freed("crash")


def _free(state: FreeState, pointer: int) -> Freeing:
    if state.hook:
        raise Unpredictable(f"__free_hook is set: free calls the function at {state.hook:#x} and does nothing itself.")
    if pointer == 0:
        yield Step("free", "The pointer is 0.")
        return Freed("nothing")
    abi = state.abi
    chunk = pointer - abi.header
    word = state.size_word(chunk)
    if state.layout.tcache_counts_down:
        return (yield from _free_242(state, chunk, word))
    if word & IS_MMAPPED:
        return (yield from _unmap(state, chunk, word, "__libc_free"))
    size = word & ~FLAG_BITS
    growth = _arena_of_chunk(state, chunk, word)
    wraps = chunk > (-size) % (1 << 8 * abi.word_size)
    if wraps or pointer % abi.alignment:
        reason = (
            f"the size word at {chunk + abi.word_size:#x} is {word:#x}, and that many bytes from {chunk:#x} wrap around"
        )
        if pointer % abi.alignment:
            reason = f"the pointer {pointer:#x} is no multiple of {abi.alignment:#x}, as every pointer of malloc's is"
        yield _failed("_int_free", reason)
        raise _Abort("free(): invalid pointer")
    if size < abi.min_size or size % abi.alignment:
        yield _failed(
            "_int_free",
            f"the size word at {chunk + abi.word_size:#x} is {word:#x}; a size is a multiple of {abi.alignment:#x}, at "
            f"least {abi.min_size:#x}",
        )
        raise _Abort("free(): invalid size")
    done = yield from _to_tcache(state, chunk, size, "_int_free")
    if done is not None:
        return done
    function = "_int_free_chunk" if since(state.growth, 2, 41) else "_int_free"
    return (yield from _to_arena(state, growth, chunk, word, function))


def _free_242(state: FreeState, chunk: int, word: int) -> Freeing:
    abi = state.abi
    size = word & ~FLAG_BITS
    if (chunk + abi.header) % abi.alignment:
        yield _failed("free", f"the pointer {chunk + abi.header:#x} is no multiple of {abi.alignment:#x}")
        raise _Abort("free(): invalid pointer")
    done = yield from _to_tcache(state, chunk, size, "free")
    if done is not None:
        return done
    limit = 1 << 8 * abi.word_size
    if size < abi.min_size or chunk + size - abi.min_size >= limit:
        yield _failed(
            "free",
            f"the size word at {chunk + abi.word_size:#x} is {word:#x}; the size should be at least {abi.min_size:#x} "
            "and end within the address space",
        )
        raise _Abort("free(): invalid size")
    growth = _arena_of_chunk(state, chunk, word)
    if word & IS_MMAPPED:
        return (yield from _unmap(state, chunk, word, "_int_free_chunk"))
    return (yield from _to_arena(state, growth, chunk, word, "_int_free_chunk"))


def _failed(function: str, reason: str) -> Step:
    return Step(function, f"This check fails: {reason}.")


def _arena_of_chunk(state: FreeState, chunk: int, word: int) -> GrowthState:
    """Return the state with the chunk's arena (arena_for_chunk)."""
    address = state.main_arena
    if word & NON_MAIN_ARENA:
        if state.layout.heap_info is None:
            raise Unpredictable("The target does not describe heap_info, which names the arena of a chunk.")
        heap = heap_for(chunk, state.heap_max_size)
        address = state.word(heap + state.layout.heap_info.fields["ar_ptr"].offset)
    growth = state.arena_at(address)
    if growth is None:
        raise Unpredictable(
            f"NON_MAIN_ARENA is set in the size word {word:#x}, and what would be its heap_info names an arena at "
            f"{address:#x}, where none is: free would take whatever is there for one."
        )
    return growth


def _unmap(state: FreeState, chunk: int, word: int, function: str) -> Freeing:
    yield Step(function, f"IS_MMAPPED is set in the size word {word:#x}: the chunk is a mapping of its own.")
    done = yield from free_mmapped(state.growth, chunk, state.word(chunk), word)
    if done.error is not None:
        yield _failed(
            "munmap_chunk",
            f"prev_size {state.word(chunk):#x} and the size word {word:#x} of the chunk at {chunk:#x} do not make up a "
            "mapping of whole pages, or the pointer is at no place that malloc gives out in one",
        )
        raise _Abort("munmap_chunk(): invalid pointer")
    return Freed("munmap", chunk=chunk, size=word & ~FLAG_BITS, changes=done.changes)


def _tcache_field(state: FreeState, name: str, index: int) -> int:
    """Return an element of a field of the calling thread's tcache."""
    assert state.layout.tcache is not None
    assert state.tcache
    field = state.layout.tcache.fields[name]
    width = field.size // field.count
    return int.from_bytes(state.memory.read(state.tcache + field.offset + index * width, width), state.abi.byte_order)


def _tcache_index(state: FreeState, size: int) -> int | None:
    """Return the tcache bin that may take a chunk of ``size`` bytes, None where none may."""
    if state.layout.tcache is None or size < state.abi.min_size:
        return None
    params = state.growth.params
    index = tcache_index(state.abi, state.layout, size)
    if state.layout.tcache_counts_down:
        return index if size < params.get("tcache_max_bytes") else None
    return index if index is not None and index < params.get("tcache_bins") else None


def _to_tcache(state: FreeState, chunk: int, size: int, function: str) -> Generator[Step | Call, int, Freed | None]:
    """Try to put the chunk into the tcache; return None where it does not go there."""
    index = _tcache_index(state, size)
    limit = state.growth.params.get("tcache_count")
    if state.layout.tcache is None:
        return None
    if state.tcache is None:
        raise Unpredictable("The tcache of the calling thread cannot be found, and free looks there first.")
    if not state.tcache:
        if not state.makes_tcache:
            yield Step(function, "The thread has no tcache.")
            return None
        if index is None:
            if state.layout.tcache_counts_down:  # it is made for a chunk that fits only
                return None
            raise Unpredictable("The thread has no tcache, so free makes one first, which changes the heap.")
        if limit == 0:
            return None
        yield Step(
            "tcache_init", f"The thread has no tcache yet: one is made first, of {state.layout.tcache.size} bytes."
        )
        yield Step(function, f"Its bin {index} is empty; mp_.tcache_count allows {limit}.")
        return Freed("tcache", chunk=chunk, size=size, index=index)
    if index is None:
        yield Step(function, f"The chunk has {size:#x} bytes, more than a tcache takes.")
        return None
    if state.layout.tcache_counts_down:
        yield from _check_key(state, chunk, range(state.layout.tcache.fields["entries"].count), function)
        places = _tcache_field(state, "num_slots", index)
        taken = limit - places
    else:
        yield from _check_key(state, chunk, (index,), function)
        taken = _tcache_field(state, "counts", index)
        places = max(limit - taken, 0)
    if places:
        yield Step(function, f"tcache bin {index} has {taken} of {limit} chunks (mp_.tcache_count).")
        changes = () if index < SMALL_BINS else ("The bin is kept in order of size.",)
        return Freed("tcache", chunk=chunk, size=size, index=index, changes=changes)
    yield Step(function, f"tcache bin {index} is full: {taken} chunks, and mp_.tcache_count allows {limit}.")
    return None


def _check_key(
    state: FreeState, chunk: int, bins: range | tuple[int, ...], function: str
) -> Generator[Step, int, None]:
    """Look for a double free as free does: only where the word behind the link is the mark of chunks in a tcache."""
    abi, pointer = state.abi, chunk + state.abi.header
    if state.key is None or state.word(pointer + abi.word_size) != state.key:
        return
    limit = state.growth.params.get("tcache_count")
    yield Step(
        function,
        f"The second word of the memory at {pointer:#x} is {state.key:#x}, the mark of chunks in a tcache: it may be "
        "there already.",
    )
    for index in bins:
        entry, count = _tcache_field(state, "entries", index), 0
        while entry:
            if count >= limit and since(state.growth, 2, 33):
                yield _failed(function, f"tcache bin {index} has more chunks than mp_.tcache_count, {limit}")
                raise _Abort("free(): too many chunks detected in tcache")
            if count >= MAX_BIN_CHUNKS:
                raise Unpredictable(f"tcache bin {index} does not end, and free would follow it for ever.")
            if entry % abi.alignment and since(state.growth, 2, 32):
                yield _failed(
                    function, f"{entry:#x} is in tcache bin {index}, and is no multiple of {abi.alignment:#x}"
                )
                raise _Abort("free(): unaligned chunk detected in tcache 2")
            if entry == pointer:
                yield _failed(function, f"the chunk is in tcache bin {index} already, at position {count}")
                raise _Abort("free(): double free detected in tcache 2")
            link = state.word(entry)
            entry = link ^ (entry >> 12) if state.safe_linking else link
            count += 1
    yield Step(function, "It is not in the tcache: the word is the mark by chance, or was left there.")


def _to_arena(state: FreeState, growth: GrowthState, chunk: int, word: int, function: str) -> Freeing:
    abi, size, arena = state.abi, word & ~FLAG_BITS, arena_of(growth)
    if state.layout.has_fastbins and size <= _LARGEST_FAST_WORDS * abi.word_size:
        if state.max_fast is None:
            raise Unpredictable("global_max_fast, the largest chunk for a fastbin, cannot be read.")
        if size <= state.max_fast:
            next_word = state.size_word(chunk + size)
            if _is_bad_size(growth, next_word):
                yield _failed(function, _next_size_text(growth, chunk + size, next_word))
                raise _Abort("free(): invalid next size (fast)")
            index = fastbin_index(abi, size)
            yield Step(
                function,
                f"The chunk has {size:#x} bytes, at most global_max_fast, {state.max_fast:#x}: fastbin {index} takes "
                "it, and it is not merged.",
            )
            if arena.fastbins[index] == chunk:
                yield _failed(function, f"the chunk is the front of fastbin {index} already")
                raise _Abort("double free or corruption (fasttop)")
            return Freed("fastbin", chunk=chunk, size=size, arena=arena.address, index=index)
        yield Step(function, f"The chunk has {size:#x} bytes, more than global_max_fast, {state.max_fast:#x}.")
    return (yield from _merge(state, growth, chunk, word))


def _is_bad_size(growth: GrowthState, word: int) -> bool:
    return word <= growth.abi.header or word & ~FLAG_BITS >= arena_of(growth).system_mem


def _next_size_text(growth: GrowthState, chunk: int, word: int) -> str:
    arena = arena_of(growth)
    return (
        f"the chunk behind it, at {chunk:#x}, has the size word {word:#x}; it should be more than "
        f"{growth.abi.header:#x} and less than system_mem of {arena.name}, {arena.system_mem:#x}"
    )


def _merge(state: FreeState, growth: GrowthState, chunk: int, word: int) -> Freeing:
    """Predict the rest of _int_free, from glibc 2.39 on _int_free_merge_chunk and _int_free_create_chunk."""
    abi, arena = state.abi, arena_of(growth)
    limit = 1 << 8 * abi.word_size
    function = "_int_free_merge_chunk" if since(state.growth, 2, 39) else "_int_free"
    size = word & ~FLAG_BITS
    following = (chunk + size) % limit
    if chunk == arena.top:
        yield _failed(function, f"it is the top chunk of {arena.name}")
        raise _Abort("double free or corruption (top)")
    if arena.contiguous and following >= arena.top + top_size_of(arena):
        end = arena.top + top_size_of(arena)
        yield _failed(
            function, f"the chunk ends at {following:#x}, but {arena.name} ends at {end:#x}, with its top chunk"
        )
        raise _Abort("double free or corruption (out)")
    next_word = state.size_word(following)
    if not next_word & PREV_INUSE:
        yield _failed(
            function,
            f"PREV_INUSE is clear in the chunk behind it, at {following:#x}: that says that it is free already",
        )
        raise _Abort("double free or corruption (!prev)")
    if _is_bad_size(growth, next_word):
        yield _failed(function, _next_size_text(growth, following, next_word))
        raise _Abort("free(): invalid next size (normal)")
    merged: tuple[int, ...] = ()
    if not word & PREV_INUSE:
        before = state.word(chunk)
        chunk = (chunk - before) % limit
        size += before
        yield Step(
            function, f"PREV_INUSE is clear: the chunk before it, at {chunk:#x}, is free, and is merged with it."
        )
        found = state.size_word(chunk) & ~FLAG_BITS
        if found != before and since(state.growth, 2, 29):
            yield _failed(function, f"the chunk before it has {found:#x} bytes, but prev_size says {before:#x}")
            raise _Abort("corrupted size vs. prev_size while consolidating")
        yield from _unlink(state, chunk)
        merged += (chunk,)
    if following == arena.top:
        size += top_size_of(arena)
        merged += (following,)
        yield Step(function, f"The chunk behind it is the top chunk, at {following:#x}: it becomes part of that.")
        done = Freed("top", chunk=chunk, size=size, arena=arena.address, merged=merged)
        growth = with_top(growth, chunk, size)
        return (yield from _trim(state, growth, size, done, function))
    next_size = next_word & ~FLAG_BITS
    if not state.size_word(following + next_size) & PREV_INUSE:
        yield Step(function, f"The chunk behind it, at {following:#x}, is free, and is merged with it.")
        yield from _unlink(state, following)
        size += next_size
        merged += (following,)
    else:
        yield Step(function, f"The chunk behind it, at {following:#x}, is in use: only its PREV_INUSE is cleared.")
    kind, index = "unsorted", 1
    if size < abi.min_large_size and since(state.growth, 2, 41):
        kind, index = "small", bin_index(abi, size)
    header = arena.bin_header(abi, index)
    front = arena.bins[2 * index - 2]
    if front != header and state.word(front + abi.header + abi.word_size) != header:
        name = "the unsorted list" if kind == "unsorted" else f"small bin {index}"
        yield _failed(function, f"bk of the chunk at {front:#x}, the front of {name}, does not lead back to the list")
        raise _Abort(
            "free(): corrupted unsorted chunks" if kind == "unsorted" else "free(): chunks in smallbin corrupted"
        )
    done = Freed(kind, chunk=chunk, size=size, arena=arena.address, index=index, merged=merged)
    return (yield from _trim(state, growth, size, done, function))


def _unlink(state: FreeState, chunk: int) -> Generator[Step, int, None]:
    """Take a free chunk off its list, with the checks of unlink_chunk."""
    abi = state.abi
    word_size, function = abi.word_size, "unlink_chunk"
    size = state.size_word(chunk) & ~FLAG_BITS
    behind = state.word(chunk + size)
    if size != behind and since(state.growth, 2, 26):
        yield _failed(
            function, f"the free chunk at {chunk:#x} has {size:#x} bytes, but prev_size behind it is {behind:#x}"
        )
        raise _Abort("corrupted size vs. prev_size")
    forward, back = state.word(chunk + abi.header), state.word(chunk + abi.header + word_size)
    if state.word(forward + abi.header + word_size) != chunk or state.word(back + abi.header) != chunk:
        yield _failed(
            function, f"fd {forward:#x} and bk {back:#x} of the free chunk at {chunk:#x} do not lead back to it"
        )
        raise _Abort("corrupted double-linked list")
    if size < abi.min_large_size:
        return
    smaller, larger = (state.word(chunk + abi.header + place * word_size) for place in (2, 3))
    if not smaller:
        return
    # As in C, the second is not looked at where the first is wrong.
    back = state.word(smaller + abi.header + 3 * word_size) != chunk
    if back or state.word(larger + abi.header + 2 * word_size) != chunk:
        yield _failed(
            function,
            f"fd_nextsize {smaller:#x} and bk_nextsize {larger:#x} of the free chunk at {chunk:#x} do not lead back",
        )
        raise _Abort("corrupted double-linked list (not small)")


def _trim(state: FreeState, growth: GrowthState, freed: int, end: Freed, function: str) -> Freeing:
    """Predict what free does with a large free chunk: fastbins are merged, and the end of top goes back."""
    if freed < TRIM_OCCASION:
        return end
    arena = arena_of(growth)
    yield Step(
        function, f"The free chunk has {freed:#x} bytes, at least {TRIM_OCCASION:#x}: free looks at the top chunk."
    )
    if _has_fast_chunks(state, growth):
        yield Step("malloc_consolidate", f"The fastbins of {arena.name} are emptied: their chunks are merged.")
        growth = _consolidated(state, growth, end)
    top_size = top_size_of(arena_of(growth))
    threshold = state.growth.params.get("trim_threshold")
    if top_size < threshold:
        yield Step(
            function, f"The top chunk has {top_size:#x} bytes, less than trim_threshold, {threshold:#x}: it stays."
        )
    done = yield from trim_after_free(growth, freed)
    return replace(end, changes=(*end.changes, *done.changes))


def _has_fast_chunks(state: FreeState, growth: GrowthState) -> bool:
    arena, fields = arena_of(growth), state.layout.state.fields
    if not state.layout.has_fastbins:
        return False
    flag = fields.get("have_fastchunks")
    if flag is None:  # up to glibc 2.26: FASTCHUNKS_BIT, and set means that there are none
        return not arena.flags & 1
    return any(state.memory.read(arena.address + flag.offset, flag.size))


def _consolidated(state: FreeState, growth: GrowthState, end: Freed) -> GrowthState:
    """Return the state with the top chunk that malloc_consolidate leaves.

    The chunks of fastbins that lie before the top chunk, or before one that does, become part of it, and so do the
    free chunks between them. Raises Unpredictable where a fastbin cannot be followed.
    """
    abi = state.abi
    ends: dict[int, tuple[int, int]] = {}
    for head in arena_of(growth).fastbins:
        chunk, count = head, 0
        while chunk:
            word = state.size_word(chunk)
            ends[chunk + (word & ~FLAG_BITS)] = chunk, word
            link = state.word(chunk + abi.header)
            chunk = link ^ ((chunk + abi.header) >> 12) if state.safe_linking else link
            count += 1
            if count > MAX_BIN_CHUNKS:
                raise Unpredictable("A fastbin of the arena does not end.")
    top, size = arena_of(growth).top, top_size_of(arena_of(growth))
    while top in ends:
        chunk, word = ends.pop(top)
        size += top - chunk
        top = chunk
        if not word & PREV_INUSE:
            before = state.word(top)
            top, size = top - before, size + before
        elif end.kind != "top" and end.chunk is not None and end.size is not None and end.chunk + end.size == top:
            top, size = end.chunk, size + end.size
    return with_top(growth, top, size)
