"""Who points into a chunk: words of memory that hold such an address, and what those words belong to."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from gdbheap.memory import Memory, PageCache
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.scan import Pieces, Unreadable, word_finder
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.tcache import Tcache
from gdbheap.ptmalloc.whole import WholeWalk, chunk_in
from gdbheap.symbols import Struct

#: Where a reference can be, in the order in which they are shown: what can keep a chunk alive comes first.
KINDS = ("register", "stack", "tls", "global", "chunk", "malloc", "other")


class Word(NamedTuple):
    """A word in memory: its ``address``, and its ``value`` as malloc means it where the word is ``mangled``."""

    address: int
    value: int
    mangled: bool = False


class Unknown(Enum):
    """Why no variable is known for a word of a function's frame."""

    NO_SYMBOLS = "no-symbols"  # no debug information describes the function
    OPTIMISED = "optimised"  # the compiler keeps variables elsewhere, or in several places in turn
    RED_ZONE = "red-zone"  # below the stack pointer, where a function that calls no other may keep what it needs
    NO_VARIABLE = "no-variable"  # all variables are known, and none is there


class FrameWord(NamedTuple):
    """What a word of a stack, or a register, is to a function that has not returned.

    ``level`` is GDB's number of the frame, ``function`` its name (None without symbols), ``variable`` the variable with
    the member or element (None where ``unknown`` says why none is known). ``register`` is the register that holds it;
    ``saved_by`` is the newer frame (level, function) that has put this register's value into the word. ``in_scope`` is
    False where the block of the variable is not being executed.
    """

    level: int
    function: str | None
    variable: str | None
    register: str | None = None
    saved_by: tuple[int, str | None] | None = None
    unknown: Unknown | None = None
    in_scope: bool = True


@dataclass(frozen=True)
class Reference:
    """One pointer into a chunk.

    ``kind`` is one of KINDS. ``address`` is where the pointer is (None in a register), ``value`` the pointer, which
    safe-linking has ``mangled`` in memory. ``where`` says what is there: a register, a function's frame, a symbol, a
    field of malloc's own, empty for none. ``chunk`` is the chunk that holds it, in the arena called ``arena`` (None for
    an mmapped chunk); ``thread`` is whose register, stack or variable it is, and ``file`` the object file or the
    mapping's name. Each is None where it does not apply. ``live`` is False for what is left over in a free chunk or
    below a stack pointer. ``frame`` is the function and the variable that a word of a stack or a register belongs to.
    ``path`` is how a variable leads to the word of a chunk, ``class_name`` the C++ class of that chunk.
    """

    kind: str
    address: int | None
    value: int
    where: str = ""
    chunk: Chunk | None = None
    arena: str | None = None
    thread: int | None = None
    file: str | None = None
    live: bool = True
    mangled: bool = False
    frame: FrameWord | None = None
    path: FrameWord | None = None
    class_name: str | None = None


