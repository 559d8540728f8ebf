"""The walk over the stopped process's heap that the commands search in, and the places that a user names."""

from __future__ import annotations

import gdb

from gdbheap.debugger import model, session
from gdbheap.debugger.options import UsageError
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.whole import WholeWalk, chunk_at


class Heap:
    """The heap as it is now; ``arenas`` are those that ``named`` names, or all."""

    def __init__(self, named: str | None = None) -> None:
        self.memory = session.target().memory
        self.state = model.read_state()
        self.facts = model.free_facts()
        self.arenas = tuple(model.chosen_arenas(self.state, named))
        self._named = named is not None

    def walk(self) -> WholeWalk:
        """Return a walk over the arenas that were named."""
        return WholeWalk(self.memory, self.state, self.facts, self.arenas if self._named else None)

    def chunk_at(self, address: int) -> tuple[Arena, Chunk] | None:
        """Return the chunk of any arena that holds ``address``, and its arena, None where none was met."""
        return chunk_at(WholeWalk(self.memory, self.state, self.facts), address)


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
                raise UsageError(f"'{text}' is a value that lies nowhere in memory; give an address.")
            return int(value.address), kind.sizeof
        size = None
        if kind.code == gdb.TYPE_CODE_PTR:
            pointed = kind.target().strip_typedefs()
            size = pointed.sizeof if pointed.code != gdb.TYPE_CODE_VOID else None
        return int(value) % (1 << 64), size or None
    except (gdb.error, ValueError, RuntimeError, OverflowError) as error:
        raise UsageError(f"An address, or an expression that has one, is needed, not '{text}': {error}") from None
