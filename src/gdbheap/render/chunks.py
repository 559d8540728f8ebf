"""Chunks as rows in fixed columns, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.chunk import STATES, Chunk, chunk_of, flag_names, state_table
from gdbheap.ptmalloc.walk import Block
from gdbheap.render.escape import preview
from gdbheap.render.units import count_of, hex_size

HEADER = f"{'address':<18} {'pointer':<18} {'size':>10} {'request':>10} flags {'state':<9} content"
#: What a row's state ends with where the chunk lies behind damage, and what that means.
BEHIND_MARK = "!"
BEHIND_TEXT = (
    f"{BEHIND_MARK} behind damage: the walk stopped before it, and went on from a chunk that a free list holds"
)
#: Rows that are made at once.
_AT_ONCE = 1000
_FLAG_LETTERS = {"PREV_INUSE": "P", "IS_MMAPPED": "M", "NON_MAIN_ARENA": "A"}


#: Where chunks are larger than this on average, in bytes, the contents of each are read by themselves.
_SPARSE = 0x1000
_LETTERS = {flags: "".join(_FLAG_LETTERS[name] for name in flag_names(flags)) or "-" for flags in range(FLAG_BITS + 1)}


@dataclass
class ShownTotals:
    """The sums of the rows that were shown: how many, their bytes by state, and whether any is ``behind_damage``."""

    chunks: int = 0
    sizes: dict[str, int] | None = None
    behind_damage: bool = False

    def add(self, chunk: Chunk) -> None:
        """Count one row."""
        self.add_many(chunk.state, 1, chunk.size)
        self.behind_damage |= chunk.behind_damage

    def add_many(self, state: str, count: int, size: int) -> None:
        """Count ``count`` rows of chunks in the same state, together ``size`` bytes."""
        self.chunks += count
        if self.sizes is None:
            self.sizes = {}
        self.sizes[state] = self.sizes.get(state, 0) + size


def chunk_rows(
    chunks: Iterable[Chunk], content: Callable[[Chunk], bytes], width: int, shown: ShownTotals
) -> Iterator[str]:
    """Yield a row for each chunk; ``content`` reads the first bytes of its user data, of which ``width`` are shown."""
    for chunk in chunks:
        shown.add(chunk)
        text = preview(content(chunk), width) if width and chunk.state != "fencepost" else ""
        yield f"{chunk.address:<#18x} {chunk.pointer:<#18x} {_tail(chunk)}{text}".rstrip()


def _tail(chunk: Chunk) -> str:
    """Return the columns of a row that chunks of the same size, flags and state have in common."""
    request = "-" if chunk.state == "fencepost" else f"{chunk.request_max}"
    return f"{chunk.size:>#10x} {request:>10} {_LETTERS[chunk.flags]:<5} {state_text(chunk):<9} "


def state_text(chunk: Chunk) -> str:
    """Return the state of a chunk as a row has it, marked where it lies behind damage."""
    return chunk.state + BEHIND_MARK if chunk.behind_damage else chunk.state


class BlockRows:
    """The rows of many chunks, as chunk_rows makes them of each, out of the columns of a walk.

    What chunks of the same size word and state have in common is made once, and their contents are read together:
    ``content`` reads memory, by address and size in bytes, and returns nothing where some of it is unreadable.
    """

    def __init__(self, abi: Abi, content: Callable[[int, int], bytes], width: int, shown: ShownTotals) -> None:
        self._abi = abi
        self._content = content
        self._width = width
        self._shown = shown
        self._tails: dict[bool, dict[tuple[int, int], tuple[str, int]]] = {False: {}, True: {}}

    def rows(self, blocks: Iterable[tuple[Block, Sequence[int]]]) -> Iterator[str]:
        """Yield a row for each chunk of ``blocks`` whose place in its block is given, many rows in one string."""
        for block, places in blocks:
            for first in range(0, len(places), _AT_ONCE):
                yield "\n".join(self._some(block, places[first : first + _AT_ONCE]))

    def _some(self, block: Block, places: Sequence[int]) -> list[str]:
        columns = block.columns
        addresses, words, states = columns.addresses, columns.words, block.states
        if len(places) == len(addresses):
            sizes = columns.sizes
        else:
            sizes = [columns.sizes[place] for place in places]
            addresses, words = [addresses[place] for place in places], [words[place] for place in places]
            states = bytes([states[place] for place in places])
        for state in sorted(set(states), key=states.index):
            size = sum(compress(sizes, states.translate(state_table(state))))
            self._shown.add_many(STATES[state], states.count(state), size)
        behind = columns.region.resumed
        tails = self._tails[behind]
        kinds = list(zip(words, states))
        for place, kind in enumerate(kinds) if len(set(kinds) - tails.keys()) else ():
            if kind not in tails:
                chunk = chunk_of(self._abi, addresses[place], words[place], sizes[place], states[place], behind)
                self._shown.behind_damage |= chunk.behind_damage
                tails[kind] = (_tail(chunk), min(self._width, chunk.request_max))
        found = list(map(tails.__getitem__, kinds))
        header = self._abi.header
        start = addresses[0] + header
        span = addresses[-1] + header + found[-1][1] - start
        text = ""
        if span <= _SPARSE * len(addresses):
            text = preview(self._content(start, span), span)
        if len(text) == span:
            begins = addresses[0]
            contents = [text[a - begins : a - begins + n] for a, (_, n) in zip(addresses, found)]
        else:  # they lie far apart, or some of it is unreadable
            contents = [preview(self._content(a + header, n), n) for a, (_, n) in zip(addresses, found)]
        gap = " " * (18 - len(hex(addresses[0])) + 1)
        if len(hex(addresses[0])) == len(hex(addresses[-1] + header)):  # the same as below, faster
            return [
                f"0x{a:x}{gap}0x{a + header:x}{gap}{tail}{own}".rstrip()
                for a, (tail, _), own in zip(addresses, found, contents)
            ]
        return [
            f"{a:<#18x} {a + header:<#18x} {tail}{own}".rstrip()
            for a, (tail, _), own in zip(addresses, found, contents)
        ]


def chunk_object(chunk: Chunk) -> dict[str, object]:
    """Return a chunk as JSON has it."""
    return {
        "address": chunk.address,
        "pointer": chunk.pointer,
        "size": chunk.size,
        "flags": chunk.flags,
        "state": chunk.state,
        "request_max": chunk.request_max,
        "behind_damage": chunk.behind_damage,
    }


def totals_line(shown: ShownTotals) -> str:
    """Return the sum of the rows that were shown."""
    sizes = shown.sizes or {}
    parts = [f"{state} {size:#x}" for state, size in sizes.items()]
    shown_chunks = f"{count_of(shown.chunks, 'chunk')} shown"
    if not parts:
        return shown_chunks
    return f"{shown_chunks}, {hex_size(sum(sizes.values()))}: {', '.join(parts)}"
