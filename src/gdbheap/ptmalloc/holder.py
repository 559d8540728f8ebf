"""Which chunk of an arena holds an address: one walk for all the addresses that are asked for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import PREV_INUSE, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.regions import Gap, Plan, Region
from gdbheap.ptmalloc.rows import block_chunk
from gdbheap.ptmalloc.walk import Block, Membership, classify, walk_arena, walk_region

#: Known chunks before an address from which a walk is tried where the walk from the region's start stopped.
_TRIES = 8


@dataclass(frozen=True)
class Holder:
    """The chunk that holds an address, and its neighbours in memory (None: there is none, or it cannot be known).

    ``resumed`` is None where the walk came there from the start of the region; where that
    walk stopped before, it is a sentence that says why the chunk is known all the same.
    """

    arena: Arena
    region: Region
    chunk: Chunk
    before: Chunk | None
    after: Chunk | None
    resumed: str | None = None


@dataclass
class Found:
    """What a walk found: ``holders`` by the address that was asked for, and what lies between chunks.

    ``gaps`` are the parts of the arena that could not be walked or are not malloc's, as far as they matter for the
    addresses. ``problems`` are sentences about what is not sound on the way there.
    """

    holders: dict[int, Holder] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def extent(plan: Plan, region: Region) -> tuple[int, int]:
    """Return where a region's memory begins and ends; the end is the last that it can be where it is not known."""
    end = region.limit
    if region.end is not None:
        end = region.end
    elif region.top is not None:
        end = region.top + (plan.arena.top_size or 0)
    return region.address, end


def problems_at(gap: Gap, problems: Iterable[str]) -> list[str]:
    """Return those of the problems that are about the very place where a gap begins."""
    return [] if gap.start is None else [text for text in problems if f" the chunk at {gap.start:#x} " in text]


def why_unknown_before(holder: Holder, found: Found) -> str | None:
    """Return why the chunk before the holder's is not known; None where it is, or where there is none."""
    if holder.before is not None:
        return None
    behind_a_gap = any(gap.end == holder.chunk.address and not gap.foreign for gap in found.gaps)
    return "not known: the walk did not come here" if behind_a_gap or holder.resumed is not None else None


def why_unknown_after(holder: Holder, found: Found) -> str | None:
    """Return why the chunk behind the holder's is not known; None where it is, or where there is none."""
    end = holder.chunk.address + holder.chunk.size
    for gap in found.gaps:
        if gap.start == end and not gap.foreign:
            return " ".join(("not known.", *(problems_at(gap, found.problems) or [gap.why])))
    return None if holder.after is not None or holder.resumed is None else "not known: the walk went no further"


def find_holders(
    memory: Memory, abi: Abi, plan: Plan, free: Membership, addresses: Iterable[int], known: Iterable[int] = ()
) -> Found:
    """Return the chunks of an arena that hold ``addresses``.

    ``known`` are chunks that something besides the free lists knows of, such as those that tcaches live in. Where the
    heap is corrupt they and the chunks on lists are where the walk can be taken up again. Nothing is raised for a
    corrupt heap.
    """
    wanted = sorted(set(addresses))
    plan = _narrowed(plan, wanted)
    found = Found()
    if not plan.regions:
        return found
    _collect(abi, plan.arena, walk_arena(memory, abi, plan, free), wanted, found)
    missing = [address for address in wanted if address not in found.holders]
    anchors = sorted({*free.addresses, *known})
    for gap in found.gaps:
        if gap.foreign or gap.start is None:
            continue
        for address in missing:
            region = _region_of(plan, address)
            if gap.start <= address < gap.end and region is not None:
                holder = _resume(memory, abi, plan.arena, region, free, gap, address, anchors)
                if holder is not None:
                    found.holders[address] = holder
    return found


def _region_of(plan: Plan, address: int) -> Region | None:
    for region in plan.regions:
        start, end = extent(plan, region)
        if start <= address < end:
            return region
    return None


def _narrowed(plan: Plan, wanted: Sequence[int]) -> Plan:
    """Return the plan with those regions only that an address is in; all where one of them has to be deduced."""
    if plan.top_is_lost:
        return plan
    regions = []
    for region in plan.regions:
        start, end = extent(plan, region)
        if bisect_left(wanted, start) < bisect_left(wanted, end):
            regions.append(region)
    return replace(plan, regions=tuple(regions))


