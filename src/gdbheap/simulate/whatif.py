"""A sequence of operations under several settings: what each needs from the kernel, and what is left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

from gdbheap.memory import MemoryFault
from gdbheap.simulate.arena_get import start_malloc
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.linux import WillingKernel
from gdbheap.simulate.machine import Globals, Machine, Thread
from gdbheap.simulate.operations import KINDS
from gdbheap.simulate.sequence import TAKES_MEMORY, Entry
from gdbheap.simulate.settings import SETTINGS, set_value
from gdbheap.simulate.trace import Abort

#: The settings that are compared; those that mallopt and GLIBC_TUNABLES know.
COMPARED = ("top_pad", "mmap_threshold", "trim_threshold", "tcache_count", "tcache_max", "mxfast", "arena_max")
#: Where the simulated heap begins, by word size.
_START = {8: 0x600000000, 4: 0x20000000}
_SETTING_FIELDS = (
    *("trim_threshold", "top_pad", "mmap_threshold", "arena_test", "arena_max", "thp_mode", "thp_pagesize"),
    *("hp_pagesize", "hp_flags", "n_mmaps_max", "no_dyn_threshold", "tcache_bins", "tcache_small_bins"),
    *("tcache_max_bytes", "tcache_count", "tcache_unsorted_limit"),
)
_DEFAULT_THRESHOLD = 0x20000


@dataclass(frozen=True)
class Outcome:
    """What a sequence came to under the ``settings``; sizes in bytes.

    ``calls`` are the system calls by name. ``taken`` is all that was ever asked of the kernel, ``peak`` the most that
    malloc held at one time, of which ``live_at_peak`` were in chunks that the program held. At the end malloc holds
    ``held``: ``live`` in chunks of the program's, ``top`` in top chunks, and the rest in free chunks. ``failed`` is how
    many requests got NULL. ``problem`` says why the sequence ended at operation ``done``, None where it did not.
    """

    settings: Mapping[str, int]
    done: int
    calls: Mapping[str, int]
    taken: int
    peak: int
    live_at_peak: int
    held: int
    live: int
    top: int
    failed: int
    problem: str | None = None

    @property
    def call_count(self) -> int:
        """All system calls."""
        return sum(self.calls.values())

    @property
    def free(self) -> int:
        """Bytes in free chunks at the end, headers of the arenas included."""
        return max(self.held - self.live - self.top, 0)


class _Memory:
    """Nothing but zeros: what the variables of a program hold that has not begun."""

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` zero bytes."""
        return bytes(size)


def empty_machine(machine: Machine) -> Machine:
    """Return the allocator of a program that has not called malloc yet, of the same glibc and with its settings.

    Thresholds that malloc itself moved are at their defaults again.
    """
    glibc = replace(machine.glibc, may_shrink_heap=bool(machine.glibc.may_shrink_heap))
    variables = Globals(
        curbrk=0,
        max_fast=0,
        single=True,
        narenas=1,
        narenas_limit=0,
        free_list=0,
        next_to_use=0,
        aligned_heap_area=0,
        initialized=False,
        numbers={machine.main_arena: 0},
    )
    made = Machine(
        glibc, _Memory(), Thread(1, 0, 0), variables, WillingKernel(machine.word_size, _START[machine.word_size])
    )
    for name in _SETTING_FIELDS:
        if machine.has_mp(name):
            made.set_mp(name, machine.mp(name))
    if not machine.mp("no_dyn_threshold"):
        made.set_mp("trim_threshold", _DEFAULT_THRESHOLD)
        made.set_mp("mmap_threshold", _DEFAULT_THRESHOLD)
    made.words[made.main_arena + made.layout.state.fields["next"].offset] = made.main_arena
    start_malloc(made)
    if made.has_fastbins and machine.variables.max_fast:
        made.variables.max_fast = machine.variables.max_fast
    return made


class _Run:
    """One sequence as it runs, with what is counted on the way."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._threads = {1: machine.thread}
        self._memory: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self.calls: Counter[str] = Counter()
        self.taken = self.peak = self.live_at_peak = self.live = self.failed = 0

    def held(self) -> int:
        machine = self._machine
        arenas = sum(machine.words[arena + machine.system_mem_at] for arena in machine.variables.numbers)
        return arenas + machine.mp("mmapped_mem")

    def top(self) -> int:
        machine, found = self._machine, 0
        for arena in machine.variables.numbers:
            top = machine.words[arena + machine.top_at]
            if machine.words[arena + machine.system_mem_at]:
                found += machine.size(top)
        return found

    def _use(self, thread: int) -> None:
        machine = self._machine
        if thread not in self._threads:
            machine.variables.single = False
            self._threads[thread] = Thread(thread, 0, 0)
        machine.thread = self._threads[thread]

    def do(self, entry: Entry) -> None:
        machine, wrap = self._machine, self._machine.wrap
        if entry.thread != machine.thread.number:
            self._use(entry.thread)
        values = entry.arguments if entry.name == "mallopt" else tuple([value % wrap for value in entry.arguments])
        old = -1
        if entry.name in TAKES_MEMORY:
            old = values[0]
            values = (self._memory.get(old, 0), *values[1:])
        before = self._sizes.get(old, 0)
        got = KINDS[entry.name].run(machine, *values) or 0
        if old >= 0 and (got or entry.name == "free" or 0 in values[1:]):
            self._memory.pop(old, None)
            self.live -= before
            self._sizes.pop(old, None)
        if entry.result >= 0 and got:
            size = machine.size(got - machine.header)
            self._memory[entry.result], self._sizes[entry.result] = got, size
            self.live += size
        self.failed += int(entry.result >= 0 and not got and (old < 0 or 0 not in values[1:]))
        if machine.calls:
            self._count()

    def _count(self) -> None:
        machine = self._machine
        for call, _ in machine.calls:
            self.calls[call.syscall] += 1
            grows = call.path.startswith(("brk-first", "brk-extend", "brk-moved", "brk-align", "mmap", "heap-commit"))
            self.taken += call.rounded if grows or call.path == "heap-grow" else 0
        machine.calls.clear()
        machine.changes.clear()
        held = self.held()
        if held > self.peak:
            self.peak, self.live_at_peak = held, self.live


def run_sequence(start: Machine, entries: Sequence[Entry], settings: Mapping[str, int]) -> Outcome:
    """Return what a sequence comes to under ``settings``; ``start`` is an empty_machine, which stays as it is.

    Raises Unpredictable for a setting that glibc refuses.
    """
    machine = start.above()
    machine.thread = copy(start.thread)
    for name, value in settings.items():
        if name not in SETTINGS or not set_value(machine, name, value):
            raise Unpredictable(f"glibc refuses {name}={value}: it goes on as if it had not been set.")
    run = _Run(machine)
    done, problem = 0, None
    try:
        for entry in entries:
            run.do(entry)
            done += 1
    except Abort as abort:
        problem = f"glibc aborts: {abort.message}"
    except MemoryFault as fault:
        problem = f"the program reads what is not there: {fault}."
    except Unpredictable as unknown:
        problem = unknown.reason
    return Outcome(
        settings=dict(settings),
        done=done,
        calls=dict(run.calls),
        taken=run.taken,
        peak=run.peak,
        live_at_peak=run.live_at_peak,
        held=run.held(),
        live=run.live,
        top=run.top(),
        failed=run.failed,
        problem=problem,
    )
