"""The map of arenas as the plain object that the command's JSON holds; docs/json.md describes it."""

from __future__ import annotations

from gdbheap.ptmalloc.extent import KINDS, Area, Spot
from gdbheap.render.cells import Scene


def map_object(scene: Scene) -> dict[str, object]:
    """Return one arena as JSON has it."""
    drawn = scene.drawn
    return {
        "name": drawn.arena.name,
        "address": drawn.arena.address,
        "system_mem": drawn.arena.system_mem,
        "regions": [_area_object(scene, area) for area in drawn.areas],
        "free": drawn.free,
        "free_below": drawn.free_below,
        "largest_free": _spot_object(drawn.largest),
        "last_used": _spot_object(drawn.last_used),
        "below_top": _spot_object(drawn.below_top),
        "gaps": [{"start": gap.start, "end": gap.end, "why": gap.why} for gap in drawn.totals.gaps],
        "complete": drawn.totals.complete,
        "problems": list(drawn.totals.problems),
    }


def _spot_object(spot: Spot | None) -> dict[str, object] | None:
    return None if spot is None else {"address": spot.address, "size": spot.size, "state": spot.state}


def _area_object(scene: Scene, area: Area) -> dict[str, object]:
    heap = scene.heaps.get(area.address)
    return {
        "kind": area.kind,
        "address": area.address,
        "start": area.start,
        "end": area.end,
        "behind_damage": area.behind_damage,
        "reserved_end": None if heap is None else heap.address + heap.max_size,
        "kinds": [
            {"kind": kind, "chunks": count, "bytes": size}
            for kind, size, count in zip(KINDS, area.sizes, area.counts)
            if size
        ],
        "runs": [{"start": run.start, "end": run.end, "kind": run.kind, "chunks": run.chunks} for run in area.runs],
        "runs_left_out": area.runs_left_out,
    }
