"""What `heap check` found, as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gdbheap.growth.abort import Abort, Cause, Emptying, ToldBy
from gdbheap.growth.event import Frame
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.check import Checked
from gdbheap.ptmalloc.checks import CHECKS
from gdbheap.ptmalloc.coverage import Coverage
from gdbheap.ptmalloc.finding import Catch, Culprit, Finding
from gdbheap.ptmalloc.state import HeapState
from gdbheap.render.escape import preview, printable
from gdbheap.render.placed import placed_object, placed_text
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, hex_size
from gdbheap.simulate.caught import MOST_CALLS
from gdbheap.simulate.trials import CRASH

_INDENT = 14
#: Chunks of a list that was being emptied that are named.
_LOST = 8
_ROW = 16
_UNNOTICED = (
    "nothing that was tried: free and realloc of the chunks around it, malloc of what its lists are for, up to "
    f"{MOST_CALLS} calls after each other"
)
_UNTRIED = "not known: what malloc would do cannot be told here"
_FAULT = "a fault of the processor (SIGSEGV or its like): malloc followed a wrong pointer"


def _line(label: str, text: str) -> str:
    return f"  {label:<{_INDENT - 2}}{text}"


def verdict(abort: Abort | None, checked: Checked) -> str | None:
    """Return the sentence that says that the heap is corrupt, None where it is sound."""
    certain = checked.certain
    if not certain:  # and then none was left out either: certain ones are kept first
        if abort is None or abort.cause is Cause.SIGNAL:
            return None
        what = _end_text(abort) if abort.message is None else f"'{printable(abort.message)}'"
        return f"malloc ended the program in thread {abort.thread}: {what}; the heap itself shows nothing wrong now."
    found = count_of(len(certain) + checked.more, "finding")
    first = certain[0]
    return f"The heap is corrupt: {found}, the first at {first.address:#x} ({first.kind})."


def check_lines(
    state: HeapState,
    arenas: Sequence[Arena],
    abort: Abort | None,
    checked: Checked,
    met: Coverage,
    style: Plain,
) -> Iterator[str]:
    """Yield malloc's own failed check, the findings, and what was looked at."""
    if abort is not None:
        yield from _abort_lines(abort, style)
        yield ""
    names = {arena.address: arena.name for arena in state.ring.arenas}
    number = 0
    for finding in checked.findings:
        if finding.doubtful is None:
            number += 1
            yield from _finding_lines(f"#{number}", finding, names, checked.tried, style)
            yield ""
    if checked.more:
        yield f"{count_of(checked.more, 'more finding')} left out: only those with the lowest addresses are kept."
        yield ""
    yield from _summary(arenas, abort, checked, style)
    if met.counted:
        yield _coverage_text(met)
    for note in checked.notes:
        yield printable(note)
    doubtful = [finding for finding in checked.findings if finding.doubtful is not None]
    if doubtful:
        count = count_of(len(doubtful) + checked.more_doubtful, "thing")
        yield f"{count} that may be such a step, and not counted as wrong:"
        for finding in doubtful:
            yield f"  {finding.kind} at {finding.address:#x}: {printable(finding.text)}"
        if checked.more_doubtful:
            yield f"  {count_of(checked.more_doubtful, 'more thing')} of that kind left out."


def _summary(arenas: Sequence[Arena], abort: Abort | None, checked: Checked, style: Plain) -> Iterator[str]:
    looked = (
        f"{count_of(checked.chunks, 'chunk')} of {count_of(len(arenas), 'arena')}, {checked.listed:,} on free lists, "
        f"{checked.mmapped:,} with mappings of their own"
    )
    if checked.certain:
        yield f"checked: {looked}"
    elif checked.findings:
        yield f"Nothing is certainly wrong: {looked}."
    elif abort is not None:
        yield f"Nothing else is wrong in what could be checked: {looked}."
    elif not checked.complete:
        yield f"Nothing is wrong in what could be checked: {looked}."
    else:
        yield style.paint("good", f"The heap is sound: {looked}.")


def _coverage_text(met: Coverage) -> str:
    if met.whole:
        return f"walked: {hex_size(met.walked)}, all that malloc counts as its own"
    left = met.counted - met.walked
    return (
        f"walked: {hex_size(met.walked)} of the {hex_size(met.counted)} that malloc counts; {hex_size(left)} were not"
    )


def _end_text(abort: Abort) -> str:
    texts = {
        Cause.CHECK: "one of its checks failed; what it printed is not known",
        Cause.FAULT: _FAULT,
        Cause.SIGNAL: "a signal of someone else's came while it worked; none of its checks failed",
    }
    return texts[abort.cause]


