"""For whom a prediction is made and what it cannot know; and the operations that a command line lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.allocating import read_machine
from gdbheap.debugger.busy import Busy, read_busy
from gdbheap.debugger.commands.base import evaluate
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.interposed import other_malloc
from gdbheap.debugger.model import not_glibcs
from gdbheap.debugger.options import UsageError
from gdbheap.debugger.target import each_thread, is_core
from gdbheap.ptmalloc.state import read_heap_state
from gdbheap.render.escape import printable
from gdbheap.render.predict import Setting
from gdbheap.render.units import count_of
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import KINDS, Kind, Operation, Prediction, predict
from gdbheap.simulate.settings import PARAMETERS

_EARLIER = re.compile(r"(?<![\w$])\$(\d+)(?!\w)")
_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """One operation as it was written: its kind, and its arguments as text."""

    name: str
    kind: Kind
    arguments: tuple[str, ...]


def parse_operations(text: str) -> list[Asked]:
    """Return the operations that ``text`` lists, separated by ``;``; raise UsageError where one is none."""
    found = [_parse(part) for part in text.split(";") if part.strip()]
    if not found:
        raise UsageError(f"Name an operation, as 'malloc 1000': {', '.join(KINDS)}.")
    return found


def _parse(text: str) -> Asked:
    match = _CALL.fullmatch(text)
    first, _, rest = (match[1], "", match[2]) if match else text.strip().partition(" ")
    name = {"malloc_trim": "trim"}.get(first, first)
    kind = KINDS.get(name)
    if text.count("(") != text.count(")"):
        raise UsageError(f"The parentheses in '{text.strip()}' do not match.")
    if first == "growth":
        raise UsageError("'growth' stands alone, without operations beside it: 'heap predict growth'.")
    if kind is None:
        raise UsageError(f"'{first}' is no operation: they are {', '.join(KINDS)}.")
    most, least = len(kind.parameters), len(kind.parameters) - kind.defaults
    arguments = _split_commas(rest)
    if len(arguments) == 1 and most > 1:
        arguments = rest.split()
    arguments = [part.strip() for part in arguments if part.strip()]
    if name == "posix_memalign" and len(arguments) == 3:
        del arguments[0]  # as C has it: where the pointer goes
    if not least <= len(arguments) <= most:
        wanted = " ".join(parameter.upper() for parameter in kind.parameters)
        count = count_of(most, "argument")
        raise UsageError(f"'{first}' takes {count}, {wanted}, but '{text.strip()}' has {len(arguments)}.")
    return Asked(name, kind, tuple(arguments + ["0"] * (most - len(arguments))))


def _split_commas(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _value(text: str, parameter: str, machine: Machine, results: Sequence[int | None]) -> int:
    text = _EARLIER.sub(lambda found: str(_result(int(found[1]), results)), text)
    if parameter == "parameter" and text.startswith("M_"):
        names = {f"M_{name.upper()}": value for value, name in PARAMETERS.items()}
        if text in names:
            return names[text]
    value = evaluate(text, f"The {parameter}")
    if parameter in ("parameter", "value"):
        if not -1 << 31 <= value < 1 << 31:
            raise UsageError(f"The {parameter} {text} of mallopt does not fit an int.")
        return value
    if not -machine.wrap // 2 <= value < machine.wrap:
        raise UsageError(f"The {parameter} {text} does not fit the {8 * machine.word_size} bits of a size_t.")
    return value % machine.wrap


def _result(number: int, results: Sequence[int | None]) -> int:
    """Return the result of an operation that came before."""
    if not 1 <= number <= len(results):
        raise UsageError(
            f"${number} would be the result of operation {number}, and {len(results)} come before it (a value of GDB's "
            f"history needs a name: 'set $p = ${number}')."
        )
    result = results[number - 1]
    if result is None:
        raise UsageError(f"${number} is the result of operation {number}, which returns nothing.")
    return result


def predict_all(machine: Machine, asked: Sequence[Asked]) -> list[Prediction]:
    """Return what the operations do, one after another; those behind one that the program does not survive are left.

    Raises UsageError for an argument that has no value.
    """
    found: list[Prediction] = []
    results: list[int | None] = []
    for item in asked:
        values = [
            _value(text, parameter, machine, results) for text, parameter in zip(item.arguments, item.kind.parameters)
        ]
        prediction = predict(machine, Operation(item.name, tuple(values)))
        found.append(prediction)
        if not prediction.goes_on:
            break
        results.append(prediction.result if item.kind.returns == "pointer" else None)
        machine = prediction.after
    return found


def machine_and_setting(thread: int | None) -> tuple[Machine, Setting]:
    """Return the allocator as ``thread`` (GDB's number; None: the selected one) calls it, and what is not known.

    Raises TargetError where there is no such thread.
    """
    target = session.target()  # refuses where there is no process, or no glibc in it
    selected = gdb.selected_thread()
    wanted = thread if thread is not None else selected.num if selected is not None else None
    made: Machine | None = None
    count = 0
    for item in each_thread():
        count += 1
        if item.num == wanted:
            made = read_machine(item)
    if made is None:
        raise TargetError(f"There is no thread {wanted}: 'info threads' lists them.")
    state = read_heap_state(target.memory, target.abi, target.layout, target.main_arena, target.mp)
    limits = list(_limits(made, read_busy(target, state), count))
    other = other_malloc()
    if other is not None:
        if not state.in_use:
            raise TargetError(not_glibcs(other))
        limits.insert(0, f"This program's malloc is that of {printable(other)}, not glibc's: glibc's is predicted.")
    return made, Setting(_thread_text(made), tuple(limits))


def _thread_text(machine: Machine) -> str:
    own = machine.thread
    if not machine.has_tcache:
        tcache = "this glibc has no tcache"
    elif own.tcache is None:
        tcache = "its tcache cannot be found ('set heap tcache ADDRESS' gives it)"
    elif own.tcache > 0:
        tcache = f"its tcache is at {own.tcache:#x}"
    else:
        tcache = "it has no tcache yet" if own.tcache == 0 else "it goes on without a tcache"
    if machine.asks_single and machine.variables.single:
        arena = "main_arena (glibc knows of one thread only)"
    elif own.arena is None:
        arena = "an arena that is not known (thread_arena cannot be read)"
    else:
        arena = machine.name(own.arena) if own.arena else "no arena yet"
    return f"For thread {own.number}, if it called this now: {tcache}, and it works on {arena}."


def _limits(machine: Machine, busy: Busy, threads: int) -> Iterator[str]:
    own = machine.main_arena if machine.asks_single and machine.variables.single else machine.thread.arena
    unsure = [busy.tcaches.get(machine.thread.tcache or 0), busy.arenas.get(own or 0)]
    yield from (f"{text} What is predicted may be wrong." for text in unsure if text is not None)
    others = len(busy.arenas.keys() - {own})
    if others:
        yield (
            f"Lists of {count_of(others, 'other arena')} may be between two steps, too: that matters where memory of "
            f"{'that arena' if others == 1 else 'those arenas'} is freed or resized."
        )
    if busy.dead:
        listed = ", ".join(map(str, sorted(busy.dead)))
        yield f"Inside malloc, and not to go on: thread {listed}. The lists are taken as they were left."
    yield from busy.notes
    if threads > 1:
        yield f"There are {threads} threads: another one may run first and change what malloc finds."
    yield (
        "It is assumed that the kernel refuses nothing."
        if not is_core()
        else "The core file is taken as it is: what would come if the process went on, and the kernel refused nothing."
    )
