"""The tcaches of the threads that a command names, and why one of them is not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import gdb

from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.target import Target, each_thread
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.tcache import Tcache, read_tcache, tcache_is_dummy


@dataclass(frozen=True)
class ThreadTcache:
    """The tcache of one thread (GDB's number of it).

    ``tcache`` is None where there is none or it could not be read; ``why`` then is the sentence that says which.
    ``known`` is whether it is certain that there is none.
    """

    thread: int
    tcache: Tcache | None
    known: bool
    why: str = ""


def thread_numbers() -> list[int]:
    """Return GDB's numbers of the selected inferior's threads."""
    return sorted(thread.num for thread in gdb.selected_inferior().threads())


def chosen_threads(text: str | None, every: bool) -> list[int]:
    """Return the numbers of the threads that ``-thread`` names; all with ``every``; else the selected one.

    Raises TargetError where there is no such thread.
    """
    numbers = thread_numbers()
    if text is not None:
        own = text.rpartition(".")  # INFERIOR.THREAD, as 'info threads' shows them
        chosen = [number for number in numbers if own[2] == str(number)]
        if not chosen or own[0] not in ("", str(gdb.selected_inferior().num)):
            listed = ", ".join(str(number) for number in numbers)
            raise TargetError(f"There is no thread '{text}': the threads are {listed} ('info threads').")
        return chosen
    selected = gdb.selected_thread()
    if every or selected is None:
        return numbers
    return [selected.num]


def read_thread_tcaches(target: Target, wanted: Sequence[int] | None = None) -> list[ThreadTcache]:
    """Return the tcaches of the ``wanted`` threads (None: of all), in the order of their numbers."""
    if target.layout.tcache is None:
        return [
            ThreadTcache(number, None, False, f"{target.libc} does not describe a tcache (glibc has one from 2.26 on).")
            for number in (thread_numbers() if wanted is None else wanted)
        ]
    memory = PageCache(target.memory)
    key = tcache_key(target)
    return [
        _read(target, thread, place, memory, key)
        for thread, place in tcache_places(target)
        if wanted is None or thread.num in wanted
    ]


class TcachePlace(NamedTuple):
    """Where a thread's tcache is, None where that is not known, and the ``owner``: the first thread that it is of."""

    address: int | None
    owner: int


def tcache_places(target: Target) -> Iterator[tuple[gdb.InferiorThread, TcachePlace]]:
    """Yield each thread, selected meanwhile, with where its tcache is."""
    owners: dict[int, int] = {}
    for thread in each_thread():
        address = target.tcache_address(thread)
        alone = address is None or tcache_is_dummy(target.symbols, target.layout, address)
        yield thread, TcachePlace(address, thread.num if alone else owners.setdefault(address or 0, thread.num))


def why_not_its_own(thread: int, owner: int, address: int) -> str:
    """Return the sentence for a ``thread`` whose tcache would be the one of the thread ``owner``, at ``address``."""
    return (
        f"The tcache of thread {thread} cannot be told: it would be that of thread {owner}, at {address:#x}, and no "
        f"two share one. Thread {thread} may have ended meanwhile ('info threads')."
    )


def tcache_key(target: Target) -> int | None:
    """Return what the key of every chunk in a tcache is, None where it is the tcache's own address or not known."""
    return target.word("tcache_key")  # 2.34


def key_of(target: Target, tcache: int | None) -> int | None:
    """Return what the key of chunks in the tcache at this address is, None where there is none or it is not known."""
    key = tcache_key(target)
    if key is not None or not tcache:
        return key
    entry = target.symbols.struct("tcache_entry")
    return tcache if entry is not None and "key" in entry.fields else None  # 2.29


def _read(
    target: Target, thread: gdb.InferiorThread, place: TcachePlace, memory: PageCache, key: int | None
) -> ThreadTcache:
    number, address = thread.num, place.address
    if address is None:
        return ThreadTcache(
            number,
            None,
            False,
            f"The tcache of thread {number} cannot be found: {why_unknown(target)}. 'set heap tcache ADDRESS' in that "
            "thread gives it.",
        )
    if tcache_is_dummy(target.symbols, target.layout, address):
        return ThreadTcache(number, None, True, _why_none(target, number, address))
    if place.owner != number:
        return ThreadTcache(number, None, False, why_not_its_own(number, place.owner, address))
    try:
        tcache = read_tcache(memory, target.abi, target.layout, address, target.safe_linking, key)
    except MemoryFault as fault:
        return ThreadTcache(number, None, False, f"The tcache of thread {number} cannot be read: {fault}.")
    return ThreadTcache(number, tcache, True)


def why_unknown(target: Target) -> str:
    """Return why it is not known where the selected thread's tcache is, in GDB's own words where it has some."""
    symbol = target.symbol("tcache")
    if symbol is None:
        local = target.identified.symbols.local
        if local is not None:
            return local.why_not("tcache")
        return "libc's debug information does not have its thread-local variable, tcache"
    try:
        symbol.value().fetch_lazy()
    except (gdb.error, RuntimeError) as error:
        return f"GDB says '{' '.join(str(error).split()).rstrip('.')}'"
    return "its thread-local variable is not readable"


def _why_none(target: Target, number: int, address: int) -> str:
    """Return why the selected thread, whose variable holds ``address``, has no tcache."""
    dummy = target.symbols.address("__tcache_dummy")
    if address and dummy is not None:
        if address == dummy:
            return (
                f"Thread {number} has no tcache yet: glibc makes it when the thread first frees a small chunk, or "
                "finds one of the right size in a bin."
            )
        return (
            f"Thread {number} has no tcache: it is switched off (glibc.malloc.tcache_count=0), could not be made, or "
            "the thread is ending."
        )
    place = target.symbols.thread_local("tcache_shutting_down")
    try:
        ending = place is not None and target.memory.read(place, 1) != b"\0"
    except MemoryFault:
        ending = False
    if ending:
        return f"Thread {number} has no tcache any more: the thread is ending, and has given it back."
    return f"Thread {number} has no tcache yet: glibc makes it when the thread first calls malloc."
