"""Getting an arena to work on (arena_get, arena_get2, arena_get_retry; malloc/arena.c), and ptmalloc_init."""

from __future__ import annotations

from dataclasses import replace

from gdbheap.ptmalloc.abi import PREV_INUSE
from gdbheap.ptmalloc.arena import NONCONTIGUOUS_BIT
from gdbheap.simulate.arena_choice import ArenaFacts, another_arena, arena_limit
from gdbheap.simulate.arenas import new_arena
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.kernel_calls import absorb, drive, state_of
from gdbheap.simulate.machine import Machine

_BIN_COUNT = 128


def start_malloc(machine: Machine) -> None:
    """Do what the first call of malloc in a process does first, where that has not been done (ptmalloc_init)."""
    if machine.variables.initialized:
        return
    machine.variables.initialized = True
    machine.thread.arena = machine.main_arena
    _init_state(machine, machine.main_arena)
    if machine.has_fastbins:
        machine.variables.max_fast = machine.default_max_fast
    if machine.steps is not None:
        machine.note(
            "move", "ptmalloc_init", "malloc was never called in this process: main_arena's lists are made, all empty."
        )


def _init_state(machine: Machine, arena: int) -> None:
    """Make the lists of an arena, all empty (malloc_init_state)."""
    words, size = machine.words, machine.word_size
    for index in range(1, _BIN_COUNT):
        header = machine.bin_at(arena, index)
        words[header + 2 * size] = words[header + 3 * size] = header
    if arena != machine.main_arena:
        flags = machine.number(arena + machine.flags_at, 4) | NONCONTIGUOUS_BIT
        machine.set_number(arena + machine.flags_at, 4, flags)
    if machine.has_fastbins:
        machine.set_fastchunks(arena, False)
    words[arena + machine.top_at] = machine.bin_at(arena, 1)


def arena_get(machine: Machine, request: int) -> int:
    """Return the arena that the calling thread works on, 0 where there can be none (arena_get)."""
    arena = machine.thread.arena
    if arena is None:
        raise Unpredictable("thread_arena of the calling thread cannot be read.")
    return arena or _arena_get2(machine, request, 0)


def arena_get_retry(machine: Machine, arena: int, request: int) -> int:
    """Return the arena that malloc tries where ``arena`` could not serve a request (arena_get_retry)."""
    if machine.steps is not None:
        machine.note("look", "arena_get_retry", f"{machine.name(arena)} could not serve it: another arena is tried.")
    if arena != machine.main_arena:
        return machine.main_arena
    return _arena_get2(machine, request, arena)


def _facts(machine: Machine) -> ArenaFacts:
    variables = machine.variables
    return ArenaFacts(
        main_arena=machine.main_arena,
        word_size=machine.word_size,
        arena_max=machine.mp("arena_max"),
        arena_test=machine.mp("arena_test"),
        single=variables.single,
        asks_single=machine.asks_single,
        thread_arena=machine.thread.arena,
        free_list=variables.free_list,
        narenas=variables.narenas,
        narenas_limit=variables.narenas_limit,
        processors=machine.glibc.processors,
    )


def _arena_get2(machine: Machine, request: int, avoid: int) -> int:
    facts = _facts(machine)
    choice = another_arena(facts, ("The thread has no arena yet.",))
    if machine.steps is not None:
        for text in choice.why:
            machine.note("look", "arena_get2", text)
    if choice.reason == "left-over":
        assert choice.arena is not None
        return _take_over(machine, choice.arena)
    machine.variables.narenas_limit = arena_limit(facts) or 0
    if choice.reason == "new":
        return _make(machine, request)
    return _share(machine, avoid)


def _attach(machine: Machine, arena: int, delta: int) -> None:
    if arena:
        field = machine.layout.state.fields["attached_threads"]
        address = arena + field.offset
        machine.set_number(address, field.size, machine.number(address, field.size) + delta)


def _take_over(machine: Machine, arena: int) -> int:
    """Let the thread have an arena that ended threads left behind (get_free_list)."""
    machine.variables.free_list = machine.words[arena + machine.layout.state.fields["next_free"].offset]
    _attach(machine, machine.thread.arena or 0, -1)
    _attach(machine, arena, 1)
    machine.thread.arena = arena
    return arena


def _share(machine: Machine, avoid: int) -> int:
    """Let the thread share an arena: the first from next_to_use on whose lock is free (reused_arena)."""
    words = machine.words
    if machine.variables.next_to_use is None:
        raise Unpredictable("arena.c's next_to_use, the arena that is shared next, cannot be read.")
    first = machine.variables.next_to_use or machine.main_arena
    next_at = machine.layout.state.fields["next"].offset
    mutex = machine.layout.state.fields["mutex"]
    found, seen = first, 0
    while machine.number(found + mutex.offset, mutex.size):
        found = words[found + next_at]
        seen += 1
        if found == first:
            if found == avoid:
                found = words[found + next_at]
            break
        if seen > 0x10000:
            raise machine.loop("The ring of arenas")
    _attach(machine, machine.thread.arena or 0, -1)
    _attach(machine, found, 1)
    machine.thread.arena = found
    machine.variables.next_to_use = words[found + next_at]
    if machine.steps is not None:
        machine.note("look", "reused_arena", f"The thread shares {machine.name(found)}, whose lock is free.", found)
    return found


def _make(machine: Machine, request: int) -> int:
    """Make an arena for the thread (_int_new_arena); return 0 where that fails."""
    words, size, variables = machine.words, machine.word_size, machine.variables
    before = state_of(machine, None)
    done = drive(machine, new_arena(before, request))
    after = done.state
    variables.aligned_heap_area = after.aligned_heap_area
    heap = after.heap
    if heap is None or done.top is None or done.top_size is None:
        return 0
    absorb(machine, replace(before, heap=None), replace(after, arena=None))
    arena = heap.arena
    variables.numbers = {**variables.numbers, arena: len(variables.numbers)}
    _init_state(machine, arena)
    _attach(machine, arena, 1)
    fields = machine.layout.state.fields
    words[arena + machine.system_mem_at] = words[arena + fields["max_system_mem"].offset] = heap.size
    words[arena + machine.top_at] = done.top
    words[done.top + size] = done.top_size | PREV_INUSE
    words[arena + fields["next"].offset] = words[machine.main_arena + fields["next"].offset]
    words[machine.main_arena + fields["next"].offset] = arena
    if variables.narenas is not None:
        variables.narenas += 1
    _attach(machine, machine.thread.arena or 0, -1)
    machine.thread.arena = arena
    if machine.steps is not None:
        machine.note(
            "move",
            "_int_new_arena",
            f"{machine.name(arena)} is made at {arena:#x}, in a heap of {heap.size:#x} bytes, and the thread keeps it.",
            arena,
        )
    return arena
