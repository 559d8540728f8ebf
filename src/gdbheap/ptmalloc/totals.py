"""What the bytes of an arena add up to, against the number that malloc itself keeps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.chunk import FASTBIN, FENCEPOST, LARGE, SMALL, STATES, TCACHE, UNSORTED, USED, state_table
from gdbheap.ptmalloc.problems import Problems
from gdbheap.ptmalloc.quick import quick_totals
from gdbheap.ptmalloc.regions import Gap, Plan, Region
from gdbheap.ptmalloc.sizes import Sizes
from gdbheap.ptmalloc.walk import Block, Membership, walk_arena

_LISTED = (TCACHE, FASTBIN, UNSORTED, SMALL, LARGE)
_IS = tuple(state_table(state) for state in range(len(STATES)))
_IS_LISTED = state_table(*_LISTED)


@dataclass(frozen=True)
class ArenaTotals:
    """What the bytes of one arena are.

    ``counts`` and ``sizes`` (bytes, chunk headers included) are by state, every one of STATES. ``headers`` are bytes
    of heap_info and malloc_state, ``alignment`` those before the first and behind the last chunk of a region,
    ``foreign`` those that something else took from the break while malloc counted them. None of these are chunks.
    ``gaps`` is what could not be walked, ``spans`` are the addresses that were: (start, end). ``complete`` says that
    every chunk was met: in a sound heap ``unaccounted`` is then 0.
    """

    system_mem: int
    counts: Mapping[str, int]
    sizes: Mapping[str, int]
    headers: int
    alignment: int
    foreign: int
    gaps: tuple[Gap, ...]
    problems: tuple[str, ...]
    complete: bool
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def overhead(self) -> int:
        """Bytes that no request can get: headers of heaps, fenceposts, alignment, foreign bytes."""
        return self.headers + self.alignment + self.foreign + self.sizes["fencepost"]

    @property
    def accounted(self) -> int:
        """All bytes that have a name: chunks of every state, and the overhead."""
        return sum(self.sizes.values()) - self.sizes["fencepost"] + self.overhead

    @property
    def unaccounted(self) -> int:
        """system_mem less what has a name: not 0 where the walk was not complete or the heap is not sound."""
        return self.system_mem - self.accounted


class Tally:
    """Adds up the blocks of one arena's walk, in one pass together with whatever else is done with them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts = [0] * len(STATES)
        self._sizes = [0] * len(STATES)
        self._headers = self._alignment = 0
        self._gaps: list[Gap] = []
        self._problems = Problems()
        self._problems.extend(plan.problems)
        self._region: Region | None = None
        self._end: int | None = None
        #: The addresses that were walked: (first chunk, behind the last one).
        self.walked: list[tuple[int, int]] = []
        self._spans: list[tuple[int, int]] = []

    def add(self, block: Block) -> None:
        """Add one block."""
        columns, states = block.columns, block.states
        if block.gap is not None:
            self._gaps.append(block.gap)
            return
        region = columns.region
        if region is not self._region:
            self._region = region
            self._headers += region.header
            self._alignment += max(region.start - region.address - region.header, 0)
        self._problems.extend(block.problems)
        if states:
            rest = columns.addresses[-1] + columns.sizes[-1] - columns.addresses[0]
            # Most chunks are used: their bytes are what the others leave.
            for state in set(states) - {USED}:
                size = sum(compress(columns.sizes, states.translate(_IS[state])))
                self._counts[state] += states.count(state)
                self._sizes[state] += size
                rest -= size
            self._counts[USED] += states.count(USED)
            self._sizes[USED] += rest
        ending = columns.ending
        if ending is not None:
            self.walked.append((region.start, ending.address))
            self._end = ending.end
            top = self._plan.arena.top + (self._plan.arena.top_size or 0)
            self._spans.append((region.address, top if ending.at_top else ending.end or ending.address))
        elif states and states[-1] == FENCEPOST and self._end is not None:
            self._alignment += max(self._end - columns.addresses[-1] - columns.sizes[-1], 0)

    @property
    def listed(self) -> int:
        """How many chunks of free lists were met."""
        return sum(self._counts[state] for state in _LISTED)

    def totals(self, problems: tuple[str, ...] = ()) -> ArenaTotals:
        """Return the sums, with further ``problems`` that were found elsewhere."""
        return _result(
            self._plan,
            self._counts,
            self._sizes,
            (self._headers, self._alignment),
            self._gaps,
            self._spans,
            (*self._problems.texts(), *problems),
        )


