"""How each fact about glibc's malloc in the selected process was found."""

from __future__ import annotations

from collections.abc import Iterator

from gdbheap.debugger import settings
from gdbheap.debugger.target import Target, each_thread
from gdbheap.ptmalloc.provenance import Provenance
from gdbheap.ptmalloc.thread_locals import NEAR

_DYNAMIC = "the symbol that libc has for other libraries"
_SLOT = (
    "the only thread-local variable of libc's that holds {what}, at {distance} from the thread pointer; "
    "the loader filled in that distance"
)
_BLOCK = (
    "the only word among the program's thread-local variables that holds {what}, {distance} from the thread pointer"
)
_NEAR = (
    f"the only word of the {NEAR:#x} bytes below the thread pointer that holds {{what}}, {{distance}} from it; the "
    "loader's table of such variables cannot be read"
)
_HOLDS = {"tcache": "a chunk of the size of a tcache with sound bins", "thread_arena": "the address of an arena"}


def how_found(target: Target) -> tuple[Provenance, ...]:
    """Return where each of glibc's variables is and how that was found, as far as it was."""
    return tuple(_facts(target))


def _facts(target: Target) -> Iterator[Provenance]:
    known = target.identified
    if known.warning:
        yield Provenance("symbols", None, None, "not used", known.warning)
    state, par = target.layout.state.size, target.layout.par.size
    yield Provenance(
        "layout", None, None, f"malloc_state has {state:#x} bytes, malloc_par {par:#x}", f"from {known.origin}"
    )
    release = "unknown" if known.release is None else "glibc {}.{}".format(*known.release)
    how = "nothing tells it" if known.release is None else "its own symbol, banner or file name"
    yield Provenance("release", None, None, release, how)
    found = known.found
    for name, address, given in (
        ("main_arena", target.main_arena, settings.main_arena()),
        ("mp_", target.mp, settings.mp()),
    ):
        how = known.origin
        if found is not None:
            how = (found.main_arena if name == "main_arena" else found.mp).how
        elif given is not None:
            how = f"given by 'set heap {name.strip('_').replace('_', '-')}'"
        yield Provenance(name, None, address, "", how)
    if target.curbrk is None:
        yield Provenance("__curbrk", None, None, "unknown", "no symbol tells it")
    else:
        yield Provenance("__curbrk", None, target.curbrk, "", known.origin if found is None else _DYNAMIC)
    for thread in each_thread():
        for name in ("tcache", "thread_arena"):
            if name == "tcache" and (target.layout.tcache is None or settings.tcache(thread) is not None):
                continue
            yield _thread_local(target, name, thread.num)


def _thread_local(target: Target, name: str, thread: int) -> Provenance:
    known = target.identified
    address = target.symbols.thread_local(name)
    if address is None:
        return Provenance(name, thread, None, "unknown", _why_not(target, name))
    local = known.symbols.local
    distance = None if local is None else getattr(local.variables, name)
    if local is None or distance is None:
        return Provenance(name, thread, address, "", known.origin)
    text = _NEAR if not local.has_table else _BLOCK if local.is_program else _SLOT
    return Provenance(name, thread, address, "", text.format(what=_HOLDS[name], distance=f"{distance:+#x}"))


def _why_not(target: Target, name: str) -> str:
    local = target.identified.symbols.local
    return "GDB cannot read thread-local variables here" if local is None else local.why_not(name)
