"""Chunks as rows in fixed columns, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gdbheap.ptmalloc.chunk import Chunk, flag_names
from gdbheap.render.escape import preview
from gdbheap.render.units import count_of, hex_size

HEADER = f"{'address':<18} {'pointer':<18} {'size':>10} {'request':>10} flags {'state':<9} content"
_FLAG_LETTERS = {"PREV_INUSE": "P", "IS_MMAPPED": "M", "NON_MAIN_ARENA": "A"}


@dataclass
class ShownTotals:
    """The sums of the rows that were shown: how many, and their bytes by state."""

    chunks: int = 0
    sizes: dict[str, int] | None = None

    def add(self, chunk: Chunk) -> None:
        """Count one row."""
        self.chunks += 1
        if self.sizes is None:
            self.sizes = {}
        self.sizes[chunk.state] = self.sizes.get(chunk.state, 0) + chunk.size


def chunk_rows(
    chunks: Iterable[Chunk], content: Callable[[Chunk], bytes], width: int, shown: ShownTotals
) -> Iterator[str]:
    """Yield a row for each chunk; ``content`` reads the first bytes of its user data, of which ``width`` are shown."""
    letters = {flags: "".join(_FLAG_LETTERS[name] for name in flag_names(flags)) or "-" for flags in range(8)}
    for chunk in chunks:
        shown.add(chunk)
        request = "-" if chunk.state == "fencepost" else f"{chunk.request_max}"
        text = preview(content(chunk), width) if width and chunk.state != "fencepost" else ""
        yield (
            f"{chunk.address:<#18x} {chunk.pointer:<#18x} {chunk.size:>#10x} {request:>10} "
            f"{letters[chunk.flags]:<5} {chunk.state:<9} {text}"
        ).rstrip()


def chunk_object(chunk: Chunk) -> dict[str, object]:
    """Return a chunk as JSON has it."""
    return {
        "address": chunk.address,
        "pointer": chunk.pointer,
        "size": chunk.size,
        "flags": chunk.flags,
        "state": chunk.state,
        "request_max": chunk.request_max,
    }


def totals_line(shown: ShownTotals) -> str:
    """Return the sum of the rows that were shown."""
    sizes = shown.sizes or {}
    parts = [f"{state} {size:#x}" for state, size in sizes.items()]
    shown_chunks = f"{count_of(shown.chunks, 'chunk')} shown"
    if not parts:
        return shown_chunks
    return f"{shown_chunks}, {hex_size(sum(sizes.values()))}: {', '.join(parts)}"
