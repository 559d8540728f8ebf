"""What main_arena gives back from its end, and malloc_trim from the free chunks of every arena (malloc/malloc.c)."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import Abi, round_down, round_up
from gdbheap.simulate.arenas import heap_trim
from gdbheap.simulate.calls import Call, Steps, Term, Unpredictable, outcome, total
from gdbheap.simulate.facts import arena_of, setting, top_size_of, with_system_mem, with_top
from gdbheap.simulate.kernel import MADV_DONTNEED
from gdbheap.simulate.morecore import break_of, morecore_fails, move_break, query_break
from gdbheap.simulate.state import GrowthState

#: The size in bytes from which on a freed chunk is an occasion to trim (FASTBIN_CONSOLIDATION_THRESHOLD).
TRIM_OCCASION = 0x10000


def systrim(state: GrowthState, pad: int, why: tuple[str, ...] = ()) -> Steps:
    """Predict systrim (malloc/malloc.c): main_arena gives back all of its top chunk but ``pad`` bytes and a page.

    ``why`` are sentences that say how it came to that. With a top chunk of just MINSIZE it moves the break up by a
    page, as glibc does. Raises Unpredictable where the break or the size of the top chunk is not known.
    """
    arena = arena_of(state)
    top_size = top_size_of(arena)
    page = state.params.get("thp_pagesize") or state.abi.page_size
    terms = (
        Term("top", top_size),
        Term("MINSIZE", -state.abi.min_size),
        Term("one byte", -1, "so that more than MINSIZE stays"),
        Term("pad", -pad, "what stays; free passes top_pad, which M_TOP_PAD or glibc.malloc.top_pad changes"),
    )
    wanted = total(terms)
    extra = round_down(wanted, page)
    # glibc compares as unsigned numbers: with a top chunk of MINSIZE or less the rest, below 0, is huge
    if 0 <= wanted + pad <= pad or extra == 0 or morecore_fails(state):
        return outcome(state, state)
    after = yield from query_break(state)
    end = arena.top + top_size
    if break_of(after) != end:
        change = f"Nothing is given back: the break is at {break_of(after):#x}, not where the top chunk ends, {end:#x}."
        return outcome(state, after, changes=(change,))
    call = Call(
        syscall="brk",
        args=(),
        path="trim",
        terms=terms,
        total=wanted,
        rounded=extra,
        multiple=page,
        why=(*why, f"The break is where the top chunk ends, {end:#x}."),
        source="systrim (malloc/malloc.c)",
    )
    after, _ = yield from move_break(after, -extra, call)
    released = end - break_of(after)
    return outcome(state, with_system_mem(with_top(after, arena.top, top_size - released), -released))


def trim_after_free(state: GrowthState, freed: int) -> Steps:
    """Predict what free gives back once it has merged a chunk of ``freed`` bytes with its free neighbours.

    The end of _int_free (malloc/malloc.c; _int_free_maybe_consolidate from glibc 2.39 on, _int_free_maybe_trim from
    2.43 on). ``state`` is the one after the merge. Raises Unpredictable as systrim and heap_trim do.
    """
    if freed < TRIM_OCCASION:
        return outcome(state, state)
    arena = arena_of(state)
    top_pad = setting(state, "top_pad")
    if not arena.is_main:
        return (yield from heap_trim(state, top_pad))
    top_size, threshold = top_size_of(arena), setting(state, "trim_threshold")
    if top_size < threshold:
        return outcome(state, state)
    why = (
        f"A free chunk of {freed:#x} bytes, at least {TRIM_OCCASION:#x}, makes free look at the top chunk.",
        f"The top chunk has {top_size:#x} bytes, at least trim_threshold {threshold:#x}.",
    )
    return (yield from systrim(state, top_pad, why))


def _chunk_struct_size(abi: Abi) -> int:
    """Return sizeof (struct malloc_chunk): two words of header, and four that link a free chunk."""
    return 6 * abi.word_size


def pages_inside(abi: Abi, chunk: int, size: int) -> tuple[int, int]:
    """Return start and length in bytes of the whole pages in a free chunk that hold no part of its header and links.

    As mtrim (malloc/malloc.c) has them; the length is 0 where there is no such page.
    """
    start = round_up(chunk + _chunk_struct_size(abi), abi.page_size)
    return start, max(0, round_down(chunk + size - start, abi.page_size))


def mtrim(state: GrowthState, pad: int | None) -> Steps:
    """Predict mtrim (malloc/malloc.c): malloc_trim's work on one arena, from where ``state.trim`` says it is.

    The pages inside its free chunks go back with madvise, whose answer is ignored; main_arena then gives back the end
    of its top chunk but for ``pad`` bytes (None where they are not known), as systrim does. Raises Unpredictable where
    the free chunks were not read, or not all of them, or the pad is needed and not known, and as systrim does.
    """
    arena, walk, abi = arena_of(state), state.trim, state.abi
    if walk is None:
        raise Unpredictable(f"The free chunks of {arena.name} could not be read.")
    for chunk, size in walk.chunks[walk.done :]:
        start, length = pages_inside(abi, chunk, size)
        terms = (
            Term("size", size, "of the free chunk"),
            Term("to the page", chunk - start, "its header and links, and the rest of their page, stay"),
        )
        yield Call(
            syscall="madvise",
            args=(start, length, MADV_DONTNEED),
            path="trim-advice",
            terms=terms,
            total=total(terms),
            rounded=length,
            multiple=abi.page_size,
            why=(
                f"The chunk at {chunk:#x} is free and has {size:#x} bytes; malloc_trim gives back the whole "
                "pages inside such chunks, in every arena.",
                f"Behind its header and links, {_chunk_struct_size(abi):#x} bytes, the first whole page is at "
                f"{start:#x}.",
                "It is not the top chunk, at the end of the arena: only its pages can go back, not its addresses.",
            ),
            source="mtrim (malloc/malloc.c)",
        )
    if not walk.complete:
        raise Unpredictable(f"Not all free chunks of {arena.name} were read, so it is not known which one comes next.")
    if not arena.is_main:
        return outcome(state, state)
    if pad is None:
        raise Unpredictable("GDB cannot read the argument of malloc_trim.")
    return (yield from systrim(state, pad))
