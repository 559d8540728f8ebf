"""What the program passed to malloc's function: where libc's frames have dropped it, the caller has it still."""

from __future__ import annotations

import re

import gdb

from gdbheap.debugger.call_site import CallSite
from gdbheap.debugger.target import Target
from gdbheap.growth.abort import ToldBy
from gdbheap.growth.event import Frame
from gdbheap.growth.names import PUBLIC

#: Which argument is the pointer, and which ones make up the request in bytes, by the public function.
_POINTERS = {"free": 0, "cfree": 0, "realloc": 0, "reallocarray": 0, "free_sized": 0, "free_aligned_sized": 0}
_REQUESTS = {
    "malloc": (0,), "valloc": (0,), "pvalloc": (0,), "calloc": (0, 1), "realloc": (1,), "reallocarray": (1, 2),
    "memalign": (1,), "aligned_alloc": (1,),
}  # fmt: skip
#: An argument whose value is a variable's or a member's: to evaluate it changes nothing and calls nothing.
_PLAIN = r"\s*(?:\(\s*[\w\s]+\**\s*\)\s*)?((?:\*\s*)?[A-Za-z_]\w*(?:\s*(?:->|\.)\s*[A-Za-z_]\w*|\[\s*\w+\s*\])*)\s*"


def passed_pointer(target: Target, call: str, caller: Frame) -> tuple[int, ToldBy] | None:
    """Return the pointer that ``call`` got from the function of ``caller``, in the selected thread; None if unknown."""
    number = _POINTERS.get(call)
    if number is None:
        return None
    found = _argument(target, call, caller, number)
    if found is not None:
        return found, ToldBy.CALL_SITE
    named = _by_source(call, caller)
    return None if named is None else (named, ToldBy.SOURCE)


def passed_request(target: Target, call: str, caller: Frame) -> int | None:
    """Return the bytes that ``call`` was asked for by the function of ``caller``, None if unknown."""
    total = 1
    for number in _REQUESTS.get(call, ()):
        found = _argument(target, call, caller, number)
        if found is None:
            return None
        total *= found
    return total if call in _REQUESTS else None


def _argument(target: Target, call: str, caller: Frame, number: int) -> int | None:
    frame = _frame_of(caller)
    if frame is None:
        return None
    names = [name for name, public in PUBLIC.items() if public == call]
    return CallSite(target.memory, target.abi, frame).argument(number, [call, *names, *(f"__GI_{n}" for n in names)])


def _frame_of(caller: Frame) -> gdb.Frame | None:
    """Return GDB's frame of a caller, in the selected thread."""
    try:
        frame: gdb.Frame | None = gdb.newest_frame()
        while frame is not None and (frame.pc() != caller.pc or frame.type() == gdb.INLINE_FRAME):
            frame = frame.older()
    except gdb.error:
        return None
    return frame


def _by_source(call: str, caller: Frame) -> int | None:
    """Return the value of the variable that the caller's line of source passes, None unless that is plain."""
    if caller.file is None or caller.line is None:
        return None
    try:
        with open(caller.file, encoding="utf-8", errors="replace") as file:
            line = next((text for number, text in enumerate(file, 1) if number == caller.line), "")
    except OSError:
        return None
    calls = re.findall(rf"\b{re.escape(call)}\s*\(", line)
    match = re.search(rf"\b{re.escape(call)}\s*\({_PLAIN}[,)]", line)
    if len(calls) != 1 or match is None or "++" in line or "--" in line:
        return None
    frame = _frame_of(caller)
    selected = gdb.selected_frame()
    try:
        if frame is None:
            return None
        frame.select()
        value = gdb.parse_and_eval(match[1])
        return None if value.is_optimized_out else int(value) % (1 << 64)
    except (gdb.error, ValueError, RuntimeError):
        return None
    finally:
        selected.select()
