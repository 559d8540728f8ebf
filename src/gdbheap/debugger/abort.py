"""A thread in which malloc has found the heap corrupt, or has run into it: which check, on what, in whose call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import gdb

from gdbheap.debugger.busy import FATAL, malloc_places
from gdbheap.debugger.target import Target, each_thread
from gdbheap.growth.abort import Abort
from gdbheap.growth.event import Frame
from gdbheap.growth.inside import aborts
from gdbheap.growth.names import INTERNAL, PUBLIC, function_of
from gdbheap.growth.request import malloc_call
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.checks import CHECKS
from gdbheap.ptmalloc.compared import compared
from gdbheap.ptmalloc.finding import Finding
from gdbheap.ptmalloc.heaps import heap_for, heap_max_size
from gdbheap.ptmalloc.state import HeapState

#: How much of a message is read, in bytes.
_LONGEST = 512
#: The variables of malloc's functions that hold the chunk that they work on, and those that hold what the user gave.
_CHUNKS = ("p", "victim", "oldp", "tc_victim", "e")
_POINTERS = ("mem", "oldmem")


def read_abort(
    target: Target, state: HeapState, dead: Mapping[int, Sequence[Frame]], findings: Sequence[Finding]
) -> Abort | None:
    """Return what is known of the first of the ``dead`` threads, None where there is none.

    ``findings`` tell the chunk where the stack does not: the one whose finding that very check would catch.
    """
    for thread in each_thread():
        if thread.num in dead:
            return _read(target, state, thread.num, dead[thread.num], findings)
    return None


def _read(target: Target, state: HeapState, thread: int, frames: Sequence[Frame], findings: Sequence[Finding]) -> Abort:
    inside = malloc_places(frames, target.malloc_code)
    unnamed = aborts(frames, inside)
    first = inside[0] - (0 if unnamed else 1)
    first = next(place for place, frame in enumerate(frames) if place >= first and not _is_fatal(frame))
    fatal = unnamed or any(_is_fatal(frame) for frame in frames[:first])
    message = (_message(target) or "") if fatal else None
    check = _check_of(message)
    call, request, caller = _call(frames, inside)
    variables = _variables(first, len(frames))
    chunk = next((variables[name] for name in _CHUNKS if name in variables), None)
    pointer = next((variables[name] for name in _POINTERS if name in variables), None)
    foretold = {
        (catch.pointer, finding.chunk)
        for finding in findings
        for catch in finding.catches
        if catch.message == check and catch.call in (call, "malloc", "trim")
    }
    if call in ("free", "realloc"):
        # What free works on is what it was given, unless it has merged that with the chunk before it.
        given = next((variables[name] for name in _OUTER if name in variables), None)
        if pointer is None and given is not None and check != _MERGED:
            pointer = given + target.abi.header
        pointers = {pointer for pointer, _ in foretold if pointer is not None}
        if pointer is None and len(pointers) == 1:
            (pointer,) = pointers
        if chunk is None or check == _MERGED:
            chunk = None if pointer is None else pointer - target.abi.header
    elif chunk is None:
        chunks = {chunk for _, chunk in foretold if chunk is not None}
        chunk = chunks.pop() if len(chunks) == 1 else None
    arena = _arena(target, state, variables.get("av"), chunk)
    memory = PageCache(target.memory)
    return Abort(
        thread=thread,
        message=message,
        check=check,
        function=function_of(frames[first]),
        call=call,
        pointer=pointer,
        request=request,
        caller=caller,
        arena=arena,
        chunk=chunk,
        compared=compared(memory, state.abi, arena, chunk, check) if check is not None else (),
    )


def _is_fatal(frame: Frame) -> bool:
    return function_of(frame) in FATAL


def _call(frames: Sequence[Frame], inside: Sequence[int]) -> tuple[str | None, int | None, Frame | None]:
    """Return the public function that the program called, the bytes that it asked for, and the caller."""
    begin = next((at for at in inside if function_of(frames[at]) in INTERNAL | PUBLIC.keys()), inside[0])
    known = malloc_call(frames[begin:])
    if known.calls:
        outer = known.calls[0]
        return outer.name, outer.request, outer.caller
    last = next((place for place in inside if place + 1 not in inside), inside[-1])
    name = _OTHERS.get(function_of(frames[last]))
    names = {function_of(frame): frame for frame in frames[last + 1 : last + 2]}
    for function, frame in names.items():
        if function in _OTHERS:
            name, last = _OTHERS[function], frames.index(frame)
    unnamed = not frames[last].function  # the public function's own frame is gone, but not its caller's
    return name, None, frames[last + 1] if (name is not None or unnamed) and last + 1 < len(frames) else None


#: Public functions that change nothing, so that growth.names does not have them.
_OTHERS = {
    "__malloc_info": "malloc_info", "__libc_mallinfo2": "mallinfo2", "__libc_mallinfo": "mallinfo",
    "mallinfo2": "mallinfo2", "mallinfo": "mallinfo", "int_mallinfo": "mallinfo",
}  # fmt: skip
#: The check in which free has replaced its own pointer.
_MERGED = "corrupted size vs. prev_size while consolidating"
#: Variables that hold the chunk of the user's own pointer.
_OUTER = ("p of _int_free", "oldp of _int_realloc", "p of munmap_chunk", "p of mremap_chunk")
#: Functions that check and that growth.names does not have.
_CHECKING = frozenset({"unlink_chunk", "tcache_get", "tcache_put", "tcache_get_n", "int_mallinfo", "__malloc_info"})


def _variables(first: int, count: int) -> dict[str, int]:
    """Return the integers that malloc's frames of the selected thread tell, the innermost of each name."""
    found: dict[str, int] = {}
    frame: gdb.Frame | None = gdb.newest_frame()
    place = 0
    while frame is not None and place < count:
        name = re.sub(r"^__GI_", "", frame.name() or "").split(".")[0]
        if place >= first and (name in INTERNAL or name in PUBLIC or name in _CHECKING):
            for variable in (*_CHUNKS, *_POINTERS, "av"):
                try:
                    value = frame.read_var(variable)
                    if value.is_optimized_out:
                        continue
                    number = int(value)
                except (gdb.error, ValueError, RuntimeError):
                    continue
                found.setdefault(variable, number)
                found.setdefault(f"{variable} of {name.replace('_int_free_chunk', '_int_free')}", number)
        try:
            frame = frame.older()
        except gdb.error:
            break
        place += 1
    return found


