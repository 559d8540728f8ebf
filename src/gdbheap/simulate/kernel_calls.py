"""Running the parts of the allocator that call the kernel on a machine: its state in, the state that they leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.abi import IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, round_down
from gdbheap.ptmalloc.arena import Arena, decode_arena, read_top_size
from gdbheap.ptmalloc.heaps import HeapInfo, heap_for, read_heap
from gdbheap.simulate.arenas import heap_trim, leftover
from gdbheap.simulate.calls import Call, Calling, Steps, Unpredictable
from gdbheap.simulate.kernel import MAP_HUGETLB
from gdbheap.simulate.linux import apply
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.mmapped import MMAP_HP
from gdbheap.simulate.state import GrowthState, OlderHeap, TrimWalk
from gdbheap.simulate.trace import Abort, assertion_in
from gdbheap.simulate.trim import TRIM_OCCASION, trim_after_free

T = TypeVar("T")
#: How the simulated parts begin the sentence about a check that fails.
_ABORTS = "malloc aborts with: "


def drive(machine: Machine, steps: Calling[T], called: Callable[[Call], None] | None = None) -> T:
    """Run ``steps`` to their end: the machine's kernel answers their calls, and its memory follows.

    ``called`` is told of each call once that is done.
    """
    try:
        call = next(steps)
        while True:
            before = machine.variables.curbrk
            if call.syscall == "brk" and "__morecore" in machine.glibc.hooks:
                raise Unpredictable("__morecore is set: a function of the program's is asked for memory.")
            answer = machine.kernel.answer(call)
            for text in call.why if machine.steps is not None else ():
                machine.note("look", call.source.partition(" ")[0], text)
            if machine.steps is not None:
                machine.note("call", call.source.partition(" ")[0], f"It calls {call.syscall}.")
            machine.calls.append((call, answer))
            apply(machine.words, call, answer, before)
            if call.syscall == "brk":
                machine.variables.curbrk = answer
            if called is not None:
                called(call)
            call = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def state_of(machine: Machine, arena: int | None, trim: TrimWalk | None = None) -> GrowthState:
    """Return what the parts that call the kernel look at, with the ``arena`` that they work on."""
    decoded = None if arena is None else _without_lists(machine, arena)
    heap, older = None, None
    if decoded is not None and not decoded.is_main:
        heap, older = _heaps(machine, decoded)
    layout, glibc = machine.layout, machine.glibc
    return GrowthState(
        abi=machine.abi,
        params=machine.params,
        arena=decoded,
        curbrk=machine.variables.curbrk,
        heap=heap,
        aligned_heap_area=machine.variables.aligned_heap_area,
        release=glibc.release,
        older_heaps=older,
        heap_info_size=None if layout.heap_info is None else layout.heap_info.size,
        malloc_state_size=layout.state.size,
        may_shrink_heap=glibc.may_shrink_heap,
        always_fail_morecore=glibc.always_fail_morecore,
        trim=trim,
        top_is_damaged=decoded is not None and _is_damaged(machine, decoded),
    )


def _is_damaged(machine: Machine, arena: Arena) -> bool:
    """Whether the top chunk of an arena, if there is one, is none that sysmalloc can go on with."""
    if arena.top in (0, machine.bin_at(arena.address, 1)):
        return False
    word = machine.words[arena.top + machine.word_size]
    return not word & PREV_INUSE or word & -8 < machine.min_size


def arena_of_machine(machine: Machine, address: int) -> Arena:
    """Return the arena at ``address`` as the machine's memory has it."""
    abi, layout, words = machine.abi, machine.layout, machine.words
    number = 0 if address == machine.main_arena else machine.variables.numbers.get(address, 1)
    data = words.read(address, layout.state.size)
    return decode_arena(abi, layout, address, number, data, read_top_size(words, abi, layout, address, data))


def _without_lists(machine: Machine, address: int) -> Arena:
    """Return the arena at ``address`` without its lists, which what calls the kernel does not look at."""
    words, top = machine.words, machine.words[address + machine.top_at]
    has_top = top not in (0, machine.bin_at(address, 1))  # bin 1's header is initial_top
    fields = machine.layout.state.fields
    return Arena(
        address=address,
        number=0 if address == machine.main_arena else machine.variables.numbers.get(address, 1),
        mutex=0,
        flags=machine.number(address + machine.flags_at, 4),
        top=top,
        top_size=machine.size(top) if has_top else 0,
        last_remainder=words[address + machine.remainder_at],
        fastbins=(),
        bins=(),
        bins_address=address + fields["bins"].offset,
        binmap=(),
        next=0,
        next_free=0,
        attached_threads=0,
        system_mem=words[address + machine.system_mem_at],
        max_system_mem=words[address + fields["max_system_mem"].offset],
    )


def _heaps(machine: Machine, arena: Arena) -> tuple[HeapInfo, tuple[OlderHeap, ...] | None]:
    abi, layout, words = machine.abi, machine.layout, machine.words
    max_size = machine.heap_max_size
    heap = read_heap(words, abi, layout, heap_for(arena.top, max_size), max_size)
    older: list[OlderHeap] = []
    assert layout.heap_info is not None  # read_heap has refused that
    if arena.top != heap.address + layout.heap_info.size:
        return heap, None  # no older one can become the newest
    seen, place = {heap.address}, heap.prev
    while place:
        if place in seen:
            return heap, None
        seen.add(place)
        try:
            found = read_heap(words, abi, layout, place, max_size)
            older.append(OlderHeap(found, leftover(words, abi, found)))
        except MemoryFault:
            return heap, None
        place = found.prev
    return heap, tuple(older)


