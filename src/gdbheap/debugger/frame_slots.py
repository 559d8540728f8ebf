"""Where a frame keeps things: its caller's registers, and its own variables, as GDB's own words say."""

from __future__ import annotations

import re
from collections.abc import Callable

import gdb

from gdbheap.debugger.language import as_c

_FRAME_AT = re.compile(r"frame at (0x[0-9a-f]+):")
_SAVED = re.compile(r"\b(\w+) at (0x[0-9a-f]+)")
_RANGE = re.compile(r"Range (0x[0-9a-f]+)-(0x[0-9a-f]+): a variable in \$(\w+)$", re.MULTILINE)
_CONSTANT = re.compile(
    r"Range (0x[0-9a-f]+)-(0x[0-9a-f]+): a complex DWARF expression:\n"
    r"\s*0: DW_OP_(?:const\w+|lit)\s*\d+\n\s*\d+: DW_OP_stack_value\n",
)
#: The sum of a register and a constant.
_SUM = re.compile(
    r"Range (0x[0-9a-f]+)-(0x[0-9a-f]+): a complex DWARF expression:\n"
    r"\s*0: DW_OP_breg\d+ (-?\d+) \[\$(\w+)\]\n\s*\d+: DW_OP_stack_value\n",
)
_SINGLE = re.compile(r'^Symbol "\w+" is a variable in \$(\w+)\.$', re.MULTILINE)
#: A variable at a constant distance from the frame's base.
_FROM_BASE = re.compile(r'^Symbol "\w+" is a complex DWARF expression:\n\s*0: DW_OP_fbreg (-?\d+)\n\.$', re.MULTILINE)


class NotSimple(Exception):
    """What GDB says of a frame is more than a register, a slot or a constant."""


def saved_registers(level: int) -> tuple[int, dict[str, int]]:
    """Return where the frame at ``level`` of the selected thread ends, and where it saved its caller's registers.

    The end is the stack pointer that its caller had before the call. Raises NotSimple where GDB does not tell it.
    """
    with as_c():  # where 0x means the same with each 'set input-radix'
        text = gdb.execute(f"info frame level {level:#x}", to_string=True)
    _, _, listed = text.partition("Saved registers:")
    begins = _FRAME_AT.search(text)
    if begins is None:
        raise NotSimple
    return int(begins.group(1), 16), {name: int(address, 16) for name, address in _SAVED.findall(listed)}


def register_of(frame: gdb.Frame, name: str, newest: bool) -> tuple[str, int] | None:
    """Return the register that GDB says a variable is in and what is added to it, None where it is a constant.

    ``newest`` is whether the frame is its thread's newest. Raises NotSimple where it is anything else.
    """
    text = _described(frame, name)
    single = _SINGLE.search(text)
    if single is not None:
        return single.group(1), 0
    # A caller's pc is behind its call, which may be the end of the range.
    pc = frame.pc() - (0 if newest else 1)

    def holds(low: str, high: str) -> bool:
        return int(low, 16) <= pc < int(high, 16)

    return _in_ranges(text, holds)


def _in_ranges(text: str, holds: Callable[[str, str], bool]) -> tuple[str, int] | None:
    for low, high, name in _RANGE.findall(text):
        if holds(low, high):
            return str(name), 0
    for low, high, more, name in _SUM.findall(text):
        if holds(low, high):
            return str(name), int(more)
    if any(holds(low, high) for low, high in _CONSTANT.findall(text)):
        return None
    raise NotSimple


def base_offset(frame: gdb.Frame, name: str) -> int | None:
    """Return how far from the frame's base a variable is, in bytes; None where GDB does not say it so."""
    found = _FROM_BASE.search(_described(frame, name))
    return None if found is None else int(found.group(1))


def _described(frame: gdb.Frame, name: str) -> str:
    selected = gdb.selected_frame()
    frame.select()
    try:
        return gdb.execute(f"info address {name}", to_string=True)
    finally:
        selected.select()
