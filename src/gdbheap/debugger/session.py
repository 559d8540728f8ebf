"""The facts about the target that stay true from one command to the next, dropped as soon as they might not."""

from __future__ import annotations

from typing import Any

import gdb

from gdbheap.debugger.target import Target, find_target
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.arena import read_arenas

_targets: dict[tuple[int, int], Target] = {}
_numbers: dict[int, int] = {}  # an arena's address -> its number; arenas are never destroyed
_connected = False


def drop(event: Any = None) -> None:
    """Forget everything, because libraries came or went, the process ended, or an address was given by hand."""
    _targets.clear()
    _numbers.clear()


def target() -> Target:
    """Return the facts about the selected inferior; raise TargetError where it has no glibc heap."""
    global _connected
    if not _connected:
        for registry in (gdb.events.new_objfile, gdb.events.clear_objfiles, gdb.events.exited):
            registry.connect(drop)
        _connected = True
    inferior = gdb.selected_inferior()
    key = (inferior.num, inferior.pid)
    found = _targets.get(key)
    if found is None or found.is_outdated:
        found = _targets[key] = find_target()
    return found


def arena_number(target: Target, address: int) -> int:
    """Return the number of the arena at ``address``: 0 for main_arena.

    Raises MemoryFault where no arena of the ring is there.
    """
    if address == target.main_arena:
        return 0
    if address not in _numbers:
        ring = read_arenas(target.memory, target.abi, target.layout, target.main_arena)
        _numbers.update((arena.address, arena.number) for arena in ring.arenas)
    if address not in _numbers:
        raise MemoryFault(address, target.layout.state.size, "no arena of the ring is there")
    return _numbers[address]
