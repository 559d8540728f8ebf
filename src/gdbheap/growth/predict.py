"""Recorded events held against the simulated allocator: what each call should have been, from state and request."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace

from gdbheap.growth.event import Event, Frame
from gdbheap.growth.nameless import ChunkRange, chunk_sizes, goes_on_after, is_nameless, nameless_steps
from gdbheap.growth.races import earlier_values, unknowable_values
from gdbheap.simulate.arenas import heap_trim, new_arena
from gdbheap.simulate.calls import SYSCALLS, Call, Outcome, Steps, Unpredictable, advance
from gdbheap.simulate.mmapped import free_mmapped, mremap_chunk, munmap_chunk
from gdbheap.simulate.state import GrowthState
from gdbheap.simulate.sysmalloc import map_without_arena, sysmalloc
from gdbheap.simulate.trim import mtrim, pages_inside, systrim

#: More calls than any operation makes: where nothing is known of what came before, it has ended by then.
_MOST_CALLS = 16
#: Events of a process that are gone through at most for the prediction of one.
_MOST_EVENTS = 512
#: The functions that make several calls in one operation.
_OPERATIONS = frozenset({"sysmalloc", "_int_new_arena", "systrim", "heap_trim", "mtrim"})
_NO_NAMES = "No function of glibc's that decides on memory is among the callers (are its debug symbols installed?)."
_MALLOC_TRIM = frozenset({"__malloc_trim", "malloc_trim"})
_FREE = frozenset({"__libc_free", "free", "cfree", "_int_free_chunk"})


@dataclass(frozen=True)
class Prediction:
    """The system call that the allocator's state and the request lead to, beside the one that was made.

    ``call`` is None where nothing can be predicted; ``reason`` then says why. ``outcome`` is the allocator after the
    operation, where this was its last call. ``chunk_sizes`` are the chunks that would have led to the call that was
    made, where the size itself is not known.
    """

    call: Call | None
    exact: bool | None
    reason: str | None = None
    outcome: Outcome | None = None
    chunk_sizes: ChunkRange | None = None

    @property
    def path(self) -> str | None:
        """The branch that malloc took; also where only a range of sizes is known and all of them lead there."""
        sizes = self.chunk_sizes
        call = self.call if self.call is not None or sizes is None else sizes.branch
        return None if call is None else call.path


class _Running:
    """An operation that is under way: the call that it makes next, or its outcome; ``past`` are those it has made."""

    def __init__(self, steps: Steps, caller: tuple[int, ...], caught: Container[str]) -> None:
        self._steps = steps
        self._caught = caught
        self.caller = caller
        self.call: Call | None = None
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.past: list[Event] = []
        self.answer(None)

    def take(self, event: Event) -> None:
        """Go on behind a call that was made and that the kernel has answered."""
        self.past.append(event)
        self.answer(event.result)

    def answer(self, result: int | None) -> None:
        """Go on with what the kernel answered (None: begin)."""
        self.call = None
        try:
            step = advance(self._steps, result, self._caught)
        except Unpredictable as error:
            self.reason = error.reason
            return
        if isinstance(step, Call):
            self.call = step
        else:
            self.outcome = step

    def makes(self, event: Event) -> bool:
        """Whether the call that comes next is this one."""
        return self.call is not None and (self.call.syscall, self.call.args) == (event.syscall, event.args)


#: Tells which system calls were recorded when the event of a number was.
CaughtAt = Callable[[int], Container[str]]


def every_call(_number: int) -> Container[str]:
    """Return the calls that a recording has which nobody narrowed."""
    return SYSCALLS


def predictions(events: Iterable[Event], caught: CaughtAt = every_call) -> dict[int, Prediction]:
    """Return the prediction for each event that malloc made, by the event's number.

    Several calls of one operation (a brk and the one that corrects it; a reservation, its trimming and its mprotect)
    are predicted one after another, each from the kernel's answer to the one before it. Where a recording was narrowed
    (``caught``) those that it left out are passed over, or where their answer decides, named as the reason.
    """
    found: dict[int, Prediction] = {}
    running: dict[tuple[int, int], _Running] = {}
    newest: dict[tuple[int, int], Event] = {}
    begun: set[tuple[int, int]] = set()  # the threads that were seen
    seen: dict[int, list[Event]] = {}  # by process
    for event in events:
        if event.reading is None:
            continue
        thread = (event.process, event.tid)
        first_seen = thread not in begun
        begun.add(thread)
        previous = newest.get(thread)
        newest[thread] = event
        seen.setdefault(event.process, []).append(event)
        caller = _caller(event)
        before = running.pop(thread, None)
        current = before
        if current is None or current.call is None or current.call.args != event.args:
            try:
                current = _Running(_steps(event), caller, caught(event.id))
            except Unpredictable as error:
                found[event.id] = Prediction(None, None, error.reason, chunk_sizes=_chunk_sizes(event, previous))
                continue
            several = sum(process == event.process for process, _ in begun) > 1
            if several and not current.makes(event):
                past = before.past if before is not None and before.caller == caller else []
                raced = None
                for made in (past, []) if past else ([],):
                    raced = raced or _after_a_race([*made, event], seen[event.process], caller, caught(event.id))
                if raced is not None:
                    current, found[event.id] = raced
                    if event.result is not None:
                        current.take(event)
                        running[thread] = current
                    continue
            if before is not None and before.reason and before.caller == caller and not current.makes(event):
                # The operation went on where the prediction could not.
                found[event.id] = Prediction(None, None, before.reason)
                running[thread] = before
                continue
            if first_seen and not current.makes(event) and _is_later_advice(event):
                reason = "The recording began while malloc_trim was under way."
                found[event.id] = Prediction(None, None, reason)
                continue
        call = current.call
        if call is None:
            reason = current.reason or "The allocator's state leads to no system call here."
            found[event.id] = Prediction(None, None, reason)
            continue
        exact = current.makes(event)
        if not exact and is_nameless(event.frames):
            # Which operation it was is only a guess then, and was not the right one.
            found[event.id] = Prediction(None, None, _NO_NAMES, chunk_sizes=_chunk_sizes(event, previous))
            continue
        if event.result is not None:
            current.take(event)
            running[thread] = current
        found[event.id] = Prediction(call, exact, current.reason, current.outcome)
    return found


def _since(events: Sequence[Event], first: Event) -> Sequence[Event]:
    """Return the events of a process up to ``first``, from the one before the previous one of its thread on."""
    ends = next(place for place, event in enumerate(events) if event.id == first.id)
    place = next((place for place in range(ends - 1, -1, -1) if events[place].tid == first.tid), 0)
    return events[max(0, place - 1) : ends]


def _after_a_race(
    made: Sequence[Event], seen: Sequence[Event], caller: tuple[int, ...], caught: Container[str]
) -> tuple[_Running, Prediction] | None:
    """Return the operation as it is if other threads changed what malloc had looked at; None if that tells nothing.

    ``made`` are the calls of the operation, the one that is to be told last, and ``seen`` the events of the process up
    to that one.
    """
    first, last = made[0], made[-1]

    def run(state: GrowthState) -> _Running | None:
        try:
            tried = _Running(_steps(first, state), caller, caught)
        except Unpredictable:
            return None
        for event in made[:-1]:
            if not tried.makes(event):
                return None
            tried.take(event)
        return tried if tried.makes(last) else None

    for state, why in earlier_values(first, _since(seen, first)):
        other = run(state)
        if other is not None and other.call is not None:
            call = replace(other.call, why=(*other.call.why, why))
            return other, Prediction(call, True)
    for state, reason in unknowable_values(first, seen):
        other = run(state)
        if other is not None:
            return other, Prediction(None, None, reason)
    return None


def _is_later_advice(event: Event) -> bool:
    """Whether a call is malloc_trim's, about a free chunk that is not the first one that it has before it."""
    state = event.state
    if event.syscall != "madvise" or state is None or state.trim is None:
        return False
    return any(pages_inside(state.abi, *chunk) == event.args[:2] for chunk in state.trim.chunks)


