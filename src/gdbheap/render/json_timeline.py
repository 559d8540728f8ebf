"""A timeline as the plain object that the command's JSON holds; docs/json.md describes it."""

from __future__ import annotations

from gdbheap.growth.timeline import OF_MALLOC, Series, Timeline
from gdbheap.render.json_events import gap_object


def timeline_object(line: Timeline) -> dict[str, object]:
    """Return the keys of the JSON object of ``heap timeline``: all that was recorded, whatever was drawn."""
    levels = line.levels(OF_MALLOC)
    peak = max(levels, key=lambda level: level.total, default=None)
    return {
        "process": line.process,
        "first": line.first.id,
        "newest": line.newest.id,
        "events": line.events,
        "begin_time": line.first.time,
        "end_time": line.newest.time,
        "series": {series.name: _series_object(series) for series in line.series},
        "peak": None if peak is None else {"event": peak.event.id, "time": peak.event.time, "total": peak.total},
        "last": levels[-1].total if levels else sum(line.begin(OF_MALLOC)),
        "programs_before": line.programs_before,
        "dropped": line.dropped,
        "gaps": [gap_object(gap) for gap in line.gaps],
        "unfinished": line.unfinished,
        "failed": line.failed,
        "unknown": line.unknown,
        "unrecorded_breaks": list(line.unrecorded_breaks),
        "compared": line.compared,
        "miscounted": line.miscounted,
        "others": [{"process": process, "events": count} for process, count in line.others],
    }


def _series_object(series: Series) -> dict[str, object]:
    return {
        "known": series.known,
        "begin": series.begin,
        "peak": series.peak,
        "last": series.last,
        "steps": [
            {"event": step.event.id, "time": step.event.time, "value": step.value, "delta": step.delta}
            for step in series.steps
        ],
    }
