"""The allocator's own variables as they were at a system call: bytes at first, decoded when someone asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena, attached_threads, decode_arena
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import Params, decode_params
from gdbheap.simulate.arena_choice import ArenaFacts
from gdbheap.simulate.state import GrowthState, Release


@dataclass(frozen=True)
class ProcessFacts:
    """What is the same at every event of a process: how its allocator is laid out, and where."""

    abi: Abi
    layout: Layout
    release: Release
    mp: int
    main_arena: int
    always_fail_morecore: bool | None = None


class ArenaVariables(NamedTuple):
    """What decides on the arena that a thread uses, as it was read.

    ``single`` says whether glibc knows of one thread only (None: unknown). ``narenas``, ``narenas_limit`` and
    ``free_list`` are the bytes of the variables of those names, empty where there are none. ``thread_arena`` is the
    calling thread's, None where it was not read. ``living`` are the threads that there were, each (GDB's number, the
    kernel's); None where that was not looked up, which is only done where several share the arena.
    """

    single: bool | None
    narenas: bytes
    narenas_limit: bytes
    free_list: bytes
    thread_arena: int | None = None
    living: tuple[tuple[int, int], ...] | None = None


#: What Reading.others is where an arena has nothing further.
NO_OTHERS: Mapping[str, Any] = MappingProxyType({})


class Reading(NamedTuple):
    """What was read while the program waited.

    ``params`` and ``arena`` are the bytes of mp_ and of the malloc_state at ``address`` (None where no arena takes
    part), whose number is ``number`` and whose top chunk has ``top_size`` bytes. ``others`` are further fields of
    GrowthState, by name. ``choosing`` is what decides on the arena, None where that was not read.
    """

    facts: ProcessFacts
    params: bytes
    curbrk: int | None
    address: int = 0
    number: int = 0
    arena: bytes | None = None
    top_size: int | None = None
    others: Mapping[str, Any] = NO_OTHERS
    choosing: ArenaVariables | None = None

    @property
    def state(self) -> GrowthState:
        """The state that sysmalloc and its like look at."""
        facts, arena = self.facts, None
        if self.arena is not None:
            arena = self._decode_arena(self.arena)
        return GrowthState(
            abi=facts.abi,
            params=self.decoded_params,
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
    def decoded_params(self) -> Params:
        """The fields of mp_."""
        return decode_params(self.facts.abi, self.facts.layout, self.facts.mp, self.params)

    @property
    def arena_facts(self) -> ArenaFacts | None:
        """What decides on the arena that the calling thread uses, None where that was not read."""
        found = self.choosing
        if found is None:
            return None
        facts, params = self.facts, self.decoded_params

        def number(data: bytes) -> int | None:
            return int.from_bytes(data, facts.abi.byte_order) if data else None

        return ArenaFacts(
            main_arena=facts.main_arena,
            word_size=facts.abi.word_size,
            arena_max=params.get("arena_max"),
            arena_test=params.get("arena_test"),
            single=found.single,
            asks_single=facts.layout.asks_single_thread,
            thread_arena=found.thread_arena,
            free_list=number(found.free_list),
            narenas=number(found.narenas),
            narenas_limit=number(found.narenas_limit),
        )

    @property
    def attached_threads(self) -> int | None:
        """How many threads use the arena, by its own count; None where no arena takes part."""
        return None if self.arena is None else attached_threads(self.facts.abi, self.facts.layout, self.arena)

    @property
    def arena_name(self) -> str | None:
        """The arena's name, None where no arena takes part."""
        if self.arena is None:
            return None
        return "main_arena" if self.number == 0 else f"arena {self.number}"
