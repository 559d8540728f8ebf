"""Convenience functions: what expressions and the conditions of breakpoints can ask about the heap."""

from __future__ import annotations

import gdb

from gdbheap.debugger.errors import Told
from gdbheap.debugger.language import void_pointer
from gdbheap.debugger.options import UsageError

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from gdbheap.debugger.lookup import Located


class HeapFunction(gdb.Function):
    """A convenience function; ``name`` is without the dollar, ``usage`` and ``summary`` are its help's first lines."""

    name = ""
    usage = ""
    summary = ""
    details = ""
    needs_state = False

    def __init__(self) -> None:
        self.__doc__ = f"{self.summary}\n\nUsage: {self.usage}\n\n{self.details}"
        super().__init__(self.name)

    def invoke(self, *arguments: gdb.Value) -> gdb.Value | int | str:
        """Return the answer to GDB; raise gdb.GdbError where the arguments are no address, or no heap can be read."""
        with Told():
            if len(arguments) != 1:
                raise UsageError(f"It takes one address: {self.usage}.")
            return self.answer(_find(_address(arguments[0]), self.needs_state))

    def answer(self, chunk: Located | None) -> gdb.Value | int | str:
        """Return what there is to say of a chunk, None where the address is in no known one."""
        raise NotImplementedError


class HeapChunk(HeapFunction):
    """The chunk's address."""

    name = "_heap_chunk"
    usage = "$_heap_chunk(ADDRESS)"
    summary = "Return the address of the heap chunk that ADDRESS is in, 0 where it is in none."
    details = "The address is that of the chunk's header. ADDRESS can be anywhere in the chunk."

    def answer(self, chunk: Located | None) -> gdb.Value:
        """Return the address as a pointer, so that it is printed as one."""
        found = gdb.Value(0 if chunk is None else chunk.address)
        return found.cast(void_pointer())


class HeapSize(HeapFunction):
    """The chunk's size."""

    name = "_heap_size"
    usage = "$_heap_size(ADDRESS)"
    summary = "Return the size in bytes of the heap chunk that ADDRESS is in, 0 where it is in none."
    details = "The size is that of the whole chunk, its header included, as in 'heap chunks'."

    def answer(self, chunk: Located | None) -> int:
        """Return the size."""
        return 0 if chunk is None else chunk.size


class HeapState(HeapFunction):
    """The chunk's state."""

    name = "_heap_state"
    usage = "$_heap_state(ADDRESS)"
    needs_state = True
    summary = "Return the state of the heap chunk that ADDRESS is in, as a string: used, tcache, fastbin, top ..."
    details = (
        "The states are those of 'heap chunks'. It is 'unknown' where ADDRESS is in no known chunk, and where the\n"
        "chunk is in use as far as is known, but may be in the tcache of a thread whose variables cannot be read.\n"
        "Compare it with GDB's own $_streq: == between strings makes GDB copy them into the program, with a call of\n"
        "its malloc, or fail.\n\n"
        'Example: break use if $_streq($_heap_state(p), "tcache")'
    )

    def answer(self, chunk: Located | None) -> str:
        """Return the state."""
        from gdbheap.debugger.lookup import UNKNOWN

        return UNKNOWN if chunk is None else chunk.state


class HeapArena(HeapFunction):
    """The chunk's arena."""

    name = "_heap_arena"
    usage = "$_heap_arena(ADDRESS)"
    summary = "Return the number of the arena of the heap chunk that ADDRESS is in, -1 where there is none."
    details = (
        "0 is main_arena; the others are numbered as in 'heap arenas'. A chunk with a mapping of its own has none."
    )

    def answer(self, chunk: Located | None) -> int:
        """Return the number."""
        return -1 if chunk is None or chunk.arena is None else chunk.arena


class HeapEvents(HeapFunction):
    """How many events were recorded."""

    name = "_heap_events"
    usage = "$_heap_events()"
    summary = "Return how many system calls 'heap catch' has recorded so far."
    details = "It is the number of the newest event: also where older events are no longer kept."

    def invoke(self, *arguments: gdb.Value) -> int:
        """Return the number."""
        if arguments:
            raise gdb.GdbError(f"It takes no argument: {self.usage}.")
        from gdbheap.debugger.catch import RECORDER

        return RECORDER.history.recorded


#: All functions, in the order in which they are listed.
FUNCTIONS: tuple[type[HeapFunction], ...] = (HeapChunk, HeapSize, HeapState, HeapArena, HeapEvents)


def define() -> None:
    """Define the functions."""
    for function in FUNCTIONS:
        function()


def _find(address: int, with_state: bool) -> Located | None:
    from gdbheap.debugger.lookup import find

    return find(address, with_state=with_state)


def _address(value: gdb.Value) -> int:
    """Return the address that a value is, as C has it: an array is that of its first element, a function its own.

    The array's own address is not asked for: where the array is none of the program's (a string in the expression),
    GDB would put it there, with a call of the program's malloc.
    """
    given = value.type.strip_typedefs()
    try:
        if given.code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
            value = value.referenced_value()
        if value.type.strip_typedefs().code == gdb.TYPE_CODE_ARRAY:
            while value.type.strip_typedefs().code == gdb.TYPE_CODE_ARRAY:
                value = value[0]
            if value.address is None:
                raise UsageError("What is not in the program's memory has no address: give a pointer or a number.")
            value = value.address
        if value.type.strip_typedefs().code == gdb.TYPE_CODE_FUNC and value.address is not None:
            value = value.address
        return int(value) & 0xFFFFFFFFFFFFFFFF
    except gdb.error as error:
        raise UsageError(f"The address is a pointer or a number, not a value of type {given}: {error}") from None
