"""For whom a prediction is made and what it cannot know; and the operations that a command line lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.allocating import read_machine
from gdbheap.debugger.commands.base import evaluate
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.frames import FrameReader
from gdbheap.debugger.options import UsageError
from gdbheap.debugger.target import each_thread, is_core
from gdbheap.growth.inside import inside_malloc
from gdbheap.growth.names import INTERNAL, function_of
from gdbheap.render.predict import Setting
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import KINDS, Kind, Operation, Prediction, predict
from gdbheap.simulate.settings import PARAMETERS

#: Frames of a thread, from the newest on, that are looked at for functions of malloc's.
_DEPTH = 12
#: Threads that are looked at for whether they are inside malloc.
_THREADS = 256
_EARLIER = re.compile(r"\$(\d+)")
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
    name = {"malloc_trim": "trim", "aligned_alloc": "memalign"}.get(first, first)
    kind = KINDS.get(name)
    if kind is None:
        raise UsageError(f"'{first}' is no operation: they are {', '.join(KINDS)}.")
    most, least = len(kind.parameters), len(kind.parameters) - kind.defaults
    arguments = _split_commas(rest)
    if len(arguments) == 1 and most > 1:
        arguments = rest.split()
    arguments = [part.strip() for part in arguments if part.strip()]
    if not least <= len(arguments) <= most:
        wanted = " ".join(parameter.upper() for parameter in kind.parameters)
        raise UsageError(f"'{first}' takes {most} of them, {wanted}, not {len(arguments)}: '{text.strip()}'.")
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
    earlier = _EARLIER.fullmatch(text)
    if earlier is not None:
        number = int(earlier[1])
        if not 1 <= number <= len(results):
            raise UsageError(f"{text} would be the result of operation {number}, and {len(results)} come before it.")
        result = results[number - 1]
        if result is None:
            raise UsageError(f"{text} is the result of operation {number}, which returns nothing.")
        return result
    if parameter == "parameter" and text.startswith("M_"):
        names = {f"M_{name.upper()}": value for value, name in PARAMETERS.items()}
        if text in names:
            return names[text]
    value = evaluate(text, f"The {parameter}")
    if parameter in ("parameter", "value"):
        return value
    if not -machine.wrap // 2 <= value < machine.wrap:
        raise UsageError(f"The {parameter} {text} does not fit the {8 * machine.word_size} bits of a size_t.")
    return value % machine.wrap


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
    session.target()  # refuses where there is no process, or no glibc in it
    selected = gdb.selected_thread()
    wanted = thread if thread is not None else selected.num if selected is not None else None
    made: Machine | None = None
    reader = FrameReader()
    inside: list[int] = []
    count = 0
    for item in each_thread():
        count += 1
        if item.num == wanted:
            made = read_machine(item)
        if count <= _THREADS and _in_malloc(reader):
            inside.append(item.num)
    if made is None:
        raise TargetError(f"There is no thread {wanted}: 'info threads' lists them.")
    return made, Setting(_thread_text(made), tuple(_limits(made, inside, count)))


def _in_malloc(reader: FrameReader) -> bool:
    """Whether the selected thread is inside malloc, by its newest frames."""
    try:
        frames = reader.read().frames[:_DEPTH]
    except gdb.error:
        return False
    named = [function_of(frame) in INTERNAL for frame in frames]
    return bool(inside_malloc(frames, named, session.target().malloc_code))


def _thread_text(machine: Machine) -> str:
    own = machine.thread
    if not machine.has_tcache:
        tcache = "this glibc has no tcache"
    elif own.tcache is None:
        tcache = "its tcache cannot be found"
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


def _limits(machine: Machine, inside: Sequence[int], threads: int) -> Iterator[str]:
    if inside:
        listed = ", ".join(str(number) for number in inside)
        yield f"Stopped inside malloc: thread {listed}. The lists may be between two steps, and the prediction wrong."
    mutex = machine.layout.state.fields["mutex"]
    for arena in machine.variables.numbers or (machine.main_arena,):
        if machine.number(arena + mutex.offset, mutex.size) and not inside:
            yield f"{machine.name(arena)} is locked: a thread is at work on it, and its lists may be between two steps."
    if threads > 1:
        yield f"There are {threads} threads: another one may run first and change what malloc finds."
    yield (
        "It is assumed that the kernel refuses nothing."
        if not is_core()
        else "The core file is taken as it is: what would come next if the process went on."
    )
