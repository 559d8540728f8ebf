"""The chunks of an arena, each against its neighbours and against the list that it is on."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat
from operator import gt

from gdbheap.memory import Memory, MemoryFault, PageCache
from gdbheap.ptmalloc.abi import IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.check_lists import ListView, hexadecimal
from gdbheap.ptmalloc.chunk import MERGED_STATES, USED, state_table
from gdbheap.ptmalloc.finding import Finding, Findings
from gdbheap.ptmalloc.regions import Plan, Region
from gdbheap.ptmalloc.walk import Columns, Membership, resumed_walk

_IS_MERGED = state_table(*MERGED_STATES)


@dataclass
class Walked:
    """What the walk of an arena met: ``spans`` of addresses (start, end), and listed addresses inside chunks.

    ``inside`` maps the address of a listed chunk that was not met to the chunk (address, size) that holds it.
    """

    spans: list[tuple[int, int]] = field(default_factory=list)
    inside: dict[int, tuple[int, int]] = field(default_factory=dict)
    chunks: int = 0
    bytes: int = 0
    complete: bool = True


class ChunkChecker:
    """Checks the chunks of one arena; ``lists`` are by chunk: where each listed one is."""

    def __init__(
        self,
        memory: Memory,
        abi: Abi,
        plan: Plan,
        free: Membership,
        lists: Mapping[int, ListView],
        known: Iterable[int],
        findings: Findings,
    ) -> None:
        self._memory = memory
        self._abi = abi
        self.plan = plan
        self._free = free
        self._lists = lists
        self._cache = PageCache(memory)
        #: Chunks that are known besides those on lists: where a walk can be taken up again.
        self._known = sorted({*free.addresses, *known})
        self._stopped = 0
        self.findings = findings
        self.walked = Walked()

    @property
    def _arena(self) -> Arena:
        return self.plan.arena

    def run(self) -> None:
        """Walk every region of the arena."""
        for region in self.plan.regions:
            if region.top is not None and region.start == region.top:
                continue  # a top chunk whose region is not known
            self._region(region)
        self.walked.complete = self.walked.complete and self.plan.complete and not self.plan.top_is_lost

    def _add(
        self, kind: str, address: int, text: str, found: str, expected: str, chunk: int | None, size: int = 0
    ) -> None:
        view = self._lists.get(chunk) if chunk is not None else None
        self.findings.add(
            Finding(
                kind, address, text, found, expected, self._arena.address, chunk,
                None if view is None else view.name, view.owner if view is not None and view.kind == "tcache" else None,
                size or self._abi.word_size,
            )
        )  # fmt: skip

    def _region(self, region: Region) -> None:
        before: tuple[int, int, int] | None = None  # the chunk before the columns: address, size, state
        first = True
        start = region.start
        for columns in resumed_walk(self._memory, self._abi, region, self._known):
            if columns.region is not region:  # taken up again behind a place where the walk stopped
                self.walked.spans.append((start, self._stopped))
                region, before, start = columns.region, None, columns.region.start
                first = False
            before = self._columns(columns, before, first)
            first = False
            if columns.ending is not None:
                self._stopped = columns.ending.address
                if columns.ending.problem is not None:
                    self._stop(columns, before)
        self.walked.spans.append((start, self._stopped))

    def _stop(self, columns: Columns, before: tuple[int, int, int] | None) -> None:
        """Enter the place where the chunks cannot be followed any further."""
        abi, ending, region = self._abi, columns.ending, columns.region
        assert ending is not None
        assert ending.problem is not None
        self.walked.complete = False
        place = ending.address + abi.word_size
        word = self._word(place)
        room = region.limit - ending.address
        if room < abi.min_size and region.top is not None and before is not None and room >= 0:
            expected = f"chunks that end at {region.limit:#x}, where the top chunk begins"
        else:
            expected = f"a multiple of {abi.alignment:#x} from {abi.min_size:#x} to {max(room, 0):#x}"
        self._add(
            "chunk-size", place, ending.problem, "unreadable" if word is None else hexadecimal(word), expected,
            ending.address,
        )  # fmt: skip

    def _word(self, address: int) -> int | None:
        try:
            return self._abi.read_word(self._cache, address)
        except MemoryFault:
            return None

    def _columns(
        self, columns: Columns, before: tuple[int, int, int] | None, first: bool
    ) -> tuple[int, int, int] | None:
        """Check the chunks of ``columns``; return the last of them, or ``before`` where there is none."""
        words, addresses, sizes = columns.words, columns.addresses, columns.sizes
        after = columns.after
        if not addresses:
            if before is not None and columns.ending is not None and after is not None:
                self._neighbours([before], [after])
            return before
        self.walked.chunks += len(addresses)
        listed = dict(zip(*self._free.between(addresses[0], addresses[-1] + sizes[-1] - 1)))
        states = bytes(map(listed.get, addresses, repeat(USED))) if listed else bytes(len(words))
        if len(listed) != len(words) - states.count(USED):
            self._overlaps(columns, listed)
        if first and not words[0] & PREV_INUSE:
            self._add(
                "prev-inuse-clear", addresses[0] + self._abi.word_size,
                f"PREV_INUSE is clear in the size word {words[0]:#x} of the chunk at {addresses[0]:#x}, the first of "
                f"its region; it should be set.",
                f"{words[0]:#x}", f"{words[0] | PREV_INUSE:#x}", addresses[0],
            )  # fmt: skip
        self._flags(columns, states)
        odd = self._odd_places(columns, states)
        pairs: list[tuple[int, int, int]] = []
        behind: list[int] = []
        if before is not None:
            pairs.append(before)
            behind.append(words[0])
        for place in odd:
            if place + 1 < len(words):
                pairs.append((addresses[place], sizes[place], states[place]))
                behind.append(words[place + 1])
        if columns.ending is not None and after is not None:
            pairs.append((addresses[-1], sizes[-1], states[-1]))
            behind.append(after)
        self._neighbours(pairs, behind)
        return addresses[-1], sizes[-1], states[-1]

    @staticmethod
    def _odd_places(columns: Columns, states: bytes) -> Iterable[int]:
        """Return the places of chunks that are free and merged, or that the one behind says are."""
        clear = {word for word in columns.distinct if not word & PREV_INUSE}
        merged = states.translate(_IS_MERGED)
        if not clear:
            return compress(range(len(merged)), merged) if any(merged) else ()
        said = bytes(map(clear.__contains__, columns.words))[1:] + b"\0"
        either = int.from_bytes(merged, "little") | int.from_bytes(said, "little")
        return compress(range(len(merged)), either.to_bytes(len(merged), "little"))

    def _neighbours(self, chunks: Sequence[tuple[int, int, int]], behind: Sequence[int]) -> None:
        """Check ``chunks`` (address, size, state) against the size words of the chunks behind them."""
        for (address, size, state), word in zip(chunks, behind):
            merged = state in MERGED_STATES
            place = address + size + self._abi.word_size
            view = self._lists.get(address)
            where = "" if view is None else f" in {view.name}" if view.kind == "tcache" else f" on the {view.name}"
            if merged and word & PREV_INUSE:
                self._add(
                    "prev-inuse-set", place,
                    f"The chunk at {address:#x} is free{where}, but PREV_INUSE is set in the size word "
                    f"{word:#x} of the chunk behind it, at {address + size:#x}; it should be clear.",
                    f"{word:#x}", f"{word & ~PREV_INUSE:#x}", address,
                )  # fmt: skip
            elif not merged and not word & PREV_INUSE:
                self._cleared(address, size, state, word, place, where)
            if merged:
                foot = self._word(address + size)
                if foot is not None and foot != size:
                    self._add(
                        "prev-size", address + size,
                        f"prev_size of the chunk at {address + size:#x} is {hexadecimal(foot)}; it should be "
                        f"{size:#x}, the size of the free chunk before it, at {address:#x}.",
                        hexadecimal(foot), f"{size:#x}", address,
                    )  # fmt: skip

    def _cleared(self, address: int, size: int, state: int, word: int, place: int, where: str) -> None:
        what = f"is in use{where}" if state == USED else f"is free{where}, which malloc treats as used"
        if state == USED:
            what = "is on no free list"
        foot = self._word(address + size)
        if state == USED and foot == size and self._may_be_lost(size):
            return  # it looks free: it is on the part of a list that is not known
        self._add(
            "prev-inuse-clear", place,
            f"PREV_INUSE is clear in the size word {word:#x} of the chunk at {address + size:#x}, but the chunk before "
            f"it, at {address:#x}, {what}; it should be set.",
            f"{word:#x}", f"{word | PREV_INUSE:#x}", address,
        )  # fmt: skip

    #: Set by the caller: whether a chunk of a size may be on a list that could not be followed to its end.
    lost_sizes: Sequence[tuple[int, int]] = ()

    def _may_be_lost(self, size: int) -> bool:
        return any(low <= size <= high for low, high in self.lost_sizes)

    def _flags(self, columns: Columns, states: bytes) -> None:
        main = columns.region.main
        never = IS_MMAPPED | NON_MAIN_ARENA if main else IS_MMAPPED
        for word in columns.distinct:
            if word & never:
                flag = "IS_MMAPPED" if word & IS_MMAPPED else "NON_MAIN_ARENA"
                self._flag(columns, columns.words.index(word), flag, "clear")
        if main:
            return
        clear = {word for word in columns.distinct if not word & NON_MAIN_ARENA}
        if clear:
            outside = map(clear.__contains__, columns.words)
            for place in compress(range(len(states)), map(gt, outside, states.translate(_IS_MERGED))):
                self._flag(columns, place, "NON_MAIN_ARENA", "set")
        # In a bin it is clear in every arena; malloc asserts that of the neighbours in large bins (chunk_main_arena).
        for place in compress(range(len(states)), states.translate(_IS_MERGED)):
            if columns.words[place] & NON_MAIN_ARENA:
                self._flag(columns, place, "NON_MAIN_ARENA", "clear")

    def _flag(self, columns: Columns, place: int, flag: str, expected: str) -> None:
        word, address = columns.words[place], columns.addresses[place]
        bit = IS_MMAPPED if flag == "IS_MMAPPED" else NON_MAIN_ARENA
        self._add(
            "chunk-flags", address + self._abi.word_size,
            f"{flag} is {'clear' if expected == 'set' else 'set'} in the size word {word:#x} of the chunk at "
            f"{address:#x} of {self._arena.name}; it should be {expected}.",
            f"{word:#x}", f"{word ^ bit:#x}", address,
        )  # fmt: skip

    def _overlaps(self, columns: Columns, listed: Mapping[int, int]) -> None:
        """Note the listed addresses that lie inside a chunk of ``columns``."""
        met = set(columns.addresses)
        for address in sorted(listed.keys() - met):
            place = bisect_right(columns.addresses, address) - 1
            if place >= 0:
                self.walked.inside[address] = columns.addresses[place], columns.sizes[place]

    def met(self, address: int) -> bool:
        """Whether ``address`` is in a part of the arena that was walked."""
        place = bisect_left(self.walked.spans, (address + 1,)) - 1
        return place >= 0 and self.walked.spans[place][0] <= address < self.walked.spans[place][1]
