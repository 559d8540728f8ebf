"""What an operation changed in the lists, the top chunk and the settings: two machines side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.bins import LAST_BIN
from gdbheap.simulate.machine import Machine

#: Chunks of a list that are compared at most: from its front on, and of the bins from the back as well.
SHOWN = 8


@dataclass(frozen=True)
class ListChange:
    """One list before and after an operation: chunks from its front on, each (address, size in bytes).

    ``kind`` is tcache, fastbin, unsorted, small or large, ``arena`` the address of the arena (None: a tcache's list).
    ``before_more`` and ``after_more`` say whether there are more chunks than are listed.
    """

    kind: str
    index: int
    arena: int | None
    before: tuple[tuple[int, int], ...]
    after: tuple[tuple[int, int], ...]
    before_more: bool
    after_more: bool


@dataclass(frozen=True)
class ValueChange:
    """A number of the allocator's before and after: a field of mp_, or of the arena ``arena``."""

    name: str
    arena: int | None
    before: int
    after: int


@dataclass(frozen=True)
class Comparison:
    """What an operation changed: lists, and numbers."""

    lists: tuple[ListChange, ...]
    values: tuple[ValueChange, ...]


def compare(before: Machine, after: Machine) -> Comparison:
    """Return what is different in ``after``, which operations have made of ``before``."""
    arenas = [before.main_arena, *(arena for arena in after.variables.numbers if arena != before.main_arena)]
    lists: list[ListChange] = [*_tcache_changes(before, after)]
    values: list[ValueChange] = []
    for arena in arenas:
        lists += _arena_changes(before, after, arena)
        values += _numbers(before, after, arena)
    old, new = before.params.values, after.params.values
    values += [ValueChange(name, None, old[name], value) for name, value in new.items() if value != old[name]]
    if before.variables.curbrk != after.variables.curbrk:
        values.append(ValueChange("break", None, before.variables.curbrk or 0, after.variables.curbrk or 0))
    return Comparison(tuple(lists), tuple(values))


def _numbers(before: Machine, after: Machine, arena: int) -> Iterator[ValueChange]:
    for name in ("top", "last_remainder", "system_mem", "max_system_mem"):
        place = arena + before.layout.state.fields[name].offset
        old, new = _word(before, place), _word(after, place)
        if old != new:
            yield ValueChange(name, arena, old, new)
    sizes = [_top_size(machine, arena) for machine in (before, after)]
    if sizes[0] != sizes[1]:
        yield ValueChange("top size", arena, *sizes)


def _word(machine: Machine, place: int) -> int:
    try:
        return machine.words[place]
    except MemoryFault:
        return 0


def _top_size(machine: Machine, arena: int) -> int:
    top = _word(machine, arena + machine.top_at)
    return _word(machine, top + machine.word_size) & -8 if top else 0


def _tcache_changes(before: Machine, after: Machine) -> Iterator[ListChange]:
    tcache = after.thread.tcache
    if tcache is None or tcache <= 0:
        return
    old = before if before.thread.tcache == tcache else None
    for index in range(after.entries_count):
        place = tcache + after.entries_at + index * after.word_size
        first = _word(old, place) if old is not None else 0
        if first != _word(after, place) or (first and index >= 64):
            fronts = [_tcache_list(machine, place) if machine is not None else ((), False) for machine in (old, after)]
            if fronts[0] != fronts[1]:
                yield ListChange("tcache", index, None, fronts[0][0], fronts[1][0], fronts[0][1], fronts[1][1])


#: Chunks of a list, and whether there are more.
_Front = tuple[tuple[tuple[int, int], ...], bool]


def _tcache_list(machine: Machine, place: int) -> _Front:
    entry = _word(machine, place)
    return _single(machine, entry, machine.header)


def _single(machine: Machine, pointer: int, offset: int) -> _Front:
    """Return the front of a list that is linked forwards only; links lead to ``offset`` bytes behind chunks."""
    found: list[tuple[int, int]] = []
    while pointer and len(found) < SHOWN:
        chunk = pointer - offset
        try:
            found.append((chunk, machine.size(chunk)))
            pointer = machine.reveal(chunk + machine.header)
        except MemoryFault:
            break
    return tuple(found), bool(pointer)


def _arena_changes(before: Machine, after: Machine, arena: int) -> Iterator[ListChange]:
    size = after.word_size
    for index in range(after.fastbin_count):
        place = arena + after.fastbins_at + index * size
        if _word(before, place) != _word(after, place):
            old, new = (_single(machine, _word(machine, place), 0) for machine in (before, after))
            yield ListChange("fastbin", index, arena, old[0], new[0], old[1], new[1])
    for index in range(1, LAST_BIN + 1):
        header = after.bin_at(arena, index)
        ends = [_word(machine, header + place * size) for machine in (before, after) for place in (2, 3)]
        if ends[:2] == ends[2:] and index not in after.touched:
            continue
        old, new = _double(before, header), _double(after, header)
        if old != new:
            kind = "unsorted" if index == 1 else "small" if index < before.first_large_bin else "large"
            yield ListChange(kind, index, arena, old[0], new[0], old[1], new[1])


def _double(machine: Machine, header: int) -> _Front:
    found: list[tuple[int, int]] = []
    chunk = _word(machine, header + 2 * machine.word_size)
    while chunk not in (header, 0) and len(found) < SHOWN:
        try:
            found.append((chunk, machine.size(chunk)))
            chunk = machine.words[chunk + 2 * machine.word_size]
        except MemoryFault:
            break
    return tuple(found), chunk not in (header, 0)
