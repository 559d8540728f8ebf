"""What the functions of a stack tell: which of them decides, and which is the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gdbheap.growth.event import Frame
from gdbheap.growth.names import (
    ENTRIES,
    OTHER_MALLOC_FILE,
    OTHER_MALLOC_FUNCTION,
    PUBLIC,
    RUNTIME_FILE,
    WRAPPERS,
    base_name,
    function_of,
    in_libc,
    in_loader,
    known_to_libc,
    wrapper_of,
)

#: What C++ calls malloc and free from.
_OPERATORS = ("operator new", "operator delete")


@dataclass(frozen=True)
class Decision:
    """The first frame that is no wrapper, and what stands before it.

    ``index`` is its place, and ``known`` is False where there is none. ``unnamed`` says that frames of libc without a
    name came first; ``wrapper`` is the outermost wrapper. ``libc`` and ``loader`` say whose frame it is.
    """

    index: int
    known: bool
    unnamed: bool
    wrapper: str
    libc: bool
    loader: bool


def is_static(frames: Sequence[Frame]) -> bool:
    """Whether libc is part of the program: its functions are in an object file that is no libc."""
    return any(
        frame.objfile is not None
        and not in_libc(frame)
        and not in_loader(frame)
        and (function_of(frame) in WRAPPERS or function_of(frame).startswith("__libc_start_"))
        for frame in frames
    )


#: What the code of a stack tells, by its functions and files: events come from the same few places again and again.
_decisions: dict[tuple[object, ...], Decision] = {}
_user_places: dict[tuple[object, ...], int | None] = {}
MOST_STACKS = 4096


_newest_code: tuple[Sequence[Frame], tuple[object, ...]] = ((), ())


def code_of(frames: Sequence[Frame]) -> tuple[object, ...]:
    """Return what is the same for all stacks of the same code; asked several times for one stack, one after another."""
    global _newest_code
    if _newest_code[0] is not frames:
        _newest_code = frames, tuple([(frame.function, frame.objfile, frame.file, frame.line) for frame in frames])
    return _newest_code[1]


def decide(frames: Sequence[Frame]) -> Decision:
    """Return which frame decides whose a system call is."""
    code = code_of(frames)
    found = _decisions.get(code)
    if found is None:
        if len(_decisions) >= MOST_STACKS:
            _decisions.clear()
        found = _decisions[code] = _first_decisive(frames)
    return found


def _first_decisive(frames: Sequence[Frame]) -> Decision:
    unnamed, wrapper = False, ""
    static = is_static(frames)
    for index, frame in enumerate(frames):
        name = function_of(frame)
        loader, libc = in_loader(frame), in_libc(frame)
        if name in ENTRIES:
            continue
        passed = wrapper_of(name)
        if passed:
            wrapper = passed
        elif name:
            inside = libc or (static and known_to_libc(name))
            if not name.startswith("_dl_catch_") or loader:
                loaders_own = loader or (inside and (name.startswith("_dl_") or name == "__libc_setup_tls"))
                return Decision(index, True, unnamed, wrapper, inside, loaders_own)
        elif libc:
            unnamed = True
        else:
            return Decision(index, True, unnamed, wrapper, False, loader)
    return Decision(len(frames), False, unnamed, wrapper, False, False)


def is_runtime(frame: Frame) -> bool:
    """Return whether a frame is of glibc, of the loader, of a C++ library or its headers, or of another malloc."""
    base = base_name(frame.objfile)
    return (
        in_libc(frame)
        or in_loader(frame)
        or RUNTIME_FILE.match(base) is not None
        or OTHER_MALLOC_FILE.match(base) is not None
        or OTHER_MALLOC_FUNCTION.match(frame.name) is not None
        or base.startswith(("linux-vdso", "system-supplied DSO"))
        or frame.name in ENTRIES
        or frame.name.startswith(("std::", "__gnu_cxx::", *_OPERATORS))
        or "/include/c++/" in (frame.file or "")
    )


def user_frame(frames: Sequence[Frame]) -> Frame | None:
    """Return the newest frame of the user's own code that has a source line, of a stack (newest first).

    The user's own is what is neither in libc, ld.so, libpthread or libstdc++ nor in C++'s headers. Where none of it
    has a line, it is the newest such frame. Where there is none at all, it is the C++ library's own function, as when
    its constructors run before main; None where there is none of that either.
    """
    code = code_of(frames)
    if code not in _user_places:
        if len(_user_places) >= MOST_STACKS:
            _user_places.clear()
        _user_places[code] = _user_place(frames)
    place = _user_places[code]
    return None if place is None else frames[place]


def _user_place(frames: Sequence[Frame]) -> int | None:
    own = [place for place, frame in enumerate(frames) if (frame.function or frame.objfile) and not is_runtime(frame)]
    # What stands before glibc's malloc, under its name, passes on what its caller asks for.
    own = [place for place in own if function_of(frames[place]) not in PUBLIC] or own
    for place in own:
        if frames[place].line is not None:
            return place
    static = is_static(frames)
    for place in own:
        name = function_of(frames[place])
        if name != "_start" and not (static and (name in WRAPPERS or known_to_libc(name))):
            return place
    for place, frame in enumerate(frames):
        if RUNTIME_FILE.match(base_name(frame.objfile)) and not frame.name.startswith(_OPERATORS):
            return place
    return None