def _abort_lines(abort: Abort, style: Plain) -> Iterator[str]:
    message = _end_text(abort) if abort.message is None else printable(abort.message)
    yield style.paint("bad", f"thread {abort.thread} stopped in malloc: {message}")
    check = CHECKS.get(abort.check or "")
    if check is not None:
        yield _line("the check", f"{printable(abort.function or check.function)}: {check.condition}")
    elif abort.function:
        yield _line("in", printable(abort.function))
    yield _line("the call", _call_text(abort))
    if abort.place is not None:
        told = "" if abort.told_by is None else _TOLD_BY.get(abort.told_by, "")
        yield _line("which is", f"{placed_text(abort.place)}{told}")
    if abort.chunk is not None:
        header = abort.pointer is not None and abort.chunk_place is not None and abort.place is not None
        if abort.is_chunk:
            where = f" in {abort.arena.name}" if abort.arena is not None else ""
            yield _line("the chunk", f"{abort.chunk:#x}{where}")
        elif abort.chunk_place is not None and abort.emptying is None:
            what = "malloc takes" if header else "malloc took"
            yield _line("no chunk", f"{what} {abort.chunk:#x} for one: {placed_text(abort.chunk_place)}")
    if abort.emptying is not None:
        yield from _emptying_lines(abort.emptying, abort.arena)
    label = "compared"
    for value in abort.compared:
        shown = "unreadable" if value.value is None else f"{value.value:#x}"
        yield _line(label, f"{shown:<20}{value.meaning}")
        label = ""


#: How a pointer is known that malloc's own frames do not have.
_TOLD_BY = {
    ToldBy.CALL_SITE: "; known from the caller's code and registers",
    ToldBy.SOURCE: "; known from the caller's line of source",
    ToldBy.FINDING: "; known from what is wrong: no other pointer fails this check",
}


def _emptying_lines(found: Emptying, arena: Arena | None) -> Iterator[str]:
    """Yield which fastbin was being emptied, where the bad link came from, and who holds the chunk that had it."""
    which = "a fastbin" if found.index is None else f"fastbin {found.index}"
    of_arena = "" if arena is None else f" of {arena.name}"
    yield _line("under way", f"{which}{of_arena} was being emptied: its chunks are merged into the unsorted list")
    if found.link is not None:
        place = "" if found.place is None else f": {placed_text(found.place)}"
        yield _line("bad link", f"{found.link:#x}{place}")
    if found.merged is not None:
        yield _line("came from", f"the chunk merged last, now the beginning of the free chunk {found.merged:#x}")
    for number, holder in enumerate(found.holders):
        yield _line("" if number else "held by", printable(holder))
    if found.lost:
        listed = ", ".join(f"{chunk:#x}" for chunk in found.lost[:_LOST])
        more = f" and {len(found.lost) - _LOST:,} more" if len(found.lost) > _LOST else ""
        count = count_of(len(found.lost), "chunk")
        yield _line("left of it", f"{count} that look used, if the link should lead to the first: {listed}{more}")


def _call_text(abort: Abort) -> str:
    if abort.call is None and abort.function.startswith("tcache_thread"):
        return "none: the thread ends, and its tcache is given back"
    if abort.call is None:
        unknown = "the stack does not tell which of malloc's functions was called"
        return unknown if abort.caller is None else f"{unknown} by {_frame_text(abort.caller)}"
    given = [] if abort.pointer is None else [f"{abort.pointer:#x}"]
    if abort.request is not None:
        given.append(f"{abort.request}")
    text = f"{printable(abort.call)}({', '.join(given) or '...'})"
    return text if abort.caller is None else f"{text} by {_frame_text(abort.caller)}"


def _frame_text(frame: Frame) -> str:
    text = f"{printable(frame.function)} ()" if frame.function else f"{frame.pc:#x}"
    if frame.file is not None and frame.line is not None:
        return f"{text} at {printable(frame.file.rpartition('/')[2])}:{frame.line}"
    return f"{text} in {printable(frame.objfile.rpartition('/')[2])}" if frame.objfile else text


def _finding_lines(label: str, finding: Finding, names: dict[int, str], tried: bool, style: Plain) -> Iterator[str]:
    where = f" of {names[finding.arena]}" if finding.arena in names else ""
    listed = f", {finding.listed}" if finding.listed is not None else ""
    address = style.paint("address", f"{finding.address:#x}")
    yield f"{label} {style.paint('bad', finding.kind)} at {address}{where}{listed}"
    yield f"  {printable(finding.text)}"
    yield _line("found", printable(finding.found))
    yield _line("expected", printable(finding.expected))
    yield from _catch_lines(finding.catches, tried)
    if finding.culprit is not None:
        yield from _culprit_lines(finding.culprit)


