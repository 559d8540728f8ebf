"""Which arena a call of malloc works on, and why that one: arena_get and arena_get2 (malloc/arena.c)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gdbheap.simulate.calls import Unpredictable

#: The stable name of each reason why malloc works on an arena, and one sentence that says what it is.
ARENA_REASONS: Mapping[str, str] = {
    "single-thread": "glibc knows of one thread only: malloc takes main_arena and looks at no other.",
    "first-thread": "main_arena is the arena of the thread in which malloc begins, and this is the process's first.",
    "made-for-thread": "The thread keeps the arena that was made for it.",
    "left-over": "The thread has an arena that threads which have ended left behind (get_free_list).",
    "shared": "As many arenas existed as may, so the thread was given one that others use (reused_arena).",
    "thread": "It is the arena that the thread keeps, and how the thread came by it is not certain.",
    "new": "The thread gets an arena that is made for it now (arena_get2).",
    "retry": "The thread's own arena could not serve the request, so malloc tries main_arena (arena_get_retry).",
    "chunk": "free and realloc work on the arena that the chunk is in, whichever thread calls them.",
    "all": "malloc_trim goes through all arenas.",
    "none": "No arena could be had for the thread: the request gets a mapping of its own.",
}


@dataclass(frozen=True)
class ArenaFacts:
    """What decides on the arena; None is what is not known.

    ``single`` says whether glibc knows of one thread only (SINGLE_THREAD_P), and ``asks_single`` whether malloc asks
    that (since glibc 2.27).
    ``thread_arena`` is the variable of that name of the calling thread: 0 while it has no arena. ``free_list`` is the
    first arena that ended threads left behind (0: none), ``narenas`` the number of arenas, main_arena included, and
    ``narenas_limit`` the variable of arena_get2: 0 while the limit has not been worked out. ``arena_max`` and
    ``arena_test`` are the fields of ``mp_``; ``processors`` is what __get_nprocs would answer.
    """

    main_arena: int
    word_size: int
    arena_max: int
    arena_test: int
    single: bool | None = None
    asks_single: bool = True
    thread_arena: int | None = None
    free_list: int | None = None
    narenas: int | None = None
    narenas_limit: int | None = None
    processors: int | None = None

    @property
    def limit_reached(self) -> bool | None:
        """Whether as many arenas exist as may: where not, none was ever shared, since they only become more."""
        if self.narenas_limit == 0:
            return False
        if self.narenas is None or self.narenas_limit is None:
            return None
        return self.narenas >= self.narenas_limit


@dataclass(frozen=True)
class ArenaChoice:
    """The arena that a call works on.

    ``reason`` is one of ARENA_REASONS and ``why`` the conditions that led there, each a full sentence with its values.
    ``arena`` is the address of the malloc_state, None for one that is yet to be made, or where locks decide.
    """

    reason: str
    arena: int | None
    why: tuple[str, ...]


def choose_arena(facts: ArenaFacts) -> ArenaChoice:
    """Return the arena in which malloc, calloc or memalign looks for memory (arena_get, malloc/arena.c).

    No thread changes its arena because another one holds its lock: it waits. Raises Unpredictable where a fact that
    decides is not known.
    """
    if facts.single:
        why = "glibc knows of one thread only (SINGLE_THREAD_P), so malloc takes main_arena and looks at no other."
        return ArenaChoice("single-thread", facts.main_arena, (why,))
    if facts.thread_arena is None:
        raise Unpredictable("thread_arena of the calling thread cannot be read.")
    if facts.thread_arena == facts.main_arena and facts.asks_single and facts.single is None:
        why = (
            "malloc takes main_arena: because glibc knows of one thread only (SINGLE_THREAD_P), or because it is the "
            "calling thread's arena, thread_arena. Which of the two cannot be told here."
        )
        return ArenaChoice("thread", facts.main_arena, (why,))
    if facts.thread_arena:
        several = "There have been several threads, so malloc" if facts.single is False else "malloc"
        return ArenaChoice(
            "thread", facts.thread_arena, (f"{several} takes the calling thread's arena, thread_arena.",)
        )
    return another_arena(facts, ("thread_arena of the calling thread is NULL: it has no arena yet.",))


def another_arena(facts: ArenaFacts, why: tuple[str, ...]) -> ArenaChoice:
    """Return what a thread gets that needs an arena, for the reasons ``why`` (arena_get2, malloc/arena.c).

    Raises Unpredictable where a fact that decides is not known.
    """
    if facts.free_list is None:
        raise Unpredictable("arena.c's free_list cannot be read: an arena of an ended thread may be on it.")
    if facts.free_list:
        taken = f"free_list has the arena at {facts.free_list:#x}, which threads that have ended left: it takes that."
        return ArenaChoice("left-over", facts.free_list, (*why, taken))
    why += ("free_list is empty: no arena is left of threads that have ended.",)
    count, limit = _known_count(facts), arena_limit(facts)
    if limit is None or count < limit:
        return ArenaChoice("new", None, (*why, limit_text(facts), "So a new arena is made."))
    shared = "So it shares one: the first from next_to_use on whose lock is free (reused_arena)."
    return ArenaChoice("shared", None, (*why, limit_text(facts), shared))


def _known_count(facts: ArenaFacts) -> int:
    if facts.narenas is None:
        raise Unpredictable("arena.c's narenas, the number of arenas, cannot be read.")
    return facts.narenas


def _per_processor(facts: ArenaFacts) -> int:
    """Return how many arenas there may be for each processor (NARENAS_FROM_NCORES)."""
    return 8 if facts.word_size == 8 else 2


def arena_limit(facts: ArenaFacts) -> int | None:
    """Return how many arenas there may be, None while no limit is looked for; raise Unpredictable where unknown."""
    if facts.narenas_limit is None:
        raise Unpredictable("arena_get2's narenas_limit, the limit of arenas, cannot be read.")
    if facts.narenas_limit:
        return facts.narenas_limit
    if facts.arena_max:
        return facts.arena_max
    if _known_count(facts) <= facts.arena_test:
        return None
    if facts.processors is None:
        raise Unpredictable("The number of processors decides on the limit of arenas, and it is not known.")
    return _per_processor(facts) * (facts.processors or 2)


def limit_text(facts: ArenaFacts) -> str:
    """Return in one sentence how many arenas exist, how many may, and which setting says so.

    Raises Unpredictable where that is not known.
    """
    count, limit, each = _known_count(facts), arena_limit(facts), _per_processor(facts)
    exist = f"{count} arenas exist, main_arena included" if count != 1 else "1 arena exists (main_arena)"
    if limit is None:
        return (
            f"{exist}: not more than arena_test ({facts.arena_test}), so the processors are not counted and there is "
            "no limit yet."
        )
    if facts.arena_max:
        if limit == facts.arena_max:
            return f"{exist}, of at most {limit}: arena_max (M_ARENA_MAX, glibc.malloc.arena_max) is {limit}."
        return f"{exist}, of at most {limit}: that was settled before arena_max was set to {facts.arena_max}."
    if limit % each:
        return f"{exist}, of at most {limit}: that was settled before arena_max was set back to 0."
    processors = limit // each
    return f"{exist}, of at most {limit}: {each} for each of {processors} processor{'s' if processors != 1 else ''}."
