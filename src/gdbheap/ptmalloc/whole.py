"""All chunks of several arenas, with an honest word about those that could not be reached."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.account import FreeFacts, plan_arena
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import FENCEPOST, USED, Chunk, chunk_of
from gdbheap.ptmalloc.problems import Problems
from gdbheap.ptmalloc.regions import Plan
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.totals import Tally
from gdbheap.ptmalloc.walk import Block, Membership, walk_arena

_AS_USED = bytes(FENCEPOST if state == FENCEPOST else USED for state in range(256))


@dataclass(frozen=True)
class Missing:
    """A part of the heap that was not looked at: of ``arena`` (its name, None where it is of none in particular).

    ``start`` and ``end`` are addresses, None where they are not known. ``why`` is a full sentence.
    """

    arena: str | None
    start: int | None
    end: int | None
    why: str


def reach(
    memory: Memory, abi: Abi, plan: Plan, free: Membership, missing: list[Missing], problems: Problems
) -> Iterator[Block]:
    """Yield the blocks of chunks of one arena; enter what was not reached and what is not sound at the end."""
    arena = plan.arena
    tally = Tally(plan)
    for block in walk_arena(memory, abi, plan, free):
        # Only whether every byte was met is wanted of the sums: the states do not matter to that, and are dear.
        tally.add(replace(block, states=block.states.translate(_AS_USED)))
        yield block
    found = tally.totals(free.problems)
    problems.extend(f"{arena.name}: {text}" for text in found.problems)
    missing += [Missing(arena.name, gap.start, gap.end, gap.why) for gap in found.gaps]
    if not found.complete and not found.gaps:
        why = found.problems[-1] if found.problems else f"Not every region of {arena.name} is known."
        missing.append(Missing(arena.name, None, None, why))


class WholeWalk:
    """Walks ``arenas`` of a heap (None: all) one after another.

    After that, ``missing`` is what was not reached, and ``problems`` is what is not sound.
    """

    def __init__(
        self, memory: Memory, state: HeapState, facts: FreeFacts, arenas: Sequence[Arena] | None = None
    ) -> None:
        self.missing: list[Missing] = []
        self.memory = memory
        self.state = state
        self.facts = facts
        self.arenas = state.ring.arenas if arenas is None else arenas
        self._problems = Problems()
        self._problems.extend(facts.problems)
        self._problems.extend(text for tcache in facts.tcaches for text in tcache.problems)
        if state.ring.problem is not None and arenas is None:
            self.missing.append(Missing(None, None, None, state.ring.problem))

    @property
    def problems(self) -> tuple[str, ...]:
        """What was found to be wrong so far."""
        return self._problems.texts()

    def blocks(self) -> Iterator[tuple[Arena, Block]]:
        """Yield the blocks of chunks of every arena."""
        for arena in self.arenas:
            plan, free = plan_arena(self.memory, self.state, arena, self.facts)
            for block in reach(self.memory, self.state.abi, plan, free, self.missing, self._problems):
                yield arena, block


def chunk_at(walk: WholeWalk, address: int) -> tuple[Arena, Chunk] | None:
    """Return the chunk that ``address`` is in, its header included, and its arena; None where none was met."""
    for arena, block in walk.blocks():
        columns = block.columns
        if not columns.addresses or not columns.addresses[0] <= address < columns.addresses[-1] + columns.sizes[-1]:
            continue
        place = bisect_right(columns.addresses, address) - 1
        if address < columns.addresses[place] + columns.sizes[place]:
            start, word, size = columns.addresses[place], columns.words[place], columns.sizes[place]
            return arena, chunk_of(walk.state.abi, start, word, size, block.states[place])
    return None
