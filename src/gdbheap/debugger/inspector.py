"""Looks at the chunk that holds an address: all that 'heap chunk' tells of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import gdb

from gdbheap.debugger import model, session
from gdbheap.debugger.allocating import read_machine
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.tcaches import key_of, read_thread_tcaches
from gdbheap.debugger.whereabouts import class_of, elsewhere, lacks, stack_owner, stack_pointers, symbol_at
from gdbheap.mappings import MappedRange, range_of
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.account import search_mmapped
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.chunk import TCACHE, USED, Chunk
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.holder import Found, Holder, extent, find_holders, why_unknown_after, why_unknown_before
from gdbheap.ptmalloc.inspection import Inspection, Listed, Mapping, WordNote
from gdbheap.ptmalloc.lists import ChunkList, arena_list, position_of, tcache_lists
from gdbheap.ptmalloc.mmapped import MmappedChunk, MmappedChunks
from gdbheap.ptmalloc.mmapped import holder as mmapped_holder
from gdbheap.ptmalloc.place import Place, arena_place, heap_holding, lost_heap_place, plan_of, struct_place
from gdbheap.ptmalloc.problems import Problems
from gdbheap.ptmalloc.regions import Plan, regions
from gdbheap.ptmalloc.walk import Membership, membership
from gdbheap.simulate.free_chunk import Foretold, foretell

#: How much is fetched at once while lists are followed, in bytes: their chunks lie scattered.
_CACHED = 0x4000
#: A number below this is no pointer: nothing is mapped there.
_FIRST_POINTER = 0x1000
#: What malloc keeps in the first words of a free chunk, by the kind of its list.
_LINKS = {
    "tcache": ("next", "key"),
    "fastbin": ("fd",),
    "unsorted": ("fd", "bk"),
    "small": ("fd", "bk"),
    "large": ("fd", "bk", "fd_nextsize", "bk_nextsize"),
}


@dataclass(frozen=True)
class _Arena:
    """What is known of one arena's chunks before a walk."""

    plan: Plan
    lists: tuple[ChunkList, ...]
    free: Membership


