"""tcache and thread_arena of each thread, where nothing tells how far they are from the thread pointer.

libc's own code finds such a variable through a word that the loader filled in with its distance. Which of these few
distances is whose follows from what the threads have there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from gdbheap.elf import ElfImage, thread_offset_slots
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, Abi, round_up
from gdbheap.ptmalloc.generations import Generation
from gdbheap.symbols import Struct

#: Bytes of a program's thread-local variables that are looked through at most.
_MOST_LOCALS = 1 << 16
#: Bins of a tcache that may be damaged: one corrupt list does not make it another struct.
_MOST_WRONG = 8
#: Bins of a tcache whose first chunk is asked for the key.
_MOST_SAMPLES = 9
#: Bytes below the thread pointer that are looked through where no table tells where libc's variables are.
NEAR = 0x1000
_EM_386, _EM_X86_64, _EM_AARCH64 = 3, 62, 183


@dataclass(frozen=True)
class ThreadVariables:
    """How far libc's thread-local variables are from the thread pointer; None for one that was not found.

    ``generation`` is the one whose tcache it is, None where there is none to tell.
    """

    tcache: int | None
    thread_arena: int | None
    generation: Generation | None


def distances(memory: Memory, image: ElfImage, is_program: bool) -> tuple[int, ...]:
    """Return the distances from the thread pointer at which ``image`` has thread-local variables.

    A program, as one that is linked statically, has its own right beside the thread pointer; a library's loader has
    filled them in. Raises MemoryFault where the table of relocations is unreadable.
    """
    word = image.word_size
    if is_program:
        found = image.thread_locals
        if found is None or not found.size:
            return ()
        size = min(round_up(found.size, found.alignment), _MOST_LOCALS)
        if image.machine == _EM_AARCH64:  # behind it, after the two words of the thread control block
            first = round_up(2 * word, found.alignment)
            return tuple(range(first, first + size, word))
        return tuple(range(-size, 0, word))
    order = "little" if image.little_endian else "big"
    values = set()
    for slot in thread_offset_slots(memory, image):
        try:
            data = memory.read(slot, word)
        except MemoryFault:
            continue
        value = int.from_bytes(data, "little" if order == "little" else "big", signed=True)
        values.add(value)
        if image.machine == _EM_AARCH64:  # neighbours share one such word there
            values.update((value - word, value + word))
    return tuple(sorted(value for value in values if value % word == 0))


def near_distances(image: ElfImage) -> tuple[int, ...]:
    """Return the distances at which a library that was loaded with the program can have thread-local variables.

    On x86 they lie below the thread pointer (glibc's TLS_TCB_AT_TP); elsewhere there are none to return.
    """
    return tuple(range(-NEAR, 0, image.word_size)) if image.machine in (_EM_386, _EM_X86_64) else ()


def are_of_one_block(found: ThreadVariables, image: ElfImage) -> bool:
    """Return whether both variables were found, no further apart than ``image``'s thread-local variables reach."""
    if found.tcache is None or found.thread_arena is None or image.thread_locals is None:
        return False
    return abs(found.tcache - found.thread_arena) < image.thread_locals.size


def find_variables(
    memory: Memory,
    abi: Abi,
    generations: Sequence[Generation],
    arenas: Collection[int],
    offsets: Sequence[int],
    pointers: Iterable[int],
    dummy: int | None,
) -> ThreadVariables:
    """Return which of ``offsets`` are whose, judged by all threads, whose thread pointers are ``pointers``.

    ``arenas`` are the addresses of all arenas. A variable is only found where exactly one distance is right for it in
    every thread, and not merely unused in all of them.
    """
    threads = list(pointers)
    columns: dict[int, list[int]] = {}
    for offset in offsets:
        try:
            columns[offset] = [abi.read_word(memory, pointer + offset) for pointer in threads]
        except MemoryFault:
            continue
    arena = [
        offset
        for offset, values in columns.items()
        if any(values) and all(value == 0 or value in arenas for value in values)
    ]
    found: list[tuple[int, Generation]] = []
    for most_wrong in (0, _MOST_WRONG):  # a damaged one only where none is sound
        for generation in () if found else generations:
            tcache = generation.layout.tcache
            if tcache is None or any(tcache == other.layout.tcache for _, other in found):
                continue
            for offset, values in columns.items():
                used = [value for value in values if value and not _is_dummy(value, dummy, tcache)]
                none = len(used) < len(values) and dummy is not None and any(values) and not used
                if (used or none) and all(_is_tcache(memory, abi, tcache, value, most_wrong) for value in used):
                    found.append((offset, generation))
    tcaches = {offset for offset, _ in found}
    return ThreadVariables(
        tcaches.pop() if len(tcaches) == 1 else None,
        arena[0] if len(arena) == 1 else None,
        found[0][1] if len(found) == 1 else None,
    )


def _is_dummy(value: int, dummy: int | None, tcache: Struct) -> bool:
    return dummy is not None and dummy <= value < dummy + tcache.size


def _is_tcache(memory: Memory, abi: Abi, tcache: Struct, address: int, most_wrong: int) -> bool:
    """Return whether a tcache of this layout can be at ``address``: in a chunk of its size, with sound bins.

    Up to ``most_wrong`` bins may be damaged.
    """
    if address % abi.alignment or address <= abi.header:
        return False
    try:
        size_word = abi.read_word(memory, address - abi.word_size)
        data = memory.read(address, tcache.size)
    except MemoryFault:
        return False
    chunk = abi.request_to_chunk(tcache.size)
    # From 2.42 on it is aligned by itself, and can get a chunk that is a little larger.
    if size_word & IS_MMAPPED or size_word & ~FLAG_BITS not in (chunk, chunk + abi.alignment):
        return False
    fields = tcache.decode(data, abi.order)
    entries = fields["entries"]
    wrong = len([entry for entry in entries if entry % abi.alignment])
    counts = fields.get("counts") or ()
    differ = len([entry for count, entry in zip(counts, entries) if (count == 0) != (entry == 0)])
    # A thread may be stopped between the two words that it changes.
    return wrong + max(differ - 1, 0) <= most_wrong


def find_key(memory: Memory, abi: Abi, layout: Struct, tcache: int, image: ElfImage) -> int | None:
    """Return the address of tcache_key (glibc 2.34), None where the ``tcache`` at this address does not tell it.

    It is a random number that each chunk in a tcache has as its second word, and the only variable of libc's that
    holds it. Raises MemoryFault where the tcache is unreadable.
    """
    fronts = layout.decode(memory.read(tcache, layout.size), abi.order)["entries"]
    words = []
    for front in [front for front in fronts if front and front % abi.alignment == 0][:_MOST_SAMPLES]:
        try:
            words.append(abi.read_word(memory, front + abi.word_size))
        except MemoryFault:
            continue
    # Someone may have written into a chunk after its free; up to glibc 2.33 the word is the tcache's own address.
    key = max(words, key=words.count, default=0)
    if key in (0, tcache) or 2 * words.count(key) <= len(words):
        return None
    places = []
    for segment in image.segments:
        if segment.writable:
            start = round_up(segment.start, abi.word_size)
            try:
                data = memory.read(start, (segment.end - start) // abi.word_size * abi.word_size)
            except MemoryFault:
                continue
            places += [start + at * abi.word_size for at, word in enumerate(abi.words(data)) if word == key]
    return places[0] if len(places) == 1 else None
