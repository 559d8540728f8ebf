"""Operations of the allocator as values: what a program calls, run on a machine, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gdbheap.memory import MemoryFault
from gdbheap.simulate.calls import Call, Unpredictable
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.memalign import aligned_alloc, memalign, posix_memalign, pvalloc, valloc
from gdbheap.simulate.public import calloc, free, malloc, usable_size
from gdbheap.simulate.realloc import realloc
from gdbheap.simulate.settings import malloc_trim, mallopt
from gdbheap.simulate.trace import Abort, Step


def _reallocarray(machine: Machine, pointer: int, count: int, size: int) -> int | None:
    if count * size >= machine.wrap:
        machine.note("fail", "__libc_reallocarray", f"{count:#x} times {size:#x} does not fit a size_t.")
        return None
    return realloc(machine, pointer, count * size)


@dataclass(frozen=True)
class Kind:
    """An operation that can be run: its parameters, and which of them is a pointer.

    ``returns`` is pointer, nothing or number. ``defaults`` is how many parameters, from the last, may be left out.
    """

    run: Callable[..., int | None]
    parameters: tuple[str, ...]
    returns: str = "pointer"
    defaults: int = 0


def _free(machine: Machine, pointer: int) -> None:
    free(machine, pointer)


def _free_sized(machine: Machine, pointer: int, size: int) -> None:
    """Do free_sized (glibc 2.43): free, whatever the size is."""
    _free_since_243(machine, pointer, "free_sized", f"The size {size} is not looked at")


def _free_aligned_sized(machine: Machine, pointer: int, alignment: int, size: int) -> None:
    """Do free_aligned_sized (glibc 2.43): free, whatever alignment and size are."""
    _free_since_243(machine, pointer, "free_aligned_sized", f"Alignment {alignment} and size {size} are not looked at")


def _free_since_243(machine: Machine, pointer: int, name: str, text: str) -> None:
    if not machine.glibc.since(2, 43):
        raise Unpredictable(f"This glibc has no {name}: it came with 2.43.")
    machine.note("look", name, f"{text}: it is free under another name.")
    free(machine, pointer)


#: The operations by name.
KINDS: Mapping[str, Kind] = {
    "malloc": Kind(malloc, ("size",)),
    "calloc": Kind(calloc, ("count", "size")),
    "realloc": Kind(realloc, ("pointer", "size")),
    "reallocarray": Kind(_reallocarray, ("pointer", "count", "size")),
    "free": Kind(_free, ("pointer",), "nothing"),
    "free_sized": Kind(_free_sized, ("pointer", "size"), "nothing"),
    "free_aligned_sized": Kind(_free_aligned_sized, ("pointer", "alignment", "size"), "nothing"),
    "memalign": Kind(memalign, ("alignment", "size")),
    "aligned_alloc": Kind(aligned_alloc, ("alignment", "size")),
    "posix_memalign": Kind(posix_memalign, ("alignment", "size")),
    "valloc": Kind(valloc, ("size",)),
    "pvalloc": Kind(pvalloc, ("size",)),
    "trim": Kind(malloc_trim, ("pad",), "number", 1),
    "mallopt": Kind(mallopt, ("parameter", "value"), "number"),
}


@dataclass(frozen=True)
class Operation:
    """One call: ``name`` is a key of KINDS, ``arguments`` are numbers."""

    name: str
    arguments: tuple[int, ...]

    def text(self) -> str:
        """Return the call as C has it."""
        name = "malloc_trim" if self.name == "trim" else self.name
        kind = KINDS[self.name]
        shown = [
            f"{value:#x}" if parameter == "pointer" else str(value)
            for parameter, value in zip(kind.parameters, self.arguments)
        ]
        if self.name == "posix_memalign":
            shown.insert(0, "&pointer")
        return f"{name}({', '.join(shown)})"


@dataclass(frozen=True)
class Prediction:
    """What an operation does.

    ``end`` is one of ENDS and ``source`` one of SOURCES, empty where there is no memory to return. ``result`` is the
    pointer (0 for NULL) or the number that is returned, None where nothing is. ``chunk``, ``chunk_size`` and
    ``usable`` (bytes) describe the chunk that the pointer belongs to. ``errno`` is the error that NULL stands for (what
    posix_memalign returns), empty where there is none. ``calls`` are the system calls, each with the
    kernel's answer that was assumed. ``message`` is what glibc prints before it aborts, or why it is not known how
    the operation goes on. ``before`` and ``after`` are the allocator on both sides.
    """

    operation: Operation
    end: str
    before: Machine
    after: Machine
    result: int | None = None
    source: str = ""
    chunk: int | None = None
    chunk_size: int | None = None
    usable: int | None = None
    steps: tuple[Step, ...] = ()
    calls: tuple[tuple[Call, int], ...] = ()
    changes: tuple[str, ...] = ()
    message: str | None = None
    errno: str = ""

    @property
    def goes_on(self) -> bool:
        """Whether the program can call something after it."""
        return self.end in ("chunk", "null", "done")


def run(machine: Machine, operation: Operation) -> int | None:
    """Run an operation on ``machine`` itself and return what it returns.

    Raises Abort, MemoryFault and Unpredictable.
    """
    return KINDS[operation.name].run(machine, *operation.arguments)


def predict(machine: Machine, operation: Operation) -> Prediction:
    """Return what an operation would do; ``machine`` stays as it is, and must not be changed afterwards."""
    after = machine.above()
    after.steps = []
    kind = KINDS[operation.name]
    end, message, result = "unknown", None, None
    try:
        result = run(after, operation)
        end = "done" if kind.returns != "pointer" else "null" if result is None else "chunk"
    except Abort as abort:
        end, message = "abort", abort.message
    except MemoryFault as fault:
        end = "unknown" if machine.glibc.partial and machine.words.is_possible(fault.address) else "crash"
        message = f"It uses {fault.size} bytes at {fault.address:#x}, which cannot be read: {fault.reason}."
        if end == "crash":
            after.note("fail", operation.name, message)
    except Unpredictable as unknown:
        message = unknown.reason
    chunk = chunk_size = usable = None
    if end == "chunk" and result is not None:
        chunk = result - after.header
        chunk_size = after.size(chunk)
        usable = usable_size(after, result)
    return Prediction(
        operation,
        end,
        machine,
        after,
        0 if end == "null" else result,
        after.source if end == "chunk" else "",
        chunk,
        chunk_size,
        usable,
        tuple(after.steps),
        tuple(after.calls),
        tuple(after.changes),
        message,
        after.errno if end == "null" else "",
    )
