"""malloc's own step that was under way when it ended: what it leaves half done is no damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from gdbheap.memory import Memory, MemoryFault, PageCache
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.finding import Finding

#: The checks that come when a step has begun; all others of free's come before it has changed anything.
_IN_A_STEP = frozenset(
    {"free(): corrupted unsorted chunks", "free(): chunks in smallbin corrupted", "corrupted size vs. prev_size"}
    | {"corrupted double-linked list", "corrupted double-linked list (not small)"}
    | {"corrupted size vs. prev_size in fastbins", "malloc_consolidate(): unaligned fastbin chunk detected"}
    | {"malloc_consolidate(): invalid chunk size"}
)


class Ended(Protocol):
    """What is known of the call that ended: see gdbheap.growth.abort.Abort."""

    @property
    def check(self) -> str | None:
        """The check that failed, None where a fault or a signal ended it."""

    @property
    def call(self) -> str | None:
        """The public function that the program called."""

    @property
    def pointer(self) -> int | None:
        """What it was given."""

    @property
    def chunk(self) -> int | None:
        """The chunk that it failed at."""

    @property
    def touched(self) -> tuple[int, ...]:
        """The chunks that its functions were working on."""


def without_own_step(memory: Memory, abi: Abi, ended: Ended, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings, those in doubt that are no more than the step of malloc's which had begun.

    _int_free (2.23 to 2.43) first unlinks the free neighbours of the chunk and clears PREV_INUSE behind it, and only
    then puts what it has merged on a list: until then these chunks are free and on none. unlink_chunk does the same
    for whoever calls it.
    """
    if ended.check is not None and ended.check not in _IN_A_STEP:
        return tuple(findings)
    under_way = _free_and_unlisted(PageCache(memory), abi, ended)
    found = []
    for finding in findings:
        header = finding.address - abi.word_size
        if finding.kind == "prev-inuse-clear" and finding.doubtful is None and header in under_way:
            what = ended.call or "malloc"
            why = f"{what} was under way: it had taken the chunk before that in hand, and put it on no list yet."
            finding = replace(finding, doubtful=why)
        found.append(finding)
    return tuple(found)


def _free_and_unlisted(memory: Memory, abi: Abi, ended: Ended) -> set[int]:
    """Return the ends of the chunks that are free and may be on no list yet."""
    own = set(ended.touched)
    if ended.chunk is not None:
        own.add(ended.chunk)
    if ended.pointer is not None:
        own.add(ended.pointer - abi.header)
    ends: set[int] = set()
    for chunk in own:
        ends.add(chunk)  # the chunk before it has been merged
        end = chunk
        for _ in range(2):  # itself, and the one behind it
            try:
                size = abi.read_word(memory, end + abi.word_size) & ~FLAG_BITS
            except MemoryFault:
                break
            end += size
            ends.add(end)
    return ends