def prediction_of(event: Event, earlier: Sequence[Event], caught: CaughtAt = every_call) -> Prediction | None:
    """Return the prediction for an event; ``earlier`` are those from before it, oldest first.

    Only the events shortly before it are gone through: no operation makes more than a few calls. Those of other
    threads tell what they changed meanwhile.
    """
    before: list[Event] = []
    own = 0
    for other in reversed(earlier):
        if own == _MOST_CALLS or len(before) == _MOST_EVENTS:
            break
        if other.process == event.process:
            before.append(other)
            own += other.tid == event.tid
    return predictions([*reversed(before), event], caught).get(event.id)


def _caller(event: Event) -> tuple[int, ...]:
    """Return what calls of one operation have in common: the callers from malloc's own function outwards."""
    places = [frame.name for frame in event.frames]
    first = next((place for place, name in enumerate(places) if name in _OPERATIONS), 0)
    return tuple(frame.pc for frame in event.frames[first + 1 :])


def _variable(frames: Sequence[Frame], function: str, variable: str) -> int | None:
    for frame in frames:
        if frame.name == function:
            return frame.variables.get(variable)
    return None


def _known(value: int | None, what: str) -> int:
    if value is None:
        raise Unpredictable(f"GDB cannot read {what}.")
    return value


def _pad(event: Event, state: GrowthState, function: str) -> int:
    """Return the pad of a trim: free passes top_pad, and then the compiler keeps no variable for it."""
    pad = _variable(event.frames, function, "pad")
    if pad is not None:
        return pad
    if any(frame.name == "mtrim" or frame.name in _MALLOC_TRIM for frame in event.frames):
        return _known(_trim_pad(event), "the argument of malloc_trim")
    return state.params.get("top_pad")


