"""Which threads are inside malloc, and what of the heap they may be changing at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.frames import FrameReader
from gdbheap.debugger.locks import Visit, awaited_lock, held_locks
from gdbheap.debugger.target import Target, each_thread
from gdbheap.growth.event import Frame
from gdbheap.growth.inside import MallocCode, aborts, inside_malloc
from gdbheap.growth.names import INTERNAL, PUBLIC, WRAPPERS, function_of, in_libc, known_to_libc
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.unsettled import Inside, Unsettled

#: Functions of malloc's that change lists and that no name of growth.names has, as the kernel is not called there.
_INSIDE = INTERNAL | frozenset(
    {
        "unlink_chunk",
        "tcache_thread_freeres",
        "tcache_double_free_verify",
        "detach_arena",
        "get_free_list",
        "mtrim",
        "arena_get2",
        "do_set_mxfast",
    }
    | {"_int_free_check", "tcache_free", "int_mallinfo", "__malloc_info", "__malloc_fork_lock_parent"}
    | {"__malloc_fork_unlock_parent", "__malloc_fork_unlock_child"}
)
#: What frees the chunks of a tcache one by one when its thread ends; the thread has no tcache any more then.
_GIVES_BACK = "tcache_thread_shutdown"
#: What changes the tcache of the calling thread and nothing else.
_TCACHE = frozenset({"tcache_get", "tcache_put", "tcache_get_n", "tcache_put_n"})
#: Where malloc, and nothing else of libc's, ends that has found the heap corrupt; a caller may have left the stack.
_OWN_END = frozenset({"malloc_printerr", "malloc_printerr_tail", "__malloc_assert"})
#: That, and where others end as well.
FATAL = _OWN_END | {"__libc_assert_fail", "__assert_fail", "__libc_message"}
#: Signals that the processor raises: memory that is not there, or not as it must be.
_FAULTS = (4, 7, 8, 11)
#: Those and abort's: what ends a program unless it takes care.
_FATAL_SIGNALS = (*_FAULTS, 6)
#: How the names of those functions begin that copy for malloc.
_COPYING = ("memcpy", "memset", "memmove", "__mem")
#: How a thread ends the program by itself: abort sends this signal to its own thread.
_SIGABRT, _SI_TKILL = 6, -6
#: What malloc calls: functions that may be the newest of a thread that is inside malloc.
_CALLED = WRAPPERS | FATAL | frozenset({"abort", "raise", "gsignal", "pthread_kill", "memcpy", "memset", "memmove"})


@dataclass
class Busy:
    """What may be between two steps: arenas and tcaches by address, each with the sentence that says so.

    ``running`` is the sentence on threads that run meanwhile (anything may be changing then), None where all stand.
    ``dead`` are the threads (GDB's numbers) that will not go on: stopped inside malloc by a fault or by malloc itself,
    each with the newest frames of its stack. ``signalled`` are those that a signal of someone else's stopped there,
    which may go on. ``ending_tcaches`` are the tcaches, by thread, that threads are giving back at their end. ``notes``
    are sentences on what could not be looked at. ``unsettled`` is the same for those who show the heap.
    """

    arenas: dict[int, str] = field(default_factory=dict)
    tcaches: dict[int, str] = field(default_factory=dict)
    dead: dict[int, Sequence[Frame]] = field(default_factory=dict)
    signalled: dict[int, Sequence[Frame]] = field(default_factory=dict)
    ending_tcaches: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    running: str | None = None
    unsettled: Unsettled = field(default_factory=Unsettled)


def unsettled_now() -> Unsettled | None:
    """Return what may be changing in the heap of the selected process, None where that heap is not known."""
    try:
        target = session.target()
        state = read_heap_state(target.memory, target.abi, target.layout, target.main_arena, target.mp)
    except (TargetError, MemoryFault):
        return None
    return read_busy(target, state).unsettled


def read_busy(target: Target, state: HeapState) -> Busy:
    """Return what the threads of the selected inferior may be changing."""
    busy = Busy()
    names = {arena.address: arena.name for arena in state.ring.arenas}
    reader = FrameReader()
    excused: set[int] = set()  # arenas whose lock a thread holds that will not go on
    code = target.malloc_code
    running = sorted(thread.num for thread in gdb.selected_inferior().threads() if thread.is_running())
    entered: list[Inside] = []
    visits: list[Visit] = []
    unread: list[str] = []
    blind: list[str] = []
    for thread in each_thread():
        if thread.is_running():
            continue
        try:
            stack = reader.read()
        except gdb.error:
            unread.append(f"The stack of thread {thread.num} cannot be read, so it may be inside malloc.")
            continue
        frames = stack.frames
        if stack.blind and _may_be_inside(frames, code):
            where = f"The stack of thread {thread.num} cannot be followed through libc, so it may be inside malloc"
            blind.append(f"{where}.")
            for address in names:
                busy.arenas.setdefault(address, f"{where}; lists of any arena may be between two steps.")
            tcache = target.tcache_address(thread)
            if tcache:
                busy.tcaches[tcache] = f"{where}; its tcache may be between two steps."
            continue
        inside = malloc_places(frames, code)
        if inside and _is_at_entry(frames, inside):
            inside = []
        visits.append(Visit(thread.num, frames, inside, awaited_lock(frames)))
        malloc = [frames[place] for place in inside]
        # What waits for a lock where malloc begins is not in the middle of anything.
        waits = visits[-1].lock is not None and all(function_of(frame) in PUBLIC for frame in malloc)
        if not malloc:
            if any(function_of(frame) in _OWN_END and in_libc(frame) for frame in frames):
                busy.dead[thread.num] = frames
                excused.update(names)
                entered.append(Inside(thread.num, "", "", (), False, True))
            continue
        if any(function_of(frame) == _GIVES_BACK for frame in malloc):
            ending = _local(stack.of_gdb, _GIVES_BACK, "tcache_tmp")
            if ending:
                busy.ending_tcaches[thread.num] = ending
        av = next((frame.variables["av"] for frame in malloc if frame.variables.get("av")), None)
        if _is_dead(frames, inside):
            busy.dead[thread.num] = frames
            excused.update(names if av is None else {av})
            entered.append(
                _inside(thread.num, malloc, [names[av]] if av in names else list(names.values()), True, True)
            )
            continue
        if _signal() in _FATAL_SIGNALS:
            busy.signalled[thread.num] = frames
        function = function_of(malloc[-1])
        function = PUBLIC.get(function, function) or "a function of malloc's own"
        tcache = target.tcache_address(thread)
        where = f"Thread {thread.num} is inside {function}"
        if tcache:
            busy.tcaches[tcache] = f"{where}; its tcache may be between two steps."
        if code is None and all(function_of(frame) in PUBLIC or function_of(frame) in _TCACHE for frame in malloc):
            if not waits:
                entered.append(_inside(thread.num, malloc, [], bool(tcache)))
            continue  # the arena's lists are changed by functions of their own
        changed = [names[av]] if av in names else list(names.values())
        if not waits:
            entered.append(_inside(thread.num, malloc, changed, bool(tcache)))
        for address in [av] if av in names else names:
            busy.arenas.setdefault(address, f"{where}; lists of {names[address]} may be between two steps.")
    known = not running and not unread and not blind
    offset = state.layout.state.fields["mutex"].offset
    locks = held_locks(state.ring.arenas, offset, visits, known)
    busy.unsettled = Unsettled(tuple(running), tuple(entered), locks, (*unread, *blind))
    busy.notes += unread
    if running:
        busy.running = _running(running)
        busy.notes.append(busy.running)
    for arena in () if running else state.ring.arenas:
        if arena.mutex and arena.address not in busy.arenas and arena.address not in excused:
            busy.arenas[arena.address] = (
                f"The lock of {arena.name} is held, and no thread whose stack can be read is inside malloc; its lists "
                f"may be between two steps."
            )
    return busy


def _running(threads: Sequence[int]) -> str:
    several = f"Threads {', '.join(map(str, threads))} are" if len(threads) > 1 else f"Thread {threads[0]} is"
    return f"{several} running: memory may change while it is read, so what is found may be a step of theirs."


def _inside(thread: int, malloc: Sequence[Frame], arenas: Sequence[str], tcache: bool, ended: bool = False) -> Inside:
    call = function_of(malloc[-1])
    return Inside(thread, function_of(malloc[0]), PUBLIC.get(call, call), tuple(arenas), tcache, ended)


def _is_at_entry(frames: Sequence[Frame], inside: Sequence[int]) -> bool:
    """Whether the selected thread stands where a breakpoint on a public function stops it: it has done no step yet."""
    frame = frames[0]
    if list(inside) != [0] or function_of(frame) not in PUBLIC:
        return False
    try:
        _, locations = gdb.decode_line(f"'{frame.function}'")
    except gdb.error:
        return False
    return any(item.pc == frame.pc for item in locations or ())


def is_malloc(frame: Frame) -> bool:
    """Return whether a frame is of glibc's malloc, one of its public functions included."""
    name = function_of(frame)
    if name not in _INSIDE and name not in PUBLIC and name not in _TCACHE:
        return False
    return in_libc(frame) or (frame.objfile is not None and known_to_libc(name) and name not in PUBLIC)


def malloc_places(frames: Sequence[Frame], code: MallocCode | None) -> list[int]:
    """Return the places of the frames that are inside malloc, the newest first; ``code`` is the target's."""
    return inside_malloc(frames, [is_malloc(frame) for frame in frames], code)


def _may_be_inside(frames: Sequence[Frame], code: MallocCode | None) -> bool:
    """Whether the selected thread may be inside malloc, where of libc's part of its stack the newest frame is known.

    malloc calls nothing else of libc's that waits, nor anything outside.
    """
    newest = frames[-1]
    name = function_of(newest)
    if len(frames) > 1 or (name and name not in _CALLED and not is_malloc(newest)):
        return bool(malloc_places(frames, code))
    return _siginfo() != (_SIGABRT, _SI_TKILL)  # what has aborted is behind its last step, in malloc or elsewhere


def _is_dead(frames: Sequence[Frame], inside: Sequence[int]) -> bool:
    """Whether the selected thread was stopped in malloc by a fault, or by malloc's own checks."""
    if aborts(frames, inside) or any(function_of(frame) in FATAL for frame in frames[: inside[0]]):
        return True
    number, code = _siginfo()
    # memcpy of realloc, and memset of calloc, work for malloc.
    inner = all(function_of(frame).startswith(_COPYING) for frame in frames[: inside[0]])
    return number in _FAULTS and code > 0 and inner


def _local(frames: Sequence[gdb.Frame], function: str, name: str) -> int | None:
    """Return a variable of the newest of these frames that is of ``function``, None where it is not known."""
    for frame in frames:
        if frame.name() == function:
            try:
                value = frame.read_var(name)
                return None if value.is_optimized_out else int(value)
            except (gdb.error, ValueError, RuntimeError):
                return None
    return None


def _siginfo() -> tuple[int, int]:
    """Return the number and the code of the signal that has stopped the selected thread, zeros where none did."""
    try:
        signal = gdb.parse_and_eval("$_siginfo")
        return int(signal["si_signo"]), int(signal["si_code"])
    except (gdb.error, ValueError):
        return 0, 0


def _signal() -> int:
    return _siginfo()[0]
