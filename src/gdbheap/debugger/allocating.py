"""The simulated allocator of the process that GDB looks at, as one of its threads would call it."""

from __future__ import annotations

import os

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.processes import largest_request, local_pid, local_ranges, shown_as
from gdbheap.debugger.target import Target, is_core
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.arena import read_arenas
from gdbheap.ptmalloc.params import read_params
from gdbheap.ptmalloc.tcache import tcache_is_dummy
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.glibc import UNKNOWN_KEY, Glibc
from gdbheap.simulate.linux import WillingKernel
from gdbheap.simulate.machine import Globals, Machine, Thread
from gdbheap.simulate.settings import environment_settings, set_value
from gdbheap.simulate.words import Access, Words

#: The hooks, and what each of them holds while nobody has set it.
_HOOKS = {
    "__malloc_hook": "malloc_hook_ini",
    "__realloc_hook": "realloc_hook_ini",
    "__memalign_hook": "memalign_hook_ini",
    "__free_hook": "",
    "__morecore": "__default_morecore",
}


def read_machine(thread: gdb.InferiorThread) -> Machine:
    """Return the allocator as the selected ``thread`` would call it now.

    Raises TargetError where there is no glibc or its release is not known, and MemoryFault where main_arena or mp_ is
    unreadable.
    """
    target = session.target()
    glibc = read_glibc(target)
    variables = read_globals(target)
    own = Thread(thread.num, _tcache(target, thread), target.thread_word("thread_arena", thread))
    if (
        not variables.initialized
    ):  # nobody has called malloc: no thread has any of the two, whether it can be read or not
        own.tcache, own.arena = own.tcache or 0, own.arena or 0
    kernel = WillingKernel(target.abi.word_size, _kernel_break(), largest_request())
    try:
        words = Words(target.abi, PageCache(target.memory), _access())
        machine = Machine(glibc, words, own, variables, kernel)
    except Unpredictable as unknown:
        raise TargetError(f"What malloc would do cannot be told. {unknown.reason}") from None
    if not variables.initialized:
        for name, value in environment_settings(_environment()).items():
            set_value(machine, name, value)  # as ptmalloc_init will
    return machine


def _access() -> Access | None:
    """Return what the processor lets the program do with its memory, None where that is not known."""
    pid = local_pid()
    ranges = () if pid is None else local_ranges(pid)
    return Access(ranges) if ranges else None


def read_glibc(target: Target) -> Glibc:
    """Return what the simulated allocator must know of the target's glibc."""
    key = target.word("tcache_key")
    entry = target.symbols.struct("tcache_entry")
    marks = entry is not None and "key" in entry.fields
    version = target.release.version
    known = key is not None or version is None or version < (2, 34)
    if not known or (key == 0 and not _initialized(target)):
        key = UNKNOWN_KEY % (1 << 8 * target.abi.word_size)
    return Glibc(
        abi=target.abi,
        layout=target.layout,
        release=target.release,
        mp=target.mp,
        main_arena=target.main_arena,
        params=read_params(target.memory, target.abi, target.layout, target.mp),
        safe_linking=target.safe_linking,
        key=key,
        marks=marks or entry is None,
        key_known=known,
        always_fail_morecore=target.flag("__always_fail_morecore"),
        may_shrink_heap=target.may_shrink_heap,
        hooks=_hooks(target),
        processors=os.cpu_count() if local_pid() is not None else None,
        partial=is_core(),
        scans_bins=target.scans_bins if target.release.version == (2, 38) else None,
    )


def _hooks(target: Target) -> tuple[str, ...]:
    version = target.release.version
    if version is None or version >= (2, 34):
        return ()

    code = target.malloc_code

    def is_set(name: str, default: str) -> bool:
        function = target.word(name)
        if function and default and code is not None and code.possible <= function < code.end:
            return False  # one of malloc's own functions, which have no names
        return function not in (None, 0, target.symbols.address(default) if default else None)

    return tuple(name for name, default in _HOOKS.items() if is_set(name, default))


def _initialized(target: Target) -> bool:
    """Whether ptmalloc_init has run: it makes the lists of main_arena."""
    front = target.main_arena + target.layout.state.fields["bins"].offset
    return target.abi.read_word(target.memory, front) != 0


def read_globals(target: Target) -> Globals:
    """Return libc's variables beside mp_ and the arenas; raise MemoryFault where main_arena is unreadable."""
    single = target.variables_of(None).read(target.memory)[3]
    ring = read_arenas(target.memory, target.abi, target.layout, target.main_arena)
    return Globals(
        curbrk=target.word("__curbrk"),
        max_fast=_max_fast(target),
        single=target.is_single_thread(single),
        narenas=target.word("narenas"),
        narenas_limit=target.word("arena_get2::narenas_limit"),
        free_list=target.word("free_list"),
        next_to_use=target.word("reused_arena::next_to_use"),
        aligned_heap_area=target.word("aligned_heap_area"),
        initialized=_initialized(target),
        numbers={arena.address: arena.number for arena in ring.arenas},
    )


def _max_fast(target: Target) -> int | None:
    """Return global_max_fast, None where it cannot be read."""
    found = max_fast_variable(target)
    return None if found is None else found[2]


def max_fast_variable(target: Target) -> tuple[int, int, int] | None:
    """Return address, size and value of global_max_fast: a size_t up to glibc 2.36, one byte after that."""
    symbol = target.symbol("global_max_fast")
    address = target.symbols.address("global_max_fast")
    if address is None or symbol is None or symbol.type is None:
        return None
    try:
        size = symbol.type.sizeof
        return address, size, int.from_bytes(target.memory.read(address, size), target.abi.byte_order)
    except MemoryFault:
        return None


def _tcache(target: Target, thread: gdb.InferiorThread) -> int | None:
    """Return the address of the thread's tcache: 0 where it has none, -1 where it will never have one."""
    address = target.tcache_address(thread)
    if address is None and not _initialized(target):
        return 0  # it would be a chunk, and there is no heap yet
    if address is None or not tcache_is_dummy(target.symbols, target.layout, address):
        return address
    if address:  # glibc 2.43: inactive at the dummy's start, disabled behind it
        return 0 if address == target.symbols.address("__tcache_dummy") else -1
    place = target.symbols.thread_local("tcache_shutting_down")
    try:
        return -1 if place is not None and target.memory.read(place, 1) != b"\0" else 0
    except MemoryFault:
        return 0


def _kernel_break() -> int | None:
    """Return where the process's break is as the kernel knows it, None where that cannot be looked up."""
    pid = local_pid()
    if pid is None:
        return None
    for item in local_ranges(pid):
        if item.name == "[heap]":
            return item.end
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            start = int(file.read().rpartition(")")[2].split()[44])  # field 47, start_brk
    except (OSError, IndexError, ValueError):
        return None
    return start or None


def _environment() -> dict[str, str]:
    """Return the environment that the process was started with, empty where that cannot be looked up."""
    pid = local_pid()
    if pid is None:
        return {}
    try:
        with open(f"/proc/{shown_as(pid)}/environ", encoding="utf-8", errors="replace") as file:
            return dict(entry.split("=", 1) for entry in file.read().split("\0") if "=" in entry)
    except OSError:
        return {}