def _message(target: Target) -> str | None:
    """Return what malloc said: the argument of malloc_printerr, or the copy that libc keeps (__abort_msg)."""
    frame: gdb.Frame | None = gdb.newest_frame()
    for _ in range(32):
        if frame is None:
            break
        if frame.name() == "malloc_printerr":
            try:
                value = frame.read_var("str")
                if not value.is_optimized_out:
                    return _text(target, int(value))
            except (gdb.error, ValueError, RuntimeError):
                pass
        try:
            frame = frame.older()
        except gdb.error:
            break
    pointer = target.word("__abort_msg")
    text = None if not pointer else _text(target, pointer + 4)  # struct abort_msg_s: an unsigned int, then the text
    return None if text is None else text.strip()


def _text(target: Target, address: int) -> str | None:
    memory = PageCache(target.memory)
    data = bytearray()
    try:
        while len(data) < _LONGEST:
            byte = memory.read(address + len(data), 1)
            if byte == b"\0":
                break
            data += byte
    except MemoryFault:
        if not data:
            return None
    return data.decode("utf-8", "surrogateescape")


def _check_of(message: str | None) -> str | None:
    """Return the key of CHECKS for what glibc printed."""
    if not message:
        return None
    if message in CHECKS:
        return message
    return "assertion in sysmalloc" if "sysmalloc" in message and "assert" in message else None


def _arena(target: Target, state: HeapState, av: int | None, chunk: int | None) -> Arena | None:
    arenas = {arena.address: arena for arena in state.ring.arenas}
    if av in arenas:
        return arenas[av]
    if chunk is None:
        return arenas[target.main_arena]
    heap = heap_for(chunk, heap_max_size(state.abi, state.layout, state.params))
    for address, chain in state.heaps.items():
        if any(item.address == heap for item in chain.heaps):
            return arenas[address]
    return arenas[target.main_arena]
