"""The phases of a recording, as lines and as JSON has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gdbheap.growth.phases import Phase
from gdbheap.render.units import count_of, human_size, signed_size

_TITLES = {
    "loading": "loading",
    "first-heap": "first heap",
    "growth": "growth",
    "shrinking": "shrinking",
    "steady": "steady",
}


def phase_text(phase: Phase) -> str:
    """Return what a phase is, on one line."""
    took = max(0.0, phase.last.time - phase.first.time)
    return f"{_TITLES[phase.name]}: {_events_text(phase)} in {took:.3f} s; {_heap_text(phase)}"


def _events_text(phase: Phase) -> str:
    others = {kind: count for kind, count in phase.kinds.items() if kind != "malloc"}
    text = count_of(phase.events, "call")
    if not others:
        return text
    if len(phase.kinds) == 1:
        return f"{text} ({next(iter(others))})"
    listed = ", ".join(f"{kind} {count:,}" for kind, count in sorted(phase.kinds.items(), key=lambda pair: -pair[1]))
    return f"{text} ({listed})"


def _heap_text(phase: Phase) -> str:
    known = _known_heap_text(phase)
    if not phase.nobodys:
        return known
    return f"{known}, as far as callers are known (of {count_of(phase.nobodys, 'call')} none is)"


def _known_heap_text(phase: Phase) -> str:
    changed = phase.after - phase.before
    if not phase.known:
        return f"malloc's memory {signed_size(changed)}" if changed else "malloc's memory stays as it is"
    if phase.after == phase.before:
        return f"malloc has {human_size(phase.after)}" if phase.after else "malloc has nothing yet"
    return f"malloc's memory {human_size(phase.before)} -> {human_size(phase.after)}"


def phase_lines(phases: Sequence[Phase]) -> Iterator[str]:
    """Yield the phases, a line each."""
    for number, phase in enumerate(phases, 1):
        span = f"#{phase.first.id}" if phase.events == 1 else f"#{phase.first.id} to #{phase.last.id}"
        yield f"phase {number}, {span}: {phase_text(phase)}"


def phase_object(phase: Phase) -> dict[str, object]:
    """Return a phase as JSON has it."""
    return {
        "process": phase.first.process,
        "name": phase.name,
        "first": phase.first.id,
        "last": phase.last.id,
        "kinds": [{"kind": kind, "events": count} for kind, count in phase.kinds.items()],
        "before": phase.before,
        "after": phase.after,
        "known": phase.known,
    }
