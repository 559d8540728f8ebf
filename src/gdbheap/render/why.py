"""An explanation as the lines that a person reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from gdbheap.growth.arena_reason import ArenaReason
from gdbheap.growth.event import GAP, Event, Served
from gdbheap.growth.explain import Explanation
from gdbheap.growth.gap import is_of_break
from gdbheap.growth.initial import Initial
from gdbheap.growth.names import meaning
from gdbheap.growth.requester import ANOTHER_MALLOC, NO_CALLER, OF_MUSL
from gdbheap.ptmalloc.abi import Abi
from gdbheap.render.callers import frame_text, inner_chain, place_text, shortened
from gdbheap.render.calls import advice_name, call_text, sum_lines
from gdbheap.render.escape import printable
from gdbheap.render.events import protection_text
from gdbheap.render.shortage import shortage_lines
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, human_size, signed_hex
from gdbheap.simulate.calls import Call
from gdbheap.simulate.kernel import MADV_DONTNEED

_LABEL = 14
#: The sources of simulate.trace.SOURCES that are lists of free chunks.
_FREE_LISTS = frozenset({"tcache", "fastbin", "small", "unsorted", "last-remainder", "large", "bin"})


def _section(style: Plain, label: str, lines: Iterable[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        head = style.paint("heading", f"{label:<{_LABEL}}") if index == 0 else " " * _LABEL
        yield (head + line).rstrip()


def explanation_lines(explained: Explanation, style: Plain) -> Iterator[str]:
    """Yield the whole explanation of one event."""
    event = explained.event
    yield style.paint("heading", f"event {event.id}: {headline(event)}")
    yield ""
    if event.syscall == GAP:
        yield from _section(style, "unknown", ["who asked, for what, and in how many calls", event.requester.purpose])
        return
    yield from _section(style, "who asked", _who(explained, style))
    if explained.requester.kind != "malloc":
        yield from _section(style, "whose", [_not_malloc(explained)])
        return
    yield from _section(style, "request", _request(explained))
    if explained.arena_reason is not None:
        yield from _section(style, "which arena", _which_arena(explained.arena_reason))
    yield from _section(style, "why not free", _why_not_free(explained))
    prediction = explained.prediction
    if prediction is None or prediction.call is None:
        reason = prediction.reason if prediction is not None else event.unread
        branch = prediction.chunk_sizes.branch if prediction is not None and prediction.chunk_sizes else None
        what = "the branch that malloc took, and its sum"
        if branch is not None:
            where = f"{branch.source}, path {branch.path}: each of these sizes leads there"
            yield from _section(style, f"why {event.syscall}", [where])
            what = "the sum, to the byte"
        yield from _section(style, "unknown", [what, *([reason] if reason else [])])
        return
    yield from _section(style, f"why {event.syscall}", _why(prediction.call))
    yield from _section(style, "the sum", _sum(explained, prediction.call, style))
    yield from _section(style, "afterwards", _afterwards(explained, style))


def headline(event: Event) -> str:
    """Return in one line what moved, by how much, from where to where."""
    call, args, result = event.syscall, event.args, event.result
    if result is None:
        return f"{call} has not returned: the kernel has not answered, or its answer was not seen"
    if event.failed:
        return f"{call_text(call, args)} was refused by the kernel"
    delta = event.delta
    if call == GAP:
        what = "The break moved" if is_of_break(event) else "Malloc's mmapped chunks changed"
        return f"{what} by {signed_hex(delta or 0)} ({human_size(abs(delta or 0))}) without being recorded"
    if call == "brk":
        if args[0] == 0:
            return f"brk(0) asked where the break is: {result:#x}"
        if delta is None:
            return f"brk moved the break to {result:#x}; where it was before is not known"
        if delta == 0:
            return f"brk left the break where it was: {result:#x}"
        moved = f"{event.break_before:#x} -> {result:#x}"
        verb = "grew the heap by" if delta >= 0 else "gave back"
        return f"brk {verb} {abs(delta):#x} ({human_size(abs(delta))}): {moved}"
    if call == "mmap":
        what = f"{args[1]:#x} ({human_size(args[1])}) {protection_text(args[2])}"
        return f"mmap made a mapping of {what} at {result:#x}"
    if call == "munmap":
        return f"munmap took away {args[1]:#x} ({human_size(args[1])}) at {args[0]:#x}"
    if call == "mremap":
        return f"mremap resized a mapping from {args[1]:#x} to {args[2]:#x}: {args[0]:#x} -> {result:#x}"
    what = f"{args[1]:#x} ({human_size(args[1])}) at {args[0]:#x}"
    if call == "madvise" and args[2] == MADV_DONTNEED:
        return f"madvise gave back the pages of {what}; the addresses stay"
    if call == "madvise":
        return f"madvise advised the kernel about {what}: {advice_name(args[2])}"
    return f"mprotect made {what} {protection_text(args[2])}"


def _who(explained: Explanation, style: Plain) -> Iterator[str]:
    event = explained.event
    if explained.constructors_of is not None:
        library = printable(os.path.basename(explained.constructors_of))
        yield f"before main: the loader runs the constructors of {library}"
    if explained.user is not None:
        source = f"     {style.code(printable(explained.source.expandtabs()))}" if explained.source is not None else ""
        yield place_text(explained.user) + source
    chain = inner_chain(event)
    requested = explained.requested
    if requested is None:
        if chain:
            yield " -> ".join(shortened(chain))
        return
    outer = requested.outer
    outer_text = None
    if outer is not None and outer.request is not None:
        outer_text = f"{outer.name}({outer.request})"
    if outer_text in chain:
        cut = chain.index(outer_text) + 1
        before, inside = chain[:cut], chain[cut:]
    else:
        before, inside = chain, []
    if before and not (inside and len(before) == 1):
        yield " -> ".join(shortened(before)) + _comment(_purpose(event, before))
    if inside:
        inner = shortened(inside) + ([f"{requested.request:,} bytes"] if requested.request is not None else [])
        yield f"{before[-1]} -> " + " -> ".join(inner) + _comment(_purpose(event, inside))


def _comment(text: str | None) -> str:
    return f"     ({text})" if text else ""


def _purpose(event: Event, names: list[str]) -> str | None:
    for name in reversed(names):
        if name == "_IO_file_doallocate" and event.stream is not None:
            return f"{event.stream}'s buffer"
        found = meaning(name)
        if found is not None:
            return found
    return None


def _bytes_text(explained: Explanation, low: int, high: int) -> str:
    """Return which requests get chunks from ``low`` to ``high`` bytes."""
    state = explained.event.state
    if state is None:
        return "; the bytes asked for are not known"
    abi = state.abi
    least = 0 if low == abi.min_size else abi.max_request(low - abi.alignment) + 1
    return f", for a request of {least:,} to {abi.max_request(high):,} bytes"


def _request(explained: Explanation) -> Iterator[str]:
    requested, event = explained.requested, explained.event
    arena = event.state.arena if event.state is not None else None
    where = f"thread {event.thread}" + (f", {arena.name} at {arena.address:#x}" if arena is not None else "")
    if requested is not None and requested.request is not None:
        chunk = "" if requested.nb is None else f" -> chunk {requested.nb:#x} ({requested.nb:,} with its header)"
        yield f"{requested.request:,} bytes{chunk}; {where}"
    elif requested is not None and requested.nb is not None:
        yield f"chunk {requested.nb:#x}{_bytes_text(explained, requested.nb, requested.nb)}; {where}"
        if requested.nb_from is not None:
            yield f"the chunk's size is that of {requested.nb_from}"
    elif explained.prediction is not None and explained.prediction.chunk_sizes is not None:
        low, high, _ = explained.prediction.chunk_sizes
        yield f"a chunk from {low:#x} to {high:#x}{_bytes_text(explained, low, high)}; {where}"
        yield "that is a range: any of these leads to this very call, and which it was is not known"
    elif event.syscall == "munmap" or (event.delta or 0) < 0 or _gives_pages_back(event):
        yield f"none: memory goes back; {where}"
    else:
        yield f"the bytes asked for are not known; {where}"


def _gives_pages_back(event: Event) -> bool:
    return event.syscall == "madvise" and event.args[2] == MADV_DONTNEED


def _not_malloc(explained: Explanation) -> str:
    event = explained.event
    file = f"; file {printable(event.file)}" if event.file is not None and event.syscall == "mmap" else ""
    whose = "not glibc's, whose sums are the ones that are known here"
    if explained.requester.purpose == NO_CALLER:
        whose = "it may be malloc's"
    elif not explained.requester.purpose.startswith((ANOTHER_MALLOC, OF_MUSL)):
        whose = "not malloc's"
    return f"{explained.requester.kind}: {printable(explained.requester.purpose)}{file} - {whose}"


def _which_arena(reason: ArenaReason) -> Iterator[str]:
    if reason.reason is None:
        yield "why malloc works on this one is not known"
    yield from reason.why


def _why_not_free(explained: Explanation) -> Iterator[str]:
    reason = explained.arena_reason.reason if explained.arena_reason is not None else None
    if explained.shortage is not None:
        yield from shortage_lines(explained.shortage)
    elif reason == "new":
        yield "the arena is only being made: nothing in it can be free yet"
    elif reason == "none":
        yield "there is no arena to look in"


def _why(call: Call) -> Iterator[str]:
    yield from call.why
    yield f"{call.source}, path {call.path}"


def _sum(explained: Explanation, call: Call, style: Plain) -> Iterator[str]:
    yield from sum_lines(call)
    asked, event = call_text(call.syscall, call.args), explained.event
    if explained.prediction is not None and explained.prediction.exact:
        yield f"{asked} follows; the kernel was asked for the very same  " + style.paint("good", "(exact)")
    else:
        actual = call_text(event.syscall, event.args)
        yield f"{asked} follows, but the kernel was asked for {actual}  " + style.paint("bad", "(not exact)")


def _afterwards(explained: Explanation, style: Plain) -> Iterator[str]:
    prediction, event = explained.prediction, explained.event
    outcome = prediction.outcome if prediction is not None else None
    if event.state is None:
        return
    if _gives_pages_back(event) and event.result == 0:
        yield from _pages_text(event, prediction.call if prediction is not None else None)
    if outcome is not None and outcome.top_size is not None and event.state.arena is not None:
        yield _left_text(event.state.abi, outcome.top_size)
    requested = explained.requested
    if explained.itself is not None and requested is not None and requested.outer is not None:
        outer = f"{requested.outer.name}({requested.outer.request})"
        yield f"{outer} itself then got chunk {explained.itself:#x} from top: no further system call"
    for served in explained.served:
        yield _served_text(served, style)
    final = explained.final
    of_main = event.state.arena is not None and event.state.arena.is_main
    if of_main and final is not None and final.main_arena.top_size is not None:
        yield f"the process ended with {final.main_arena.top_size:#x} bytes left in top: no growth came after this one"


def _pages_text(event: Event, call: Call | None) -> Iterator[str]:
    yield (
        f"what was resident of these {human_size(event.args[1])} goes back to the system; all of it stays mapped, and "
        "reads as zeros when it is next touched"
    )
    if call is not None and call.path == "trim-advice":
        yield "the chunk is free as before: the break, the arena's system_mem and its lists stay as they are"
    elif call is not None and call.path == "heap-trim":
        yield "it is no longer part of the arena, but stays accessible: to grow over it again needs no mprotect"


def _left_text(abi: Abi, top_size: int) -> str:
    largest = top_size - abi.min_size - abi.word_size
    if largest < 0:
        return f"top has {top_size:#x} bytes left: the next request that top must serve needs the kernel again"
    return (
        f"top has {top_size:#x} bytes left: the next {human_size(top_size)} need no system call "
        f"(a single request of up to {largest:,} bytes)"
    )


def _served_text(served: Served, style: Plain) -> str:
    who = served.user or served.caller
    place = ""
    if who is not None and who.file is not None and who.line is not None:
        place = f" at {printable(os.path.basename(who.file))}:{who.line}"
    elif who is not None:
        place = f" from {frame_text(who)}"
    call = f"malloc({served.request}){place}"
    if served.chunk_size is None:
        return f"{call}: refused, no chunk can be that large"
    text = f"{call} -> chunk {served.chunk_size:#x}"
    left = f"; {served.left:#x} left" if served.left is not None else ""
    if served.source in _FREE_LISTS:
        return f"{text}, served from a free list: no system call{left}"
    if served.source == "top":
        return f"{text}, cut from top: no system call{left}"
    if served.source:
        return f"{text}: it needed a system call that was not recorded"
    if served.top_after is not None and served.top_after - served.top_before == served.chunk_size:
        return f"{text}, cut from top: no system call{left}"
    return f"{text}: no system call was recorded; where it is from is not known"


def initial_lines(initial: Initial, recording: bool, style: Plain) -> Iterator[str]:
    """Yield what the heap's state tells where nothing was recorded, what it cannot tell, and how to know next time."""
    main, params = initial.main_arena, initial.params
    yield style.paint("heading", "No event was recorded; this is what the heap's state alone tells.")
    yield ""
    base = params.get("sbrk_base")
    where = f" from {base:#x} on" if base else ""
    yield from _section(
        style,
        "taken",
        [f"main_arena has {main.system_mem:#x} bytes ({human_size(main.system_mem)}) from the kernel{where}"],
    )
    others = initial.arenas[1:]
    if others:
        total = sum(arena.system_mem for arena in others)
        yield from _section(
            style, "", [f"{count_of(len(others), 'other arena')}: {total:#x} bytes ({human_size(total)})"]
        )
    mmapped = params.get("mmapped_mem")
    size = f"{mmapped:#x} bytes ({human_size(mmapped)})" if mmapped else "0 bytes"
    yield from _section(style, "", [f"{count_of(params.get('n_mmaps'), 'mmapped chunk')}: {size}"])
    yield from _section(style, "the first", _first_growth(initial))
    if main.top_size is not None and main.system_mem:
        whose = "main_arena's " if others else ""
        yield from _section(style, "left", [whose + _left_text(initial.abi, main.top_size)])
    unknown = "how many system calls that took, when, and which requests made them: they were not recorded"
    yield from _section(style, "not known", [unknown])
    yield from _section(style, "next time", [_advice(initial, recording)])


