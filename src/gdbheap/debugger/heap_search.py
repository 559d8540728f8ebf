"""The walk over the stopped process's heap that the commands search in, and the places that a user names."""

from __future__ import annotations

import gdb

from gdbheap.debugger import model
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.options import UsageError
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.place import Place
from gdbheap.ptmalloc.whole import WholeWalk, chunk_at
from gdbheap.render.escape import printable


class Heap:
    """The heap as it is now; ``arenas`` are those that ``named`` names, or all. ``ranges`` are what is mapped.

    ``tcaches`` are by GDB's number of their thread.
    """

    def __init__(self, named: str | None = None) -> None:
        self.memory = model.heap_memory()
        self.state = model.read_state()
        self.facts = model.free_facts()
        self.ranges = mapped_ranges()
        self.arenas = tuple(model.chosen_arenas(self.state, named))
        self._named = named is not None

    def walk(self) -> WholeWalk:
        """Return a walk over the arenas that were named, or over all that malloc has."""
        arenas = self.arenas if self._named else None
        return WholeWalk(self.memory, self.state, self.facts, self.ranges, arenas)

    def chunk_at(self, address: int) -> tuple[Arena | None, Chunk] | None:
        """Return the chunk that holds ``address``, and its arena (None: mmapped); None where none was met."""
        return chunk_at(WholeWalk(self.memory, self.state, self.facts, self.ranges), address)

    def require_chunk(self, address: int) -> tuple[Arena | None, Chunk]:
        """Return the chunk that holds ``address``, and its arena; raise TargetError where none was met."""
        from gdbheap.debugger.inspector import Inspector

        walk = WholeWalk(self.memory, self.state, self.facts, self.ranges)
        found = chunk_at(walk, address)
        if found is not None:
            return found
        for part in walk.missing:
            if part.start is not None and part.end is not None and part.start <= address < part.end:
                raise TargetError(f"{address:#x} is in a part of the heap that cannot be walked: {part.why}")
        place = Inspector().inspect(address, 0)
        what = printable(place.text) if isinstance(place, Place) else f"'heap chunk {address:#x}' tells what is there."
        raise TargetError(f"{address:#x} is in no chunk{' that the walk met' if walk.missing else ''}. {what}")


def place_of(text: str) -> tuple[int, int | None]:
    """Return the address that an expression of the user's means, and the size of what is there as far as it tells.

    An array, a struct or a function means its own place, a pointer or a number what it points to; the size is that of
    the type. Raises UsageError where the expression has no address.
    """
    try:
        value = gdb.parse_and_eval(text)
        kind = value.type.strip_typedefs()
        if kind.code in (gdb.TYPE_CODE_REF, getattr(gdb, "TYPE_CODE_RVALUE_REF", gdb.TYPE_CODE_REF)):
            value = value.referenced_value()
            kind = value.type.strip_typedefs()
        aggregates = (gdb.TYPE_CODE_ARRAY, gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION, gdb.TYPE_CODE_FUNC)
        if kind.code in aggregates:
            if value.address is None:
                raise UsageError(f"'{text}' is a value that has no address in memory.")
            return int(value.address), kind.sizeof
        if kind.code in (gdb.TYPE_CODE_FLT, gdb.TYPE_CODE_COMPLEX):
            raise UsageError(f"'{text}' is a number with a fraction: that is no address.")
        size = None
        if kind.code == gdb.TYPE_CODE_PTR:
            pointed = kind.target().strip_typedefs()
            size = pointed.sizeof if pointed.code != gdb.TYPE_CODE_VOID else None
        return int(value) % (1 << 64), size or None
    except (gdb.error, ValueError, RuntimeError, OverflowError) as error:
        raise UsageError(f"An address, or an expression that has one, is needed, not '{text}': {error}") from None
