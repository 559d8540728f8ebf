"""Promise: what threads change without a lock never makes a prediction wrong, nor contradicts the call."""

from __future__ import annotations

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs


@pytest.mark.parametrize("how", ["free", "option", "count"])
def test_what_malloc_looked_at_was_changed_meanwhile(how: str, gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Each call is exact with the values that were in force, or unknown with the reason."""
    gdb(
        "heap catch -malloc",
        "run",
        f"heap events -all {answers.into('events')}",
        program=programs["ratchet"],
        args=[how],
    ).succeeded()
    events = [event for event in answers.events("events") if event["kind"] == "malloc"]
    assert len(events) > 200
    assert [event for event in events if event["exact"] is False] == []
    for event in events:
        if event["exact"] is None:
            assert event["unpredicted_because"]
    assert sum(event["exact"] is True for event in events) > len(events) * 0.9
