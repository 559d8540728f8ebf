"""Which frames of a stack are inside malloc, where libc's own functions have no names as well.

Without debug symbols only the functions that libc exports have names. But the linker puts all code of one source file
into one piece, so that malloc's own functions lie among those that it exports, and right before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gdbheap.growth.event import Frame
from gdbheap.growth.names import function_of, in_libc

#: What malloc.c exports, in any release. Each of these names is that of a function of its own.
EXPORTED = frozenset(
    {"malloc", "free", "realloc", "calloc", "memalign", "aligned_alloc", "valloc", "pvalloc", "posix_memalign"}
    | {"malloc_trim", "malloc_usable_size", "mallinfo", "mallinfo2", "malloc_stats", "mallopt", "malloc_info"}
    | {"__default_morecore", "free_sized", "free_aligned_sized"}
)
#: The function that ends a program; malloc calls it through others, which have no names.
_ABORT = "abort"


class MallocCode(NamedTuple):
    """Where malloc's functions are that have no names: for certain from ``start`` to ``end``.

    From ``possible`` to ``start`` there are some too, and perhaps those of another file.
    """

    possible: int
    start: int
    end: int


def malloc_code(symbols: Mapping[str, int]) -> MallocCode | None:
    """Return where malloc's code is in a libc that exports ``symbols`` (addresses by name), None where it has none."""
    own = [symbols[name] for name in EXPORTED if name in symbols]
    if "malloc" not in symbols or "free" not in symbols:
        return None
    start = min(own)
    return MallocCode(max((address for address in symbols.values() if address < start), default=start), start, max(own))


def inside_malloc(frames: Sequence[Frame], named: Sequence[bool], code: MallocCode | None) -> list[int]:
    """Return the places of the frames that are inside malloc, the newest first.

    ``named`` says of each frame whether its name is that of one of malloc's functions. ``code`` is where those without
    names are, None where there are none.
    """
    places: list[int] = []
    for place in range(len(frames) - 1, -1, -1):
        frame = frames[place]
        inside = named[place]
        if not inside and code is not None and not frame.function and in_libc(frame):
            pc = frame.pc - (place > 0)  # behind a call that never returns there may be the next function
            inside = code.start <= pc < code.end
            if code.possible <= pc < code.start:
                # What called it tells, unless that is gone: a jump leaves no frame.
                inside = place == 0 or places[-1:] == [place + 1] or _tells_malloc(frames[place + 1 : place + 2])
        if inside:
            places.append(place)
    return places[::-1]


def _tells_malloc(caller: Sequence[Frame]) -> bool:
    """Return whether malloc is what this frame called: it is malloc's, or not libc's, and calls what has no name."""
    return any(function_of(frame) in EXPORTED or not in_libc(frame) for frame in caller)


def aborts(frames: Sequence[Frame], inside: Sequence[int]) -> bool:
    """Return whether malloc has ended the program by functions without names: from its own frames to abort."""
    for place in range(inside[0] - 1 if inside else -1, -1, -1):
        if function_of(frames[place]) == _ABORT:
            return in_libc(frames[place])
        if frames[place].function or not in_libc(frames[place]):
            return False
    return False
