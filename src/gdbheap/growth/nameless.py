"""Calls of malloc from a glibc whose own functions have no names, or no variables: what made them, and for what.

malloc's public functions have names all the same, the arena follows from the state, and the size of the chunk from the
one that malloc then returned, or, as a range, from what the kernel was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gdbheap.growth.event import Event, Frame
from gdbheap.growth.names import INTERNAL, OF_OWN_MAPPINGS, PUBLIC, function_of, in_libc
from gdbheap.simulate.arenas import heap_trim
from gdbheap.simulate.calls import Call, Steps, Unpredictable, advance
from gdbheap.simulate.kernel import PROT_NONE
from gdbheap.simulate.mmapped import free_mmapped, mremap_chunk, munmap_chunk
from gdbheap.simulate.sysmalloc import sysmalloc
from gdbheap.simulate.trim import mtrim, systrim

#: The public functions whose result is the chunk's own user pointer.
RETURNING = frozenset({"malloc", "calloc", "realloc"})
#: A function inside malloc that has a name all the same, for programs of long ago.
_EXPORTED = frozenset({"__default_morecore"})
#: The place among a call's arguments of what grows with the request, and the rank of the branch that makes the call.
_AMOUNT = {"brk": (0, 0), "mprotect": (1, 0), "mmap": (1, 1), "mremap": (2, 0)}


def is_nameless(frames: Sequence[Frame]) -> bool:
    """Return whether the callers tell nothing of what was asked inside malloc, though frames of libc are there.

    Its functions have no names there; or they have, but no source file, and so no variables: as in a static program,
    and where a distribution's libc has a table of its functions (.gnu_debugdata). Where any variable can be read, there
    are debug symbols.
    """
    inside = False
    for frame in frames:
        name = function_of(frame)
        internal = name in INTERNAL and name not in _EXPORTED
        if frame.variables or (internal and frame.file is not None):
            return False
        inside = inside or in_libc(frame) or name in PUBLIC or internal
    return inside


def public_name(event: Event) -> str:
    """Return the innermost public function of malloc's among the callers, empty where its frame is gone."""
    requested = event.requested
    return requested.calls[-1].name if requested is not None and requested.calls else ""


def previous_of(event: Event, earlier: Iterable[Event]) -> Event | None:
    """Return the newest of ``earlier`` (oldest first) that the same thread made, None where there is none."""
    events = earlier if isinstance(earlier, Sequence) else tuple(earlier)
    same = (one for one in reversed(events) if (one.process, one.tid) == (event.process, event.tid))
    return next(same, None)


def goes_on_after(event: Event, previous: Event | None) -> bool:
    """Return whether malloc makes the call because the thread's previous one did not get it what it wanted.

    That was refused, or what it reserved for a heap is given back; and malloc was called from the same place.
    """
    if previous is None or previous.result is None or previous.requester.kind != "malloc":
        return False
    unfinished = previous.failed or (previous.syscall == "munmap" and not gives_back(public_name(previous)))
    return unfinished and _outside(event.frames) == _outside(previous.frames)


def _outside(frames: Sequence[Frame]) -> tuple[int, ...]:
    """Return the places in the code from the caller of malloc's public function outwards."""
    public = next((place for place, frame in enumerate(frames) if function_of(frame) in PUBLIC), None)
    if public is None:
        public = next((place for place, frame in enumerate(frames) if not in_libc(frame)), 0) - 1
    return tuple([frame.pc for frame in frames[public + 1 :]])


def gives_back(name: str) -> bool:
    """Return whether a public function of malloc's is for giving memory back."""
    return name.startswith(("free", "cfree", "malloc_trim", "operator delete"))


def asks_for_memory(event: Event) -> bool:
    """Return whether a nameless call is for a request, so that a chunk is returned in the end."""
    if gives_back(public_name(event)):
        return False
    if event.syscall == "brk":
        return event.args[0] == 0 or event.break_before is None or event.args[0] > event.break_before
    return event.syscall in ("mmap", "mprotect", "mremap")


