"""Which threads are inside malloc, and what of the heap they may be changing at this moment."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import gdb

from gdbheap.debugger.abort_message import check_of, kept_message
from gdbheap.debugger.frames import FrameReader
from gdbheap.debugger.target import Target, each_thread
from gdbheap.growth.event import Frame
from gdbheap.growth.names import INTERNAL, PUBLIC, function_of, in_libc, known_to_libc
from gdbheap.ptmalloc.state import HeapState

#: Functions of malloc's that change lists and that no name of growth.names has, as the kernel is not called there.
_INSIDE = INTERNAL | frozenset(
    {"unlink_chunk", "tcache_thread_freeres", "detach_arena", "get_free_list", "mtrim", "arena_get2", "do_set_mxfast"}
    | {"_int_free_check", "tcache_free", "int_mallinfo", "__malloc_info", "__malloc_fork_lock_parent"}
    | {"__malloc_fork_unlock_parent", "__malloc_fork_unlock_child"}
)
#: What changes the tcache of the calling thread and nothing else.
_TCACHE = frozenset({"tcache_get", "tcache_put", "tcache_get_n", "tcache_put_n"})
#: Where malloc ends that has found the heap corrupt.
FATAL = frozenset({"malloc_printerr", "__malloc_assert", "__libc_assert_fail", "__assert_fail", "__libc_message"})
_SIGABRT = 6
#: Signals that the processor raises: memory that is not there, or not as it must be.
_FAULTS = (4, 7, 8, 11)


@dataclass
class Busy:
    """What may be between two steps: arenas and tcaches by address, each with the sentence that says so.

    ``running`` is the sentence on threads that run meanwhile (anything may be changing then), None where all stand.
    ``dead`` are the threads (GDB's numbers) that will not go on: stopped inside malloc by a fault or by malloc itself,
    each with the newest frames of its stack. ``notes`` are sentences on what could not be looked at.
    """

    arenas: dict[int, str] = field(default_factory=dict)
    tcaches: dict[int, str] = field(default_factory=dict)
    dead: dict[int, Sequence[Frame]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    running: str | None = None


def read_busy(target: Target, state: HeapState) -> Busy:
    """Return what the threads of the selected inferior may be changing."""
    busy = Busy()
    names = {arena.address: arena.name for arena in state.ring.arenas}
    reader = FrameReader()
    excused: set[int] = set()  # arenas whose lock a thread holds that will not go on
    running = [thread.num for thread in gdb.selected_inferior().threads() if thread.is_running()]
    for thread in each_thread():
        if thread.is_running():
            continue
        try:
            frames = reader.read().frames
        except gdb.error:
            busy.notes.append(f"The stack of thread {thread.num} cannot be read, so it may be inside malloc.")
            continue
        malloc = [frame for frame in frames if is_malloc(frame)]
        if not malloc:
            if _may_be_malloc(target, frames):
                _note_nameless(target, busy, names, thread)
            continue
        av = next((frame.variables["av"] for frame in malloc if frame.variables.get("av")), None)
        if _is_dead(frames) or (has_aborted(frames) and check_of(kept_message(target)) is not None):
            busy.dead[thread.num] = frames
            excused.update(names if av is None else {av})
            continue
        function = function_of(malloc[-1])
        function = PUBLIC.get(function, function)
        tcache = target.tcache_address(thread)
        where = f"Thread {thread.num} is inside {function}"
        if tcache:
            busy.tcaches[tcache] = f"{where}; its tcache may be between two steps."
        without_names = _nameless_inside(frames, malloc[0])
        if not without_names and all(function_of(frame) in PUBLIC or function_of(frame) in _TCACHE for frame in malloc):
            continue  # the arena's lists are changed by functions of their own
        for address in [av] if av in names else names:
            busy.arenas.setdefault(address, f"{where}; lists of {names[address]} may be between two steps.")
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


def _nameless_inside(frames: Sequence[Frame], malloc: Frame) -> bool:
    """Whether functions without a name are inside the newest frame of malloc's: they may change an arena's lists."""
    inside = frames[: next(place for place, frame in enumerate(frames) if frame is malloc)]
    return any(not frame.name for frame in inside)


def _may_be_malloc(target: Target, frames: Sequence[Frame]) -> bool:
    """Whether the newest functions are of the object that malloc is in, and none has a name that says what it is."""
    if target.identified.located is None or not frames or frames[0].objfile != target.libc:
        return False
    inside = itertools.takewhile(lambda frame: frame.objfile == target.libc, frames)
    return not any(frame.name for frame in inside)


def _note_nameless(target: Target, busy: Busy, names: dict[int, str], thread: gdb.InferiorThread) -> None:
    where = f"Thread {thread.num} is inside a function without a name, which may be malloc's"
    tcache = target.tcache_address(thread)
    if tcache:
        busy.tcaches[tcache] = f"{where}; its tcache may be between two steps."
    for address, name in names.items():
        busy.arenas.setdefault(address, f"{where}; lists of {name} may be between two steps.")


def _running(threads: Sequence[int]) -> str:
    several = f"Threads {', '.join(map(str, threads))} are" if len(threads) > 1 else f"Thread {threads[0]} is"
    return f"{several} running: memory may change while it is read, so what is found may be a step of theirs."


def is_malloc(frame: Frame) -> bool:
    """Return whether a frame is of glibc's malloc, one of its public functions included."""
    name = function_of(frame)
    if name not in _INSIDE and name not in PUBLIC and name not in _TCACHE:
        return False
    return in_libc(frame) or (frame.objfile is not None and known_to_libc(name) and name not in PUBLIC)


def _is_dead(frames: Sequence[Frame]) -> bool:
    """Whether the selected thread was stopped in malloc by a fault, or by malloc's own checks."""
    for frame in frames:
        if function_of(frame) in FATAL:
            return True
        if is_malloc(frame):
            break
    number, code = _signal()
    return number in _FAULTS and code > 0 and bool(frames) and is_malloc(frames[0])


def has_aborted(frames: Sequence[Frame]) -> bool:
    """Whether the selected thread was stopped by the signal of abort, though nothing says who called that.

    Without debug symbols the functions in which malloc ends have no names.
    """
    if _signal()[0] != _SIGABRT:
        return False
    newer = frames[: next((place for place, frame in enumerate(frames) if is_malloc(frame)), 0)]
    return bool(newer) and all(in_libc(frame) for frame in newer) and any(not frame.name for frame in newer)


def _signal() -> tuple[int, int]:
    """Return the signal that stopped the selected thread, and its code; zeros where there is none."""
    try:
        signal = gdb.parse_and_eval("$_siginfo")
        return int(signal["si_signo"]), int(signal["si_code"])
    except (gdb.error, ValueError):
        return 0, 0
