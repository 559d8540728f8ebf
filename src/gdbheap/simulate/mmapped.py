"""Chunks that are mappings of their own: giving them back and resizing them (malloc/malloc.c)."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import FLAG_BITS, round_up
from gdbheap.simulate.calls import Call, Calling, Steps, Term, failed, outcome, total
from gdbheap.simulate.facts import setting, since, with_settings
from gdbheap.simulate.hugepages import madvise_thp
from gdbheap.simulate.kernel import MAP_MALLOC, MREMAP_MAYMOVE, PROT_READ, PROT_WRITE
from gdbheap.simulate.state import GrowthState

#: Bit 0 of prev_size of an mmapped chunk made of huge pages (glibc 2.43).
MMAP_HP = 1


NB_NOTE = "the chunk: the request and its header, aligned"


def _threshold_max(state: GrowthState) -> int:
    """Return DEFAULT_MMAP_THRESHOLD_MAX in bytes, the most that mmap_threshold is raised to by itself."""
    return 32 << 20 if state.abi.word_size == 8 else 512 << 10


def _overhead(state: GrowthState) -> Term:
    """Return what a mapping needs beside its chunk's size."""
    if since(state, 2, 43):
        return Term("CHUNK_HDR_SZ", state.abi.header, "the header")
    return Term("SIZE_SZ", state.abi.word_size, "no chunk follows whose prev_size could be used")


def _mapping_terms(state: GrowthState, nb: int) -> tuple[Term, ...]:
    """Return what sysmalloc_mmap adds up for a chunk of ``nb`` bytes."""
    abi = state.abi
    terms = (Term("nb", nb, NB_NOTE), _overhead(state))
    if abi.alignment == abi.header:
        return terms
    return (*terms, Term("alignment", abi.alignment - (abi.header if since(state, 2, 43) else 1)))


def map_chunk(
    state: GrowthState, nb: int, why: tuple[str, ...], huge: bool = False
) -> Calling[tuple[GrowthState, int | None]]:
    """Map a chunk of ``nb`` bytes, as sysmalloc_mmap (malloc/malloc.c) does; return it, or None where that fails.

    With ``huge`` the mapping is made of huge pages (mp_.hp_pagesize).
    """
    abi = state.abi
    page = state.params.get("hp_pagesize") if huge else abi.page_size
    flags = state.params.get("hp_flags") if huge else 0
    terms = _mapping_terms(state, nb)
    length = round_up(total(terms), page)
    if length >= 1 << 8 * abi.word_size:  # it wraps around, and malloc does not try
        return state, None
    function = "sysmalloc_mmap" if "hp_pagesize" in state.params.values else "sysmalloc"
    address = yield Call(
        syscall="mmap",
        args=(0, length, PROT_READ | PROT_WRITE, MAP_MALLOC | flags, -1, 0),
        path="mmap-chunk-huge" if huge else "mmap-chunk",
        terms=terms,
        total=total(terms),
        rounded=length,
        multiple=page,
        why=why,
        source=f"{function} (malloc/malloc.c)",
    )
    if failed(address):
        return state, None
    if not huge:
        yield from madvise_thp(state, address, length)
    mapped, count = setting(state, "mmapped_mem") + length, setting(state, "n_mmaps") + 1
    state = with_settings(
        state,
        n_mmaps=count,
        max_n_mmaps=max(count, state.params.get("max_n_mmaps")),
        mmapped_mem=mapped,
        max_mmapped_mem=max(mapped, state.params.get("max_mmapped_mem")),
    )
    return state, abi.first_chunk(address)


def _mapping(state: GrowthState, chunk: int, prev_size: int, size_word: int) -> tuple[int, int, tuple[Term, ...]]:
    """Return start and length of an mmapped chunk's mapping, and the sum of the length."""
    size = size_word & ~FLAG_BITS
    terms: tuple[Term, ...] = (Term("size", size, "the chunk's size word without its flags"),)
    modern = since(state, 2, 43)
    offset = prev_size & ~MMAP_HP if modern else prev_size
    if modern:
        terms += (Term("CHUNK_HDR_SZ", state.abi.header, "the header"),)
    if offset:
        terms += (Term("offset", offset, "the chunk's prev_size: its distance from the start of the mapping"),)
    return chunk - offset, total(terms), terms


def _invalid(state: GrowthState, chunk: int, block: int, length: int, page: int) -> bool:
    """Whether glibc refuses a mapping, by the masks that it uses: a size of huge pages that is 0 fits nothing."""
    mask = (page - 1) % (1 << 8 * state.abi.word_size)
    if (block | length) & mask:
        return True
    offset = (chunk + state.abi.header) & mask
    return offset & (offset - 1) != 0 and since(state, 2, 29)


