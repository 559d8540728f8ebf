"""Sourced by GDB at before_operations of c_fixtures/ops: predicts each operation, lets it run, and compares.

``operations`` and ``answer`` are convenience variables of GDB: the file with the operations, and the file for what was
found. ``unknown`` is whether a prediction may be that it is not known.
"""

from __future__ import annotations

import json
from typing import Any

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.allocating import read_machine
from gdbheap.debugger.catch import RECORDER
from gdbheap.memory import Memory, PageCache
from gdbheap.ptmalloc.arena import read_arenas
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.simulate.linux import is_placeholder
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import Operation, Prediction, predict
from gdbheap.simulate.sequence import TAKES_MEMORY, Entry, parse_sequence

#: Arguments of system calls that the kernel's own choice of an address decides.
_CHOSEN = ("heap-align", "heap-commit", "heap-unmap")


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


def _calls_differ(prediction: Prediction, first: int) -> str | None:
    events = [event for event in RECORDER.history.events if event.id > first and event.requester.kind == "malloc"]
    made = [(event.syscall, event.args) for event in events]
    wanted = [(call.syscall, call.args) for call, _ in prediction.calls]
    chosen = any(call.path in _CHOSEN for call, _ in prediction.calls)
    same = [name for name, _ in made] == [name for name, _ in wanted] if chosen else made == wanted
    return None if same else f"system calls {made}, predicted {wanted}"


def _compare(entry: Entry, prediction: Prediction, pointer: int, first: int) -> str | None:
    """Return in which way what happened is not what was predicted, None where it is."""
    if not prediction.goes_on:
        return f"predicted: {prediction.end}, {prediction.message}"
    result = prediction.result or 0
    target = session.target()
    chosen = is_placeholder(target.abi.word_size, result)
    if chosen and entry.name == "memalign" and entry.arguments[0] > 0x1000:
        pass  # where it begins in the mapping, and so its size, depends on the address that the kernel chooses
    elif chosen and entry.result >= 0:
        size = target.abi.read_word(target.memory, pointer - target.abi.word_size)
        if (pointer % 0x1000, size) != (result % 0x1000, prediction.after.words[result - target.abi.word_size]):
            return f"the mapping is at {pointer:#x} with {size:#x}, predicted {result:#x}"
    elif entry.name != "free" and result != pointer:
        return f"it returned {pointer:#x}, predicted {result:#x}"
    different = _calls_differ(prediction, first)
    if different is not None:
        return different
    now = _machine()
    if now.variables.curbrk != prediction.after.variables.curbrk:
        return f"the break is {now.variables.curbrk}, predicted {prediction.after.variables.curbrk}"
    arenas = any(is_placeholder(target.abi.word_size, arena) for arena in prediction.after.variables.numbers)
    if not arenas and _lists(now, PageCache(target.memory)) != _lists(prediction.after, prediction.after.words):
        return "the lists, the top chunk or mp_ are not as predicted"
    return None


def step() -> dict[str, object]:
    """Go through all operations; return how many there were, how many were unknown, and the first difference."""
    with open(_text("operations"), encoding="ascii") as file:
        entries = parse_sequence(file)
    memory: dict[int, int] = {}
    may_be_unknown, unknown = bool(gdb.parse_and_eval("$unknown")), 0
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
        if may_be_unknown and prediction.end == "unknown":
            unknown, difference = unknown + 1, None
        else:
            difference = _compare(entry, prediction, pointer, first)
        if difference is not None:
            text = f"operation {number}, {entry}: {difference}"
            return {"operations": number, "unknown": unknown, "difference": text}
        if entry.name in TAKES_MEMORY and (pointer or entry.name == "free" or not entry.arguments[-1]):
            memory.pop(entry.arguments[0], None)
        if entry.result >= 0 and (pointer or entry.name not in TAKES_MEMORY):
            memory[entry.result] = pointer
    return {"operations": len(entries), "unknown": unknown, "difference": None}


with open(_text("answer"), "w", encoding="ascii") as output:
    json.dump({"schema": "gdbheap/1", **step()}, output)
