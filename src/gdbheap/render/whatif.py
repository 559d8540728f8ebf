"""A sequence of operations under several settings, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, human_size
from gdbheap.simulate.whatif import Outcome

_ROWS: Sequence[tuple[str, Callable[[Outcome], str]]] = (
    ("system calls", lambda item: f"{item.call_count:,}"),
    ("  brk", lambda item: f"{item.calls.get('brk', 0):,}"),
    ("  mmap", lambda item: f"{item.calls.get('mmap', 0):,}"),
    ("  munmap", lambda item: f"{item.calls.get('munmap', 0):,}"),
    (
        "  others",
        lambda item: f"{sum(count for name, count in item.calls.items() if name not in ('brk', 'mmap', 'munmap')):,}",
    ),
    ("taken from the kernel", lambda item: human_size(item.taken)),
    ("peak", lambda item: human_size(item.peak)),
    ("  not the program's", lambda item: _share(item.peak - item.live_at_peak, item.peak)),
    ("held at the end", lambda item: human_size(item.held)),
    ("  the program's", lambda item: human_size(item.live)),
    ("  in top chunks", lambda item: human_size(item.top)),
    ("  in free chunks", lambda item: human_size(item.free)),
    ("fragmentation", lambda item: _share(item.free, item.held)),
    ("requests that got NULL", lambda item: f"{item.failed:,}"),
)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def settings_text(settings: Mapping[str, int]) -> str:
    """Return settings as they are typed: ``top_pad=0,mmap_threshold=1048576``."""
    return ",".join(f"{name}={value}" for name, value in settings.items()) or "as it is"


def whatif_lines(outcomes: Sequence[Outcome], total: int, style: Plain) -> Iterator[str]:
    """Yield the outcomes as columns."""
    heads = [settings_text(item.settings).replace(",", ", ") for item in outcomes]
    cells = [[show(item) for _, show in _ROWS] for item in outcomes]
    widths = [max(len(head), *map(len, column)) for head, column in zip(heads, cells)]
    first = max(len(name) for name, _ in _ROWS)
    yield f"{count_of(total, 'operation')}, from an empty heap"
    yield ""
    yield f"{'':<{first}}" + "".join(
        f"  {style.paint('heading', f'{head:>{width}}')}" for head, width in zip(heads, widths)
    )
    for row, (name, _) in enumerate(_ROWS):
        yield f"{name:<{first}}" + "".join(f"  {column[row]:>{width}}" for column, width in zip(cells, widths))
    for head, item in zip(heads, outcomes):
        if item.problem is not None:
            yield style.paint("bad", f"{head}: ended at operation {item.done + 1} of {total}: {item.problem}")
    yield ""
    yield "Fragmentation is what lies in free chunks (tcache and fastbins too) of all that malloc holds at the end."
    yield "It is assumed that the kernel refuses nothing and that no thread waits for another one's lock."


def outcome_object(item: Outcome) -> dict[str, object]:
    """Return an outcome as JSON has it."""
    return {
        "settings": [{"name": name, "value": value} for name, value in item.settings.items()],
        "done": item.done,
        "calls": [{"syscall": name, "count": count} for name, count in item.calls.items()],
        "taken": item.taken,
        "peak": item.peak,
        "live_at_peak": item.live_at_peak,
        "held": item.held,
        "live": item.live,
        "top": item.top,
        "free": item.free,
        "failed": item.failed,
        "problem": item.problem,
    }
