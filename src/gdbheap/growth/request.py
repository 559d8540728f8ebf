"""What was asked of malloc: the request that needed memory, and the calls that led to it, from the callers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gdbheap.growth.decision import (
    MOST_STACKS,
    code_of,
    decide,
)
from gdbheap.growth.event import Frame, PublicCall, Requested
from gdbheap.growth.names import (
    INTERNAL,
    PASSING,
    PUBLIC,
    STAND_FOR,
    function_of,
    in_libc,
)


class _Source(NamedTuple):
    """Where a number of a request is: the place of a frame, and its variable (two: their product)."""

    place: int
    variables: tuple[str, ...]

    def read(self, frames: Sequence[Frame]) -> int:
        """Return the number."""
        value = 1
        for name in self.variables:
            value *= frames[self.place].variables[name]
        return value


class _PlannedCall(NamedTuple):
    """A PublicCall but for the numbers: where its own frame and its caller's are, and where its request is."""

    name: str
    place: int
    request: _Source | None
    caller: int | None


class _Plan(NamedTuple):
    """What the functions of a stack, and which of their variables can be read, tell of a call that malloc made."""

    function: str | None
    request: _Source | None
    nb: _Source | None
    arenas: tuple[_Source, ...]
    calls: tuple[_PlannedCall, ...]
    inner: tuple[str, ...]


_plans: dict[tuple[object, ...], _Plan] = {}


def malloc_call(frames: Sequence[Frame]) -> Requested:
    """Return what was asked of malloc in a call that malloc made.

    Where the frames name no function of malloc's, which happens without debug symbols, the fields are None.
    """
    key = (code_of(frames), tuple([tuple(frame.variables) for frame in frames if frame.variables]))
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= MOST_STACKS:
            _plans.clear()
        plan = _plans[key] = _plan(frames)
    calls = tuple(
        [
            PublicCall(
                call.name,
                frames[call.place].name,
                frames[call.place].pc,
                None if call.request is None else call.request.read(frames),
                None if call.caller is None else frames[call.caller],
            )
            for call in plan.calls
        ]
    )
    return Requested(
        plan.function,
        None if plan.request is None else plan.request.read(frames),
        None if plan.nb is None else plan.nb.read(frames),
        next((arena for arena in (source.read(frames) for source in plan.arenas) if arena), None),
        calls[0] if calls else None,
        calls,
        plan.inner,
    )


class Sources(NamedTuple):
    """Which variables of a stack tell what a recorder must know at once: each (place of the frame, name).

    ``nb`` is the chunk's size, or ``request`` the bytes that it follows from; ``pointer`` is what free or realloc was
    called with.
    """

    arena: tuple[int, str] | None
    nb: tuple[int, str] | None
    request: tuple[int, str] | None
    pointer: tuple[int, str] | None


def malloc_sources(frames: Sequence[Frame]) -> Sources | None:
    """Return where malloc_call finds its numbers in stacks of the same code, None where that is not so simple."""
    plan = _plan(frames)
    if not all(frame.function for frame in frames) or (len(plan.arenas) > 1 and len(_arenas(plan, frames)) > 1):
        return None
    if any(len(source.variables) != 1 for source in (plan.nb, plan.request) if source is not None):
        return None
    pointers = [(place, name) for place, frame in enumerate(frames) for name in POINTERS if name in frame.variables]
    return Sources(
        (plan.arenas[0].place, "av") if plan.arenas else None,
        None if plan.nb is None else (plan.nb.place, plan.nb.variables[0]),
        None if plan.request is None else (plan.request.place, plan.request.variables[0]),
        pointers[0] if pointers else None,
    )


def _arenas(plan: _Plan, frames: Sequence[Frame]) -> set[int]:
    return {source.read(frames) for source in plan.arenas}


#: The variables that hold what the user gave to free and realloc.
POINTERS = ("mem", "oldmem")


