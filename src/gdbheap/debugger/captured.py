"""Calls of malloc's from stacks that are known: captured with as little as possible, made events of later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gdbheap.debugger.stacks import Shape
from gdbheap.debugger.syscalls import SyscallEntry
from gdbheap.growth.decision import user_frame
from gdbheap.growth.event import ChunkHeader, Event, Frame, FreeLists, Requested, Requester
from gdbheap.growth.reading import Reading
from gdbheap.growth.request import malloc_call, malloc_sources

#: How many values of a stack's variables are remembered: a loop has the same ones again and again.
_MADE = 64


class Numbers(NamedTuple):
    """What a stack of known code tells of a call of malloc's: its requester, and which of its variables are what.

    The places are those of Shape.variables; None where there is no such variable. ``user`` is the place of the user's
    own frame.
    """

    requester: Requester
    user: int | None
    arena: int | None
    nb: int | None
    request: int | None
    pointer: int | None


class Captured:
    """A call of malloc's whose code is known: what had to be read while the program waited, and no more.

    The rest follows from it at any time, and takes a fraction of the time when many are done together.
    """

    __slots__ = (
        "args", "break_before", "chunk", "free", "id", "name", "numbers", "process", "reading", "result", "shape",
        "thread", "tid", "time", "unread", "values",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        process: int,
        thread: int,
        tid: int,
        entry: SyscallEntry,
        shape: Shape,
        values: tuple[int, ...],
        numbers: Numbers,
        time: float,
    ) -> None:
        self.id = number
        self.process = process
        self.thread = thread
        self.tid = tid
        self.name = entry.name
        self.args = entry.args
        self.shape = shape
        self.values = values
        self.numbers = numbers
        self.time = time
        self.result: int | None = None
        self.break_before: int | None = None
        self.reading: Reading | None = None
        self.free: FreeLists | None = None
        self.chunk: ChunkHeader | None = None
        self.unread: str | None = None

    def event(self) -> Event:
        """Return the whole event."""
        frames, requested = self._frames()
        return Event(
            id=self.id,
            process=self.process,
            thread=self.thread,
            tid=self.tid,
            syscall=self.name,
            args=self.args,
            frames=frames,
            result=self.result,
            break_before=self.break_before,
            more_frames=self.shape.more,
            requester=self.numbers.requester,
            requested=with_nb(requested, self.reading),
            user=None if self.numbers.user is None else frames[self.numbers.user],
            reading=self.reading,
            free=self.free,
            chunk=self.chunk,
            unread=self.unread,
            time=self.time,
        )

    def _frames(self) -> tuple[tuple[Frame, ...], Requested]:
        """Return the frames, and what they tell was asked of malloc: the same objects where all values are the same."""
        made, key = self.shape.made, self.values
        found: tuple[tuple[Frame, ...], Requested] | None = made.get(key)
        if found is None:
            if len(made) >= _MADE:
                made.clear()
            frames = self.shape.frames_with(self.values)
            found = made[key] = frames, malloc_call(frames)
        return found


def kind_of(entry: SyscallEntry) -> tuple[object, ...]:
    """Return what of a call, besides its callers, tells whose it is."""
    return (entry.name, *entry.args[2:4]) if entry.name in ("mmap", "madvise") else (entry.name,)


def note(shape: Shape, entry: SyscallEntry, who: Requester, frames: Sequence[Frame]) -> None:
    """Note what calls of this kind, made by malloc from this stack, have where."""
    sources = malloc_sources(frames)
    if sources is None:
        return
    places = []
    for source in sources:
        place = None if source is None else shape.variable(*source)
        if source is not None and place is None:
            return  # a constant of the code, say
        places.append(place)
    user = user_frame(frames)
    shape.notes[kind_of(entry)] = Numbers(who, None if user is None else frames.index(user), *places)


def with_nb(call: Requested, reading: Reading | None) -> Requested:
    """Return what was asked with the chunk's size, which is not among the variables where sysmalloc is no caller."""
    if call.nb is not None or call.request is None or reading is None:
        return call
    return call._replace(nb=reading.facts.abi.request_to_chunk(call.request))
