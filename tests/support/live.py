"""A real heap outside GDB: its memory as a snapshot, and what glibc does when one word of it is changed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gdbheap.mappings import MappedRange, parse_maps
from gdbheap.memory import Memory, Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.account import FreeFacts, plan_arena
from gdbheap.ptmalloc.check import Checked, CheckFacts, check_heap
from gdbheap.ptmalloc.culprit import NOTHING_AROUND, chunks_around
from gdbheap.ptmalloc.finding import Catch, Finding
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.ptmalloc.used_chunks import used_chunks
from gdbheap.ptmalloc.walk import walk_arena
from gdbheap.simulate.caught import Catcher, CatchFacts
from gdbheap.simulate.glibc import Glibc
from gdbheap.simulate.linux import WillingKernel
from gdbheap.simulate.machine import Globals, Machine, Thread
from gdbheap.simulate.state import Release
from gdbheap.simulate.trials import Trials
from gdbheap.symbols import Field, Struct
from tests.support.debugger import Answers, Gdb
from tests.support.environment import has_fastbins
from tests.support.symbols import with_symbols

#: In GDB: where glibc's allocator is in libc, and its structs.
FACTS = """
import json, os
import gdb
from gdbheap.debugger import session
target = session.target()
structs = {}
for name in ('state', 'par', 'heap_info', 'tcache'):
    struct = getattr(target.layout, name)
    structs[name] = [struct.name, struct.size, {k: [f.offset, f.size, f.count] for k, f in struct.fields.items()}]
base = min(int(line.split('-')[0], 16) for line in open('/proc/%d/maps' % gdb.selected_inferior().pid)
           if line.rstrip().endswith(os.path.realpath(target.libc)))
"""


@dataclass(frozen=True)
class LibcFacts:
    """glibc's allocator on this machine: its layout, and where main_arena and mp_ are from libc's first byte on."""

    layout: Layout
    main_arena: int
    mp: int
    max_fast: int | None
    version: tuple[int, int] | None
    libc: str


MAX_FAST = "int(gdb.parse_and_eval('global_max_fast'))"


def libc_facts(gdb: Gdb, answers: Answers, program: Path) -> LibcFacts:
    """Ask GDB for the facts about this machine's glibc."""
    code = FACTS + (
        "json.dump({'schema': 'gdbheap/1', 'structs': structs, 'main_arena': target.main_arena - base, "
        "'mp': target.mp - base, 'version': target.release.version, 'libc': os.path.realpath(target.libc), "
        f"'max_fast': {MAX_FAST if has_fastbins() else None}}}, "
        f"open({str(answers.path('facts'))!r}, 'w'))"
    )
    gdb("break main", "run", f"python exec({with_symbols(code)!r})", program=program, args=["1", "1"]).succeeded()
    found = answers["facts"]

    def struct(name: str) -> Struct:
        title, size, fields = found["structs"][name]
        return Struct(title, size, {key: Field(*field) for key, field in fields.items()})

    layout = Layout(*(struct(name) for name in ("state", "par", "heap_info", "tcache")))
    version = tuple(found["version"]) if found["version"] else None
    return LibcFacts(layout, found["main_arena"], found["mp"], found["max_fast"], version, found["libc"])


class Patched:
    """Memory in which one word is another."""

    def __init__(self, memory: Memory, address: int, data: bytes) -> None:
        self._memory = memory
        self._start = address
        self._data = data

    def read(self, address: int, size: int) -> bytes:
        data = self._memory.read(address, size)
        low, high = max(address, self._start), min(address + size, self._start + len(self._data))
        if low >= high:
            return data
        return data[: low - address] + self._data[low - self._start : high - self._start] + data[high - address :]


@dataclass(frozen=True)
class Word:
    """A word of metadata: what it is, where, and what it holds."""

    name: str
    address: int
    size: int
    value: int