def _plan(frames: Sequence[Frame]) -> _Plan:
    found = decide(frames)
    if not found.libc:
        return _Plan(None, None, None, (), (), ())
    run = range(found.index, found.index + len(list(_allocating(frames[found.index :]))))
    calls = _public_calls(frames, run)
    function, request = _innermost(frames, run, calls)
    inner: list[str] = []
    for place in reversed(run):
        name = function_of(frames[place])
        if name and inner[-1:] != [name]:  # an inlined part has the name of the function around it
            inner.append(name)
    return _Plan(
        function,
        request,
        _variable(frames, run, ("sysmalloc", "sysmalloc_mmap", "sysmalloc_mmap_fallback"), "nb"),
        tuple(_Source(place, ("av",)) for place in run if "av" in frames[place].variables),
        calls,
        tuple(inner),
    )


def _allocating(frames: Sequence[Frame]) -> Iterable[Frame]:
    """Yield the frames, from malloc's innermost one outwards, for as long as they are of the same allocation."""
    for frame in frames:
        name = function_of(frame)
        nameless = not name and in_libc(frame)
        if not (nameless or name in INTERNAL or name in PUBLIC or name in PASSING):
            return
        yield frame


def _own_request(frames: Sequence[Frame], place: int) -> _Source | None:
    """Return where the bytes are that a frame of malloc was asked for, None where its variables do not tell."""
    variables = frames[place].variables
    if "n" in variables and "elem_size" in variables:
        return _Source(place, ("n", "elem_size"))
    return next((_Source(place, (name,)) for name in ("bytes", "sz") if name in variables), None)


def _public_calls(frames: Sequence[Frame], run: range) -> tuple[_PlannedCall, ...]:
    """Return the public calls of a run of frames, the outermost first."""
    calls: list[_PlannedCall] = []
    passed: _Source | None = None  # what a function that does not tell its own request was asked for
    for place in run:
        frame = frames[place]
        name = function_of(frame)
        own = _own_request(frames, place)
        public = PUBLIC.get(name) or (name.lstrip("_") if name in PASSING else None)
        if public is None and place + 1 == run.stop:
            public = STAND_FOR.get(name)
        if own is not None and name != "tcache_init":
            passed = own
        elif name in ("tcache_init", "_int_memalign", "_int_realloc"):
            passed = None  # what it asks for inside is not what it was asked for
        before = frames[calls[-1].place] if calls else None
        if public is None or (before is not None and before.name == name and before.pc == frame.pc):
            continue
        outwards = range(place + 1, min(run.stop + 1, len(frames)))
        caller = next((at for at in outwards if frames[at].pc != frame.pc or function_of(frames[at]) != name), None)
        asks = not public.startswith(("free", "cfree", "operator delete", "malloc_trim"))
        calls.append(_PlannedCall(public, place, passed if asks else None, caller))
    return tuple(reversed(calls))


def _innermost(frames: Sequence[Frame], run: range, calls: Sequence[_PlannedCall]) -> tuple[str | None, _Source | None]:
    """Return the function whose request needed memory, and where the bytes are that it asked for."""
    inside: _Source | None = None
    for place in run:
        name = function_of(frames[place])
        if name == "_int_malloc":
            inside = _Source(place, ("bytes",)) if "bytes" in frames[place].variables else None
        elif name == "tcache_init":
            return name, inside or _variable(frames, run, ("tcache_init",), "bytes")
        elif name in PUBLIC and name != "__libc_malloc2":  # from glibc 2.42 on tcache_init calls that one
            break
    if not calls:
        return None, inside
    return calls[-1].name, inside or calls[-1].request


def _variable(frames: Sequence[Frame], run: range, functions: tuple[str, ...], variable: str) -> _Source | None:
    for place in run:
        if function_of(frames[place]) in functions and variable in frames[place].variables:
            return _Source(place, (variable,))
    return None


def stream_of(frames: Iterable[Frame]) -> int | None:
    """Return the address of the stdio stream whose buffer is asked for, None where that is not known."""
    for frame in frames:
        if function_of(frame) == "_IO_file_doallocate":
            return frame.variables.get("fp")
    return None
