"""What a pointer that the program passed points to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.refs import FrameWord


class PlaceKind(Enum):
    """What is at an address."""

    POINTER = "pointer"  # a chunk's user data begins there
    INSIDE = "inside"  # it is in a chunk, elsewhere
    STACK = "stack"
    VARIABLE = "variable"  # a global or static variable
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Placed:
    """What is at an ``address``.

    ``chunk`` is the chunk that holds it, ``offset`` how far from the chunk's user pointer it is, ``arena`` the name of
    the chunk's arena (None for one with a mapping of its own). ``thread`` is whose stack it is in, ``frame`` the
    function and the variable there. ``variable`` is the global variable with its member, ``is_array`` and ``is_static``
    what that is. ``text`` is a full sentence for what is none of these. Each is None where it does not apply.
    """

    kind: PlaceKind
    address: int
    chunk: Chunk | None = None
    offset: int | None = None
    arena: str | None = None
    thread: int | None = None
    frame: FrameWord | None = None
    variable: str | None = None
    is_array: bool = False
    is_static: bool = False
    text: str | None = None
