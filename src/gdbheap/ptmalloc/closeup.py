"""The words of a chunk, and what each of them is: its header, a link of its free list, or the program's data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import PREV_INUSE, Abi, round_up
from gdbheap.ptmalloc.bins import FreeList
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.tcache import Tcache

#: Bytes in a row: a chunk's size is a multiple of 8, and but on old 32-bit glibcs of this.
ROW = 16
#: The words that link a free chunk into its list, from its user pointer on (malloc_chunk, tcache_entry).
_LINKS: Mapping[str, tuple[str, ...]] = {
    "tcache": ("next", "key"),
    "fastbin": ("fd",),
    "unsorted": ("fd", "bk"),
    "small": ("fd", "bk"),
    "large": ("fd", "bk", "fd_nextsize", "bk_nextsize"),
}
_MANGLED = ("tcache", "fastbin")


class ListPlace(NamedTuple):
    """Where a chunk is on its free list: ``position`` counts from 1, the chunk that is at the front.

    ``length`` is the number of chunks on it that were read.
    """

    name: str
    position: int
    length: int


@dataclass(frozen=True)
class Linking:
    """How free chunks are linked: whether tcache and fastbin links are mangled, and what a tcache chunk's key is.

    ``keys`` are the values that key may have; where they are not known, no word is called a key.
    """

    safe_linking: bool
    keys: frozenset[int]


@dataclass(frozen=True)
class Word:
    """One word of a chunk.

    ``role`` is what it is: ``size``; ``prev_size``, the size of the free chunk above; ``above``, the last word of the
    chunk above, which has it while it is in use; a link (``next``, ``fd`` ...) or ``key`` of a free list; ``data``,
    which is the program's, or nobody's in a free chunk. ``target`` is where a link leads, None for 0 and for other
    words.
    """

    address: int
    value: int
    role: str
    target: int | None = None


@dataclass(frozen=True)
class Closeup:
    """One chunk with its first ``words``, and ``data``, their bytes.

    ``left_out`` is how many bytes of it follow, and ``problem`` why no more could be read, None where it could.
    """

    chunk: Chunk
    words: tuple[Word, ...]
    data: bytes
    left_out: int
    problem: str | None


def read_closeup(
    memory: Memory, abi: Abi, chunk: Chunk, linking: Linking, most_rows: int, *, first: bool = False
) -> Closeup:
    """Return ``chunk`` with the words of its first ``most_rows`` rows; ``first`` is whether no chunk is above it.

    Nothing is raised where memory is unreadable: the words end there.
    """
    wanted = min(chunk.size, most_rows * ROW)
    data, problem = b"", None
    try:
        data = memory.read(chunk.address, wanted)
    except MemoryFault:
        while len(data) < wanted:
            step = min(ROW, wanted - len(data))
            try:
                data += memory.read(chunk.address + len(data), step)
            except MemoryFault as fault:
                problem = f"The memory from {chunk.address + len(data):#x} on cannot be read: {fault.reason}."
                break
    words = tuple(_word(abi, chunk, place, value, linking, first=first) for place, value in enumerate(abi.words(data)))
    return Closeup(chunk, words, data, chunk.size - len(data), problem)


def _word(abi: Abi, chunk: Chunk, place: int, value: int, linking: Linking, *, first: bool) -> Word:
    address = chunk.address + place * abi.word_size
    if place == 0:
        if not chunk.flags & PREV_INUSE:
            return Word(address, value, "prev_size")
        return Word(address, value, "data" if first else "above")
    if place == 1:
        return Word(address, value, "size")
    links = _LINKS.get(chunk.state, ())
    if place - 2 >= len(links):
        return Word(address, value, "data")
    role = links[place - 2]
    if role == "key":
        return Word(address, value, "key" if value in linking.keys else "data")
    mangled = linking.safe_linking and chunk.state in _MANGLED
    return Word(address, value, role, (value ^ (address >> 12) if mangled else value) or None)


def list_places(
    lists: Iterable[FreeList], tcaches: Mapping[int, Tcache], wanted: Iterable[int]
) -> dict[int, ListPlace]:
    """Return where the chunks at the addresses ``wanted`` are; those that are on no list are not in the answer.

    ``tcaches`` are by thread. A chunk that is on two lists has its place in the first.
    """
    left = set(wanted)
    found: dict[int, ListPlace] = {}

    def look(name: str, addresses: Sequence[int]) -> None:
        for address in left.intersection(addresses):
            found[address] = ListPlace(name, addresses.index(address) + 1, len(addresses))
        left.difference_update(addresses)

    for item in lists:
        look(item.name, item.addresses)
    for thread, tcache in tcaches.items():
        for each in tcache.bins:
            look(
                f"tcache bin {each.index} of thread {thread}",
                tuple(pointer - tcache.header for pointer in each.pointers),
            )
    return found


def rows_of(size: int) -> int:
    """Return how many rows ``size`` bytes take."""
    return round_up(size, ROW) // ROW
