"""Sourced by GDB at before_operations of c_fixtures/ops: predicts each operation, lets it run, and compares.

``operations`` and ``answer`` are convenience variables of GDB: the file with the operations, and the file for what was
found.
"""

from __future__ import annotations

import json
from typing import Any

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.allocating import read_machine
from gdbheap.debugger.catch import RECORDER
from gdbheap.growth.event import Event
from gdbheap.memory import Memory, PageCache
from gdbheap.ptmalloc.arena import read_arenas
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.simulate.calls import Call, Unpredictable
from gdbheap.simulate.kernel import MAP_FIXED
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import KINDS, Operation, Prediction, predict
from gdbheap.simulate.sequence import TAKES_MEMORY, Entry, parse_sequence


class RecordedAnswers:
    """A kernel that answers what the real one did, as long as it is asked the same."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def copy(self) -> RecordedAnswers:
        """Return the same kernel: what one prediction has used is used."""
        return self

    def answer(self, call: Call) -> int:
        """Return the kernel's answer."""
        if not self._events:
            raise Unpredictable(f"{call.syscall} is predicted, and no further call was made")
        event = self._events.pop(0)
        if (event.syscall, event.args) != (call.syscall, call.args) or event.result is None:
            raise Unpredictable(f"{event.syscall}{event.args} was called, predicted is {call.syscall}{call.args}")
        return event.result


def _text(name: str) -> str:
    value: Any = gdb.parse_and_eval(f"${name}")
    return str(value.string())


def _machine() -> Machine:
    thread = gdb.selected_thread()
    assert thread is not None
    return read_machine(thread)


def _lists(machine: Machine, memory: Memory) -> list[object]:
    """Return all lists of the arenas and of the tcache, the top chunks and the counters, as ``memory`` has them."""
    target = session.target()
    found: list[object] = []
    for arena in read_arenas(memory, target.abi, target.layout, target.main_arena).arenas:
        found.append(read_free_lists(memory, target.abi, target.layout, arena, target.safe_linking))
        found.append((arena.top, arena.top_size, arena.system_mem, arena.max_system_mem, arena.flags, arena.binmap))
        found.append(arena.last_remainder)
    if machine.thread.tcache and machine.thread.tcache > 0:
        found.append(read_tcache(memory, target.abi, target.layout, machine.thread.tcache, target.safe_linking))
    found.append(memory.read(target.mp, target.layout.par.size))
    return found


def _operation(entry: Entry, memory: dict[int, int], wrap: int) -> Operation:
    values = entry.arguments if entry.name == "mallopt" else tuple(value % wrap for value in entry.arguments)
    if entry.name in TAKES_MEMORY:
        values = (memory.get(entry.arguments[0], 0), *values[1:])
    return Operation(entry.name, values)


def _is_chosen(call: Call) -> bool:
    """Whether the kernel chooses an address, for which another one stands in a prediction."""
    return call.syscall == "mremap" or (call.syscall == "mmap" and not call.args[3] & MAP_FIXED)


def _shape(prediction: Prediction) -> tuple[object, ...]:
    """Return what the addresses that the kernel chooses have no part in."""
    calls = [call.path for call, _ in prediction.calls if call.path not in ("heap-reserve", "heap-align")]
    kind = KINDS[prediction.operation.name]
    # How much of a mapping lies before the place depends on the mapping's address.
    far = kind.parameters[0] == "alignment" and prediction.operation.arguments[0] > 0x1000
    # A mapping that grows may stay where it is.
    source = "mapping" if "mremap-chunk" in calls else prediction.source
    return prediction.end, source, None if far else prediction.chunk_size, calls


def _compare(machine: Machine, prediction: Prediction, pointer: int, first: int) -> str | None:
    """Return in which way what happened is not what was predicted, None where it is.

    Where the kernel chose an address, the same is predicted once more with its real answers: the two must only differ
    in what follows from those.
    """
    made = [event for event in RECORDER.history.events if event.id > first and event.requester.kind == "malloc"]
    if any(_is_chosen(call) for call, _ in prediction.calls):
        again = machine.above()
        again.kernel = RecordedAnswers(list(made))
        told = predict(again, prediction.operation)
        if _shape(told) != _shape(prediction):
            return f"predicted {_shape(prediction)}, with the kernel's answers {_shape(told)}: {told.message}"
        prediction = told
    if not prediction.goes_on:
        return f"predicted: {prediction.end}, {prediction.message}"
    calls = [(event.syscall, event.args) for event in made]
    wanted = [(call.syscall, call.args) for call, _ in prediction.calls]
    if calls != wanted:
        return f"system calls {calls}, predicted {wanted}"
    if prediction.result is not None and prediction.result != pointer:
        return f"it returned {pointer:#x}, predicted {prediction.result:#x}"
    target = session.target()
    if prediction.end == "chunk":
        size = target.abi.read_word(target.memory, pointer - target.abi.word_size)
        if size != prediction.after.words[pointer - target.abi.word_size]:
            return f"the size word of {pointer:#x} is {size:#x}"
    now = _machine()
    if now.variables.curbrk != prediction.after.variables.curbrk:
        return f"the break is {now.variables.curbrk}, predicted {prediction.after.variables.curbrk}"
    if _lists(now, PageCache(target.memory)) != _lists(prediction.after, prediction.after.words):
        return "the lists, the top chunk or mp_ are not as predicted"
    return None


def step() -> dict[str, object]:
    """Go through all operations; return how many there were, how many of them unknown, and the first difference."""
    with open(_text("operations"), encoding="ascii") as file:
        entries = parse_sequence(file)
    memory: dict[int, int] = {}
    unknown: list[str | None] = []
    gdb.execute("break before_operation", to_string=True)
    gdb.execute("break after_operation", to_string=True)
    for number, entry in enumerate(entries):
        gdb.execute("continue", to_string=True)
        machine = _machine()
        prediction = predict(machine, _operation(entry, memory, machine.wrap))
        events = RECORDER.history.events
        first = events[-1].id if events else 0
        gdb.execute("continue", to_string=True)
        pointer = int(gdb.parse_and_eval("(unsigned long) pointer"))
        difference = None
        if prediction.end == "unknown":
            unknown.append(prediction.message)
        else:
            difference = _compare(machine, prediction, pointer, first)
        if difference is not None:
            return {
                "operations": number,
                "unknown": unknown,
                "difference": f"operation {number}, {entry}: {difference}",
            }
        if entry.name in TAKES_MEMORY and (pointer or entry.name == "free" or 0 in entry.arguments[1:]):
            memory.pop(entry.arguments[0], None)
        if entry.result >= 0 and (pointer or entry.name not in TAKES_MEMORY):
            memory[entry.result] = pointer
    return {"operations": len(entries), "unknown": unknown, "difference": None}


with open(_text("answer"), "w", encoding="ascii") as output:
    json.dump({"schema": "gdbheap/1", **step()}, output)
