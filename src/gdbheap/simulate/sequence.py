"""Operations as a file lists them, one a line, and running them on a machine (docs/operations.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import KINDS

#: The operations whose first argument is memory, by the name that an earlier line gave it.
TAKES_MEMORY = frozenset(name for name, kind in KINDS.items() if kind.parameters[0] == "pointer")


class Entry(NamedTuple):
    """One line: the operation, its arguments (memory by its name), and the name of its result, -1 where it has none.

    ``thread`` is the number of the thread that does it.
    """

    name: str
    arguments: tuple[int, ...]
    result: int
    thread: int = 1


class SequenceError(ValueError):
    """A line that is no operation; the message is a full sentence with its number."""


def parse_sequence(lines: Iterable[str]) -> list[Entry]:
    """Return the operations that ``lines`` list; raise SequenceError at the first line that is none."""
    return [_entry(line, number) for number, line in enumerate(lines, 1) if line.strip() and line.lstrip()[0] != "#"]


def _entry(line: str, number: int) -> Entry:
    words = line.split()
    thread, result = 1, -1
    try:
        if words[0].startswith("@"):
            thread = int(words.pop(0)[1:])
        if len(words) > 2 and words[-2] == "=":
            result = int(words[-1])
            del words[-2:]
        name, arguments = words[0], tuple([int(word, 0) for word in words[1:]])
    except (ValueError, IndexError):
        raise SequenceError(f"Line {number} is no operation: '{line.strip()[:80]}'.") from None
    kind = KINDS.get(name)
    if kind is None:
        raise SequenceError(f"Line {number}: '{name[:40]}' is no operation; they are {', '.join(KINDS)}.")
    if len(arguments) != len(kind.parameters):
        wanted = " ".join(parameter.upper() for parameter in kind.parameters)
        raise SequenceError(f"Line {number}: {name} takes {wanted}, not {len(arguments)} numbers.")
    if (kind.returns == "pointer") != (result >= 0):
        wanted = "needs a name for its result, as '= 7'" if kind.returns == "pointer" else "has no result to name"
        raise SequenceError(f"Line {number}: {name} {wanted}.")
    return Entry(name, arguments, result, thread)


def entry_text(entry: Entry) -> str:
    """Return the line of a file that stands for an operation."""
    thread = f"@{entry.thread} " if entry.thread != 1 else ""
    result = f" = {entry.result}" if entry.result >= 0 else ""
    return f"{thread}{entry.name} {' '.join(map(str, entry.arguments))}{result}"


def replay(machine: Machine, entries: Iterable[Entry], memory: dict[int, int] | None = None) -> Iterator[int]:
    """Run operations on ``machine`` itself and yield what each returns: a pointer (0 for NULL), a number, or 0.

    ``memory`` has the pointers by name, and is changed. Raises Abort, MemoryFault and Unpredictable as they do.
    """
    known = {} if memory is None else memory
    wrap = machine.wrap
    runs = {name: kind.run for name, kind in KINDS.items()}
    for name, arguments, result, _ in entries:
        if name in TAKES_MEMORY:
            old = arguments[0]
            returned = runs[name](machine, known.get(old, 0), *[value % wrap for value in arguments[1:]]) or 0
            if returned or name == "free" or 0 in arguments[1:]:
                known.pop(old, None)
            if returned:
                known[result] = returned
        else:
            values = arguments if name == "mallopt" else [value % wrap for value in arguments]
            returned = runs[name](machine, *values) or 0
            if result >= 0:
                known[result] = returned
        yield returned