def absorb(machine: Machine, before: GrowthState, after: GrowthState) -> None:
    """Write into the machine's memory what differs between two states."""
    if after.params is not before.params:
        for name, value in after.params.values.items():
            if value != before.params.values.get(name):
                machine.set_mp(name, value)
    machine.variables.curbrk = after.curbrk
    machine.variables.aligned_heap_area = after.aligned_heap_area
    if after.heap is not None and after.heap != before.heap:
        _write_heap(machine, after.heap)
    arena, old = after.arena, before.arena
    if arena is None or old is None:
        return
    words, at = machine.words, arena.address
    if arena.top != old.top:
        words[at + machine.top_at] = arena.top
    if arena.top_size is not None and (arena.top, arena.top_size) != (old.top, old.top_size):
        words[arena.top + machine.word_size] = arena.top_size | PREV_INUSE
    if arena.flags != old.flags:
        machine.set_number(at + machine.flags_at, 4, arena.flags)
    words[at + machine.system_mem_at] = arena.system_mem
    words[at + machine.layout.state.fields["max_system_mem"].offset] = arena.max_system_mem


def _write_heap(machine: Machine, heap: HeapInfo) -> None:
    assert machine.layout.heap_info is not None
    fields = machine.layout.heap_info.fields
    values = {
        "ar_ptr": heap.arena,
        "prev": heap.prev,
        "size": heap.size,
        "mprotect_size": heap.mprotect_size,
        "pagesize": heap.page_size,
    }
    for name, value in values.items():
        if name in fields:
            machine.words[heap.address + fields[name].offset] = value


def run(machine: Machine, before: GrowthState, steps: Steps) -> tuple[GrowthState, int | None, str | None]:
    """Run ``steps``, which began with the state ``before``, and write what they leave behind into the memory.

    Return the state afterwards, the chunk that they got, and the sentence that says why they failed. Raises Abort
    where glibc would abort.
    """
    done = drive(machine, steps)
    error = done.error
    if error is not None and error.startswith(("malloc aborts",)):
        message = error[len(_ABORTS) :].rstrip(".") if error.startswith(_ABORTS) else assertion_in("sysmalloc")
        machine.note("fail", "sysmalloc", error)
        raise Abort(message)
    absorb(machine, before, done.state)
    machine.changes += done.changes
    for change in done.changes:
        machine.note("move", "sysmalloc", change)
    return done.state, done.chunk, error


def trim_after(machine: Machine, arena: int, size: int) -> None:
    """Give back what free gives back once it has a free chunk of ``size`` bytes (at least TRIM_OCCASION)."""
    assert size >= TRIM_OCCASION
    if arena == machine.main_arena and machine.size(machine.words[arena + machine.top_at]) < machine.mp(
        "trim_threshold"
    ):
        if machine.steps is not None:
            top = machine.size(machine.words[arena + machine.top_at])
            machine.note(
                "look",
                "systrim",
                f"The top chunk has {top:#x} bytes, less than trim_threshold, {machine.mp('trim_threshold'):#x}: "
                "nothing is given back.",
            )
        return
    before = state_of(machine, arena)
    if arena == machine.main_arena:
        run(machine, before, trim_after_free(before, size))
    else:
        trim_heap(machine, before, machine.mp("top_pad"))


def trim_heap(machine: Machine, before: GrowthState, pad: int) -> None:
    """Give back the end of an arena other than main_arena, and whole heaps of it (heap_trim)."""
    older = iter(before.older_heaps or ())

    def called(call: Call) -> None:
        # Before more of the top chunk goes back, and the links of what was free at its start with it.
        if call.path == "heap-unmap":
            _unlink_last(machine, next(older).heap)

    done = drive(machine, heap_trim(before, pad), called)
    absorb(machine, before, done.state)
    machine.changes += done.changes
    for change in done.changes:
        machine.note("move", "heap_trim", change)


def _unlink_last(machine: Machine, heap: HeapInfo) -> None:
    """Take the free chunk at the end of a heap off its list: it becomes the top chunk (heap_trim)."""
    words, abi = machine.words, machine.abi
    end = heap.address + heap.size
    fencepost = round_down(end - (abi.min_size - abi.header), abi.alignment)
    last = fencepost - words[fencepost]
    if not words[last + abi.word_size] & PREV_INUSE:
        machine.unlink("heap_trim", last - words[last])


def write_mapped_chunk(machine: Machine, chunk: int, size: int, offset: int, huge: bool = False) -> None:
    """Write the header of a chunk that is a mapping of its own: ``size`` bytes are left behind ``offset``."""
    words = machine.words
    if machine.has_fastbins:  # up to 2.42
        words[chunk] = offset
        words[chunk + machine.word_size] = size | IS_MMAPPED
    else:
        words[chunk] = offset | (MMAP_HP if huge else 0)
        words[chunk + machine.word_size] = (size - machine.header) | IS_MMAPPED


def finish_growth(machine: Machine, before: GrowthState, after: GrowthState, chunk: int, nb: int) -> bool:
    """Write the header of the chunk that sysmalloc got; return whether it is a mapping of its own."""
    mapped = [item for item in machine.calls if item[0].path in ("mmap-chunk", "mmap-chunk-huge")]
    if after.params.get("n_mmaps") > before.params.get("n_mmaps") and mapped:
        call, answer = mapped[-1]
        huge = bool(call.args[3] & MAP_HUGETLB)
        write_mapped_chunk(machine, chunk, answer + call.args[1] - chunk, chunk - answer, huge)
        return True
    flag = 0 if before.arena is None or before.arena.is_main else NON_MAIN_ARENA
    machine.words[chunk + machine.word_size] = nb | PREV_INUSE | flag
    return False
