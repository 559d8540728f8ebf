"""Recorded events as lines and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gdbheap.growth.event import GAP, Event
from gdbheap.growth.phases import Phase
from gdbheap.growth.requester import FREE_PAGES, OWN_MAPPING
from gdbheap.render.callers import caller_line
from gdbheap.render.calls import advice_name
from gdbheap.render.escape import printable
from gdbheap.render.phases import phase_text
from gdbheap.render.style import Plain
from gdbheap.render.units import human_size, signed_hex
from gdbheap.simulate import kernel
from gdbheap.simulate.kernel import MADV_DONTNEED, PROT_NONE

_PROTECTIONS = ((1, "r"), (2, "w"), (4, "x"))

#: What comes of a piece of advice, for those that are about whether there is memory behind the addresses.
_ADVISED = {
    kernel.MADV_DONTNEED: "pages go back, the addresses stay",
    kernel.MADV_FREE: "pages may go back, the addresses stay",
    kernel.MADV_HUGEPAGE: "huge pages are wanted",
    kernel.MADV_NOHUGEPAGE: "no huge pages are wanted",
    kernel.MADV_POPULATE_WRITE: "pages come at once",
    kernel.MADV_GUARD_INSTALL: "no access",
}


def advice_text(advice: int) -> str:
    """Return a MADV_ number as ``DONTNEED: pages go back, the addresses stay``."""
    name, meaning = advice_name(advice).removeprefix("MADV_"), _ADVISED.get(advice)
    return name if meaning is None else f"{name}: {meaning}"


def protection_text(protection: int) -> str:
    """Return a PROT_ mask as ``rwx`` letters."""
    return "".join(letter if protection & bit else "-" for bit, letter in _PROTECTIONS)


def amount_text(event: Event) -> str:
    """Return by how much and in which direction memory moved, or what happened instead."""
    delta = event.delta
    if event.result is None:
        return "not returned"
    if event.failed:
        return f"refused (errno {-event.result})" if event.syscall != "brk" else "refused"
    if event.syscall == "brk" and event.args[0] == 0:
        return "asks where the break is"
    if event.syscall == "mprotect":
        return f"{event.args[1]:#x} ({human_size(event.args[1])}) {protection_text(event.args[2])}"
    if event.syscall == "madvise":
        return f"{event.args[1]:#x} ({human_size(event.args[1])}) {advice_text(event.args[2])}"
    if delta is None:
        return "amount unknown"
    if delta == 0 and event.syscall == "mmap":
        return f"0 (replaces {event.args[1]:#x})"
    if event.syscall == "mmap" and event.args[2] == PROT_NONE:
        return f"{signed_hex(delta)} ({human_size(delta)}) reserved, no access"
    return f"{signed_hex(delta)} ({human_size(abs(delta))})"


def owner_text(event: Event) -> str:
    """Return whose memory it is: the arena and the chunk asked for, or the purpose of a call that is not malloc's."""
    who = event.requester
    if who.kind == GAP:
        return f"not recorded: {who.purpose}"
    if who.kind != "malloc":
        return f"{who.kind}: {printable(who.purpose)}"
    requested = event.requested
    parts = [_place_text(event)]
    if requested is not None and requested.nb is not None:
        parts.append(f"chunk {requested.nb:#x}")
    if requested is not None and requested.request is not None:
        parts.append(f"for {requested.request:,} bytes")
    return " ".join(parts)


def _place_text(event: Event) -> str:
    """Return where in malloc's memory a call is at work: an arena, or a chunk that is a mapping of its own."""
    purpose = printable(event.requester.purpose)
    arena = event.reading.arena_name if event.reading is not None else None
    if event.syscall != "brk" and purpose == OWN_MAPPING:
        own = f"{arena} mmapped" if arena is not None else "mmapped"
        return own if event.requested is not None and event.requested.nb is not None else f"{own} chunk"
    if arena is not None and purpose == FREE_PAGES:
        return f"{arena} trims a free chunk"
    if arena is not None:
        gave_back = (event.delta or 0) < 0 and event.syscall == "brk"
        gave_back = gave_back or (event.syscall == "madvise" and event.args[2] == MADV_DONTNEED)
        return f"{arena} trims its top" if gave_back else arena
    if any(frame.name == "_int_new_arena" for frame in event.frames):
        return "a new arena,"
    return f"malloc, {purpose}:" if event.requested is not None else f"malloc, {purpose}"


def event_line(event: Event, style: Plain, several_processes: bool = False) -> str:
    """Return the one line that is printed when an event happens."""
    number = style.paint("heading", f"#{event.id}")
    amount = style.paint("good" if (event.delta or 0) > 0 else "name", amount_text(event))
    process = f"process {event.process} " if several_processes else ""
    caller = "" if event.syscall == GAP else f"  {caller_line(event)}"
    return f"{number} {process}thread {event.thread} {event.syscall} {amount}  {owner_text(event)}{caller}"


def event_rows(
    events: Sequence[Event], style: Plain, several_processes: bool = False, phases: Sequence[Phase] = ()
) -> Iterator[str]:
    """Yield the recorded events as a table in fixed columns, a header first, and a line before each of the phases."""
    process = f"{'process':>8}  " if several_processes else ""
    yield f"{'#':>5}  {'seconds':>8}  {process}{'thread':>6}  {'call':<8}  {'amount':<26}  whose, and who asked"
    coming = list(phases)
    for event in events:
        phase = None
        while coming and coming[0].first.id <= event.id:
            phase = coming.pop(0)
        if phase is not None:
            yield style.paint("heading", f"-- {phase_text(phase)}")
        process = f"{event.process:>8}  " if several_processes else ""
        caller = "" if event.syscall == GAP else f"  [{caller_line(event)}]"
        yield (
            f"{event.id:>5}  {event.time:>8.3f}  {process}{event.thread:>6}  {event.syscall:<8}  "
            f"{amount_text(event):<26}  {owner_text(event)}{caller}"
        )