def _first_growth(initial: Initial) -> Iterator[str]:
    total, grown, since = initial.first_total, initial.first_growth, initial.since
    if initial.first_chunk is None:
        yield "the chunk at the start of main_arena cannot be read, so its first growth is not known"
        return
    if total is None or grown is None or since is None:
        yield f"the first chunk is {initial.first_chunk:#x}; which request made the first growth is not known"
        return
    first, top_pad = initial.first_chunk, initial.params.get("top_pad")
    yield f"the first chunk, {first:#x}, is the tcache of thread {initial.first_owner}: its first malloc made it"
    whole, *rest = (call.rounded for call in initial.first_calls)
    yield (
        f"{first:#x} + top_pad {top_pad:#x} + MINSIZE {initial.abi.min_size:#x} = {total:#x}, in whole pages {whole:#x}"
    )
    yield from (f"and {more:#x} more, so that it ends on a page behind its first chunk" for more in rest)
    yield f"so brk moved by {grown:#x} ({human_size(grown)}) for main_arena at first, if top_pad was then as it is now"
    if since > 0:
        yield f"since then it took {since:#x} bytes ({human_size(since)}) more than it gave back"
    elif since < 0:
        yield f"since then it gave back {-since:#x} bytes"
    elif initial.main_arena.max_system_mem > initial.main_arena.system_mem:
        most = initial.main_arena.max_system_mem
        yield f"since then it gave back all that it took more: it had up to {most:#x} bytes ({human_size(most)})"
    else:
        yield "since then it took nothing more"


def _advice(initial: Initial, recording: bool) -> str:
    if initial.is_core:
        return "a core file holds no history: run the program under GDB with 'heap catch' before 'run'"
    if recording:
        return "recording is on: the next growth will be explained by 'heap why-grow'"
    return "'heap catch' now records what comes; before 'run' it records from the first instruction on"
