"""Records of growth made by hand: frames, what was read of the allocator, events, and a whole recording."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gdbheap.growth.decision import user_frame
from gdbheap.growth.event import Event, FreeLists, Served
from gdbheap.growth.event import Frame as Frame
from gdbheap.growth.history import Final, History
from gdbheap.growth.names import INTERNAL
from gdbheap.growth.reading import ArenaVariables, ProcessFacts, Reading
from gdbheap.growth.request import malloc_call
from gdbheap.growth.requester import requester
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import NOTHING_FREE
from gdbheap.simulate.state import Release
from gdbheap.symbols import Struct
from tests.support.heap_image import LAYOUTS

MAIN_ARENA = 0x7FFFF7FA8C60
#: Where the pretended top chunk of a main_arena without memory is (initial_top): 96 bytes in, glibc 2.36.
INITIAL_TOP = MAIN_ARENA + 96
MP = 0x7FFFF7FA8280
BASE = 0x555555559000
ENOMEM = -12

#: glibc 2.36's mp_ at the start of a program.
DEFAULTS: Mapping[str, int] = {
    "trim_threshold": 0x20000,
    "top_pad": 0x20000,
    "mmap_threshold": 0x20000,
    "n_mmaps_max": 65536,
    "sbrk_base": BASE,
}

_FRAME = re.compile(
    r"(?:\[(?P<objfile>[^]]+)\] )?(?P<inlined>~)?(?P<function>.+?)"
    r"(?: at (?P<file>\S+):(?P<line>\d+))?(?:\{(?P<variables>[^}]*)\})?$"
)


def frames_of(text: str) -> tuple[Frame, ...]:
    """Return the frames of a stack, newest first.

    The object file stands in brackets where it changes, ``~`` before an inlined function, ``?`` for code without a
    name, the source line, and in braces the variables that could be read. Functions inside malloc that have a name
    are as debug symbols have them, with a source file.
    """
    frames: list[Frame] = []
    objfile: str | None = None
    pc = 0x1000
    for part in filter(None, " ".join(text.split()).split(" <- ")):
        found = _FRAME.match(part)
        assert found is not None, part
        if found["objfile"] is not None:
            objfile = f"/usr/lib/{found['objfile']}"
        pairs = (item.split("=") for item in (found["variables"] or "").split())
        file = found["file"] and f"/home/me/{found['file']}"
        if file is None and objfile is not None and objfile.endswith("/libc.so.6") and found["function"] in INTERNAL:
            file = "./malloc/malloc.c"
        frames.append(
            Frame(
                function=None if found["function"] == "?" else found["function"],
                file=file,
                line=int(found["line"]) if found["line"] else None,
                objfile=objfile,
                pc=pc,
                variables={name: int(value, 16) for name, value in pairs},
            )
        )
        if not found["inlined"]:
            pc += 0x10
    return tuple(frames)


def struct_bytes(struct: Struct, abi: Abi, values: Mapping[str, int]) -> bytes:
    """Return the bytes of a struct whose fields have these ``values`` (the first element of an array), others 0."""
    data = bytearray(struct.size)
    for name, value in values.items():
        member = struct.fields[name]
        size = member.size // member.count
        data[member.offset : member.offset + size] = (value % (1 << 8 * size)).to_bytes(size, abi.byte_order)
    return bytes(data)


def a_reading(
    top: int = INITIAL_TOP,
    top_size: int | None = 0,
    *,
    curbrk: int | None = None,
    number: int = 0,
    version: tuple[int, int] | None = (2, 36),
    layout: tuple[str, int] = ("2.36", 64),
    abi: Abi | None = None,
    mp: Mapping[str, int] | None = None,
    with_arena: bool = True,
    address: int = MAIN_ARENA,
    arena: Mapping[str, int] | None = None,
    choosing: ArenaVariables | None = None,
    **others: Any,
) -> Reading:
    """Return what a recorder reads: an arena that has this top chunk, and ``mp_`` with its defaults but for ``mp``.

    ``arena`` are further fields of the malloc_state, ``others`` further fields of GrowthState.
    """
    where = LAYOUTS[layout]
    abi = abi or Abi(layout[1] // 8)
    fields = {"top": top, "system_mem": 0x21000, "max_system_mem": 0x21000, **(arena or {})}
    return Reading(
        facts=ProcessFacts(abi, where, Release(version), MP, MAIN_ARENA),
        params=struct_bytes(where.par, abi, {**DEFAULTS, **(mp or {})}),
        curbrk=curbrk,
        address=address,
        number=number,
        arena=struct_bytes(where.state, abi, fields) if with_arena else None,
        top_size=top_size,
        others=others,
        choosing=choosing,
    )


def an_event(
    syscall: str,
    args: tuple[int, ...],
    result: int | None,
    stack: str = "",
    *,
    earlier: Sequence[Event] = (),
    **fields: Any,
) -> Event:
    """Return an event as a recorder makes it: whose memory it is and what was asked for follow from its frames."""
    event = Event(
        id=len(earlier) + 1,
        process=1,
        thread=1,
        tid=100,
        syscall=syscall,
        args=args,
        frames=frames_of(stack),
        result=result,
    )._replace(**fields)
    event = event._replace(user=user_frame(event.frames))
    if "requester" not in fields:
        event = event._replace(requester=requester(event, earlier))
    if event.requester.kind == "malloc":
        event = event._replace(requested=malloc_call(event.frames))
    return event


OWN_SBRK = "[libc.so.6] __brk <- __GI___sbrk <- [seed] main at seed.c:6"
STDOUTS_BUFFER = """
    [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x290 av=0x7ffff7fa8c60} <-
    _int_malloc{av=0x7ffff7fa8c60 bytes=0x280} <- tcache_init <- ~tcache_init <-
    __GI___libc_malloc{bytes=0x400} <- __GI__IO_file_doallocate{fp=0x7ffff7fa9760} <- ~__GI__IO_doallocbuf
    <- __GI__IO_doallocbuf <- _IO_new_file_overflow <- ~_IO_new_file_xsputn <- _IO_new_file_xsputn <-
    ~outstring_func <- __vfprintf_internal <- __printf <- [seed] main at seed.c:6
