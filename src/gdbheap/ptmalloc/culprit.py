"""Who may have overwritten a word: the chunks around it, and what stands where one may have run over its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.account import FreeFacts, plan_arena
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.finding import Culprit, Finding
from gdbheap.ptmalloc.holder import find_holders
from gdbheap.ptmalloc.state import HeapState

#: Kinds whose word is a size word, which malloc alone writes: only what lies before it can have run over it.
_SIZE_WORDS = ("chunk-size", "chunk-flags", "list-size", "list-order", "prev-inuse-clear", "prev-inuse-set", "top-size")
#: Kinds whose word is in the user data of a free chunk.
_LINKS = ("list-link", "list-pointer", "list-loop", "nextsize", "tcache-key", "listed-nowhere", "listed-twice")
#: Bytes that are shown on each side of a chunk's end.
_SHOWN = 32


@dataclass(frozen=True)
class Around:
    """The chunks at a finding: the one ``before`` the header that is concerned, that one itself, and the one behind it.

    Each is None where there is none or it is not known.
    """

    before: Chunk | None
    here: Chunk | None
    behind: Chunk | None


NOTHING_AROUND = Around(None, None, None)


def header_of(finding: Finding, word_size: int) -> int | None:
    """Return the address of the chunk whose header or user data the word of a finding is in, None for none."""
    if finding.kind in _SIZE_WORDS:
        return finding.address - word_size
    if finding.kind in (*_LINKS, "prev-size"):
        return finding.chunk
    return None


def chunks_around(
    memory: Memory, state: HeapState, facts: FreeFacts, findings: Sequence[Finding], known: Iterable[int] = ()
) -> Mapping[int, Around]:
    """Return the chunks around each finding, by the finding's address, with one walk for each arena."""
    abi = state.abi
    headers = {finding.address: header_of(finding, abi.word_size) for finding in findings}
    wanted = {address for header in headers.values() if header is not None for address in (header - 1, header)}
    holders = {}
    if wanted:
        for arena in state.ring.arenas:
            plan, free = plan_arena(memory, state, arena, facts)
            holders.update(find_holders(memory, abi, plan, free, wanted, known).holders)
    found = {}
    for address, header in headers.items():
        if header is None:
            continue
        before, here = holders.get(header - 1), holders.get(header)
        own = here.chunk if here is not None and here.chunk.address == header else None
        ends = before is not None and before.chunk.address + before.chunk.size == header
        first = before.chunk if before is not None and ends else here.before if here is not None and own else None
        found[address] = Around(first, own, here.after if here is not None and own else None)
    return found


def culprit(
    memory: Memory, state: HeapState, finding: Finding, around: Around, damaged: frozenset[int]
) -> Culprit | None:
    """Return who may have overwritten the word of a finding, None where nothing tells.

    ``damaged`` are the addresses of all words that are wrong: where a chunk's size word is among them, what overwrote
    it came from the chunk before.
    """
    word = state.abi.word_size
    header = header_of(finding, word)
    if header is None:
        return None
    overrun = finding.kind in _SIZE_WORDS or header + word in damaged
    chunk = around.before if overrun else around.here
    if chunk is None:
        return None
    boundary = chunk.address + chunk.size + word if overrun else chunk.pointer
    start = max(boundary - _SHOWN, chunk.pointer) if overrun else chunk.pointer
    content = b""
    for size in (boundary + _SHOWN - start, boundary - start):
        try:
            content = memory.read(start, size)
            break
        except MemoryFault:
            continue
    how = "overrun" if overrun else "after-free"
    return Culprit(how, chunk.address, chunk.pointer, chunk.size, chunk.state, start, content, boundary)
