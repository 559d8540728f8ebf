"""The model of the stopped process, built for one command and then dropped: nothing in it can go stale."""

from __future__ import annotations

from collections.abc import Sequence

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.catch import RECORDER
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.interposed import is_malloc_debug, other_malloc
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.processes import local_pid, shown_as
from gdbheap.debugger.target import Target, each_thread, is_core, stack_pointer
from gdbheap.debugger.tcaches import tcache_places, why_not_its_own, why_unknown
from gdbheap.growth.initial import Initial
from gdbheap.growth.starts import region_starts
from gdbheap.memory import Memory, MemoryFault, PageCache
from gdbheap.ptmalloc import account
from gdbheap.ptmalloc.abi import FLAG_BITS
from gdbheap.ptmalloc.account import Account, FreeFacts
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.kernel import KernelFacts
from gdbheap.ptmalloc.mapped_regions import mapped_starts
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import Tcache, read_tcache, tcache_is_dummy
from gdbheap.render.escape import printable

_DEBUGGING = (
    " That library is glibc's own malloc, compiled once more with its checks (MALLOC_CHECK_, mcheck, mtrace): what it "
    "has is in variables of its own."
)


def read_state() -> HeapState:
    """Return malloc's own variables now; raise TargetError where there is no heap, or nothing in it yet."""
    target = session.target()
    state = read_heap_state(target.memory, target.abi, target.layout, target.main_arena, target.mp)
    if not state.in_use:
        other = other_malloc()
        if other is not None:
            raise TargetError(not_glibcs(other))
        raise TargetError(
            "malloc has not taken any memory from the kernel yet: there is no heap before the program's first malloc."
        )
    return state


def not_glibcs(other: str) -> str:
    """Return the sentence for a program that has its malloc from the file ``other``, and nothing from glibc's."""
    more = _DEBUGGING if is_malloc_debug(other) else ""
    return (
        f"This program's malloc is that of {printable(other)}, not glibc's: glibc's heap is empty, and gdbheap knows "
        f"no other.{more} 'heap catch' shows which memory it gets."
    )


def threads_of_arenas(state: HeapState) -> dict[int, list[int]]:
    """Return the threads (GDB's numbers) that use each arena, by the arena's address.

    A thread that has not called malloc has none; nor is one listed whose thread-local variables cannot be read.
    """
    target = session.target()
    users: dict[int, list[int]] = {}
    for thread in each_thread():
        address = target.symbols.thread_local("thread_arena")
        try:
            arena = 0 if address is None else target.abi.read_word(target.memory, address)
        except MemoryFault:
            continue
        if arena:
            users.setdefault(arena, []).append(thread.num)
    return users


def read_tcaches(target: Target) -> tuple[dict[int, Tcache], list[str]]:
    """Return every thread's tcache by GDB's thread number, and a sentence for each thread whose tcache is not known."""
    if target.layout.tcache is None:
        return {}, []
    found: dict[int, Tcache] = {}
    problems: list[str] = []
    memory = PageCache(target.memory)
    key = target.word("tcache_key")  # 2.34
    for thread, (address, owner) in tcache_places(target):
        if address is None:
            problems.append(
                f"The tcache of thread {thread.num} cannot be found ({why_unknown(target)}), "
                "so chunks in it are shown as used: 'set heap tcache ADDRESS' in that thread gives it."
            )
        elif not tcache_is_dummy(target.symbols, target.layout, address):
            if owner != thread.num:
                problems.append(why_not_its_own(thread.num, owner, address))
                continue
            try:
                found[thread.num] = read_tcache(memory, target.abi, target.layout, address, target.safe_linking, key)
            except MemoryFault as fault:
                problems.append(
                    f"The tcache of thread {thread.num}, at {address:#x}, cannot be read ({fault.reason}), so "
                    "chunks in it are shown as used."
                )
    return found, problems