"""
#: The break that the first growth of c_fixtures/seed.c asks for, and what is in top once printf has its buffer.
GROWN = BASE + 0x21000
AFTER_BUFFER = BASE + 0x290 + 0x410


def seeds_history() -> History:
    """Return the recording of c_fixtures/seed.c: its own sbrk(0), the growth, and malloc(1000) after it."""
    own = an_event("brk", (0,), BASE, OWN_SBRK, break_before=BASE)
    growth = an_event(
        "brk",
        (GROWN,),
        GROWN,
        STDOUTS_BUFFER,
        earlier=[own],
        break_before=BASE,
        reading=a_reading(curbrk=BASE, mp={"sbrk_base": 0}, arena={"system_mem": 0, "max_system_mem": 0}),
        free=FreeLists(None, NOTHING_FREE),
        stream="stdout",
    )
    caller = Frame("main", "/home/me/seed.c", 7, "/usr/lib/seed", 0x1200)
    served = Served(2, 1, 1000, 0x3F0, caller, caller, AFTER_BUFFER, "top", AFTER_BUFFER + 0x3F0, 0x20570)
    return History([own, growth], [served], {1: Final(an_arena(AFTER_BUFFER + 0x3F0, 0x20570), 2)})


def an_arena(top: int, top_size: int | None, number: int = 0, system_mem: int = 0x21000) -> Arena:
    """Return an arena with this top chunk, as it is read."""
    made = a_reading(top, top_size, number=number, arena={"system_mem": system_mem, "max_system_mem": system_mem})
    arena = made.state.arena
    assert arena is not None
    return arena
