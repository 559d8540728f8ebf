"""What is at an address that is not malloc's: a stack, a library, another mapping, or nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import gdb

from gdbheap.debugger.language import symbol_text
from gdbheap.debugger.target import each_thread, stack_pointer
from gdbheap.mappings import MappedRange, range_of
from gdbheap.ptmalloc.place import Place

#: Frames of a stack that are looked at for the one that an address is in.
_MAX_FRAMES = 200
_SYMBOL = re.compile(r"(.*?) in section (\S+)(?: of (.*))?")
_VTABLE = re.compile(r"'vtable for (.*?)(?: \+ \d+)?'(?: of .*)?")
_KERNELS = ("[vdso]", "[vvar]", "[vsyscall]", "[vvar_vclock]")


def symbol_at(address: int) -> str | None:
    """Return what the program's symbols call an address, as ``'main + 4' of seed``; None where they have no name."""
    try:
        said = symbol_text(address)
    except gdb.error:
        return None
    # 'set verbose on' and 'set trace-commands on' put lines of their own before.
    found = next((found for found in map(_SYMBOL.match, said.splitlines()) if found is not None), None)
    if found is None:
        return None
    # A program that is not split into files names none: it is the program itself.
    file = os.path.basename(found.group(3) or "")
    return f"'{found.group(1)}' of {file}" if file else f"'{found.group(1)}'"


def class_of(symbol: str) -> str | None:
    """Return the C++ class whose vtable ``symbol`` is, None where it is none."""
    found = _VTABLE.fullmatch(symbol)
    return found.group(1) if found else None


def stack_pointers() -> dict[int, int]:
    """Return the stack pointer of each thread, by GDB's numbers; a thread that is running has none."""
    found = {thread.num: stack_pointer() for thread in each_thread()}
    return {number: pointer for number, pointer in found.items() if pointer is not None}


def stack_owner(ranges: Sequence[MappedRange], pointers: dict[int, int], address: int) -> int | None:
    """Return the thread whose stack ``address`` is on, None where it is on none that is known."""
    mapping = range_of(ranges, address)
    if mapping is None:
        return None
    inside = [(pointer, number) for number, pointer in pointers.items() if mapping.start <= pointer < mapping.end]
    if not inside:
        return None
    # Stacks that lie side by side can be one mapping; each reaches from its pointer up.
    below = [item for item in inside if item[0] <= address]
    return max(below)[1] if below else min(inside)[1]


def lacks(ranges: Sequence[MappedRange], address: int) -> bool:
    """Whether a core file lacks the byte at ``address``, which the process had mapped."""
    mapping = range_of(ranges, address)
    return mapping is not None and mapping.anonymous and address >= mapping.start + mapping.held


def elsewhere(ranges: Sequence[MappedRange], address: int) -> Place:
    """Return what is at an address that is in no memory of malloc's."""
    symbol = symbol_at(address)
    mapping = range_of(ranges, address)
    if mapping is None:
        if symbol is not None:
            return Place("file", f"It is {symbol}, and not of the heap.", symbol=symbol)
        if not ranges:
            return Place("unknown", "It is in no memory of malloc's; what else is mapped is not known here.")
        return Place("unmapped", _unmapped_text(ranges, address))
    known = f" ({mapping.permissions})" if "r" in mapping.permissions or "-" in mapping.permissions else ""
    span = f"{mapping.start:#x} to {mapping.end:#x}{known}"
    thread = stack_owner(ranges, stack_pointers(), address)
    if thread is not None:
        return Place("stack", _stack_text(thread, address, span), symbol, mapping, thread)
    if mapping.name in _KERNELS:
        return Place(
            "kernel", f"It is in {mapping.name}, from {span}, which the kernel maps for itself.", symbol, mapping
        )
    if mapping.name == "[heap]":
        text = f"It is in the break area, {span}, but in no part of it that malloc counts as its own."
        return Place("foreign", text, symbol, mapping)
    if not mapping.anonymous:
        what = f"It is {symbol}" if symbol else "It has no symbol"
        return Place("file", f"{what}, in {mapping.name} as it is mapped from {span}.", symbol, mapping)
    name = f"{mapping.name}, " if mapping.name else ""
    text = f"It is in anonymous memory, {name}{span}, that is no stack of a thread and no chunk or heap of malloc's."
    if symbol is not None:
        return Place("file", f"It is {symbol}, in memory from {span}.", symbol, mapping)
    return Place("memory", text, symbol, mapping)


def _unmapped_text(ranges: Sequence[MappedRange], address: int) -> str:
    below = [item for item in ranges if item.end <= address]
    if not below:
        return "Nothing is mapped there, nor below it."
    nearest = below[-1]
    name = f" {nearest.name}," if nearest.name else ""
    return f"Nothing is mapped there; the nearest mapping below it,{name} ends at {nearest.end:#x}."


def _stack_text(number: int, address: int, span: str) -> str:
    for thread in each_thread():
        if thread.num == number:
            return f"It is on the stack of thread {number}, {span}: {_frame_text(address)}."
    return f"It is on the stack of thread {number}, {span}."


def _frame_text(address: int) -> str:
    """Return in which frame of the selected thread's stack an address is."""
    frame: gdb.Frame | None = gdb.newest_frame()
    level = 0
    try:
        if frame is not None and address < int(frame.read_register("sp")):
            return "below the stack pointer, where nothing is kept"
        while frame is not None and level < _MAX_FRAMES:
            older = frame.older()
            name = frame.name() or f"the function at {frame.pc():#x}"
            if older is None:
                return f"in frame #{level}, of {name}, or above it"
            if address < int(older.read_register("sp")):
                return f"in frame #{level}, of {name}"
            frame, level = older, level + 1
    except gdb.error:
        pass
    return "above the frames that GDB can tell"
