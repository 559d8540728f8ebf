"""Promise: tcache_key is found from the chunks that have it, or not at all."""

from __future__ import annotations

import struct

from gdbheap.elf import ElfImage, Segment
from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.generations import GENERATIONS
from gdbheap.ptmalloc.thread_locals import find_key, find_variables
from gdbheap.symbols import Struct

ABI = Abi(8, True)
KEY, TCACHE, CHUNKS, DATA, POINTER = 0x1234567890ABCDEF, 0x5010, 0x6000, 0x9000, 0x7000
GENERATION = next(one for one in GENERATIONS[8] if one.since == (2, 30))
LAYOUT = GENERATION.layout.tcache
IMAGE = ElfImage(0, 62, 8, True, (Segment(DATA, DATA + 64, True, False, 0, 32),), {}, "")


def memory(keys: list[int], data: list[int], entries: list[int] | None = None) -> Snapshot:
    """Return a tcache whose first bins have one chunk each, with these second words, and what libc's data holds."""
    assert isinstance(LAYOUT, Struct)
    fronts = entries or [CHUNKS + 32 * place for place in range(len(keys))]
    counts = [1] * len(fronts) + [0] * (64 - len(fronts))
    tcache = struct.pack("<64H64Q", *counts, *fronts, *[0] * (64 - len(fronts)))
    chunks = b"".join(struct.pack("<4Q", 0, key, 0, 0x21) for key in keys)
    words = struct.pack("<8Q", *data, *[0] * (8 - len(data)))
    return Snapshot(
        [
            (TCACHE - 16, struct.pack("<2Q", 0, 0x291) + tcache),
            (CHUNKS, chunks),
            (DATA, words),
            (POINTER, struct.pack("<2Q", TCACHE, 0)),
        ]
    )


def key_in(found: Snapshot) -> int | None:
    assert isinstance(LAYOUT, Struct)
    return find_key(found, ABI, LAYOUT, TCACHE, IMAGE)


def test_the_only_variable_that_holds_it() -> None:
    assert key_in(memory([KEY] * 3, [7, KEY, 9])) == DATA + 8


def test_chunks_that_were_written_to_after_their_free() -> None:
    assert key_in(memory([KEY, 0x41, KEY, KEY], [0x41, 0, KEY])) == DATA + 16
    assert key_in(memory([KEY, 0x41], [KEY])) is None, "one against one"


def test_what_does_not_tell() -> None:
    assert key_in(memory([], [KEY])) is None
    assert key_in(memory([KEY], [KEY, KEY])) is None, "two variables hold it"
    assert key_in(memory([KEY], [1, 2])) is None
    assert key_in(memory([TCACHE], [TCACHE])) is None, "up to glibc 2.33 it is the tcache's own address"


def test_a_damaged_tcache_is_one_where_nothing_else_can_be() -> None:
    """One bin that leads nowhere is damage; where most do, it is another struct."""
    for wrong, expected in ((0, 0), (1, 0), (8, 0), (9, None)):
        entries = [CHUNKS + (8 if place < wrong else 16 * place) for place in range(20)]
        found = find_variables(memory([], [], entries), ABI, (GENERATION,), (), (0, 8), [POINTER], None)
        assert found.tcache == expected, wrong
