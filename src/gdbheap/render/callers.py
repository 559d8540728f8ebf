"""Callers as text: one line from the user's own code inwards to the call that needed memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gdbheap.growth.event import Event, Frame, Requested
from gdbheap.growth.names import ENTRIES, INTERNAL, WRAPPERS
from gdbheap.render.escape import printable

#: What lies between malloc's decision and the kernel: true of every event, so a chain leaves it out.
_PLUMBING = (ENTRIES | WRAPPERS | INTERNAL) - {"tcache_init", "systrim", "heap_trim"}
_SHOWN = 6


def public_name(name: str) -> str:
    """Return what programs call a library's function: ``printf`` for ``__printf``, ``puts`` for ``_IO_puts``."""
    for prefix in ("__", "_IO_"):
        if name.startswith(prefix) and not name.endswith("_internal"):
            return name[len(prefix) :] or name
    return name


def frame_text(frame: Frame) -> str:
    """Return one caller: its function, or where its code is when no symbol names it."""
    if frame.function is not None:
        return printable(frame.name)
    if frame.objfile is not None:
        return f"{frame.pc:#x} in {printable(os.path.basename(frame.objfile))}"
    return f"{frame.pc:#x}"


def place_text(frame: Frame) -> str:
    """Return where a caller's code is: ``main () at seed.c:6``, or its object file where no line is known."""
    name = f"{printable(frame.name)} ()" if frame.function is not None else f"{frame.pc:#x}"
    if frame.file is not None and frame.line is not None:
        return f"{name} at {printable(os.path.basename(frame.file))}:{frame.line}"
    if frame.objfile is not None:
        return f"{name} in {printable(os.path.basename(frame.objfile))}"
    return name


def _public(requested: Requested | None, frame: Frame) -> str:
    """Return a caller with the bytes that it was asked for, where it is one of malloc's public functions."""
    name = frame_text(frame)
    if requested is None:
        return name
    for call in requested.calls:
        if call.pc == frame.pc and call.function == frame.name:
            return call.name if call.request is None else f"{call.name}({call.request})"
    return name


def inner_chain(event: Event) -> list[str]:
    """Return the callers from below the user's own down to the one that needed memory, without malloc's plumbing."""
    user = event.user
    requested = event.requested
    # A public function that ends with a jump leaves no frame: one inside stands for it.
    public = {(call.pc, call.function) for call in requested.calls} if requested is not None else set()
    names: list[str] = []
    for frame in event.frames:
        if frame is user:
            break
        if frame.name in _PLUMBING and (frame.pc, frame.name) not in public:
            continue
        name = _public(requested, frame)
        if not names or names[-1] != name:  # an inlined part has the name of the function around it
            names.append(name)
    if names and user is not None:
        names[-1] = public_name(names[-1])
    return names[::-1]


def shortened(names: Sequence[str]) -> list[str]:
    """Return the names with the middle left out where there are many: how many is said in its place."""
    if len(names) <= _SHOWN:
        return list(names)
    head, tail = 1, _SHOWN - 2
    return [*names[:head], f"({len(names) - head - tail} more)", *names[-tail:]]


_lines: dict[tuple[object, ...], str] = {}
#: The same by the identity of what a line is made of, which is held so that it stays the only one.
_lines_of: dict[int, tuple[object, object, str]] = {}
_MOST_LINES = 4096


def caller_line(event: Event) -> str:
    """Return who made the call, on one line: the user's own place, then the chain inwards."""
    # The same callers come again and again while a recording runs, so their line is kept.
    calls = event.requested.calls if event.requested is not None else ()
    frames, same_calls, known = _lines_of.get(id(event.frames), (None, None, ""))
    if frames is event.frames and same_calls is calls:
        return known
    key = (
        tuple([(frame.pc, frame.function, frame.objfile, frame.line) for frame in event.frames]),
        tuple([call.request for call in calls]),
    )
    line = _lines.get(key)
    if line is None:
        if len(_lines) >= _MOST_LINES:
            _lines.clear()
        line = _lines[key] = _caller_line(event)
    if len(_lines_of) >= _MOST_LINES:
        _lines_of.clear()
    _lines_of[id(event.frames)] = event.frames, calls, line
    return line


def caller_parts(event: Event) -> list[str]:
    """Return all that ``caller_line`` may show: the user's own place, where there is one, and the chain inwards."""
    chain = inner_chain(event)
    return chain if event.user is None else [place_text(event.user), *chain]


def _caller_line(event: Event) -> str:
    chain = inner_chain(event)
    if event.user is None:  # the loader at work before the program: its last steps tell enough
        return " > ".join(chain[-2:]) or "no caller is known"
    return " > ".join([place_text(event.user), *shortened(chain)])
