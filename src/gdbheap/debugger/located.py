"""glibc's malloc in a process whose debug information does not describe it: what was found in its memory instead."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from gdbheap.debugger.thread_pointer import thread_pointer, thread_pointers
from gdbheap.elf import ElfImage, dynamic_functions, dynamic_symbols
from gdbheap.growth.called import public_entries
from gdbheap.growth.inside import MallocCode, malloc_code
from gdbheap.memory import Memory, MemoryFault, PageCache
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import read_arenas
from gdbheap.ptmalloc.discover import Discovery, Source
from gdbheap.ptmalloc.generations import Generation
from gdbheap.ptmalloc.thread_locals import (
    ThreadVariables,
    are_of_one_block,
    distances,
    find_key,
    find_variables,
    near_distances,
)
from gdbheap.symbols import Struct, Symbols

#: Threads that are asked at most where no table tells which thread-local variables libc has.
_MOST_WITNESSES = 16
_BANNER = re.compile(rb"GNU C Library [^\n\0]{0,80}release version (\d+)\.(\d+)")


class DynamicSymbols:
    """The symbols that a loaded object defines for others, read from its own memory and not from any file."""

    def __init__(self, source: Source) -> None:
        try:
            self.addresses: Mapping[str, int] = dynamic_symbols(source.memory, source.image)
        except MemoryFault:
            self.addresses = {}

    def address(self, name: str) -> int | None:
        """Return the address of a variable or function that other objects may use."""
        return self.addresses.get(name)

    def struct(self, name: str) -> Struct | None:
        """Return None: such symbols have no types."""
        return None

    def thread_local(self, name: str) -> int | None:
        """Return None: libc's thread-local variables of malloc are its own."""
        return None


class ThreadLocals:
    """libc's thread-local variables of malloc, told from what the threads have there: see ptmalloc.thread_locals."""

    def __init__(
        self,
        source: Source,
        abi: Abi,
        main_arena: int,
        generations: Sequence[Generation],
        dummy: int | None,
        is_program: bool,
        machine: str,
    ) -> None:
        self._source = source
        self._abi = abi
        self._main_arena = main_arena
        self._generations = generations
        self._dummy = dummy
        self.machine = machine
        self.is_program = is_program
        self._distances: tuple[int, ...] | None = None
        #: Whether the loader's table of thread-local variables could be read.
        self.has_table = True
        self.variables = ThreadVariables(None, None, None)

    def address(self, name: str) -> int | None:
        """Return the address of ``tcache`` or ``thread_arena`` in the selected thread, None where it is not known."""
        pointer = thread_pointer(self.machine)
        if pointer is None:
            return None
        if getattr(self.variables, name, None) is None:
            self._look(pointer)
        distance = getattr(self.variables, name, None)
        return None if distance is None else pointer + distance

    def why_not(self, name: str) -> str:
        """Return why the thread-local variable ``name`` is not known in the selected thread."""
        if thread_pointer(self.machine) is None:
            return "this thread's thread pointer is not known"
        holds = "a tcache" if name == "tcache" else "an arena"
        if not self.has_table:
            return (
                "the loader's table of thread-local variables cannot be read, and near the thread pointer no word, or "
                f"more than one, holds {holds}"
            )
        return f"none of libc's thread-local variables, or more than one, holds {holds}"

    def _look(self, pointer: int) -> None:
        """See which thread-local variables are whose, in the selected thread."""
        memory = self._source.memory
        try:
            if self._distances is None:
                self._distances = self._possible_distances()
            ring = read_arenas(memory, self._abi, self._generations[0].layout, self._main_arena)
            arenas = {arena.address for arena in ring.arenas}
            now = self._found(arenas, self._distances, pointer)
            if not self.has_table:
                self._distances = ()  # it is a core file, in which nothing changes any more
        except MemoryFault:
            return
        known = self.variables
        self.variables = ThreadVariables(
            now.tcache if known.tcache is None else known.tcache,
            now.thread_arena if known.thread_arena is None else known.thread_arena,
            now.generation if known.generation is None else known.generation,
        )

    def _found(self, arenas: Collection[int], distances: Sequence[int], pointer: int) -> ThreadVariables:
        """Return what a thread tells whose thread pointer this is; without the table, what the first tells that can."""

        def told_by(one: int) -> ThreadVariables:
            memory = self._source.memory
            return find_variables(memory, self._abi, self._generations, arenas, distances, [one], self._dummy)

        if self.has_table:
            return told_by(pointer)
        # Words of others are looked at as well: then one variable confirms the other.
        for one in (pointer, *thread_pointers(self.machine, _MOST_WITNESSES)) if distances else ():
            found = told_by(one)
            if are_of_one_block(found, self._source.image):
                return found
        return ThreadVariables(None, None, None)

    def _possible_distances(self) -> tuple[int, ...]:
        try:
            return distances(self._source.memory, self._source.image, self.is_program)
        except MemoryFault:
            self.has_table = False
            return near_distances(self._source.image)