def words_into(
    memory: Memory, abi: Abi, ranges: Iterable[tuple[int, int]], low: int, high: int, unreadable: list[Unreadable]
) -> list[Word]:
    """Return the words in ``ranges`` (start, end) that are at least ``low`` and below ``high``, by address.

    Only whole words at multiples of their size are looked at. What cannot be read is entered into ``unreadable``.
    """
    found: list[Word] = []
    for start, end in ranges:
        position = -(-start // abi.word_size) * abi.word_size
        pieces = Pieces(memory, abi)
        while True:
            piece = pieces.next(position, end)
            if piece is None:
                break
            position, data = piece
            find = word_finder(data, abi, low, high)
            place = find(0)
            while place >= 0:
                value = int.from_bytes(data[place : place + abi.word_size], abi.byte_order)
                found.append(Word(position + place, value))
                place = find(place + abi.word_size)
            position += len(data)
        unreadable += pieces.unreadable
    return found


def chunks_of(walk: WholeWalk, addresses: Sequence[int]) -> dict[int, tuple[str | None, Chunk]]:
    """Return the chunk that each of ``addresses`` belongs to, and its arena's name (None for an mmapped chunk).

    The addresses are in ascending order; one that belongs to no chunk is left out. The word behind a chunk is its own
    as long as it is in use, although the next chunk begins there.
    """
    abi = walk.state.abi
    found: dict[int, tuple[str | None, Chunk]] = {}
    for arena, block in walk.blocks():
        columns = block.columns
        if not columns.addresses:
            continue
        first = columns.addresses[0] + abi.word_size
        last = columns.addresses[-1] + columns.sizes[-1] + abi.word_size
        for address in addresses[bisect_left(addresses, first) : bisect_left(addresses, last)]:
            place = bisect_right(columns.addresses, address - abi.word_size) - 1
            found[address] = None if arena is None else arena.name, chunk_in(abi, block, place)
    return found


def mangled_links(memory: Memory, state: HeapState, tcaches: Iterable[Tcache], chunk: Chunk) -> list[Word]:
    """Return the links of malloc's own lists that lead to the free ``chunk`` and are mangled (safe-linking)."""
    found = []
    if chunk.state == "tcache":
        for tcache in tcaches:
            for item in tcache.bins:
                for before, pointer in zip(item.pointers, item.pointers[1:]):
                    if pointer == chunk.pointer:
                        found.append(Word(before, pointer, True))
    elif chunk.state == "fastbin":
        for arena in state.ring.arenas:
            for fastbin in read_free_lists(PageCache(memory), state.abi, state.layout, arena, True):
                if fastbin.kind != "fastbin":
                    continue
                for before, address in zip(fastbin.addresses, fastbin.addresses[1:]):
                    if address == chunk.address:
                        found.append(Word(before + state.abi.header, address, True))
    return found


class _Area(NamedTuple):
    """Memory that is malloc's own: a struct at ``start`` that is called ``name``."""

    start: int
    name: str
    struct: Struct


def malloc_areas(state: HeapState, tcaches: Mapping[int, Tcache]) -> list[_Area]:
    """Return malloc's own structs: mp_, arenas, heap_infos, and the tcaches by the number of their thread."""
    layout: Layout = state.layout
    found = [_Area(state.params.address, "mp_", layout.par)]
    for arena in state.ring.arenas:
        found.append(_Area(arena.address, arena.name, layout.state))
        for heap in state.heaps.get(arena.address, HeapChain(())).heaps:
            if layout.heap_info is not None:
                found.append(_Area(heap.address, f"heap_info at {heap.address:#x}", layout.heap_info))
    if layout.tcache is not None:
        found += [
            _Area(tcache.address, f"tcache of thread {number}", layout.tcache) for number, tcache in tcaches.items()
        ]
    return sorted(found)


def field_at(areas: Sequence[_Area], address: int) -> str | None:
    """Return which field of malloc's own structs ``address`` is in: ``main_arena.bins[4]``, None for none."""
    for area in areas:
        offset = address - area.start
        if not 0 <= offset < area.struct.size:
            continue
        for name, field in area.struct.fields.items():
            if field.offset <= offset < field.offset + field.size:
                index = (offset - field.offset) // (field.size // max(field.count, 1))
                return f"{area.name}: {name}[{index}]" if field.count > 1 else f"{area.name}: {name}"
        return area.name
    return None


def link_at(abi: Abi, chunk: Chunk, address: int) -> str | None:
    """Return which link of malloc's ``address`` is in a free ``chunk``, None where it is none."""
    names = {"tcache": ("next",), "fastbin": ("fd",), "unsorted": ("fd", "bk"), "small": ("fd", "bk")}.get(chunk.state)
    if chunk.state == "large":
        names = ("fd", "bk", "fd_nextsize", "bk_nextsize")
    place, rest = divmod(address - chunk.pointer, abi.word_size)
    return names[place] if names is not None and not rest and 0 <= place < len(names) else None


def chunk_references(
    abi: Abi, words: Iterable[Word], holders: Mapping[int, tuple[str | None, Chunk]], areas: Sequence[_Area]
) -> Iterator[Reference | Word]:
    """Yield the references that chunks and malloc's own structs hold, and the words that are in neither."""
    for word in words:
        field = field_at(areas, word.address)
        holder = holders.get(word.address)
        if holder is None:
            if field is None:
                yield word
            else:
                yield Reference("malloc", word.address, word.value, field)
            continue
        arena, chunk = holder
        if field is not None:
            yield Reference("malloc", word.address, word.value, field, chunk, arena)
            continue
        link = link_at(abi, chunk, word.address)
        if link is not None:
            where = f"{link} of a free chunk"
            yield Reference("malloc", word.address, word.value, where, chunk, arena, mangled=word.mangled)
        else:
            yield Reference("chunk", word.address, word.value, "", chunk, arena, live=chunk.state == "used")
