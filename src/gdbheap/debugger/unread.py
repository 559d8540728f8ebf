"""What is not known of calls because GDB has not read the very file of libc, and what the user can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.growth.event import Event
from gdbheap.growth.requester import NO_CALLER
from gdbheap.memory import MemoryFault


def unread_lines(events: Iterable[Event] | None = None) -> Iterator[str]:
    """Yield the sentence that says why callers are not known, where GDB lacks libc's file or has another build's.

    With ``events`` only if one of them has no caller that is known. Before the program is started nothing is known.
    """
    if events is not None and not any(event.requester.purpose == NO_CALLER for event in events):
        return
    try:
        warning = session.target().identified.warning
    except (TargetError, MemoryFault):
        return
    if warning:
        yield f"{warning} So callers may be missing or wrong, as GDB cannot unwind stacks."