def nameless_steps(event: Event) -> Steps:
    """Return the operation that made a call; raise Unpredictable where what decides is not known."""
    state, requested, name = event.state, event.requested, public_name(event)
    assert state is not None
    chunk = event.chunk
    mapped = [function for function in map(function_of, event.frames) if function in OF_OWN_MAPPINGS]
    if chunk is None and mapped:
        raise Unpredictable(f"It cannot be told which chunk {mapped[0]} was given.")
    if event.syscall == "munmap" and chunk is not None:
        freed = not name or name.startswith(("free", "cfree", "operator delete"))
        return (free_mmapped if freed else munmap_chunk)(state, chunk.address, chunk.prev_size, chunk.size_word)
    nb = None if requested is None else requested.nb
    if event.syscall == "mremap" and chunk is not None:
        return mremap_chunk(state, chunk.address, chunk.prev_size, chunk.size_word, _needed(nb, event))
    if state.arena is None:
        raise Unpredictable("Without debug symbols nothing tells here which arena malloc works on.")
    if asks_for_memory(event):
        if event.syscall == "mmap" and event.args[2] == PROT_NONE and state.arena.is_main:
            raise Unpredictable("An arena is made, and for which request cannot be told without debug symbols.")
        return sysmalloc(state, _needed(nb, event))
    if name.startswith("malloc_trim"):
        if event.syscall == "brk":
            raise Unpredictable("The argument of malloc_trim is not known without debug symbols.")
        return mtrim(state, None)
    pad = state.params.get("top_pad")
    return systrim(state, pad) if event.syscall == "brk" else heap_trim(state, pad)


def _needed(nb: int | None, event: Event) -> int:
    if nb is not None:
        return nb
    if event.syscall in ("mmap", "mremap"):
        raise Unpredictable("Without debug symbols the size of a chunk with its own mapping is known in pages only.")
    raise Unpredictable("What malloc returned was not seen, and without debug symbols nothing else tells the size.")


class ChunkRange(NamedTuple):
    """The sizes of chunk, in bytes, that would have led to a call: from ``low`` to ``high``.

    ``branch`` is what malloc's simulation does for each of them, None where not all of them lead the same way.
    """

    low: int
    high: int
    branch: Call | None


def chunk_sizes(event: Event) -> ChunkRange | None:
    """Return which chunks would have led to this very call, None where that is not known.

    More is asked of the kernel for a larger chunk, so that the smallest and the largest can be searched for; they
    need not have gone the same way: what decides on that is the size as well, and larger is larger there too.
    """
    state = event.state
    place = _AMOUNT.get(event.syscall)
    if state is None or place is None or not asks_for_memory(event) or (event.syscall == "brk" and not event.args[0]):
        return None
    abi, requested = state.abi, event.requested
    if requested is None:
        return None

    def called(count: int) -> object:
        nb = abi.min_size + count * abi.alignment
        return advance(nameless_steps(event._replace(requested=requested._replace(nb=nb))))

    def compare(count: int) -> int:
        """Return -1, 0 or 1: a chunk of this many steps leads to a smaller call than this one, to it, or a larger."""
        call = called(count)
        if not isinstance(call, Call) or call.syscall not in _AMOUNT:
            return -1
        argument, rank = _AMOUNT[call.syscall]
        mine = (place[1], event.args[place[0]])
        theirs = (rank, call.args[argument])
        if theirs == mine:
            return 0 if (call.syscall, call.args) == (event.syscall, event.args) else 1
        return -1 if theirs < mine else 1

    most = 1 << (8 * abi.word_size - 8)
    try:
        low = _first(compare, most, 0)
        high = _first(compare, most, 1) - 1
    except Unpredictable:
        return None
    if low > high or compare(low) != 0 or compare(high) != 0:
        return None
    first, last = called(low), called(high)
    assert isinstance(first, Call)
    assert isinstance(last, Call)
    branch = first if first.path == last.path else None
    return ChunkRange(abi.min_size + low * abi.alignment, abi.min_size + high * abi.alignment, branch)


def _first(compare: Callable[[int], int], most: int, wanted: int) -> int:
    """Return the smallest number for which ``compare`` answers at least ``wanted``."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if compare(middle) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low
