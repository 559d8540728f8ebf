"""What _int_malloc (malloc/malloc.c) does with unsorted chunks: checks, the last remainder, and the place in a bin."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import PREV_INUSE
from gdbheap.ptmalloc.bins import bin_index
from gdbheap.simulate.circle import Circle
from gdbheap.simulate.machine import Machine

_FUNCTION = "_int_malloc"


def check_unsorted(
    machine: Machine, unsorted: int, victim: int, back: int, length: int, system_mem: int, told: bool
) -> None:
    """Check an unsorted chunk before anything is done with it; ``told`` keeps a step where all is well."""
    words, size = machine.words, machine.word_size
    if not machine.checks_merge:
        word = words[victim + size]
        if word <= machine.header or word > system_mem:
            raise machine.abort(
                _FUNCTION,
                "malloc(): memory corruption",
                f"the unsorted chunk at {victim:#x} has the size word {word:#x}",
            )
        return
    following = victim + length
    if length <= machine.header or length > system_mem:
        message, reason = (
            "malloc(): invalid size (unsorted)",
            f"the unsorted chunk at {victim:#x} has the size word {words[victim + size]:#x}, and system_mem is "
            f"{system_mem:#x}",
        )
        raise machine.abort(_FUNCTION, message, reason)
    word = words[following + size]
    if word < machine.header or word > system_mem:
        raise machine.abort(
            _FUNCTION,
            "malloc(): invalid next size (unsorted)",
            f"the size word of the chunk behind the unsorted one at {victim:#x} is {word:#x}",
        )
    if words[following] & -8 != length:
        raise machine.abort(
            _FUNCTION,
            "malloc(): mismatching next->prev_size (unsorted)",
            f"the unsorted chunk at {victim:#x} has {length:#x} bytes, but prev_size of the one behind it is "
            f"{words[following]:#x}",
        )
    if words[back + 2 * size] != victim or words[victim + 2 * size] != unsorted:
        raise machine.abort(
            _FUNCTION,
            "malloc(): unsorted double linked list corrupted",
            f"fd {words[victim + 2 * size]:#x} and bk {back:#x} of the unsorted chunk at {victim:#x} do not fit its "
            "neighbours on the list",
        )
    if word & PREV_INUSE:
        raise machine.abort(
            _FUNCTION,
            "malloc(): invalid next->prev_inuse (unsorted)",
            f"PREV_INUSE is set in the chunk behind the unsorted one at {victim:#x}",
        )
    if told:
        machine.note(
            "check",
            _FUNCTION,
            f"The unsorted chunk at {victim:#x} has a size, {length:#x}, that fits system_mem, its links and prev_size "
            "behind it agree with it, and PREV_INUSE is clear there.",
            victim,
        )


def split_remainder(machine: Machine, arena: int, unsorted: int, victim: int, length: int, nb: int) -> int:
    """Cut ``nb`` bytes from the last remainder, the only unsorted chunk; return the pointer."""
    words, size = machine.words, machine.word_size
    rest = victim + nb
    left = length - nb
    words[unsorted + 2 * size] = words[unsorted + 3 * size] = rest
    words[arena + machine.remainder_at] = rest
    words[rest + 2 * size] = words[rest + 3 * size] = unsorted
    if left >= machine.min_large:
        words[rest + 4 * size] = words[rest + 5 * size] = 0
    words[victim + size] = nb | PREV_INUSE | machine.flag(arena)
    words[rest + size] = left | PREV_INUSE
    words[rest + left] = left
    if machine.steps is not None:
        machine.note(
            "take",
            _FUNCTION,
            f"The only unsorted chunk, at {victim:#x}, is the last remainder and has {length:#x} bytes, more than nb "
            f"{nb:#x} plus MINSIZE: the request is cut from it, and {left:#x} bytes at {rest:#x} stay unsorted.",
            victim,
        )
    machine.source = "last-remainder"
    return victim + 2 * size


def sort_chunk(machine: Machine, arena: int, victim: int, length: int, told: bool) -> None:
    """Put a chunk from the unsorted list into its bin; ``told`` keeps a step of it."""
    words, size = machine.words, machine.word_size
    index = bin_index(machine.abi, length)
    back = machine.bin_at(arena, index)
    forward = words[back + 2 * size]
    if length >= machine.min_large:
        if forward == back:
            words[victim + 4 * size] = words[victim + 5 * size] = victim
        else:
            back, forward = _large_place(machine, back, forward, victim, length)
    machine.mark_bin(arena, index)
    words[victim + 3 * size] = back
    words[victim + 2 * size] = forward
    words[forward + 3 * size] = victim
    words[back + 2 * size] = victim
    if machine.steps is not None:
        machine.touched.add(index)
    if told:
        kind = "small" if length < machine.min_large else "large"
        machine.note(
            "move",
            _FUNCTION,
            f"The unsorted chunk at {victim:#x} has {length:#x} bytes and is sorted into {kind} bin {index}.",
            victim,
        )


def _large_place(machine: Machine, header: int, first: int, victim: int, length: int) -> tuple[int, int]:
    """Return the chunks between which a chunk belongs in its large bin, and link it to those of other sizes."""
    words, size = machine.words, machine.word_size
    word = length | PREV_INUSE
    last = words[header + 3 * size]
    if word < words[last + size]:
        larger = words[first + 5 * size]
        if machine.counts_down and words[larger + 4 * size] != first:
            raise _broken(machine, "nextsize", first)
        words[victim + 4 * size] = first
        words[victim + 5 * size] = larger
        words[first + 5 * size] = victim
        words[larger + 4 * size] = victim
        return last, header
    forward, circle = first, Circle(machine, "The list of sizes in a large bin")
    while word < words[forward + size]:
        circle.visit(forward)
        forward = words[forward + 4 * size]
    if word == words[forward + size]:
        forward = words[forward + 2 * size]
    else:
        larger = words[forward + 5 * size]
        words[victim + 4 * size] = forward
        words[victim + 5 * size] = larger
        if words[larger + 4 * size] != forward and machine.checks_largebins:
            raise _broken(machine, "nextsize", forward)
        words[forward + 5 * size] = victim
        words[larger + 4 * size] = victim
    back = words[forward + 3 * size]
    if words[back + 2 * size] != forward and machine.checks_largebins:
        raise _broken(machine, "bk", forward)
    return back, forward


def _broken(machine: Machine, which: str, chunk: int) -> Exception:
    return machine.abort(
        _FUNCTION,
        f"malloc(): largebin double linked list corrupted ({which})",
        f"{'bk_nextsize' if which == 'nextsize' else 'bk'} of the chunk at {chunk:#x} does not lead back to it",
    )