def _catch_lines(catches: Sequence[Catch], tried: bool) -> Iterator[str]:
    if not catches:
        yield _line("caught by", _UNNOTICED if tried else _UNTRIED)
    label = "caught by"
    for catch in catches:
        message = "no check: it crashes (SIGSEGV)" if catch.message == CRASH else f'"{catch.message}"'
        yield _line(label, f"{message} in {catch.when[:1].lower()}{catch.when[1:]}")
        label = ""


_STATES = {"used": "in use", "top": "the top chunk", "fencepost": "a fencepost", "free": "on no free list"}


def _culprit_lines(culprit: Culprit) -> Iterator[str]:
    state = _STATES.get(culprit.state, f"free ({culprit.state})")
    chunk = f"chunk {culprit.chunk:#x}, pointer {culprit.pointer:#x}, {hex_size(culprit.size)}, {state}"
    if culprit.how == "overrun":
        yield _line("suspect", f"what is before it, written past its end: {chunk}")
    else:
        yield _line("suspect", f"whoever still writes to this chunk after its free: {chunk}")
    label = "content"
    for start in range(0, len(culprit.content), _ROW):
        row = culprit.content[start : start + _ROW]
        address = culprit.content_start + start
        digits = row.hex(" ", 1)
        yield _line(label, f"{address:#x}  {digits:<{3 * _ROW - 1}}  {preview(row, _ROW)}{_mark(culprit, address)}")
        label = ""
    label = "held by"
    for holder in culprit.holders:
        yield _line(label, printable(holder))
        label = ""


def _mark(culprit: Culprit, address: int) -> str:
    """Return the words behind a row of content in which a chunk's own memory ends."""
    if culprit.how != "overrun" or not address <= culprit.boundary < address + _ROW:
        return ""
    return f"  <- its memory ends at {culprit.boundary:#x}"


def check_object(abort: Abort | None, checked: Checked, met: Coverage) -> dict[str, object]:
    """Return what was found as JSON has it."""
    return {
        "sound": checked.complete and not checked.certain and (abort is None or abort.cause is Cause.SIGNAL),
        "abort": None if abort is None else _abort_object(abort),
        "findings": [_finding_object(finding) for finding in checked.findings],
        "left_out": checked.more,
        "doubtful_left_out": checked.more_doubtful,
        "complete": checked.complete,
        "notes": list(checked.notes),
        "chunks": checked.chunks,
        "listed": checked.listed,
        "mmapped": checked.mmapped,
        "counted_bytes": met.counted,
        "walked_bytes": met.walked,
    }


def _abort_object(abort: Abort) -> dict[str, object]:
    caller = abort.caller
    return {
        "thread": abort.thread,
        "cause": abort.cause.value,
        "fault": abort.fault,
        "message": abort.message,
        "check": abort.check,
        "function": abort.function or None,
        "call": abort.call,
        "pointer": abort.pointer,
        "told_by": None if abort.told_by is None else abort.told_by.value,
        "place": placed_object(abort.place),
        "request": abort.request,
        "caller": None if caller is None else _frame_text(caller),
        "arena": None if abort.arena is None else abort.arena.address,
        "chunk": abort.chunk,
        "is_chunk": abort.is_chunk,
        "chunk_place": placed_object(abort.chunk_place),
        "emptying": None if abort.emptying is None else _emptying_object(abort.emptying),
        "compared": [{"name": item.name, "meaning": item.meaning, "value": item.value} for item in abort.compared],
    }


def _emptying_object(found: Emptying) -> dict[str, object]:
    return {
        "fastbin": found.index,
        "link": found.link,
        "place": placed_object(found.place),
        "merged": found.merged,
        "holders": list(found.holders),
        "lost": list(found.lost),
    }


def _finding_object(finding: Finding) -> dict[str, object]:
    culprit = finding.culprit
    return {
        "kind": finding.kind,
        "address": finding.address,
        "size": finding.size,
        "text": finding.text,
        "found": finding.found,
        "expected": finding.expected,
        "arena": finding.arena or None,
        "chunk": finding.chunk,
        "list": finding.listed,
        "tcache": finding.tcache,
        "doubtful": finding.doubtful,
        "catches": [
            {
                "message": catch.message,
                "call": catch.call,
                "pointer": catch.pointer,
                "low": catch.low,
                "high": catch.high,
                "now": catch.now,
                "request": catch.request,
                "before": list(catch.before),
                "full": catch.full,
                "thread": catch.thread,
                "condition": catch.condition or None,
                "when": catch.when,
            }
            for catch in finding.catches
        ],
        "culprit": None
        if culprit is None
        else {
            "how": culprit.how,
            "chunk": culprit.chunk,
            "pointer": culprit.pointer,
            "size": culprit.size,
            "state": culprit.state,
            "content_start": culprit.content_start,
            "content": culprit.content.hex(),
            "boundary": culprit.boundary,
            "holders": list(culprit.holders),
        },
    }