def _trim_pad(event: Event) -> int | None:
    """Return the argument of malloc_trim, None where no frame tells it."""
    pad = _variable(event.frames, "mtrim", "pad")
    return _variable(event.frames, "__malloc_trim", "s") if pad is None else pad


def _steps(event: Event, state: GrowthState | None = None) -> Steps:
    """Return the operation of the allocator that made this call, from its innermost function that is known.

    ``state`` is the allocator's before it, where that is not what was read.
    """
    frames, requested = event.frames, event.requested
    state = event.state if state is None else state
    assert state is not None
    if is_nameless(frames):
        return nameless_steps(event)
    for frame in frames:
        name = frame.name
        if name == "sysmalloc" and frame.variables.get("av") == 0:
            return map_without_arena(state, _known(frame.variables.get("nb"), "nb in sysmalloc"))
        if name == "sysmalloc":
            return sysmalloc(state, _known(frame.variables.get("nb"), "nb in sysmalloc"))
        if name == "_int_new_arena":
            # 2.31 keeps no variable for it; it is the request that the arena is made for.
            asked = requested.request if requested is not None else None
            size = frame.variables.get("size", asked)
            return new_arena(state, _known(size, "size in _int_new_arena"))
        if name == "systrim":
            return systrim(state, _pad(event, state, name))
        if name == "heap_trim":
            return heap_trim(state, _pad(event, state, name))
        if name == "mtrim" or name in _MALLOC_TRIM:
            return mtrim(state, _trim_pad(event))
        if name == "munmap_chunk":
            chunk = event.chunk
            if chunk is None:
                raise Unpredictable("It cannot be told which chunk of the mapping is freed.")
            freed = any(other.name in _FREE for other in frames)
            return (free_mmapped if freed else munmap_chunk)(state, chunk.address, chunk.prev_size, chunk.size_word)
        if name == "mremap_chunk":
            chunk = event.chunk
            if event.syscall == "madvise":
                raise Unpredictable(
                    "What malloc does here depends on the kernel's answer to a call of mremap, which was not recorded."
                )
            if chunk is None:
                raise Unpredictable("It cannot be told which chunk of the mapping is resized.")
            # Its own variable for the size is rounded up to pages by the time of the call.
            nb = _known(requested.nb if requested is not None else None, "the bytes that realloc was asked for")
            return mremap_chunk(state, chunk.address, chunk.prev_size, chunk.size_word, nb)
    if event.syscall == "munmap" and event.chunk is not None:
        # Up to 2.33 free ends in jumps to munmap_chunk and from there to munmap, and leaves no frame.
        return free_mmapped(state, event.chunk.address, event.chunk.prev_size, event.chunk.size_word)
    raise Unpredictable(_NO_NAMES)


def _chunk_sizes(event: Event, previous: Event | None) -> ChunkRange | None:
    """Return what is known of the chunk's size from the call alone, where no function inside malloc has a name.

    It is not where the call is another try, after the thread's ``previous`` one: the first tells the size.
    """
    known = event.requested is not None and event.requested.nb is not None
    if known or not is_nameless(event.frames) or goes_on_after(event, previous):
        return None
    return chunk_sizes(event)
