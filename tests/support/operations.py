"""Random operations of the allocator, what a real program got for them, and the simulated allocator run over them."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.abi import IS_MMAPPED
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.public import usable_size
from gdbheap.simulate.sequence import Entry, entry_text, replay
from tests.support.debugger import Gdb
from tests.support.recorded_kernel import Heaps, RecordedKernel, in_heap, mapping_start
from tests.support.symbols import with_symbols

#: How large requests are, by profile.
PROFILES: Mapping[str, Callable[[random.Random], int]] = {
    "small": lambda chance: chance.randrange(0, 200),
    "mixed": lambda chance: chance.randrange(0, chance.choice((128, 1100, 5000, 70000))),
    "large": lambda chance: chance.randrange(1000, 200000),
    "huge": lambda chance: chance.randrange(0, chance.choice((3000, 400000, 3000000))),
    "classes": lambda chance: chance.choice((24, 40, 56, 104, 120, 136, 504, 1000, 1016, 1032, 1048, 2000, 4096)),
}
_RESULT = struct.Struct("=5Q")


class Result(NamedTuple):
    """What c_fixtures/ops.c logs of one operation."""

    pointer: int
    usable: int
    size_word: int
    prev_size: int
    brk: int


def random_operations(seed: int, count: int, profile: str) -> list[Entry]:
    """Return ``count`` operations and more: sizes of a profile, frees in several orders, thresholds that change."""
    chance = random.Random(f"{seed} {profile}")
    size = PROFILES[profile]
    free = list(range(1, 100_000))[::-1]
    live: list[int] = []
    made: list[Entry] = []

    def allocate(name: str, *arguments: int) -> None:
        live.append(free.pop())
        made.append(Entry(name, arguments, live[-1]))

    def release(place: int) -> None:
        free.append(live.pop(place))
        made.append(Entry("free", (free[-1],), -1))

    while len(made) < count:
        more = 0.55 if len(live) < chance.choice((20, 200, 1500)) else 0.35
        kind = chance.random()
        if kind < more * 0.8 or not live:
            allocate("malloc", size(chance))
        elif kind < more * 0.9:
            allocate("calloc", chance.randrange(1, 5), size(chance) // 2)
        elif kind < more:
            if chance.random() < 0.9:
                # posix_memalign takes none below the size of a pointer
                function, least = chance.choice((("memalign", 0), ("aligned_alloc", 0), ("posix_memalign", 3)))
                odd = function == "memalign" and chance.random() < 0.1
                allocate(function, chance.randrange(300) if odd else 1 << chance.randrange(least, 14), size(chance))
            else:
                allocate(chance.choice(("valloc", "pvalloc")), size(chance))
        elif kind < more + 0.1:
            name, wanted = chance.choice(live), max(size(chance), 1)
            if chance.random() < 0.8:
                made.append(Entry("realloc", (name, wanted), name))
            else:
                times = chance.randrange(1, 9)
                made.append(Entry("reallocarray", (name, times, wanted // times + 1), name))
        elif kind < 0.998:
            release(chance.choice((len(live) - 1, 0, chance.randrange(len(live)), chance.randrange(len(live)))))
            if chance.random() < 0.02:
                for _ in range(chance.randrange(len(live) + 1)):
                    release(chance.randrange(len(live)))
        else:
            made.append(_setting(chance))
    return made


def _setting(chance: random.Random) -> Entry:
    parameter, values = chance.choice(
        (
            (1, (0, 24, 64, 128, 160)),
            (-1, (0, 65536, 131072, 1000000)),
            (-2, (0, 4096, 131072, 300000)),
            (-3, (65536, 131072, 1000000)),
            (0, (0, 4096, 100000)),
        )
    )
    value = chance.choice(values)
    return Entry("mallopt", (parameter, value), -1) if parameter else Entry("trim", (value,), -1)


#: Run inside GDB: writes what a simulated allocator needs of the process as it is now.
_SNAPSHOT = """
import copyreg, pickle, gdb
from gdbheap.debugger import session
from gdbheap.debugger.allocating import read_machine
from gdbheap.symbols import Struct
copyreg.pickle(Struct, lambda struct: (Struct, (struct.name, struct.size, dict(struct.fields))))
target = session.target()
machine = read_machine(gdb.selected_thread())
places = [(target.main_arena, target.layout.state.size), (target.mp, target.layout.par.size)]
start, end = machine.params.get("sbrk_base"), machine.variables.curbrk or 0
if start and end > start:
    places.append((start, end - start))
ranges = [(address, target.memory.read(address, size)) for address, size in places]
with open({path!r}, "wb") as file:
    pickle.dump((machine.glibc, machine.thread, machine.variables, ranges), file)
"""


@dataclass(frozen=True)
class Recording:
    """Operations, what a real program got for each, and the allocator before the first of them."""

    entries: list[Entry]
    results: list[Result]
    start: tuple[Any, ...]

    def machine(self) -> Machine:
        """Return the simulated allocator before the first operation."""
        glibc, thread, variables, ranges = self.start
        kernel = RecordedKernel(variables.curbrk)
        return Machine(glibc, Snapshot(ranges), copy(thread), copy(variables), kernel)


def record(gdb: Gdb, program: Path, folder: Path, entries: list[Entry], threads: bool = False) -> Recording:
    """Let the program c_fixtures/ops do the operations, under GDB, and return what it got."""
    operations, log, snapshot = folder / "operations", folder / "log", folder / "snapshot"
    operations.write_text("".join(f"{entry_text(entry)}\n" for entry in entries))
    code = _SNAPSHOT.format(path=str(snapshot))
    arguments = [str(operations), str(log), *(["threads"] if threads else [])]
    # What is compared is the simulated allocator, not how its start was found.
    commands = ("break before_operations", "run", f"python exec({with_symbols(code)!r}, {{}})", "continue")
    gdb(*commands, program=program, args=arguments).succeeded()
    results = [Result(*values) for values in _RESULT.iter_unpack(log.read_bytes())]
    return Recording(entries, results, pickle.loads(snapshot.read_bytes()))  # noqa: S301 (our own file)


def differences(recording: Recording) -> tuple[int, str | None]:
    """Run the simulated allocator; return how many operations agreed, and the first one that did not.

    Compared are address, malloc_usable_size, the size word with its flags, and the break.
    """
    machine = recording.machine()
    kernel = machine.kernel
    assert isinstance(kernel, RecordedKernel)
    count = 0
    run = replay(machine, recording.entries)
    if any(map(in_heap, recording.results)):
        kernel.heaps = Heaps(machine, recording.entries, recording.results)
    for entry, real in zip(recording.entries, recording.results):
        kernel.mappings = []
        if kernel.heaps is not None:
            kernel.heaps.place = count
        if real.pointer and real.size_word & IS_MMAPPED:
            kernel.mappings = [mapping_start(machine, real)]
        got = next(run)
        machine.calls.clear()
        machine.changes.clear()
        pointer = 0 if entry.result < 0 else got
        own = (pointer, usable_size(machine, pointer), machine.words[pointer - machine.word_size]) if pointer else ()
        found = Result(*(own or (0, 0, 0)), real.prev_size, machine.variables.curbrk or 0)
        if found != real:
            return count, f"{entry_text(entry)}: simulated {tuple(map(hex, found))}, real {tuple(map(hex, real))}"
        count += 1
    return count, None
