"""A system call that the allocator is about to make, with the sum that led to its arguments."""

from __future__ import annotations

from collections.abc import Container, Generator
from dataclasses import dataclass
from typing import TypeVar

from gdbheap.simulate.state import GrowthState

T = TypeVar("T")


class Unpredictable(Exception):
    """A fact that decides what malloc does is not in the state.

    ``reason`` is a full sentence that names it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Term:
    """One line of a sum, in bytes.

    ``value`` is signed: what is subtracted is negative. ``note`` says in a few words where the value comes from or
    which setting changes it.
    """

    name: str
    value: int
    note: str = ""


@dataclass(frozen=True)
class Call:
    """A predicted system call.

    ``args`` are the arguments as integers, in the kernel's order and as many as the call has: brk 1, munmap 2,
    mprotect 3, mmap 6 (the descriptor is -1, not 0xffffffff), mremap 4, madvise 3. ``path`` is the stable name of the
    branch (``PATHS`` in simulate.paths tells what each means). ``terms`` add up to ``total``; ``rounded`` is
    ``total`` after rounding to ``multiple`` (down where ``rounded`` is below ``total``; 1 where nothing is rounded),
    and is the number of bytes that the call is about. ``why`` are the conditions that led here, each a full sentence
    with its values, and ``source`` the glibc function that decides.
    """

    syscall: str
    args: tuple[int, ...]
    path: str
    terms: tuple[Term, ...]
    total: int
    rounded: int
    multiple: int
    why: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Outcome:
    """What an operation leaves behind.

    ``state`` is the allocator afterwards: top, system_mem, flags, params, break and heaps are followed; what a closed
    top chunk does to the bins, the tcache and the memory is not. ``chunk`` is the address of the chunk that serves the
    request, None where there is none. ``top`` and ``top_size`` (bytes) describe the top chunk after the request was
    cut from it, None where no arena is known. ``system_mem_delta`` is the change of the arena's system_mem in bytes.
    ``changes`` are full sentences about what else is different. ``error`` is a full sentence where the operation fails
    or aborts, else None.
    """

    state: GrowthState
    chunk: int | None
    top: int | None
    top_size: int | None
    system_mem_delta: int
    changes: tuple[str, ...] = ()
    error: str | None = None


#: A prediction under way: it yields a call, is sent the kernel's signed result, and returns what it was made for.
#: A failed call answers the negative errno; brk answers the break that the process then has.
Calling = Generator[Call, int, T]
Steps = Calling[Outcome]

#: The system calls that malloc makes.
SYSCALLS = ("brk", "mmap", "munmap", "mremap", "mprotect", "madvise")
#: Those of them whose answer malloc does not look at.
_UNHEEDED = frozenset({"munmap", "madvise"})


def advance(steps: Steps, result: int | None = None, caught: Container[str] = SYSCALLS) -> Call | Outcome:
    """Send the kernel's ``result`` of the last call (None to start) and return the next caught call, or the Outcome.

    Calls whose name is not in ``caught`` are passed over where malloc does not look at the answer. Raises Unpredictable
    where it does, and as the prediction does.
    """
    try:
        call = next(steps) if result is None else steps.send(result)
        while call.syscall not in caught:
            if call.syscall not in _UNHEEDED:
                raise Unpredictable(
                    f"What malloc does here depends on the kernel's answer to a call of {call.syscall}, which 'heap "
                    "catch' was told not to record."
                )
            call = steps.send(0)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    return call


def failed(result: int) -> bool:
    """Whether ``result`` is a negative errno: the answer of every call but brk, which answers a break."""
    return -4096 < result < 0


def refused(call: Call, answer: int) -> bool:
    """Whether ``answer`` says that the kernel did not do what ``call`` asked for."""
    return answer < call.args[0] if call.syscall == "brk" else failed(answer)


def total(terms: tuple[Term, ...]) -> int:
    """Return the sum of ``terms`` in bytes."""
    return sum(term.value for term in terms)


def outcome(
    before: GrowthState,
    after: GrowthState,
    chunk: int | None = None,
    changes: tuple[str, ...] = (),
    error: str | None = None,
) -> Outcome:
    """Return the Outcome of an operation that led from ``before`` to ``after``."""
    arena = after.arena
    if arena is None or before.arena is None:
        return Outcome(after, chunk, None, None, 0, changes, error)
    delta = arena.system_mem - before.arena.system_mem
    return Outcome(after, chunk, arena.top, arena.top_size, delta, changes, error)
