"""What the program can ask malloc about its heap, and the end of a thread: calls that go along the lists."""

from __future__ import annotations

from collections.abc import Iterator

from gdbheap.ptmalloc.bins import LAST_BIN
from gdbheap.simulate.arena_get import start_malloc
from gdbheap.simulate.circle import Circle
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.public import free

#: Chunks of one tcache bin that are given back; one that has more does not end.
_MOST = 1 << 17


def mallinfo(machine: Machine) -> None:
    """Do mallinfo or mallinfo2: it adds up what is on the lists of all arenas (int_mallinfo)."""
    start_malloc(machine)
    words, size = machine.words, machine.word_size
    for arena in _arenas(machine):
        machine.size(words[arena + machine.top_at])
        for _, chunk in _fast_chunks(machine, arena, "int_mallinfo"):
            machine.size(chunk)
        for index in range(1, LAST_BIN + 1):
            header = machine.bin_at(arena, index)
            chunk, circle = words[header + 3 * size], Circle(machine, f"Bin {index} of {machine.name(arena)}")
            while chunk != header:
                circle.visit(chunk)
                machine.size(chunk)
                chunk = words[chunk + 3 * size]


def malloc_info(machine: Machine) -> None:
    """Do malloc_info, which counts chunks by size (__malloc_info)."""
    start_malloc(machine)
    words, size = machine.words, machine.word_size
    for arena in _arenas(machine):
        for first, chunk in _fast_chunks(machine, arena, "__malloc_info"):
            if first:
                machine.size(chunk)
        for index in range(1, LAST_BIN + 1):
            header = machine.bin_at(arena, index)
            chunk, circle = words[header + 2 * size], Circle(machine, f"Bin {index} of {machine.name(arena)}")
            if not chunk:
                continue  # the arena has no lists yet
            while chunk != header:
                circle.visit(chunk)
                machine.size(chunk)
                chunk = words[chunk + 2 * size]


def _arenas(machine: Machine) -> Iterator[int]:
    next_at = machine.layout.state.fields["next"].offset
    arena, seen = machine.main_arena, 0
    while True:
        yield arena
        arena = machine.words[arena + next_at]
        seen += 1
        if arena == machine.main_arena:
            return
        if seen > 0x10000:
            raise machine.loop("The ring of arenas")
        machine.lock(arena)


def _fast_chunks(machine: Machine, arena: int, function: str) -> Iterator[tuple[bool, int]]:
    """Yield the chunks in fastbins, each with whether it is the front of its bin; they are checked before that."""
    for index in range(machine.fastbin_count):
        chunk, first = machine.words[arena + machine.fastbins_at + index * machine.word_size], True
        circle = Circle(machine, f"Fastbin {index} of {machine.name(arena)}")
        while chunk:
            circle.visit(chunk)
            if (chunk + machine.header) & machine.align_mask and machine.safe_linking:
                raise machine.abort(
                    function,
                    f"{function}(): unaligned fastbin chunk detected",
                    f"the chunk at {chunk:#x} on fastbin {index} is not aligned",
                )
            yield first, chunk
            chunk, first = machine.reveal(chunk + machine.header), False


def end_thread(machine: Machine) -> None:
    """Do what the end of the calling thread does, one that pthread_create made (__malloc_arena_thread_freeres).

    Its tcache is given back chunk by chunk, and its arena is left (tcache_thread_shutdown).
    """
    if machine.has_own_tcache:
        tcache, machine.thread.tcache = machine.thread.tcache or 0, -1
        _empty(machine, tcache)
        free(machine, tcache)
    arena, machine.thread.arena = machine.thread.arena, 0
    if arena:
        field = machine.layout.state.fields["attached_threads"]
        count = machine.number(arena + field.offset, field.size)
        if not count:
            raise machine.assertion("__malloc_arena_thread_freeres", "the arena has threads")
        machine.set_number(arena + field.offset, field.size, count - 1)


def _empty(machine: Machine, tcache: int) -> None:
    words, size = machine.words, machine.word_size
    for index in range(machine.entries_count):
        front, seen = tcache + machine.entries_at + index * size, 0
        while entry := words[front]:
            if entry & machine.align_mask and machine.safe_linking:
                raise machine.abort(
                    "tcache_thread_shutdown",
                    "tcache_thread_shutdown(): unaligned tcache chunk detected",
                    f"the entry {entry:#x} of tcache bin {index} is not aligned",
                )
            words[front] = machine.reveal(entry)
            free(machine, entry)
            seen += 1
            if seen > _MOST:
                raise machine.loop(f"Tcache bin {index}")