def _collect(abi: Abi, arena: Arena, blocks: Iterable[Block], wanted: Sequence[int], found: Found) -> None:
    """Enter the chunks that hold the ``wanted`` addresses; the walk goes no further than it has to.

    The first word of a chunk is the last that the chunk before it may use, while that is in use: an address behind the
    first byte of it is that chunk's.
    """
    last: list[Chunk] = []  # the last two chunks of the blocks before, as far as the next block follows them
    waiting: list[int] = []  # found in the last chunk of a block: the next one is not known yet
    region: Region | None = None
    resumed: str | None = None  # why the walk was taken up again, in the part that it is in
    left = set(wanted)
    for block in blocks:
        columns = block.columns
        if columns.region is not region:
            region, last, waiting = columns.region, [], []
        found.problems += block.problems
        if block.gap is not None:
            found.gaps.append(block.gap)
            last, waiting = [], []
            resumed = block.gap.why
        if not columns.addresses:
            continue
        first = block_chunk(abi, block, 0)
        if last and last[-1].address + last[-1].size != first.address:
            last, waiting = [], []
        for address in waiting:
            found.holders[address] = replace(found.holders[address], after=first)
        waiting = []
        count = len(columns.addresses)
        end = columns.addresses[-1] + columns.sizes[-1]
        for address in wanted[bisect_left(wanted, columns.addresses[0]) : bisect_left(wanted, end)]:
            place = bisect_right(columns.addresses, address) - 1
            begun = address - columns.addresses[place]
            around = _around(abi, block, place, last)
            if 0 < begun < abi.word_size and around[1] is not None and columns.words[place] & PREV_INUSE:
                before, chunk, after = around[:3]
            else:
                before, chunk, after = around[1:]
            assert chunk is not None
            found.holders[address] = Holder(
                arena, columns.region, chunk, before, after, resumed if columns.region.resumed else None
            )
            left.discard(address)
            if after is None:
                waiting.append(address)
        last = [*last, *(block_chunk(abi, block, place) for place in range(max(count - 2, 0), count))][-2:]
        if not left and not waiting:
            return


def _around(abi: Abi, block: Block, place: int, last: Sequence[Chunk]) -> list[Chunk | None]:
    """Return the chunk at ``place`` of a block with the two before and the one behind it, None where not known."""
    around: list[Chunk | None] = []
    for each in range(place - 2, place + 2):
        if each < 0:
            around.append(last[each] if len(last) >= -each else None)
        else:
            around.append(block_chunk(abi, block, each) if each < len(block.columns.addresses) else None)
    return around


def _resume(
    memory: Memory,
    abi: Abi,
    arena: Arena,
    region: Region,
    free: Membership,
    gap: Gap,
    address: int,
    anchors: Sequence[int],
) -> Holder | None:
    """Return the chunk that holds ``address``, behind the place where the walk stopped; None where none is certain.

    A walk from a chunk that is known is believed where that chunk itself holds the address, or where the chunks lead
    exactly to each known place from there to the next one behind the address: another such chunk, the top chunk, the
    end of the heap. So is a walk from the address itself, taken for a user pointer. The walk that begins first is
    preferred, as it knows the most neighbours.
    """
    assert gap.start is not None
    low, place = bisect_right(anchors, gap.start), bisect_right(anchors, address)
    target = next((anchor for anchor in anchors[place:] if anchor < region.limit), None)
    starts = [(start, True) for start in anchors[max(low, place - _TRIES) : place]]
    own = address - abi.header
    if own > gap.start and not address % abi.alignment:
        starts.append((own, False))
    for start, is_known in starts:
        between = anchors[bisect_right(anchors, start) : place]
        resumed = replace(region, start=start, resumed=True)
        blocks, leads_there = _walk_from(memory, abi, resumed, free, between, target)
        attempt = Found()
        _collect(abi, arena, blocks, [address], attempt)
        holder = attempt.holders.get(address)
        if holder is None or not (leads_there or (is_known and holder.chunk.address == start)):
            continue
        whence = f"It is known from the chunk at {start:#x}, which is on a list or a tcache's own"
        if not is_known:
            whence = f"It is taken for what {address:#x} is a pointer to"
        end = "the end of its region" if target is None else f"{target:#x}, a chunk that is known"
        checked = f"; from there the chunks lead to {end}" if leads_there else ""
        return replace(holder, region=region, resumed=f"{gap.why} {whence}{checked}.")
    return None


def _walk_from(
    memory: Memory, abi: Abi, region: Region, free: Membership, between: Sequence[int], target: int | None
) -> tuple[list[Block], bool]:
    """Return the chunks from the region's start up to ``target``, or to its end, and whether they lead right there.

    They do where each of ``between`` and ``target`` is one of them (with None, where the region ends as it should).
    """
    blocks: list[Block] = []
    missing = {*between, *(() if target is None else (target,))}
    for columns in walk_region(memory, abi, region):
        blocks.append(classify(columns, free))
        missing.difference_update(columns.addresses)
        if target is not None and columns.addresses and columns.addresses[-1] >= target:
            break
        if columns.ending is not None:
            return blocks, target is None and not missing and columns.ending.problem is None
    return blocks, not missing