def free_facts() -> FreeFacts:
    """Return what the free lists of all threads hold now, and what recorded events tell of main_arena's memory."""
    target = session.target()
    tcaches, problems = read_tcaches(target)
    return FreeFacts(tuple(tcaches.values()), target.safe_linking, known_starts(), tuple(problems))


def known_starts() -> tuple[int, ...]:
    """Return where regions of main_arena begin besides sbrk_base, as recorded events tell, or memory alone."""
    history = RECORDER.history
    recorded = region_starts(history.of_process(gdb.selected_inferior().pid), history.caught)
    target = session.target()
    try:
        state = read_heap_state(target.memory, target.abi, target.layout, target.main_arena, target.mp)
    except MemoryFault:
        return recorded
    main = state.ring.arenas[0]
    if main.contiguous or not main.has_top(target.abi):
        return recorded
    taken = [(heap.address, heap.address + heap.max_size) for chain in state.heaps.values() for heap in chain.heaps]
    base = state.params.get("sbrk_base")
    return mapped_starts(heap_memory(), target.abi, main, base, mapped_ranges(), taken, recorded)


def read_account() -> Account:
    """Walk every arena and return what its bytes are; raise TargetError where there is no heap yet."""
    from gdbheap.debugger.progress import Progress

    state = read_state()
    facts, kernel = free_facts(), kernel_facts()
    with Progress(heap_memory()) as memory:
        return account.read_account(memory, state, facts, kernel)


def heap_memory() -> Memory:
    """Return the fastest reader of the heap's memory as it is now; drop it before the process goes on."""
    from gdbheap.debugger.native import ProcessMemory

    memory = session.target().memory
    pid = local_pid()
    if pid is None:
        return memory
    try:
        return ProcessMemory(shown_as(pid), mapped_ranges(), memory)
    except OSError:
        return memory


def kernel_facts() -> KernelFacts:
    """Return what the process has mapped, and what is known of that."""
    from gdbheap.debugger.resident import Resident

    target = session.target()
    resident, why = None, ""
    pid = local_pid()
    if is_core():
        why = "a core file does not tell it"
    elif pid is None:
        why = "the process is not of this machine"
    else:
        try:
            resident = Resident(shown_as(pid))
        except OSError as error:
            why = f"/proc/{pid} cannot be read: {error.strerror}"
    pointers = [pointer for pointer in (stack_pointer() for _ in each_thread()) if pointer is not None]
    return KernelFacts(mapped_ranges(), pointers, target.word("__curbrk") or None, resident, why)


def read_initial() -> Initial:
    """Return what the heap's state tells of its growth; raise TargetError where there is no heap yet."""
    state = read_state()
    target = session.target()
    abi = target.abi
    start = state.params.get("sbrk_base")
    first_chunk = None
    first_owner = None
    if start:
        first = abi.first_chunk(start)
        try:
            size = abi.read_word(target.memory, first + abi.word_size) & ~FLAG_BITS
        except MemoryFault:
            size = 0
        first_chunk = size if abi.min_size <= size <= state.ring.arenas[0].system_mem else None
        tcaches, _ = read_tcaches(target)
        owners = [number for number, tcache in tcaches.items() if tcache.address == first + abi.header]
        first_owner = owners[0] if owners else None
    return Initial(abi, state.params, state.ring.arenas, is_core(), first_chunk, first_owner)


def chosen_arenas(state: HeapState, text: str | None) -> Sequence[Arena]:
    """Return the arenas that ``-arena`` names: by number, address or ``main``; all where it is None.

    Raises TargetError where there is no such arena.
    """
    arenas = state.ring.arenas
    if text is None:
        return arenas
    if text in ("main", "main_arena"):
        return arenas[:1]
    try:
        wanted = int(gdb.parse_and_eval(text))
    except (gdb.error, ValueError):
        wanted = -1
    chosen = [arena for arena in arenas if wanted in (arena.number, arena.address)]
    if not chosen:
        raise TargetError(
            f"There is no arena '{text}': there are {len(arenas)} (0 is main_arena); 'heap arenas' lists them."
        )
    return chosen
