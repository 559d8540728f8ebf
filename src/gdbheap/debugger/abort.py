"""A thread in which malloc has found the heap corrupt, or has run into it: which check, on what, in whose call."""

from __future__ import annotations

import re
from collections.abc import Sequence

import gdb

from gdbheap.debugger.busy import FATAL, Busy, malloc_places
from gdbheap.debugger.emptying import emptied_fastbin
from gdbheap.debugger.passed import passed_pointer, passed_request
from gdbheap.debugger.placing import placed_at
from gdbheap.debugger.target import Target, each_thread
from gdbheap.growth.abort import Abort, Cause, ToldBy
from gdbheap.growth.event import Frame
from gdbheap.growth.inside import aborts
from gdbheap.growth.names import INTERNAL, PUBLIC, function_of
from gdbheap.growth.request import malloc_call
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.abi import FLAG_BITS
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.checks import CHECKS, Check
from gdbheap.ptmalloc.compared import compared
from gdbheap.ptmalloc.finding import Finding
from gdbheap.ptmalloc.heaps import heap_for, heap_max_size
from gdbheap.ptmalloc.state import HeapState

#: How much of a message is read, in bytes.
_LONGEST = 512
#: The variables of malloc's functions that hold the chunk that they work on, and those that hold what the user gave.
_CHUNKS = ("p", "victim", "oldp", "tc_victim", "e")
_POINTERS = ("mem", "oldmem")


def read_abort(target: Target, state: HeapState, busy: Busy, findings: Sequence[Finding]) -> Abort | None:
    """Return what is known of the first thread that was stopped inside malloc for good, None where there is none.

    ``findings`` tell the chunk where the stack does not: the one whose finding that very check would catch.
    """
    for stopped, by_others in ((busy.dead, False), (busy.signalled, True)):
        for thread in each_thread():
            if thread.num in stopped:
                return _read(target, state, thread.num, stopped[thread.num], findings, by_others)
    return None


