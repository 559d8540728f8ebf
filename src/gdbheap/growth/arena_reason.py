"""Why a recorded call of malloc's worked on the arena that it did, from the state, the callers and earlier events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gdbheap.growth.event import Event, Frame
from gdbheap.growth.nameless import asks_for_memory, gives_back, is_nameless, public_name
from gdbheap.growth.names import INTERNAL, OF_OWN_MAPPINGS, PUBLIC, function_of
from gdbheap.growth.reading import Reading
from gdbheap.simulate.arena_choice import ArenaFacts, another_arena, choose_arena, limit_text
from gdbheap.simulate.calls import Unpredictable


@dataclass(frozen=True)
class ArenaReason:
    """Why malloc worked on an arena.

    ``reason`` is one of ARENA_REASONS, None where it is not known; ``why`` are full sentences with their values, and
    where it is not known they say why not. ``facts`` is what was read of the variables that decide; ``attached`` is
    the number of threads that use the arena by its own count, None where no arena takes part.
    """

    reason: str | None
    why: tuple[str, ...]
    facts: ArenaFacts | None
    attached: int | None


#: The functions that give a chunk back to its own arena, or the end of that arena's memory to the kernel.
_GIVING_BACK = frozenset(
    {"_int_free", "_int_free_chunk", "_int_free_merge_chunk", "_int_free_create_chunk", "_int_free_maybe_consolidate"}
    | {"_int_free_maybe_trim", "heap_trim", "systrim"}
)
_ALIGNING = frozenset({"memalign", "aligned_alloc", "posix_memalign", "valloc", "pvalloc"})
_TCACHE_INIT = frozenset({"tcache_init", "tcache_malloc_init", "tcache_calloc_init", "tcache_free_init"})


def _operation(frames: Sequence[Frame]) -> str | None:
    """Return what the arena was chosen for: thread, new, chunk, all or none; None where no arena is chosen.

    What sysmalloc does by the way (it frees the rest of an old top chunk) counts as part of the request.
    """
    found: str | None = None
    for frame in frames:
        name = function_of(frame)
        if name == "sysmalloc" and frame.variables.get("av") == 0:
            return "none"
        if name in ("_int_new_arena", "arena_get2"):
            return "new"
        if name in _TCACHE_INIT:
            return "thread"
        if name == "_int_realloc":
            return "chunk"
        if name in ("mtrim", "malloc_trim", "__malloc_trim"):
            return "all"
        if name in OF_OWN_MAPPINGS:
            return None
        if name in ("sysmalloc", "_int_malloc"):
            found = "thread"
        elif name in _GIVING_BACK:
            found = "chunk"
        elif name in PUBLIC or (name and name not in INTERNAL and found is not None):
            break
    return found


def _nameless_operation(event: Event, reading: Reading) -> str | None:
    """Return what _operation does where only malloc's public functions have names; None where those do not tell.

    realloc may ask for another chunk or resize the one that it was given, and a function that aligns may give back what
    is left over beside the chunk.
    """
    requested, name = event.requested, public_name(event)
    if reading.arena is None or event.chunk is not None or requested is None or not is_nameless(event.frames):
        return None
    if requested.function == "tcache_init":
        return "thread"
    if any(function_of(frame) in OF_OWN_MAPPINGS for frame in event.frames):
        return None
    if gives_back(name):
        return "chunk"
    if name == "realloc" or (name in _ALIGNING and not asks_for_memory(event)):
        return None
    return "thread" if name else None


def _nameless_makes_arena(event: Event, reading: Reading) -> bool:
    """Whether malloc, whose functions have no names, makes an arena: for a thread that has none."""
    return is_nameless(event.frames) and reading.choosing is not None and reading.choosing.thread_arena == 0


#: One of ARENA_REASONS, and the sentences that say how a thread came by its arena.
_Origin = tuple[str, tuple[str, ...]]


class _Arenas:
    """What the events so far tell of arenas: who made each, and how threads came by theirs."""

    def __init__(self) -> None:
        self._makers: dict[tuple[int, int], Event] = {}  # by process and address
        self._origins: dict[tuple[int, int, int], _Origin] = {}  # by process, thread and address

    def note(self, event: Event) -> None:
        """Note the making of an arena: the mprotect that makes its first bytes accessible."""
        reading = event.reading
        if reading is None or reading.arena is not None or event.syscall != "mprotect" or event.result != 0:
            return
        heap_info = reading.facts.layout.heap_info
        if heap_info is not None and (_operation(event.frames) == "new" or _nameless_makes_arena(event, reading)):
            self._makers[event.process, event.args[0] + heap_info.size] = event

    def reason(self, event: Event) -> ArenaReason | None:
        """Return why the arena of ``event`` was chosen, None where no arena is."""
        reading = event.reading
        operation = None if reading is None else _operation(event.frames) or _nameless_operation(event, reading)
        if reading is None or operation is None:
            return None
        if operation == "chunk" and reading.arena is None:
            return None  # a chunk with a mapping of its own, whose munmap_chunk has left the stack
        facts = reading.arena_facts
        reason: str | None
        why: tuple[str, ...]
        if operation == "none":
            reason, why = "none", ("No arena could be made for the thread, and arena_get2 returned NULL.",)
        elif operation == "all":
            reason, why = "all", (f"malloc_trim goes through all arenas; this is {reading.arena_name}.",)
        elif operation == "chunk":
            reason, why = "chunk", (_chunk_text(reading),)
        elif facts is None:
            reason, why = None, ("What decides on the arena was not read.",)
        elif operation == "new":
            reason, why = "new", _new_arena(facts)
        elif reading.arena is None:
            reason, why = None, ("GDB cannot read which arena malloc works on.",)
        else:
            reason, why = self._of_thread(event, reading, facts)
        return ArenaReason(reason, why, facts, reading.attached_threads)

    def _of_thread(self, event: Event, reading: Reading, facts: ArenaFacts) -> tuple[str | None, tuple[str, ...]]:
        try:
            choice = choose_arena(facts)
        except Unpredictable as error:
            return None, (error.reason,)
        if choice.reason == "single-thread" and choice.arena == reading.address:
            return choice.reason, choice.why
        if choice.arena == reading.address == facts.main_arena and facts.asks_single and facts.single is None:
            return None, choice.why
        if choice.arena == reading.address:
            reason, origin = self._origin(event, reading, facts)
            shared = (_attached_text(reading),) if (reading.attached_threads or 0) > 1 else ()
            return reason, (*choice.why, *origin, *shared)
        if choice.reason == "thread" and reading.number == 0:
            return "retry", (
                f"thread_arena of the calling thread is the arena at {choice.arena:#x}, but that one could not serve "
                "the request.",
                "malloc then tries once more, in main_arena (arena_get_retry).",
            )
        return None, (
            f"malloc works on {reading.arena_name}, which arena_get would not choose here: why is not known.",
        )

    def _origin(self, event: Event, reading: Reading, facts: ArenaFacts) -> _Origin:
        """Return how the thread came by its arena, which is thread_arena, and sentences that say so.

        A thread keeps its arena, so what an earlier event proved stays true.
        """
        key = (event.process, event.thread, reading.address)
        known = self._origins.get(key)
        if known is None:
            known = self._deduce(event, reading, facts)
            if known[0] != "thread":
                self._origins[key] = known
        return known

    def _deduce(self, event: Event, reading: Reading, facts: ArenaFacts) -> _Origin:
        maker = self._makers.get((event.process, reading.address))
        if not reading.number and event.tid == event.process:
            return "first-thread", (
                "malloc gives main_arena to the thread in which it begins (ptmalloc_init), and this is the process's "
                "first thread.",
            )
        if maker is not None and maker.thread == event.thread:
            return "made-for-thread", (f"It was made for this very thread at event {maker.id}.",)
        name = reading.arena_name or "the arena"
        if reading.number and maker is None:
            shared = "" if facts.limit_reached is False else ", or lent by one that used it (reused_arena)"
            return "thread", (
                f"The making of {name} was not recorded: it was made for this thread, or left by threads that have "
                f"ended (get_free_list){shared}.",
            )
        owner = "main_arena was that of the process's first thread"
        if maker is not None:
            owner = f"{name} was made for thread {maker.thread} at event {maker.id}"
        if facts.limit_reached is False:
            return "left-over", (
                f"{owner}; threads that have ended left it, and this one took it over (get_free_list).",
                "It was not shared: that happens only when there may be no more arenas.",
                _limit_text(facts),
            )
        if facts.limit_reached and _lives(event, reading, maker):
            return "shared", (
                _limit_text(facts),
                "So this thread got none of its own, and shares one that was in use (reused_arena).",
                f"{owner}, which still uses it.",
            )
        return "thread", (
            f"{owner}; this one took it over from threads that have ended (get_free_list), or shared it with one that "
            "used it (reused_arena): which of the two cannot be told.",
        )


def _lives(event: Event, reading: Reading, maker: Event | None) -> bool:
    """Whether the thread that an arena was made for was there (without ``maker``: the process's first thread)."""
    living = reading.choosing.living if reading.choosing is not None else None
    if living is None:
        return False
    if maker is None:
        return any(tid == event.process for _, tid in living)
    return (maker.thread, maker.tid) in living


def _limit_text(facts: ArenaFacts) -> str:
    try:
        return limit_text(facts)
    except Unpredictable as error:
        return error.reason


def _attached_text(reading: Reading) -> str:
    return f"{reading.attached_threads} threads use it now; one of them waits while another is in it."


def _chunk_text(reading: Reading) -> str:
    bit = "is set" if reading.number else "is not set"
    return (
        f"The chunk is in {reading.arena_name} (NON_MAIN_ARENA {bit} in its size word): free and realloc work on the "
        "arena of the chunk, whichever thread calls them."
    )


def _new_arena(facts: ArenaFacts) -> tuple[str, ...]:
    """Return why a new arena is made, as it was just before: narenas counts it already."""
    why = "thread_arena of the calling thread is NULL: it has no arena yet."
    if facts.thread_arena:
        why = (
            f"The thread's arena, at {facts.thread_arena:#x}, could not serve the request, so malloc tries another "
            "one (arena_get_retry)."
        )
    elif facts.thread_arena is None:
        why = "The thread has no arena yet, or its own could not serve the request: thread_arena cannot be read."
    # That free_list was empty then follows from the making; since then a thread may have ended.
    before = replace(facts, free_list=0, narenas=None if facts.narenas is None else facts.narenas - 1)
    try:
        return another_arena(before, (why,)).why
    except Unpredictable as error:
        return why, error.reason


def arena_reasons(events: Iterable[Event]) -> dict[int, ArenaReason]:
    """Return why malloc worked on the arena that it did, by the event's number; ``events`` are oldest first.

    Events that are not malloc's, or in which no arena takes part, are left out.
    """
    arenas = _Arenas()
    found = {}
    for event in events:
        reason = arenas.reason(event)
        if reason is not None:
            found[event.id] = reason
        arenas.note(event)
    return found
