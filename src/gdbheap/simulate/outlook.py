"""What can still be asked for without a system call, and what the next malloc of each size would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gdbheap.ptmalloc.bins import LAST_BIN, bin_range, free_summary
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.simulate.kernel_calls import arena_of_machine
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import Operation, Prediction, predict

#: Free chunks that are added up at most.
_MOST_CHUNKS = 1_000_000


@dataclass(frozen=True)
class SizeClass:
    """What malloc takes for the smallest chunk of a class of sizes.

    ``low`` and ``high`` are its chunk sizes in bytes (None: no largest), ``request`` the bytes asked for.
    """

    low: int
    high: int | None
    request: int
    prediction: Prediction


@dataclass(frozen=True)
class Outlook:
    """What malloc can do before it needs the kernel.

    ``largest`` is the largest request in bytes that needs no system call now (-1: none is that small); ``beyond`` is
    the sentence why it is not known of a larger one, empty where that needs one. ``top`` is how
    many bytes can be cut from the top chunk, as chunks; ``free`` are in the free chunks of the arena's lists and
    ``cached`` in the thread's tcache (``complete`` is False where not all of them were visited). ``classes`` are the
    sizes that need no system call, small ones first, and ``ends`` is how many classes do.
    """

    largest: int
    beyond: str
    top: int
    free: int
    cached: int
    complete: bool
    classes: tuple[SizeClass, ...]
    ends: int


def look_ahead(machine: Machine) -> Outlook:
    """Return what can still be asked for; the machine stays as it is.

    A request that is larger than another one never needs less: the largest is found by trying.
    """
    arena = machine.thread.arena or machine.main_arena
    top = machine.words[arena + machine.top_at]
    size = machine.size(top) if top else 0
    classes = list(_classes(machine))
    shown = [item for item in classes if not item.prediction.calls]
    decoded = arena_of_machine(machine, arena)
    found = free_summary(machine.words, machine.abi, machine.layout, decoded, machine.safe_linking, _MOST_CHUNKS)
    cached = 0
    if machine.thread.tcache is not None and machine.thread.tcache > 0:
        cached = read_tcache(
            machine.words, machine.abi, machine.layout, machine.thread.tcache, machine.safe_linking
        ).total
    cuttable = max(size - machine.min_size, 0)
    ends = len(classes) - len(shown)
    largest = _largest(machine)
    next_one = _predict(machine, largest + 1)
    beyond = "" if next_one.calls else next_one.message or ""
    return Outlook(largest, beyond, cuttable, found.total, cached, found.complete, tuple(shown), ends)


def _predict(machine: Machine, request: int) -> Prediction:
    return predict(machine, Operation("malloc", (request,)))


def _needs_none(machine: Machine, request: int) -> bool:
    """Return whether it is known that a request of so many bytes needs no system call."""
    found = _predict(machine, request)
    return not found.calls and found.end != "unknown"


def _largest(machine: Machine) -> int:
    low, high = -1, 1 << 16
    while _needs_none(machine, high):
        low, high = high, high * 4
        if high >= machine.wrap >> 1:
            return low
    while high - low > 1:
        middle = (low + high) // 2
        if _needs_none(machine, middle):
            low = middle
        else:
            high = middle
    return low


def _classes(machine: Machine) -> Iterator[SizeClass]:
    for index in range(2, LAST_BIN + 1):
        try:
            low, high = bin_range(machine.abi, index)
        except ValueError:
            continue
        request = low - machine.word_size
        yield SizeClass(low, high, request, _predict(machine, request))
