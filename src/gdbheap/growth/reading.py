"""The allocator's own variables as they were at a system call: bytes at first, decoded when someone asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena, decode_arena
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import decode_params
from gdbheap.simulate.state import GrowthState, Release


@dataclass(frozen=True)
class ProcessFacts:
    """What is the same at every event of a process: how its allocator is laid out, and where."""

    abi: Abi
    layout: Layout
    release: Release
    mp: int
    always_fail_morecore: bool | None = None


@dataclass(eq=False)
class Reading:
    """What was read while the program waited; not frozen, since that makes it quicker to make.

    ``params`` and ``arena`` are the bytes of mp_ and of the malloc_state at ``address`` (None where no arena takes
    part), whose number is ``number`` and whose top chunk has ``top_size`` bytes. ``others`` are further fields of
    GrowthState, by name.
    """

    facts: ProcessFacts
    params: bytes
    curbrk: int | None
    address: int = 0
    number: int = 0
    arena: bytes | None = None
    top_size: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> GrowthState:
        """The state that sysmalloc and its like look at."""
        facts, arena = self.facts, None
        if self.arena is not None:
            arena = self._decode_arena(self.arena)
        return GrowthState(
            abi=facts.abi,
            params=decode_params(facts.abi, facts.layout, facts.mp, self.params),
            arena=arena,
            curbrk=self.curbrk,
            release=facts.release,
            heap_info_size=None if facts.layout.heap_info is None else facts.layout.heap_info.size,
            malloc_state_size=facts.layout.state.size,
            always_fail_morecore=facts.always_fail_morecore,
            **self.others,
        )

    def _decode_arena(self, data: bytes) -> Arena:
        return decode_arena(self.facts.abi, self.facts.layout, self.address, self.number, data, self.top_size)

    @property
    def arena_name(self) -> str | None:
        """The arena's name, None where no arena takes part."""
        if self.arena is None:
            return None
        return "main_arena" if self.number == 0 else f"arena {self.number}"