class DebugSymbols:
    """The symbols that debug information has; where GDB cannot read a thread-local variable, it is looked for."""

    def __init__(self, known: Symbols, local: ThreadLocals | None) -> None:
        self._known = known
        self.local = local

    def address(self, name: str) -> int | None:
        """Return the address of a variable or function of glibc's."""
        return self._known.address(name)

    def struct(self, name: str) -> Struct | None:
        """Return the layout of one of malloc's structs."""
        return self._known.struct(name)

    def thread_local(self, name: str) -> int | None:
        """Return the address of ``tcache`` or ``thread_arena`` in the selected thread, None where it is not known."""
        address = self._known.thread_local(name)
        return self.local.address(name) if address is None and self.local is not None else address


class LocatedSymbols:
    """The facts of a Discovery, as symbols; what was not searched for is asked of ``beyond``."""

    def __init__(self, beyond: Symbols, source: Source, found: Discovery, is_program: bool, machine: str) -> None:
        self._beyond = beyond
        self._source = source
        self.found = found
        self.local = ThreadLocals(
            source, found.abi, found.main_arena.address, found.fitting, found.dummy, is_program, machine
        )
        self._addresses = {"main_arena": found.main_arena.address, "mp_": found.mp.address}
        if found.dummy is not None:
            self._addresses["__tcache_dummy"] = found.dummy

    @cached_property
    def malloc_code(self) -> MallocCode | None:
        """Where the functions of malloc's are that have no names, None where that is not known."""
        return malloc_code(DynamicSymbols(self._source).addresses)

    @cached_property
    def malloc_entries(self) -> Mapping[int, str]:
        """The names of malloc's public functions, by where they begin; empty for machines other than x86."""
        is_x86 = self.local.machine.startswith("i386")
        return public_entries(DynamicSymbols(self._source).addresses) if is_x86 else {}

    def function_at(self, pc: int) -> str | None:
        """Return the public name of the function that ``pc`` is in, None where it has none, or they are not there."""
        place = bisect_right(self._functions, (pc, 1 << 64, "")) - 1
        if place < 0 or pc >= self._functions[place][1]:
            return None
        return self._functions[place][2]

    @cached_property
    def _functions(self) -> list[tuple[int, int, str]]:
        try:
            return dynamic_functions(self._source.memory, self._source.image)
        except MemoryFault:
            return []

    @property
    def is_outdated(self) -> bool:
        """Whether a thread's tcache has since told of another layout than was taken for the likeliest."""
        generation = self.local.variables.generation
        return generation is not None and generation.layout.tcache != self.found.layout.tcache

    def settle(self) -> None:
        """Choose among layouts that differ in the tcache alone by the selected thread's, if it has one already."""
        self.local.address("tcache")
        generation = self.local.variables.generation
        if generation is not None and generation is not self.found.fitting[0]:
            others = (other for other in self.found.fitting if other is not generation)
            self.found = replace(self.found, fitting=(generation, *others))

    def address(self, name: str) -> int | None:
        """Return the address of a variable or function of glibc's."""
        if name == "tcache_key" and name not in self._addresses:
            self._look_for_key()
        found = self._addresses.get(name)
        if found is None and _cannot_be_another(name, self.local.is_program):
            return self._beyond.address(name)
        return found

    def _look_for_key(self) -> None:
        """See where tcache_key is, once the selected thread's tcache has a chunk."""
        layout, memory = self.found.layout.tcache, PageCache(self._source.memory)
        variable = None if layout is None or self.is_outdated else self.local.address("tcache")
        try:
            tcache = 0 if variable is None else self.found.abi.read_word(memory, variable)
            found = find_key(memory, self.found.abi, layout, tcache, self._source.image) if layout and tcache else None
        except MemoryFault:
            return
        if found is not None:
            self._addresses["tcache_key"] = found

    def struct(self, name: str) -> Struct | None:
        """Return the layout of one of malloc's structs."""
        layout = self.found.layout
        structs = (layout.state, layout.par, layout.heap_info, layout.tcache)
        return next((found for found in structs if found is not None and found.name == name), None)

    def thread_local(self, name: str) -> int | None:
        """Return the address of ``tcache`` or ``thread_arena`` in the selected thread, None where it is not known."""
        address = self.local.address(name)
        return None if self.is_outdated else address


def _cannot_be_another(name: str, is_program: bool) -> bool:
    """Return whether a symbol of this name is glibc's own: in a static program, names like narenas may be anyone's."""
    return not is_program or name.startswith("_") or "::" in name


def banner_version(memory: Memory, source: Source) -> tuple[int, int] | None:
    """Return the release that the text of libc's own banner tells, None where it has none that can be read."""
    for data in _constants(memory, source.image):
        found = _BANNER.search(data or b"")
        if found is not None:
            return int(found.group(1)), int(found.group(2))
    return None


def has_message(memory: Memory, image: ElfImage, message: str) -> bool | None:
    """Return whether ``message`` is a constant of the object, None where not all of them can be read."""
    found = [data if data is None else message.encode() + b"\0" in data for data in _constants(memory, image)]
    return True if True in found else None if None in found or not found else False


def _constants(memory: Memory, image: ElfImage) -> Iterator[bytes | None]:
    """Yield the bytes of each segment that only holds constants, None for one that cannot be read."""
    for segment in image.segments:
        if segment.writable or segment.executable:
            continue
        try:
            yield memory.read(segment.start, segment.end - segment.start)
        except MemoryFault:
            yield None
