"""What free(p) would do, in short: where the chunk goes, or how it ends; read from the machine's own steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gdbheap.simulate.calls import Call
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import Operation, predict
from gdbheap.simulate.trace import Step

#: How free can end, and one sentence that says what each is.
ENDS: Mapping[str, str] = {
    "nothing": "The pointer is 0, and free does nothing.",
    "tcache": "The chunk goes to the front of a bin of the thread's tcache, in large bins to its place by size.",
    "fastbin": "The chunk goes to the front of a fastbin of its arena.",
    "unsorted": "The chunk, merged with free neighbours, goes to the front of its arena's unsorted list.",
    "small": "The chunk, merged with free neighbours, goes to the front of a small bin of its arena.",
    "top": "The chunk becomes part of the top chunk of its arena.",
    "munmap": "The chunk is a mapping of its own and goes back to the kernel.",
    "abort": "A check fails: glibc prints a message and aborts the program.",
    "crash": "free reads memory that is not mapped, and the program gets a SIGSEGV.",
}


@dataclass(frozen=True)
class Freed:
    """How free ends: ``kind`` is one of ENDS.

    ``message`` is what glibc prints before it aborts. ``chunk`` and ``size`` (bytes) are the free chunk that is left,
    merged with its neighbours; the top chunk before anything of it is given back; or the mapping's chunk. ``arena`` is
    the address of its arena, ``index`` the bin that it goes to, each None where there is none. ``merged`` are the
    addresses of the neighbours that it took in. ``changes`` are full sentences about what else is different.
    """

    kind: str
    message: str | None = None
    chunk: int | None = None
    size: int | None = None
    arena: int | None = None
    index: int | None = None
    merged: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foretold:
    """free of ``pointer``, if it were called now and the kernel refused nothing.

    ``end`` is None where ``unknown`` says why it cannot be told.
    """

    pointer: int
    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    end: Freed | None
    unknown: str | None = None


def foretell(machine: Machine, pointer: int) -> Foretold:
    """Return what free(``pointer``) would do; nothing is raised for a fact that is missing."""
    found = predict(machine, Operation("free", (pointer,)))
    steps = tuple(step for step in found.steps if step.role not in ("call", "check"))
    calls = tuple(call for call, _ in found.calls)
    if found.end == "unknown":
        return Foretold(pointer, steps, calls, None, found.message)
    if found.end in ("abort", "crash"):
        end = Freed(found.end, message=found.message if found.end == "abort" else None)
        return Foretold(pointer, steps, calls, end)
    left = found.after.freed
    if left is None:
        return Foretold(pointer, steps, calls, Freed("nothing"))
    end = Freed(left.kind, None, left.chunk, left.size, left.arena, left.index, left.merged, changes=found.changes)
    return Foretold(pointer, steps, calls, end)