def _read(
    target: Target,
    state: HeapState,
    thread: int,
    frames: Sequence[Frame],
    findings: Sequence[Finding],
    by_others: bool,
) -> Abort:
    inside = malloc_places(frames, target.malloc_code)
    unnamed = aborts(frames, inside)
    # From glibc 2.42 on the function that checks may have left the stack to malloc_printerr_tail.
    named = bool(inside)
    inside = inside or [max(place for place, frame in enumerate(frames) if _is_fatal(frame))]
    begin = inside[0] - (0 if unnamed else 1)
    behind = (place for place, frame in enumerate(frames) if place >= begin and not _is_fatal(frame))
    first = next(behind, len(frames))
    fatal = unnamed or any(_is_fatal(frame) for frame in frames[:first])
    message = _message(target) if fatal else None
    check = _check_of(message)
    call, request, caller = _call(frames, inside)
    if call is None:
        call, caller = _tail_called(frames, inside, CHECKS.get(check or ""))
    variables = _variables(target, first, len(frames))
    chunk = next((variables[name] for name in _CHUNKS if variables.get(name)), None)
    pointer = next((variables[name] for name in _POINTERS if name in variables), None)
    told_by = None if pointer is None else ToldBy.FRAMES
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
            pointer, told_by = given + target.abi.header, ToldBy.FRAMES
        if pointer is None and caller is not None:
            pointer, told_by = passed_pointer(target, call, caller) or (None, None)
        pointers = {pointer for pointer, _ in foretold if pointer is not None}
        if pointer is None and len(pointers) == 1:
            (pointer,), told_by = pointers, ToldBy.FINDING
        if chunk is None or check == _MERGED:
            chunk = None if pointer is None else pointer - target.abi.header
    elif chunk is None:
        chunks = {chunk for _, chunk in foretold if chunk is not None}
        chunk = chunks.pop() if len(chunks) == 1 else None
    if request is None and call is not None and caller is not None:
        request = passed_request(target, call, caller)
    arena = _arena(target, state, variables.get("av"), chunk)
    memory = PageCache(target.memory)
    return Abort(
        thread=thread,
        cause=Cause.SIGNAL if by_others else Cause.CHECK if fatal else Cause.FAULT,
        message=message,
        check=check,
        function=function_of(frames[first]) if named else "",
        call=call,
        pointer=pointer,
        request=request,
        caller=caller,
        arena=arena,
        chunk=chunk,
        compared=compared(memory, state.abi, arena, chunk, check) if check is not None else (),
        told_by=told_by,
        place=None if pointer is None else placed_at(target, pointer),
        chunk_place=None if chunk is None else placed_at(target, chunk),
        touched=tuple({number for name, number in variables.items() if name.split()[0] in _CHUNKS and number}),
        emptying=emptied_fastbin(target, state, arena, check, variables),
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


def _tail_called(
    frames: Sequence[Frame], inside: Sequence[int], check: Check | None
) -> tuple[str | None, Frame | None]:
    """Return the public function that has left the stack to one of malloc's own, and its caller; None where unknown.

    What is on the stack tells which it was; where that is malloc_printerr alone, the ``check`` does.
    """
    last = next(place for place in inside if place + 1 not in inside)
    caller = frames[last + 1] if last + 1 < len(frames) else None
    function = function_of(frames[last])
    for beginning, name in _LEFT_BY.items():
        if function.startswith(beginning):
            return name, caller
    if check is not None and check.call in ("free", "realloc") and _is_fatal(frames[last]):
        return check.call, caller
    return None, None


#: Which public function may have left the stack to one of malloc's whose name begins like this.
_LEFT_BY = {
    "_int_free": "free", "tcache_free": "free", "tcache_double_free_verify": "free", "munmap_chunk": "free",
    "_int_malloc": "malloc", "tcache_malloc": "malloc",
}  # fmt: skip
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
_CHECKING = frozenset(
    {
        "unlink_chunk",
        "tcache_double_free_verify",
        "tcache_get",
        "tcache_put",
        "tcache_get_n",
        "int_mallinfo",
        "__malloc_info",
    }
)


def _variables(target: Target, first: int, count: int) -> dict[str, int]:
    """Return the integers that malloc's frames of the selected thread tell, the innermost of each name."""
    found: dict[str, int] = {}
    frame: gdb.Frame | None = gdb.newest_frame()
    place = 0
    while frame is not None and place < count:
        name = re.sub(r"^__GI_", "", frame.name() or "").split(".")[0]
        if place >= first and (name in INTERNAL or name in PUBLIC or name in _CHECKING):
            for variable in (*_CHUNKS, *_POINTERS, "av", "fb"):
                number = _variable(frame, variable)
                if number is None:
                    continue
                found.setdefault(variable, number)
                if name == "_int_free_merge_chunk" and not _is_unmerged(target, number, _variable(frame, "size")):
                    continue  # it stands for what free was given, and that was merged with the chunk before it
                own = "_int_free" if name in ("_int_free_chunk", "_int_free_merge_chunk") else name
                found.setdefault(f"{variable} of {own}", number)
        try:
            frame = frame.older()
        except gdb.error:
            break
        place += 1
    return found


def _variable(frame: gdb.Frame, name: str) -> int | None:
    """Return an integer or pointer variable of a frame, None where it has no value that is known."""
    try:
        value = frame.read_var(name)
        return None if value.is_optimized_out else int(value)
    except (gdb.error, ValueError, RuntimeError):
        return None


def _is_unmerged(target: Target, chunk: int, size: int | None) -> bool:
    """Whether ``chunk``, which _int_free_merge_chunk has grown to ``size``, still has that size by itself."""
    try:
        word = target.abi.read_word(target.memory, chunk + target.abi.word_size)
    except MemoryFault:
        return False
    return size is not None and word & ~FLAG_BITS == size


def _message(target: Target) -> str | None:
    """Return what malloc said: the copy that libc keeps (__abort_msg), or before that malloc_printerr's argument."""
    pointer = target.word("__abort_msg")
    text = None if not pointer else _text(target, pointer + 4)  # struct abort_msg_s: an unsigned int, then the text
    if text:
        return text.strip()
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
        if frame.name() == "__malloc_assert":  # up to 2.35 no copy is kept
            return _assertion(target, frame)
        try:
            frame = frame.older()
        except gdb.error:
            break
    return None


def _assertion(target: Target, frame: gdb.Frame) -> str | None:
    """Return what __malloc_assert prints behind the program's name, None where its arguments are not known."""
    pointers = [_variable(frame, name) for name in ("file", "function", "assertion")]
    file, function, assertion = (None if pointer is None else _text(target, pointer) for pointer in pointers)
    line = _variable(frame, "line")
    if assertion is None or function is None:
        return None
    where = "" if file is None or line is None else f"{file}:{line}: "
    return f"{where}{function}: Assertion `{assertion}' failed."


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
    if message is None:
        return None
    if message in CHECKS:
        return message
    return "assertion in sysmalloc" if "sysmalloc" in message and "assert" in message.lower() else None


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
