"""Recorded events as the plain objects that a command's JSON holds; docs/json.md describes them."""

from __future__ import annotations

from gdbheap.growth.arena_reason import ArenaReason
from gdbheap.growth.event import Event, Frame
from gdbheap.growth.history import Gap, ProcessRecord
from gdbheap.growth.initial import Initial
from gdbheap.growth.predict import Prediction
from gdbheap.growth.shortage import shortage


def frame_object(frame: Frame) -> dict[str, object]:
    """Return a caller as JSON has it."""
    return {
        "function": frame.function,
        "file": frame.file,
        "line": frame.line,
        "objfile": frame.objfile,
        "pc": frame.pc,
    }


def event_object(event: Event, prediction: Prediction | None, reason: ArenaReason | None) -> dict[str, object]:
    """Return an event, with what was predicted for it and why malloc chose that arena, as JSON has it."""
    who = event.requester
    requested = event.requested
    arena = event.state.arena if event.state is not None else None
    call = prediction.call if prediction is not None else None
    sizes = prediction.chunk_sizes if prediction is not None else None
    return {
        "id": event.id,
        "process": event.process,
        "time": event.time,
        "thread": event.thread,
        "tid": event.tid,
        "syscall": event.syscall,
        "args": list(event.args),
        "result": event.result,
        "delta": event.delta,
        "kind": who.kind,
        "purpose": who.purpose,
        "gap": event.gap,
        "arena": None if arena is None else {"name": arena.name, "address": arena.address},
        "arena_choice": None if reason is None else _arena_choice(reason),
        "free_before": _free_before(event, prediction),
        "request": None if requested is None else requested.request,
        "chunk_size": None if requested is None else requested.nb,
        "chunk_size_from": None if requested is None else requested.nb_from,
        "chunk_size_range": None if sizes is None else [sizes.low, sizes.high],
        "path": None if prediction is None else prediction.path,
        "terms": [] if call is None else [{"name": term.name, "value": term.value} for term in call.terms],
        "predicted": None if call is None else list(call.args),
        "exact": None if prediction is None else prediction.exact,
        "unpredicted_because": _why_unpredicted(event, prediction),
        "frames": [frame_object(frame) for frame in event.frames],
        "frames_left_out": event.more_frames,
    }


def _why_unpredicted(event: Event, prediction: Prediction | None) -> str | None:
    if prediction is None:
        return event.unread
    return None if prediction.call is not None else prediction.reason


def _arena_choice(reason: ArenaReason) -> dict[str, object]:
    facts = reason.facts
    return {
        "reason": reason.reason,
        "why": list(reason.why),
        "single_thread": None if facts is None else facts.single,
        "thread_arena": None if facts is None else facts.thread_arena,
        "attached_threads": reason.attached,
        "free_list": None if facts is None else facts.free_list,
        "narenas": None if facts is None else facts.narenas,
        "narenas_limit": None if facts is None else facts.narenas_limit,
    }


def _free_before(event: Event, prediction: Prediction | None) -> dict[str, object] | None:
    short = shortage(event, prediction)
    if short is None:
        return None
    summary = short.summary
    return {
        "tcache_chunks": short.tcache.count,
        "chunks": summary.chunks,
        "bytes": summary.total,
        "largest": summary.largest,
        "complete": summary.complete,
        "lists": [
            {
                "kind": item.kind,
                "index": item.number,
                "chunks": item.chunks,
                "bytes": item.total,
                "largest": item.largest,
                "complete": item.complete,
            }
            for item in summary.lists
        ],
        "top": short.top_size,
        "top_needed": short.top_needed,
        "verdict": short.verdict,
    }


def process_object(record: ProcessRecord) -> dict[str, object]:
    """Return what is known of a process as JSON has it."""
    return {
        "process": record.process,
        "made_by": record.parent,
        "time": record.time,
        "recorded": record.recorded,
        "programs": [{"after": events, "file": file} for events, file in record.programs],
        "end": record.end,
        "other_malloc": record.other_malloc,
    }


def gap_object(gap: Gap) -> dict[str, object]:
    """Return why events may be missing, and from where on, as JSON has it."""
    return {"after": gap.after, "reason": gap.reason}


def initial_object(initial: Initial) -> dict[str, object]:
    """Return what the heap's state alone tells of its growth as JSON has it."""
    main = initial.main_arena
    return {
        "system_mem": main.system_mem,
        "first_chunk": initial.first_chunk,
        "first_owner_thread": initial.first_owner,
        "first_growth": initial.first_growth,
        "since": initial.since,
        "top_size": main.top_size,
        "n_mmaps": initial.params.get("n_mmaps"),
        "mmapped_mem": initial.params.get("mmapped_mem"),
    }
