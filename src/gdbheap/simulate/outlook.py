"""What can still be asked for without a system call, and what the next malloc of each size would take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gdbheap.ptmalloc.bins import LAST_BIN, bin_range
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import Operation, Prediction, predict


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

    ``largest`` is the largest request in bytes that needs no system call now (-1: none is that small). ``top`` is how
    many bytes can be cut from the top chunk, as chunks. ``classes`` are all sizes, small ones first; they end with
    the first one that no free memory could serve, ``ends`` being the number of those left out.
    """

    largest: int
    top: int
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
    return Outlook(_largest(machine), max(size - machine.min_size, 0), tuple(shown), len(classes) - len(shown))


def _predict(machine: Machine, request: int) -> Prediction:
    return predict(machine, Operation("malloc", (request,)))


def _largest(machine: Machine) -> int:
    low, high = -1, 1 << 16
    while not _predict(machine, high).calls:
        low, high = high, high * 4
        if high >= machine.wrap >> 1:
            return low
    while high - low > 1:
        middle = (low + high) // 2
        if _predict(machine, middle).calls:
            high = middle
        else:
            low = middle
    return low


def _classes(machine: Machine) -> Iterator[SizeClass]:
    for index in range(2, LAST_BIN + 1):
        try:
            low, high = bin_range(machine.abi, index)
        except ValueError:
            continue
        request = low - machine.word_size
        yield SizeClass(low, high, request, _predict(machine, request))
