"""An event explained: whose memory it is, what was asked for, the branch taken, its sum, and what came after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gdbheap.growth.arena_reason import ArenaReason, arena_reasons
from gdbheap.growth.event import Event, Frame, Requested, Requester, Served
from gdbheap.growth.history import Final, History
from gdbheap.growth.nameless import is_nameless
from gdbheap.growth.names import in_libc, in_loader
from gdbheap.growth.predict import Prediction, prediction_of, predictions
from gdbheap.growth.shortage import Shortage, shortage
from gdbheap.simulate.kernel import PROT_READ, PROT_WRITE

#: Reads one line of a source file, None where it cannot be had.
SourceReader = Callable[[str, int], "str | None"]


@dataclass(frozen=True)
class Explanation:
    """Everything that is known of why one system call was made.

    ``requested`` and ``prediction`` are None for calls that malloc did not make. ``arena_reason`` says why malloc
    worked on that arena (None where no arena takes part), and ``shortage`` why nothing free served (None where that
    was not asked or not read). ``source`` is the user's own line. ``constructors_of`` is the object file whose
    constructors the loader was running, before main. ``itself`` is the size of the chunk that the call which grew the
    heap then got from top for its own request, where that is known from the calls seen after it. ``served`` are later
    calls of malloc that needed no system call; ``final`` is main_arena at the end of the process where no event came
    after this one.
    """

    event: Event
    requester: Requester
    requested: Requested | None
    prediction: Prediction | None
    arena_reason: ArenaReason | None
    shortage: Shortage | None
    user: Frame | None
    source: str | None
    constructors_of: str | None
    itself: int | None
    served: tuple[Served, ...]
    final: Final | None


def explain(history: History, event: Event, read_source: SourceReader) -> Explanation:
    """Return the explanation of one recorded event."""
    return explain_all(history, [event], read_source)[0]


def explain_all(history: History, events: list[Event], read_source: SourceReader) -> list[Explanation]:
    """Return the explanations of these events of the history, in their order."""
    if len(events) == 1:
        earlier = history.before(events[0])
        predicted = {events[0].id: prediction_of(events[0], earlier, history.caught)}
        reasons = arena_reasons([*earlier, events[0]])
    else:
        predicted = dict(predictions(history.events, history.caught))
        reasons = arena_reasons(history.events)
    return [_explain(history, event, predicted.get(event.id), reasons.get(event.id), read_source) for event in events]


def _explain(
    history: History,
    event: Event,
    prediction: Prediction | None,
    arena_reason: ArenaReason | None,
    read_source: SourceReader,
) -> Explanation:
    who = event.requester
    requested = event.requested
    user = event.user
    source = None
    if user is not None and user.file is not None and user.line is not None:
        source = read_source(user.file, user.line)
    served = tuple(item for item in history.served if item.event == event.id)
    final = history.finals.get(event.process)
    if final is not None and final.events != event.id:
        final = None
    return Explanation(
        event=event,
        requester=who,
        requested=requested,
        prediction=prediction,
        arena_reason=arena_reason,
        shortage=shortage(event, prediction),
        user=user,
        source=source,
        constructors_of=_constructors_of(event),
        itself=_itself(event, requested, prediction, served),
        served=served,
        final=final,
    )


def _constructors_of(event: Event) -> str | None:
    """Return the object file whose constructor (call_init of the loader's calls it) is among the callers.

    Where the loader's functions have no names, it is what the loader calls when nothing but the loader runs yet.
    """
    frames = event.frames
    if any(frame.name == "main" for frame in frames):
        return None  # dlopen runs constructors too
    alone = len(frames) > 1 and in_loader(frames[-1]) and not event.more_frames
    for newer, frame in zip(frames, frames[1:]):
        if frame.name == "call_init" and newer.name != "call_init":
            return newer.objfile
        if alone and in_loader(frame) and not frame.name and not in_loader(newer) and not in_libc(newer):
            return newer.objfile
    return None


def _itself(
    event: Event, requested: Requested | None, prediction: Prediction | None, served: tuple[Served, ...]
) -> int | None:
    """Return the chunk that the user's own call got from top, if that is all that top gave before the next call."""
    if requested is None or requested.outer is None or requested.outer.request is None or event.state is None:
        return None
    if prediction is None or prediction.outcome is None or prediction.outcome.top is None or not served:
        return None
    taken = served[0].top_before - prediction.outcome.top
    return taken if taken == event.state.abi.request_to_chunk(requested.outer.request) else None


_HEAP_GROWTH = frozenset({"grow_heap", "new_heap", "alloc_new_heap"})


def growths(history: History) -> list[Event]:
    """Return the events by which malloc got memory, oldest first."""
    return [event for event in history.events if _gave_memory(event) and event.requester.kind == "malloc"]


def largest_growths(history: History, first: int, count: int) -> list[Event]:
    """Return the ``count`` events from number ``first`` on by which malloc got the most memory, the largest first."""
    found = [event for event in growths(history) if event.id >= first]
    found.sort(key=_wanted_bytes, reverse=True)
    return found[:count]


def _wanted_bytes(event: Event) -> int:
    """Return how much a growth is about, also where its return was not seen."""
    if event.delta:
        return event.delta
    if event.syscall == "brk":
        return event.args[0] - (event.break_before or event.args[0])
    # An mprotect makes memory accessible that was only reserved: its delta is 0.
    return event.args[2] - event.args[1] if event.syscall == "mremap" else event.args[1]


def newest_growth(history: History) -> Event | None:
    """Return the newest event by which malloc got memory; without one, the newest by which the process got any."""
    gained = growths(history) or [event for event in history.events if _gave_memory(event)]
    return gained[-1] if gained else None


def _gave_memory(event: Event) -> bool:
    if event.failed:
        return False
    if event.syscall == "mprotect":  # how an arena other than main_arena grows: memory that was only reserved
        if is_nameless(event.frames):
            return event.requester.kind == "malloc" and event.args[2] == PROT_READ | PROT_WRITE
        return any(frame.name in _HEAP_GROWTH for frame in event.frames)
    if event.result is not None:
        return (event.delta or 0) > 0
    # The program is stopped inside the call, which is then the one that is meant.
    if event.syscall == "brk":
        return event.break_before is not None and event.args[0] > event.break_before
    return event.syscall == "mmap" or (event.syscall == "mremap" and event.args[2] > event.args[1])