def munmap_chunk(state: GrowthState, chunk: int, prev_size: int, size_word: int) -> Steps:
    """Predict munmap_chunk (malloc/malloc.c) for the mmapped chunk at ``chunk``, whose two header words are given.

    The Outcome has an error where glibc aborts. Raises Unpredictable where the release is not known and matters.
    """
    block, length, terms = _mapping(state, chunk, prev_size, size_word)
    if _invalid(state, chunk, block, length, state.abi.page_size):
        return outcome(state, state, error="malloc aborts with: munmap_chunk(): invalid pointer.")
    after = with_settings(
        state, n_mmaps=setting(state, "n_mmaps") - 1, mmapped_mem=setting(state, "mmapped_mem") - length
    )
    yield Call(
        syscall="munmap",
        args=(block, length),
        path="munmap-chunk",
        terms=terms,
        total=length,
        rounded=length,
        multiple=1,
        why=("The chunk is a mapping of its own (its IS_MMAPPED bit is set), so it goes back at once.",),
        source="munmap_chunk (malloc/malloc.c)",
    )
    return outcome(state, after)


def free_mmapped(state: GrowthState, chunk: int, prev_size: int, size_word: int) -> Steps:
    """Predict free of an mmapped chunk: mmap_threshold may rise to its size, then munmap_chunk.

    __libc_free, and from glibc 2.42 on _int_free_chunk (malloc/malloc.c). realloc calls munmap_chunk alone. With a
    state that was read at the entry of munmap the thresholds and counters have moved already; the sentence in
    ``changes`` is the same. Raises Unpredictable as munmap_chunk does.
    """
    size = size_word & ~FLAG_BITS
    before = state
    changes: tuple[str, ...] = ()
    threshold = setting(state, "mmap_threshold")
    # glibc compares the size word with its flags
    if not setting(state, "no_dyn_threshold") and threshold < size_word <= _threshold_max(state):
        state = with_settings(state, mmap_threshold=size, trim_threshold=2 * size)
        changes = (
            f"mmap_threshold is set to {size:#x}, the size of this chunk, and trim_threshold to twice that, "
            f"{2 * size:#x}: from now on requests of this size come from the heap.",
        )
    done = yield from munmap_chunk(state, chunk, prev_size, size_word)
    return outcome(before, done.state, changes=changes, error=done.error)


def mremap_chunk(state: GrowthState, chunk: int, prev_size: int, size_word: int, nb: int) -> Steps:
    """Predict mremap_chunk (malloc/malloc.c): realloc of the mmapped chunk at ``chunk`` to a size of ``nb`` bytes.

    The Outcome's chunk is the resized one, None where the kernel refuses (realloc then allocates and copies, unless
    the old chunk is large enough). Raises Unpredictable where the release is not known and matters.
    """
    abi = state.abi
    modern = since(state, 2, 43)
    block, length, _ = _mapping(state, chunk, prev_size, size_word)
    page = state.params.get("hp_pagesize") if modern and prev_size & MMAP_HP else abi.page_size
    if _invalid(state, chunk, block, length, page):
        return outcome(state, state, error="malloc aborts with: mremap_chunk(): invalid pointer.")
    offset = chunk - block
    terms: tuple[Term, ...] = (Term("nb", nb, NB_NOTE), _overhead(state))
    if offset:
        terms += (Term("offset", offset, "the chunk's distance from the start of the mapping"),)
    new = round_up(total(terms), page)
    if new == length:
        change = f"The mapping of {length:#x} bytes is just as long as it has to be, so nothing is called."
        return outcome(state, state, chunk, (change,))
    address = yield Call(
        syscall="mremap",
        args=(block, length, new, MREMAP_MAYMOVE),
        path="mremap-chunk",
        terms=terms,
        total=total(terms),
        rounded=new,
        multiple=page,
        why=(
            f"The chunk is a mapping of its own, {length:#x} bytes long, and {new:#x} are needed: the kernel can move "
            "its pages without copying them.",
        ),
        source="mremap_chunk (malloc/malloc.c)",
    )
    if failed(address):
        return outcome(state, state, error="The mapping could not be resized.")
    if not modern or length < state.params.get("thp_pagesize"):
        yield from madvise_thp(state, address, new)
    grown = new - length
    if modern:
        grown += abi.header  # glibc 2.43 forgets the header here, so its counter drifts
    mapped = setting(state, "mmapped_mem") + grown
    after = with_settings(state, mmapped_mem=mapped, max_mmapped_mem=max(mapped, state.params.get("max_mmapped_mem")))
    return outcome(state, after, address + offset)
