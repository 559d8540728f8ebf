"""How _int_malloc (malloc/malloc.c) goes on where no list and no top chunk serves a request: sysmalloc."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import PREV_INUSE
from gdbheap.simulate.int_free import free_inner
from gdbheap.simulate.kernel_calls import absorb, finish_growth, run, state_of
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.state import GrowthState
from gdbheap.simulate.sysmalloc import ClosedTop, map_without_arena, sysmalloc


def from_kernel(machine: Machine, arena: int, nb: int) -> int | None:
    """Ask the kernel (sysmalloc)."""

    def settle(state: GrowthState, closed: ClosedTop) -> GrowthState:
        absorb(machine, before, state)
        _close(machine, arena, closed)
        return state_of(machine, arena)

    before = state_of(machine, arena or None)
    steps = sysmalloc(before, nb, settle) if arena else map_without_arena(before, nb)
    after, chunk, error = run(machine, before, steps)
    if chunk is None:
        if machine.steps is not None and error:
            machine.note("look", "sysmalloc", error)
        return None
    mapped = finish_growth(machine, before, after, chunk, nb)
    machine.source = "mapping" if mapped else "system"
    if machine.steps is not None:
        text = (
            f"The chunk is a mapping of its own, at {chunk:#x}."
            if mapped
            else f"The request is cut from the new top chunk, at {chunk:#x}."
        )
        machine.note("take", "sysmalloc", text, chunk)
    return chunk + machine.header


def _close(machine: Machine, arena: int, closed: ClosedTop) -> None:
    """End the old top chunk with fenceposts and free what is before them, as sysmalloc does."""
    words, size, header = machine.words, machine.word_size, machine.header
    top, rest = closed.arena.top, closed.rest
    fence = top + rest
    if arena == machine.main_arena:
        words[top + size] = rest | PREV_INUSE
        words[fence + size] = words[fence + header + size] = header | PREV_INUSE
    else:
        words[fence + header + size] = PREV_INUSE
        if rest < machine.min_size:
            words[top + size] = rest + header | PREV_INUSE
            words[fence + header] = rest + header
            return
        words[fence + size] = header | PREV_INUSE
        words[fence + header] = header
        words[top + size] = rest | PREV_INUSE | machine.flag(arena)
    if machine.steps is not None:
        machine.note(
            "move",
            "sysmalloc",
            f"The new memory does not follow the old top chunk at {top:#x}: fenceposts end it, and {rest:#x} bytes of "
            "it are free.",
            top,
        )
    if rest >= machine.min_size:
        free_inner(machine, arena, top)