class LiveHeap:
    """A process of damage.c."""

    abi = Abi(8)

    def __init__(self, program: Path, facts: LibcFacts, folder: Path, seed: int, threads: int) -> None:
        self._facts = facts
        self._process = subprocess.Popen(
            [program, str(seed), str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        _, key, curbrk = self._answer().split()
        self.key, self.curbrk = int(key), int(curbrk)
        path = folder / f"dump-{seed}-{threads}"
        self._ask(f"dump {path}")
        self.ranges, self.memory = read_dump(path)
        os.unlink(path)
        base = min(
            int(line.split("-")[0], 16)
            for line in Path(f"/proc/{self._process.pid}/maps").read_text().splitlines()
            if os.path.realpath(line.split()[-1]) == facts.libc
        )
        self.main_arena, self.mp = base + facts.main_arena, base + facts.mp
        self.state = self.read(self.memory)
        self.tcaches = self._find_tcaches()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fixture has ended"
        return line.rstrip("\n")

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def hit(self, address: int, value: int) -> str:
        """Let a child of the process write ``value`` and use its heap; return how that ended."""
        return self._ask(f"hit {address:#x} {value:#x}")

    def read(self, memory: Memory) -> HeapState:
        """Return malloc's state out of a memory."""
        return read_heap_state(memory, self.abi, self._facts.layout, self.main_arena, self.mp)

    def _find_tcaches(self) -> dict[int, str]:
        """Return the tcaches: the first chunk of each arena is one's, up to glibc 2.41."""
        layout = self._facts.layout
        assert layout.tcache is not None
        assert layout.heap_info is not None
        size = self.abi.request_to_chunk(layout.tcache.size)
        found = {}
        starts = [self.state.params.get("sbrk_base")]
        starts += [arena.address + layout.state.size for arena in self.state.ring.arenas[1:]]
        for number, start in enumerate(starts, 1):
            chunk = self.abi.first_chunk(start)
            assert self.abi.read_word(self.memory, chunk + 8) & ~7 == size, "the first chunk is the tcache's"
            found[chunk + 16] = f"the tcache of thread {number}"
        return found

    def check(self, memory: Memory) -> Checked:
        """Return what the pure check says of a memory."""
        facts = CheckFacts(True, self.tcaches, self.key, curbrk=self.curbrk, ranges=self.ranges)
        return check_heap(memory, self.read(memory), facts)

    def catches(self, memory: Memory, checked: Checked, most: int = 10) -> list[tuple[Finding, tuple[Catch, ...]]]:
        """Return what catches the first findings."""
        state, facts = self.read(memory), self._facts
        tcaches = []
        for address in self.tcaches:
            tcaches.append(read_tcache(memory, self.abi, facts.layout, address, True, self.key))
        lists = FreeFacts(tuple(tcaches), True)
        around = chunks_around(memory, state, lists, checked.findings[:most])
        glibc = Glibc(
            self.abi, facts.layout, Release(facts.version), self.mp, self.main_arena, state.params, True, self.key
        )
        numbers = {arena.address: arena.number for arena in state.ring.arenas}
        variables = Globals(self.curbrk, facts.max_fast, len(numbers) == 1, numbers=numbers)
        thread = Thread(1, next(iter(self.tcaches)), self.main_arena)
        machine = Machine(glibc, memory, thread, variables, WillingKernel(8))
        findings = checked.findings[:most]
        used = used_chunks(memory, state, lists)
        catcher = Catcher(
            memory, state, checked.lists, CatchFacts(Trials(machine), used=used, first_thread=1), findings
        )
        return [
            (finding, catcher.catches(finding, around.get(finding.address, NOTHING_AROUND))) for finding in findings
        ]

    def words(self) -> Iterator[Word]:
        """Yield the words that malloc keeps: of chunks, of lists, of arenas, heaps and tcaches."""
        state, layout = self.state, self._facts.layout
        read = self.abi.read_word
        lists = {node.address: view for view in self.check(self.memory).lists for node in view.nodes}
        for arena in state.ring.arenas:
            for name in ("top", "last_remainder", "system_mem", "next"):
                place = arena.address + layout.state.fields[name].offset
                yield Word(name, place, 8, read(self.memory, place))
            for index, value in enumerate(arena.bins[:252]):
                yield Word("bin", arena.bins_address + 8 * index, 8, value)
            for index, value in enumerate(arena.fastbins[:8]):
                yield Word("fastbin", arena.address + layout.state.fields["fastbinsY"].offset + 8 * index, 8, value)
            plan, free = plan_arena(self.memory, state, arena, FreeFacts((), True))
            for block in walk_arena(self.memory, self.abi, plan, free):
                for address, size in zip(block.columns.addresses, block.columns.sizes):
                    yield Word("size", address + 8, 8, read(self.memory, address + 8))
                    view = lists.get(address)
                    if view is None:
                        continue
                    fields = {"large": 4, "small": 2, "unsorted": 2, "tcache": 2, "fastbin": 1}[view.kind]
                    for place in range(fields):
                        word = address + 16 + 8 * place
                        yield Word(f"{view.kind} link", word, 8, read(self.memory, word))
                    if view.kind in ("small", "large", "unsorted"):
                        yield Word("prev_size", address + size, 8, read(self.memory, address + size))
        for chain in state.heaps.values():
            for heap in chain.heaps:
                for place in range(4):
                    yield Word("heap_info", heap.address + 8 * place, 8, read(self.memory, heap.address + 8 * place))
        assert layout.tcache is not None
        entries = layout.tcache.fields["entries"].offset
        for address in self.tcaches:
            for place in range(64):
                word = address + entries + 8 * place
                yield Word("tcache entry", word, 8, read(self.memory, word))
            for place in range(0, entries, 8):
                yield Word("tcache counts", address + place, 8, read(self.memory, address + place))


def read_dump(path: Path) -> tuple[tuple[MappedRange, ...], Snapshot]:
    """Return the mappings and the bytes that damage.c has written."""
    data = path.read_bytes()
    found: list[tuple[int, bytes]] = []
    ranges: list[MappedRange] = []
    place = 0
    while place < len(data):
        end = data.index(b"\n", place)
        line = data[place:end].decode()
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        assert match is not None, line
        start, size = int(match[1], 16), int(match[2], 16) - int(match[1], 16)
        found.append((start, data[end + 1 : end + 1 + size]))
        ranges += parse_maps(line)
        place = end + 1 + size
    return tuple(ranges), Snapshot(found)
