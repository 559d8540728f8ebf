"""What a pointer points to, in words and as JSON."""

from __future__ import annotations

from gdbheap.ptmalloc.placed import Placed, PlaceKind
from gdbheap.render.chunks import chunk_object, state_text
from gdbheap.render.escape import printable
from gdbheap.render.refs import frame_object, frame_text
from gdbheap.render.units import hex_size


def placed_text(found: Placed) -> str:
    """Return what is at the address, as the object of a sentence."""
    if found.kind is PlaceKind.VARIABLE and found.variable is not None:
        noun = "array" if found.is_array else "variable"
        return f"{'static' if found.is_static else 'global'} {noun} {printable(found.variable)}"
    if found.kind is PlaceKind.STACK:
        if found.frame is None:
            return f"in the stack of thread {found.thread}"
        owner = f"{found.frame.function}'s stack" if found.frame.function else "a function's stack"
        return printable(f"in {owner}: thread {found.thread}, {frame_text(found.frame)}")
    chunk = found.chunk
    if chunk is None or found.offset is None:
        return printable(found.text or "unknown")
    state = state_text(chunk)
    where = "a mapping of its own" if found.arena is None else found.arena
    whole = f"chunk {chunk.address:#x} (pointer {chunk.pointer:#x}, {hex_size(chunk.size)}, {state}, {where})"
    if found.kind is PlaceKind.POINTER:
        return f"the user pointer of {whole}"
    if found.offset < 0:
        return f"the header of {whole}"
    return f"{found.offset:#x} bytes into {whole}"


def placed_object(found: Placed | None) -> dict[str, object] | None:
    """Return what is at an address as JSON has it."""
    if found is None:
        return None
    return {
        "kind": found.kind.value,
        "address": found.address,
        "chunk": None if found.chunk is None else {**chunk_object(found.chunk), "arena": found.arena},
        "offset": found.offset,
        "thread": found.thread,
        "frame": frame_object(found.frame),
        "variable": found.variable,
        "text": placed_text(found),
    }
