"""Callers as text: one line from the user's own code inwards to the call that needed memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gdbheap.growth.event import Event, Frame
from gdbheap.growth.requester import Requested, malloc_call, user_frame
from gdbheap.render.escape import printable

#: What lies between malloc's decision and the kernel: true of every event, so a chain leaves it out.
_PLUMBING = frozenset(
    {
        "__brk", "brk", "__sbrk", "sbrk", "__glibc_morecore", "__default_morecore", "mmap", "mmap64", "__mmap", "__mmap64",
        "munmap", "__munmap", "mprotect", "__mprotect", "mremap", "__mremap", "sysmalloc", "sysmalloc_mmap",
        "sysmalloc_mmap_fallback", "_int_malloc", "_int_free", "_int_free_chunk", "_int_realloc",
    }
)  # fmt: skip
_SHOWN = 6


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
    user = user_frame(event)
    requested = malloc_call(event)
    names: list[str] = []
    for frame in event.frames:
        if frame is user:
            break
        if frame.name in _PLUMBING:
            continue
        name = _public(requested, frame)
        if not names or names[-1] != name:  # an inlined part has the name of the function around it
            names.append(name)
    return names[::-1]


def shortened(names: Sequence[str]) -> list[str]:
    """Return the names with the middle left out where there are many: how many is said in its place."""
    if len(names) <= _SHOWN:
        return list(names)
    head, tail = _SHOWN // 2 - 1, _SHOWN - _SHOWN // 2
    return [*names[:head], f"({len(names) - head - tail} more)", *names[-tail:]]


def caller_line(event: Event) -> str:
    """Return who made the call, on one line: the user's own place, then the chain inwards."""
    user = user_frame(event)
    chain = shortened(inner_chain(event))
    parts = ([place_text(user)] if user is not None else []) + chain
    return " > ".join(parts) if parts else "no caller is known"
