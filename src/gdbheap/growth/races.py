"""Values of malloc's that threads share without a lock: what they may have been when malloc decided.

mp_ is read and written by all threads. Between malloc's decision and its system call another thread may free a mapping,
which raises the thresholds, or make one. Each such change is seen at a call of that thread, whose reading has the new
value: so the readings since the deciding thread's last call hold all the values that were in force meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gdbheap.growth.event import Event
from gdbheap.simulate.facts import with_settings
from gdbheap.simulate.state import GrowthState

#: The fields of mp_ that change while threads run: by free (the thresholds), by each mapping, by mallopt.
_SHARED = ("mmap_threshold", "trim_threshold", "n_mmaps", "mmapped_mem", "top_pad", "n_mmaps_max")
#: Readings of other threads that are looked at, at most.
_MOST = 256
#: Why nothing is predicted where mallopt is called while other threads allocate.
OPTION_RACE = (
    "The program has set M_MMAP_THRESHOLD, M_TRIM_THRESHOLD or M_TOP_PAD, which all threads read without a lock: other "
    "values than at this call lead to it, and another thread may have set them when malloc looked."
)
#: Why nothing is predicted where the limit of mmapped chunks was reached by threads at the same time.
COUNT_RACE = (
    "mp_.n_mmaps is shared by all threads without a lock, and others make or free mapped chunks at the same time: "
    "whether malloc found it below n_mmaps_max is not known."
)
#: The same for where the next heap of an arena is asked for.
AREA_RACE = (
    "arena.c's aligned_heap_area is shared by all threads without a lock, and another has changed it since malloc "
    "looked: where the heap was asked for follows from it."
)


def earlier_values(event: Event, window: Sequence[Event]) -> Iterator[tuple[GrowthState, str]]:
    """Yield the states that malloc may have decided on, the latest first, each with a sentence on what was different.

    ``window`` are the events of the same process from the last one before the thread's previous call on, oldest first.
    """
    state = event.state
    if state is None:
        return
    now = {name: state.params.values[name] for name in _SHARED if name in state.params.values}
    tried = {tuple(now.values())}
    for other in window[: -_MOST - 1 : -1]:
        if other.reading is None or other.tid == event.tid:
            continue
        values = other.reading.decoded_params.values
        then = {name: values[name] for name in now}
        if tuple(then.values()) in tried:
            continue
        tried.add(tuple(then.values()))
        yield with_settings(state, **then), _sentence(then, now)


def _sentence(then: dict[str, int], now: dict[str, int]) -> str:
    changed = [
        f"{name} was {value:#x} when malloc looked, and is {now[name]:#x} at the call"
        for name, value in then.items()
        if value != now[name] and name not in ("n_mmaps", "mmapped_mem")
    ]
    what = "; ".join(changed) or f"n_mmaps was {then['n_mmaps']:,} when malloc looked, and is {now['n_mmaps']:,}"
    return f"Another thread changed mp_ meanwhile: {what}."


def unknowable_values(event: Event, earlier: Sequence[Event]) -> Iterator[tuple[GrowthState, str]]:
    """Yield states that no reading shows but that threads may have made for a moment, each with the reason for that.

    ``earlier`` are the events of the same process.
    """
    state = event.state
    if state is None:
        return
    most = state.params.values.get("n_mmaps_max")
    if most:
        for count in (most - 1, most):
            yield with_settings(state, n_mmaps=count), COUNT_RACE
    if state.params.values.get("no_dyn_threshold"):
        pads = {other.reading.decoded_params.get("top_pad") for other in earlier[-_MOST:] if other.reading is not None}
        for pad in sorted(pads | {state.params.get("top_pad")}):
            for threshold in (0, 1 << 8 * state.abi.word_size - 1, state.params.get("mmap_threshold")):
                yield with_settings(state, top_pad=pad, mmap_threshold=threshold), OPTION_RACE
    if event.syscall == "mmap" and state.aligned_heap_area not in (None, event.args[0]):
        yield replace(state, aligned_heap_area=event.args[0]), AREA_RACE