class Inspector:
    """Answers questions about addresses of the process as it is now."""

    def __init__(self) -> None:
        self._state = model.read_state()
        self._target = session.target()
        self._facts = model.free_facts()
        self._memory = self._target.memory
        self._pages = PageCache(self._memory, _CACHED)
        state = self._state
        self._plans = [
            regions(
                state.abi,
                state.layout,
                state.params,
                arena,
                state.heaps.get(arena.address, HeapChain(())),
                self._facts.known_starts,
            )
            for arena in state.ring.arenas
        ]
        self._arenas: dict[int, _Arena] = {}

    @cached_property
    def _ranges(self) -> tuple[MappedRange, ...]:
        return mapped_ranges()

    @cached_property
    def _threads(self) -> list[tuple[int, tuple[ChunkList, ...], int]]:
        """The tcaches: the thread's number, its lists, the address of the chunk that it lives in."""
        state, found = self._state, []
        for item in read_thread_tcaches(self._target):
            if item.tcache is not None:
                lists = tcache_lists(state.params, state.layout, item.tcache)
                found.append((item.thread, lists, item.tcache.chunk))
        return found

    @cached_property
    def _mmapped(self) -> MmappedChunks:
        walked = [extent(self._plans[0], region) for region in self._plans[0].regions]
        return search_mmapped(self._memory, self._state, self._ranges, walked)

    @cached_property
    def _stacks(self) -> dict[int, int]:
        return stack_pointers()

    def _arena(self, plan: Plan) -> _Arena:
        found = self._arenas.get(plan.arena.address)
        if found is None:
            abi, layout = self._state.abi, self._state.layout
            lists = read_free_lists(self._pages, abi, layout, plan.arena, self._facts.safe_linking)
            free = membership(lists, self._facts.tcaches)
            found = _Arena(plan, tuple(arena_list(abi, item) for item in lists), free)
            self._arenas[plan.arena.address] = found
        return found

    def _find(self, plan: Plan, addresses: Iterable[int]) -> Found:
        own = [tcache.chunk for tcache in self._facts.tcaches]
        start, end = self._span(plan)
        known = [chunk for chunk in own if start <= chunk < end]
        return find_holders(self._memory, self._state.abi, plan, self._arena(plan).free, addresses, known)

    def _span(self, plan: Plan) -> tuple[int, int]:
        spans = [extent(plan, region) for region in plan.regions]
        return min((start for start, _ in spans), default=0), max((end for _, end in spans), default=0)

    def inspect(self, address: int, size: int) -> Inspection | Place:
        """Return the chunk that holds ``address``, with ``size`` bytes of its content; or else what is there."""
        own = struct_place(self._state, address)
        if own is not None:
            return own
        if lacks(self._ranges, address):
            mapping = range_of(self._ranges, address)
            return Place(
                "missing", "The process had memory there, but the core file does not hold it.", mapping=mapping
            )
        plan = plan_of(self._state, self._plans, address)
        if plan is not None:
            found = self._find(plan, [address])
            holder = found.holders.get(address)
            if holder is not None:
                return self._of_arena(address, holder, found, size)
            return arena_place(self._state, plan, found.gaps, found.problems, address)
        mapping = range_of(self._ranges, address)
        if mapping is not None and mapping.may_be_heap and self._state.params.get("n_mmaps") > 0:
            chunk = mmapped_holder(self._mmapped.chunks, address)
            if chunk is not None:
                return self._of_mapping(address, chunk, size)
        lost = lost_heap_place(self._memory, self._state, address)
        return elsewhere(self._ranges, address) if lost is None else lost

    def foretell(self, pointers: Iterable[int]) -> tuple[Foretold, ...]:
        """Return what free of each pointer would do if the selected thread called it now."""
        thread = gdb.selected_thread()
        if thread is None:
            return ()
        try:
            machine = read_machine(thread)
        except TargetError as error:
            return tuple(Foretold(pointer, (), (), None, str(error)) for pointer in pointers)
        return tuple(foretell(machine, pointer) for pointer in pointers)

    def _of_arena(self, address: int, holder: Holder, found: Found, size: int) -> Inspection:
        arena, chunk = holder.arena, holder.chunk
        inside = heap_holding(self._state, address)
        problems = Problems()
        if self._state.ring.problem is not None:
            problems.add(self._state.ring.problem)
        if chunk.state == "used":  # or on a list that could not be read
            problems.extend(self._facts.problems)
        plan = self._arenas[arena.address].plan
        problems.extend(plan.problems)
        near = {f"{item.address:#x}" for item in (holder.before, chunk, holder.after) if item is not None}
        lists = self._arenas[arena.address]
        for text in (*found.problems, *lists.free.problems):
            # What is wrong elsewhere in the arena is for 'heap' to tell.
            if any(place in text for place in near):
                problems.add(text)
        listed = self._listed(lists, chunk)
        start, content = self._content(address, chunk, chunk.request_max if chunk.state != "fencepost" else 0, size)
        return Inspection(
            address=address,
            chunk=chunk,
            word=self._state.abi.read_word(self._memory, chunk.address + self._state.abi.word_size),
            usable=chunk.request_max,
            arena=arena,
            threads=tuple(model.threads_of_arenas(self._state).get(arena.address, ())),
            heap=None if inside is None else inside[1],
            mapping=None,
            before=holder.before,
            after=holder.after,
            listed=listed,
            purpose=self._purpose(holder),
            content_start=start,
            content=content,
            notes=self._notes(chunk, listed, start, content),
            resumed=holder.resumed,
            problems=problems.texts(),
            why_no_before=why_unknown_before(holder, found),
            why_no_after=why_unknown_after(holder, found),
        )

    def _of_mapping(self, address: int, found: MmappedChunk, size: int) -> Inspection:
        chunk = self._mmapped_chunk(found)
        usable = chunk.request_max
        listed = self._in_tcache(chunk)
        start, content = self._content(address, chunk, usable, size)
        problem = self._mmapped.problem
        return Inspection(
            address=address,
            chunk=chunk,
            word=found.word,
            usable=usable,
            arena=None,
            threads=(),
            heap=None,
            mapping=Mapping(found.block, found.length),
            before=None,
            after=None,
            listed=listed,
            purpose=None,
            content_start=start,
            content=content,
            notes=self._notes(chunk, listed, start, content),
            resumed=None,
            problems=() if problem is None else (problem,),
        )

    def _listed(self, arena: _Arena, chunk: Chunk) -> Listed | None:
        if chunk.state == "tcache":
            return self._in_tcache(chunk)
        found = position_of(arena.lists, chunk.address)
        return None if found is None else Listed(*found, None)

    def _in_tcache(self, chunk: Chunk) -> Listed | None:
        if chunk.state == "tcache":
            for thread, lists, _ in self._threads:
                found = position_of(lists, chunk.address)
                if found is not None:
                    return Listed(*found, thread)
        return None

    def _mmapped_chunk(self, found: MmappedChunk) -> Chunk:
        # From glibc 2.43 on a tcache may keep such a chunk.
        cached = any(found.address in tcache.chunks for tcache in self._facts.tcaches)
        return found.row(self._state.abi, TCACHE if cached else USED)

    def _purpose(self, holder: Holder) -> str | None:
        chunk = holder.chunk
        if any(tcache.chunk == chunk.address for tcache in self._facts.tcaches):
            for thread, _, own in self._threads:
                if own == chunk.address:
                    return f"It holds the tcache of thread {thread}: malloc's own lists of that thread's free chunks."
        if chunk.state == "unsorted" and holder.arena.last_remainder == chunk.address:
            return f"It is last_remainder of {holder.arena.name}: what the last small request left of a split chunk."
        return None

    def _content(self, address: int, chunk: Chunk, usable: int, size: int) -> tuple[int, bytes]:
        """Return where the shown content begins and its bytes: from the user pointer on, or around the address."""
        start = chunk.pointer
        if address >= start + size:
            start += (address - start) // 16 * 16
        length = max(min(size, chunk.pointer + usable - start), 0)
        try:
            return start, self._memory.read(start, length) if length else b""
        except MemoryFault:
            return start, b""

    def _notes(self, chunk: Chunk, listed: Listed | None, start: int, content: bytes) -> tuple[WordNote, ...]:
        abi = self._state.abi
        words = abi.words(content)
        notes: list[WordNote] = []
        values: list[tuple[int, int]] = []
        links = _LINKS[listed.list.kind] if listed is not None else ()
        offset = start - chunk.pointer
        for value in words:
            place = offset // abi.word_size
            if place < len(links):
                notes.append(self._link_note(offset, int(value), links[place], listed))
            elif value >= _FIRST_POINTER:
                values.append((offset, int(value)))
            offset += abi.word_size
        holders = self._chunks_of([value for _, value in values])
        for offset, value in values:
            note = self._pointer_note(chunk, offset, value, holders)
            if note is not None:
                notes.append(note)
        return tuple(sorted(notes, key=lambda note: note.offset))

    def _link_note(self, offset: int, value: int, name: str, listed: Listed | None) -> WordNote:
        assert listed is not None
        if name == "key":
            return WordNote(offset, value, "link", self._key_text(value, listed.thread))
        text = f"{name}: "
        following = value
        if listed.list.is_single and self._facts.safe_linking:
            following = value ^ (listed.list.addresses[listed.position - 1] + self._state.abi.header >> 12)
            text += f"{following:#x}, hidden by safe-linking; " if following else "hidden by safe-linking; "
        if following == 0:
            return WordNote(
                offset, value, "link", f"{text}there is none" if "next" in name else f"{text}the end of the list"
            )
        pointed = following - (self._state.abi.header if listed.list.kind == "tcache" else 0)
        if pointed in listed.list.addresses:
            position = listed.list.addresses.index(pointed) + 1
            return WordNote(offset, value, "link", f"{text}the chunk at {pointed:#x}, number {position}", pointed)
        own = struct_place(self._state, following + self._state.abi.header)
        if own is not None and own.kind == "arena":
            return WordNote(offset, value, "link", f"{text}the list itself, in {own.arena.name if own.arena else ''}")
        return WordNote(offset, value, "link", f"{text}no chunk of this list")

    def _key_text(self, value: int, thread: int | None) -> str:
        """Return what the word is where a chunk in the tcache of ``thread`` has its key."""
        own = next((address for number, _, address in self._threads if number == thread), None)
        expected = key_of(self._target, None if own is None else own + self._state.abi.header)
        if expected is None:
            return "the word behind the link: this glibc has no key there, or it is not known"
        if value == expected:
            return "key: what free knows a chunk in a tcache by"
        return f"key: it should be {expected:#x}; with another, free does not see that the chunk is in a tcache already"

    def _chunks_of(self, values: Sequence[int]) -> dict[int, Chunk]:
        """Return the chunks that pointers lead into: one walk for each arena that any of them is in."""
        found: dict[int, Chunk] = {}
        by_plan: dict[int, list[int]] = {}
        for value in values:
            plan = plan_of(self._state, self._plans, value)
            if plan is not None:
                by_plan.setdefault(self._plans.index(plan), []).append(value)
                continue
            mapping = range_of(self._ranges, value)
            if mapping is None or not mapping.may_be_heap or not self._state.params.get("n_mmaps"):
                continue
            mmapped = mmapped_holder(self._mmapped.chunks, value)
            if mmapped is not None:
                found[value] = self._mmapped_chunk(mmapped)
        for index, addresses in by_plan.items():
            holders = self._find(self._plans[index], addresses).holders
            found.update((address, holder.chunk) for address, holder in holders.items())
        return found

    def _pointer_note(self, own: Chunk, offset: int, value: int, holders: dict[int, Chunk]) -> WordNote | None:
        chunk = holders.get(value)
        if chunk is not None:
            inside = value - chunk.pointer
            where = f"{inside:#x} bytes into " if inside > 0 else "the header of " if inside < 0 else ""
            what = "this chunk" if chunk.address == own.address else f"the chunk at {chunk.address:#x}"
            described = "" if chunk.address == own.address else f", {chunk.size:#x} bytes, {chunk.state}"
            return WordNote(offset, value, "chunk", f"{where}{what}{described}", chunk.address)
        mapping = range_of(self._ranges, value)
        if mapping is None and self._ranges:
            return None
        thread = stack_owner(self._ranges, self._stacks, value)
        if thread is not None:
            return WordNote(offset, value, "stack", f"the stack of thread {thread}")
        place = struct_place(self._state, value)
        symbol = symbol_at(value)
        if symbol is None:
            return None if place is None else WordNote(offset, value, "symbol", place.text[len("It is ") : -1])
        name = class_of(symbol)
        if name is not None:
            return WordNote(offset, value, "symbol", f"{symbol}: an object of the class {name}", type_name=name)
        return WordNote(offset, value, "symbol", symbol)
