"""How memalign of glibc 2.38.0 looks through bins for a chunk that an aligned one fits in (malloc/malloc.c).

Later fixes of 2.38 took that out again (glibc's bug 30723).
"""

from __future__ import annotations

from gdbheap.ptmalloc.abi import PREV_INUSE, round_up
from gdbheap.ptmalloc.bins import bin_index
from gdbheap.simulate.machine import Machine

_FUNCTION = "_int_memalign"
#: Chunks of one bin that are followed at most, until it is taken for a loop.
_MOST = 1 << 20


def take_from_bins(machine: Machine, arena: int, alignment: int, nb: int) -> int | None:
    """Take a chunk that has room for ``nb`` bytes at a multiple of ``alignment`` out of its bin, as a whole.

    The bins are those from that of ``nb`` up to, and without, that of twice as much. Return the chunk, marked as used,
    or None where they have none. Raises Abort where a chunk is not aligned, and Unpredictable where a bin is a loop.
    """
    first, end = bin_index(machine.abi, nb), bin_index(machine.abi, 2 * nb)
    for index in range(first, end):
        small = index < machine.first_large_bin
        chunk = (_from_small if small else _from_large)(machine, arena, alignment, nb, index)
        if chunk is None:
            continue
        words, length = machine.words, machine.size(chunk)
        words[chunk + length + machine.word_size] |= PREV_INUSE
        words[chunk + machine.word_size] |= machine.flag(arena)
        if machine.steps is not None:
            machine.touched.add(index)
            machine.note(
                "take",
                _FUNCTION,
                f"Bin {index} of {machine.name(arena)} has a chunk of {length:#x} bytes with room for {nb:#x} at a "
                f"multiple of {alignment:#x}.",
                chunk,
            )
        return chunk
    if machine.steps is not None and first < end:
        machine.note(
            "look",
            _FUNCTION,
            f"No chunk in the bins from {first} to {end - 1} has room for {nb:#x} bytes at a multiple of "
            f"{alignment:#x}.",
        )
    return None


def _from_small(machine: Machine, arena: int, alignment: int, nb: int, index: int) -> int | None:
    """Unlink the first chunk of a small bin that does; nothing is checked."""
    words, size = machine.words, machine.word_size
    header = machine.bin_at(arena, index)
    chunk, visited = words[header + 2 * size], 0
    while chunk != header:
        if _waste(machine, chunk, alignment, nb, index) > 0:
            fd, bk = words[chunk + 2 * size], words[chunk + 3 * size]
            words[fd + 3 * size], words[bk + 2 * size] = bk, fd
            return chunk
        chunk, visited = _next(machine, chunk, visited, index)
    return None


def _from_large(machine: Machine, arena: int, alignment: int, nb: int, index: int) -> int | None:
    """Unlink the chunk of a large bin that leaves the fewest bytes over, the last one of several."""
    words, size = machine.words, machine.word_size
    header = machine.bin_at(arena, index)
    chunk, visited = words[header + 2 * size], 0
    best, least = None, 0
    while chunk != header and machine.size(chunk) >= nb:
        waste = _waste(machine, chunk, alignment, nb, index)
        if waste > 0 and (best is None or waste <= least):
            best, least = chunk, waste
        chunk, visited = _next(machine, chunk, visited, index)
    if best is not None:
        machine.unlink("unlink_chunk", best)
    return best


def _next(machine: Machine, chunk: int, visited: int, index: int) -> tuple[int, int]:
    if visited >= _MOST:
        raise machine.loop(f"Bin {index}")
    return machine.words[chunk + 2 * machine.word_size], visited + 1


def _waste(machine: Machine, chunk: int, alignment: int, nb: int, index: int) -> int:
    """Return how many bytes of a chunk would be left over, 1 where it fits exactly, 0 where it has no room.

    chunk_ok_for_memalign.
    """
    pointer, length = chunk + machine.header, machine.size(chunk)
    if pointer & machine.align_mask:
        raise machine.abort(
            _FUNCTION,
            "_int_memalign(): unaligned chunk detected",
            f"the chunk at {chunk:#x} in bin {index} is not aligned",
        )
    lead = round_up(pointer, alignment) - pointer
    if 0 < lead < machine.min_size:
        return 0
    if length == nb and not lead:
        return 1
    return length - nb if length > nb + lead else 0