def _result(
    plan: Plan,
    counts: Sequence[int],
    sizes: Sequence[int],
    between: tuple[int, int],
    gaps: Sequence[Gap],
    spans: Sequence[tuple[int, int]],
    problems: Iterable[str],
) -> ArenaTotals:
    """Return the totals; ``between`` are the bytes of headers and of alignment."""
    arena = plan.arena
    foreign = 0
    if arena.contiguous:
        foreign = sum(gap.end - gap.start for gap in gaps if gap.foreign and gap.start is not None)
    unknown = tuple(gap for gap in gaps if not gap.foreign)
    found = ArenaTotals(
        system_mem=arena.system_mem,
        counts=dict(zip(STATES, counts)),
        sizes=dict(zip(STATES, sizes)),
        headers=between[0],
        alignment=between[1],
        foreign=foreign,
        gaps=unknown,
        problems=(),
        complete=plan.complete and not unknown,
        spans=tuple(spans),
    )
    texts = Problems()
    texts.extend(problems)
    if found.complete and found.unaccounted:
        if arena.is_main and not arena.contiguous and found.unaccounted > 0:
            found = replace(found, complete=False)
            texts.add(
                f"The regions of {arena.name} that are known hold {found.accounted:#x} of the "
                f"{arena.system_mem:#x} bytes of its system_mem; where the others begin is not known."
            )
        else:
            texts.add(
                f"The bytes of {arena.name} add up to {found.accounted:#x}, but its system_mem is "
                f"{arena.system_mem:#x}."
            )
    return replace(found, problems=texts.texts())


def totals(memory: Memory, abi: Abi, plan: Plan, free: Membership, by_size: Sizes | None = None) -> ArenaTotals:
    """Walk an arena and return what its bytes are.

    ``free`` is the membership of this arena's own lists and of all tcaches: a chunk that they name where the walk
    found none is a problem too. ``by_size`` is where the chunks are entered by their sizes, if anywhere.
    """
    quick = quick_totals(memory, abi, plan, free, sized=by_size is not None)
    if quick is None:
        seen = None if by_size is None else lambda block: by_size.see(block.states, block.columns.sizes)
        return careful_totals(memory, abi, plan, free, seen)
    if by_size is not None and quick.by_size is not None:
        by_size.merge(quick.by_size)
    return _result(plan, quick.counts, quick.sizes, (quick.headers, quick.alignment), (), quick.spans, ())


def careful_totals(
    memory: Memory, abi: Abi, plan: Plan, free: Membership, seen: Callable[[Block], object] | None = None
) -> ArenaTotals:
    """Do as ``totals`` does, chunk by chunk: slower, but able to say what is wrong with which.

    ``seen`` is called once with every block.
    """
    tally = Tally(plan)
    for block in walk_arena(memory, abi, plan, free):
        tally.add(block)
        if seen is not None:
            seen(block)
    found = tally.totals(free.problems)
    unmet = _unmet(memory, abi, plan, free, tally, found.complete)
    return tally.totals((*free.problems, *unmet)) if unmet else found


def _unmet(memory: Memory, abi: Abi, plan: Plan, free: Membership, tally: Tally, complete: bool) -> tuple[str, ...]:
    """Return what is wrong with listed chunks that the walk did not meet."""
    inside = [
        range(bisect_left(free.addresses, start), bisect_left(free.addresses, end)) for start, end in tally.walked
    ]
    problems = Problems()
    if sum(map(len, inside)) != tally.listed:
        met: set[int] = set()
        for block in walk_arena(memory, abi, plan, free):
            met.update(compress(block.columns.addresses, block.states.translate(_IS_LISTED)))
        for place in chain.from_iterable(inside):
            address = free.addresses[place]
            if address not in met:
                problems.add(
                    f"{address:#x} is on a list ({STATES[free.states[place]]}), but no chunk begins there: it is "
                    f"inside another."
                )
    if not complete:
        return problems.texts()  # what is outside the regions that are known may well be in the others
    places = set(range(len(free.addresses))).difference(*inside)
    for place in sorted(places):
        if free.states[place] != TCACHE:
            problems.add(
                f"{free.addresses[place]:#x} is on a list ({STATES[free.states[place]]}) of {plan.arena.name}, but it "
                f"is in no region of that arena that is known."
            )
    return problems.texts()
