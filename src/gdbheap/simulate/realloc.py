"""realloc (malloc/malloc.c)."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import IS_MMAPPED, PREV_INUSE
from gdbheap.simulate.arena_get import start_malloc
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.int_free import free_inner, unmap
from gdbheap.simulate.int_malloc import chunk_size_for, int_malloc
from gdbheap.simulate.kernel_calls import drive, state_of, write_mapped_chunk
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.mmapped import MMAP_HP, mremap_chunk
from gdbheap.simulate.public import check_hooks, free, init_tcache, malloc, note_refusal, usable_size

_FUNCTION = "_int_realloc"


def realloc(machine: Machine, pointer: int, request: int) -> int | None:
    """Do realloc(``pointer``, ``request``); return the pointer, None for NULL."""
    check_hooks(machine, "__realloc_hook")
    start_malloc(machine)
    if not pointer:
        return malloc(machine, request)
    if not request:
        if machine.steps is not None:
            machine.note("look", "__libc_realloc", "The new size is 0: the chunk is freed, and NULL is returned.")
        machine.errno = ""
        free(machine, pointer)
        return None
    chunk = pointer - machine.header
    if _stays(machine, pointer, request):
        machine.source = "in-place"
        return pointer
    word = machine.words[chunk + machine.word_size]
    size = word & -8
    if not word & IS_MMAPPED and not machine.counts_down:
        init_tcache(machine)
    if chunk > -size % machine.wrap or pointer & machine.align_mask:
        raise machine.abort(
            "__libc_realloc",
            "realloc(): invalid pointer",
            f"the size word at {chunk + machine.word_size:#x} is {word:#x}, and the pointer is {pointer:#x}",
        )
    nb = chunk_size_for(machine, request)
    if nb is None:
        note_refusal(machine, request, "__libc_realloc")
        return None
    if word & IS_MMAPPED:
        return _mapping(machine, chunk, word, nb, request)
    arena = machine.arena_for_chunk(chunk, word)
    machine.lock(arena)
    found = _int_realloc(machine, arena, chunk, size, nb)
    if found is not None or (machine.asks_single and machine.single):
        return found
    if machine.steps is not None:
        machine.note("look", "__libc_realloc", f"{machine.name(arena)} could not serve it: malloc is asked.")
    found = malloc(machine, request)
    if found is not None:
        free_inner(machine, arena, chunk)
    return found


def _stays(machine: Machine, pointer: int, request: int) -> bool:
    """Whether realloc answers the old pointer at once, because little would change."""
    glibc = machine.glibc
    if not glibc.since(2, 37):
        return False
    usable = usable_size(machine, pointer)
    if request > usable:
        return False
    spare = usable - request
    mapped = machine.words[pointer - machine.word_size] & IS_MMAPPED
    stays = spare < 2 * machine.word_size or bool(machine.has_fastbins and mapped and spare <= machine.abi.page_size)
    if stays != (spare <= machine.mp("trim_threshold")) and not glibc.since(2, 38):
        raise Unpredictable(
            f"The chunk has {spare} bytes more than wanted: glibc 2.37.0 leaves it as it is where those are at most "
            "trim_threshold, 2.37's later fixes do not, and the version does not tell which of them this is."
        )
    if stays and machine.steps is not None:
        machine.note(
            "take",
            "__libc_realloc",
            f"The chunk's usable size is {usable} bytes, only {spare} more than wanted: it stays as it is.",
            pointer - machine.header,
        )
    return stays


def _mapping(machine: Machine, chunk: int, word: int, nb: int, request: int) -> int | None:
    """Resize a chunk that is a mapping of its own."""
    words, size = machine.words, word & -8
    pointer = chunk + machine.header
    prev_size = words[chunk]
    usable = usable_size(machine, pointer)
    before = state_of(machine, None)
    done = drive(machine, mremap_chunk(before, chunk, prev_size, word, nb))
    if done.error is not None and done.chunk is None and "aborts" in done.error:
        raise machine.abort(
            "mremap_chunk",
            "mremap_chunk(): invalid pointer",
            f"prev_size {prev_size:#x} and the size word {word:#x} do not make up a mapping of whole pages",
        )
    if done.chunk is not None:
        for name, value in done.state.params.values.items():
            if value != before.params.values.get(name):
                machine.set_mp(name, value)
        machine.source = "in-place" if done.chunk == chunk else "mapping"
        resized = [item for item in machine.calls if item[0].path == "mremap-chunk"]
        if resized:
            call, answer = resized[-1]
            huge = machine.inits_tcache_inside and bool(prev_size & MMAP_HP)
            write_mapped_chunk(machine, done.chunk, answer + call.args[2] - done.chunk, done.chunk - answer, huge)
        if machine.steps is not None:
            text = done.changes[0] if done.changes else f"The mapping is resized; the chunk is at {done.chunk:#x}."
            machine.note("take", "mremap_chunk", text, done.chunk)
        return done.chunk + machine.header
    keeps = request <= usable if machine.inits_tcache_inside else size - machine.word_size >= nb
    if keeps:
        machine.source = "in-place"
        return pointer
    found = malloc(machine, request)
    if found is not None:
        unmap(machine, chunk)
    return found


def _int_realloc(machine: Machine, arena: int, chunk: int, size: int, nb: int) -> int | None:
    words, word_size, flag = machine.words, machine.word_size, machine.flag(arena)
    system_mem = words[arena + machine.system_mem_at]
    word = words[chunk + word_size]
    if word <= machine.header or size >= system_mem:
        raise machine.abort(
            _FUNCTION, "realloc(): invalid old size", f"the size word of the chunk at {chunk:#x} is {word:#x}"
        )
    following = chunk + size
    next_word = words[following + word_size]
    next_size = next_word & -8
    if next_word <= machine.header or next_size >= system_mem:
        raise machine.abort(
            _FUNCTION,
            "realloc(): invalid next size",
            f"the size word of the chunk behind it, at {following:#x}, is {next_word:#x}",
        )
    if machine.steps is not None:
        machine.note(
            "check",
            _FUNCTION,
            f"The sizes of the chunk, {size:#x}, and of the one behind it, at {following:#x}, {next_size:#x}, are "
            "below system_mem.",
            chunk,
        )
    top = words[arena + machine.top_at]
    new_size = size
    if size < nb:
        if following == top and size + next_size >= nb + machine.min_size:
            _set_head_size(machine, chunk, nb | flag)
            words[arena + machine.top_at] = chunk + nb
            words[chunk + nb + word_size] = size + next_size - nb | PREV_INUSE
            machine.source = "in-place"
            if machine.steps is not None:
                machine.note(
                    "take", _FUNCTION, "The top chunk follows and is large enough: the chunk grows into it.", chunk
                )
            return chunk + machine.header
        free_next = following != top and not words[following + next_size + word_size] & PREV_INUSE
        if free_next and size + next_size >= nb:
            if machine.steps is not None:
                machine.note(
                    "take",
                    _FUNCTION,
                    f"The chunk behind it, at {following:#x}, is free and has {next_size:#x} bytes: the chunk grows "
                    "into it.",
                    chunk,
                )
            machine.unlink("unlink_chunk", following)
            new_size = size + next_size
        else:
            if machine.steps is not None:
                machine.note("look", _FUNCTION, "The chunk cannot grow where it is: new memory is looked for.")
            found = int_malloc(machine, arena, nb - machine.align_mask)
            if found is None:
                return None
            new = found - machine.header
            if new != following:
                if machine.steps is not None:
                    machine.note(
                        "move",
                        _FUNCTION,
                        f"The contents are copied to {found:#x}, and the old chunk at {chunk:#x} is freed.",
                        chunk,
                    )
                source = machine.source
                free_inner(machine, arena, chunk)
                machine.source = source
                return found
            new_size = size + machine.size(new)
            if machine.steps is not None:
                machine.note("move", _FUNCTION, "The new chunk is the one that follows: they become one.", chunk)
    elif machine.steps is not None:
        machine.note("take", _FUNCTION, f"The chunk has {size:#x} bytes, at least nb {nb:#x}: it stays.", chunk)
    machine.source = "in-place"
    _split_tail(machine, arena, chunk, new_size, nb)
    return chunk + machine.header


def _set_head_size(machine: Machine, chunk: int, value: int) -> None:
    """Write the size of a chunk and leave its flags P and M as they are (set_head_size)."""
    place = chunk + machine.word_size
    machine.words[place] = machine.words[place] & 7 | value


def _split_tail(machine: Machine, arena: int, chunk: int, size: int, nb: int) -> None:
    words, word_size, flag = machine.words, machine.word_size, machine.flag(arena)
    rest = size - nb
    if rest < machine.min_size:
        _set_head_size(machine, chunk, size | flag)
        words[chunk + size + word_size] |= PREV_INUSE
        return
    tail = chunk + nb
    _set_head_size(machine, chunk, nb | flag)
    words[tail + word_size] = rest | PREV_INUSE | flag
    words[tail + rest + word_size] |= PREV_INUSE
    if machine.steps is not None:
        machine.note("move", _FUNCTION, f"Its last {rest:#x} bytes, at {tail:#x}, are spare: they are freed.", tail)
    free_inner(machine, arena, tail)
