"""The process or core file that GDB looks at: its memory, its symbols, and where glibc's allocator is in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from operator import eq

import gdb

from gdbheap.corefile import NotACore
from gdbheap.debugger import settings
from gdbheap.debugger.connection import connection_kind
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.images import MappedFile, base_name, has_musl_inside, is_mapped
from gdbheap.debugger.language import as_c, c_value, word_size
from gdbheap.debugger.processes import shrinks_heaps_with_mmap
from gdbheap.debugger.static_tls import StaticTls
from gdbheap.growth.inside import MallocCode
from gdbheap.growth.reading import ProcessFacts
from gdbheap.memory import Memory, MemoryFault, ReadPlan
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import read_arena
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.tcache import detect_safe_linking, observe_safe_linking
from gdbheap.simulate.state import Release
from gdbheap.symbols import Field, Struct

_LIBC = re.compile(r"libc(\.so\.6|-2\.\d+\.so)$")
_LOADER = re.compile(r"ld(-linux.*|64|-2\.\d+)\.so(\.\d+)?$")
#: What memalign of glibc 2.38.0 aborts with while it looks through bins: no other release, nor a later fix, has it.
_SCAN_MESSAGE = "_int_memalign(): unaligned chunk detected"
_MUSL = re.compile(r"ld-musl-.*\.so\.1$|libc\.musl-.*\.so\.1$")


#: The variables of libc's whose types, or what they point to, are these structs.
_TYPED = {"malloc_state": "main_arena", "malloc_par": "mp_", "tcache_perthread_struct": "tcache"}


class GdbMemory:
    """The selected inferior's memory, read through GDB."""

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of them is unreadable."""
        try:
            return gdb.selected_inferior().read_memory(address, size).tobytes()
        except (gdb.MemoryError, OverflowError, ValueError):
            raise MemoryFault(address, size) from None
        except gdb.error as error:
            if "unavailable" not in str(error):  # of a core file: what is in a file that is not there
                raise
            raise MemoryFault(address, size) from None


class Nothing:
    """A memory that holds nothing: what stands behind a reader whose answers must be its own."""

    def read(self, address: int, size: int) -> bytes:
        """Raise MemoryFault."""
        raise MemoryFault(address, size, "nothing tells it")


class GdbSymbols:
    """The symbols and debug information of one object file: the one that holds glibc's malloc.

    ``start`` is where it begins, where other copies of the same file are loaded too; None where there are none.
    """

    def __init__(self, objfile: gdb.Objfile | MappedFile, start: int | None = None) -> None:
        self._objfile = objfile
        self._start = start
        self._symbols: dict[str, gdb.Symbol | None] = {}
        self._addresses: dict[str, int | None] = {}
        self._static_tls = StaticTls(objfile.filename or "")

    def symbol(self, name: str) -> gdb.Symbol | None:
        """Return the debug symbol ``name`` of this object file, static or global."""
        if name not in self._symbols:
            found = self._objfile.lookup_static_symbol(name) or self._objfile.lookup_global_symbol(name)
            self._symbols[name] = found
        return self._symbols[name]

    def address(self, name: str) -> int | None:
        """Return the address of ``name``, from its debug symbol or, without one, from the ELF symbol of that name.

        A static variable of a function is named ``FUNCTION::VARIABLE``.
        """
        if name not in self._addresses:
            self._addresses[name] = self._look_up(name)
        return self._addresses[name]

    def _look_up(self, name: str) -> int | None:
        symbol = self.symbol(name)
        address: int | None = None
        try:
            if symbol is not None:
                value = symbol.value()
                address = None if value.address is None else int(value.address)
            else:
                function, _, variable = name.rpartition("::")
                path = f"'{function}'::{variable}" if function else f"'{variable}'"
                address = int(c_value(f"&{path}"))
        except (gdb.error, RuntimeError):
            pass
        if symbol is None and self._start is not None:
            return self._for_others.get(name)
        own = self._objfile.filename if self._is_library else None  # a program is no shared library
        if address is None or gdb.solib_name(address) == own:
            return address
        # The loader has variables of the same names (__curbrk), and GDB takes the first that it finds (seen up to 13).
        return self._elf_symbol(name)

    @cached_property
    def _for_others(self) -> dict[str, int]:
        """The symbols that this copy of the file defines for other objects, from its own memory."""
        from gdbheap.elf import NotElf, dynamic_symbols, read_elf

        try:
            return dynamic_symbols(GdbMemory(), read_elf(GdbMemory(), self._start or 0))
        except (NotElf, MemoryFault):
            return {}

    @property
    def _is_library(self) -> bool:
        return self._objfile.filename != program_file()

    def _elf_symbol(self, name: str) -> int | None:
        """Return the address that this very file's ELF symbol table has for ``name``."""
        path = self._objfile.filename or ""
        if re.fullmatch(r"[\w./+@-]+", path) is None:  # it becomes part of a command
            return None
        table = gdb.execute(f"maint print msymbols -objfile {path}", to_string=True)
        # What is called S leads through the procedure linkage table to whoever has the symbol.
        found = re.search(rf"^\[ *\d+\] [^S\W] (0x[0-9a-f]+) {re.escape(name)}\b(?![@$.])", table, re.MULTILINE)
        return int(found.group(1), 16) if found else None

    def struct(self, name: str) -> Struct | None:
        """Return the layout of ``struct name`` as the debug information describes it."""
        anchor = self.symbol("main_arena")
        if anchor is None or anchor.symtab is None:
            return None  # a type of this name would be another file's
        # Where several libraries have a malloc.c, as with libc_malloc_debug.so, a type's name may lead to any of them.
        typed = None if name not in _TYPED else self.symbol(_TYPED[name])
        if typed is not None and typed.type is not None:
            own = typed.type.strip_typedefs()
            own = own.target().strip_typedefs() if own.code == gdb.TYPE_CODE_PTR else own
            if own.fields():
                return _struct(name, own)
        block = anchor.symtab.static_block()
        for spelling in (f"struct {name}", name):
            try:
                with as_c():
                    found = gdb.lookup_type(spelling, block)
            except gdb.error:
                continue
            return _struct(name, found.strip_typedefs())
        return None

    def thread_local(self, name: str) -> int | None:
        """Return the address of the thread-local variable ``name`` in the selected thread."""
        symbol = self.symbol(name)
        if symbol is None:
            return None
        if program_file() is None:  # GDB 18 ends itself where libthread_db is asked without a program
            return self._static_tls.address(name)
        try:
            value = symbol.value()
        except (gdb.error, RuntimeError):  # GDB needs libthread_db for it
            return self._static_tls.address(name)
        return None if value.address is None else int(value.address)


def _struct(name: str, described: gdb.Type) -> Struct:
    fields: dict[str, Field] = {}
    for field in described.fields():
        if field.name is None or field.type is None or field.bitpos is None:
            continue
        kind = field.type.strip_typedefs()
        count = 1
        if kind.code == gdb.TYPE_CODE_ARRAY:
            # Not kind.range(): GDB 10 ends itself where an array has no length, as at the end of struct pthread.
            count = kind.sizeof // max(kind.target().strip_typedefs().sizeof, 1)
        fields[field.name] = Field(field.bitpos // 8, kind.sizeof, count)
    return Struct(name, described.sizeof, fields)


class Target:
    """What stays true of a process while the same objects are loaded: the facts that every command starts from."""

    def __init__(self, objfile: gdb.Objfile | MappedFile, start: int | None = None) -> None:
        from gdbheap.debugger.finding import identify

        self.memory: Memory = GdbMemory()
        self.libc = objfile.filename or ""
        self._debug_symbols = GdbSymbols(objfile, start)
        self.identified = identify(
            objfile,
            self._debug_symbols,
            self.memory,
            _core_alone,
            objfile.filename == program_file(),
            architecture_name(),
            _page_size(),
        )
        self.symbols = self.identified.symbols
        self.layout = self.identified.layout
        given, given_mp = settings.main_arena(), settings.mp()
        self.main_arena = self._required("main_arena") if given is None else given
        self.mp = self._required("mp_") if given_mp is None else given_mp
        if is_core():
            from gdbheap.debugger.maps import core_memory  # which asks this module what is a core

            self.memory = core_memory(self.memory, self.main_arena, self.layout.state.size)
        self.curbrk = self.symbols.address("__curbrk")
        self.release = Release(self.identified.release)
        self.abi = _abi(self.layout)
        if given is not None or is_core():
            self._require_arena(self.main_arena, given is not None)
        self._variables: dict[int | None, ReadPlan] = {}  # by arena
        self._single = self._single_thread_flag()
        self._safe_linking: bool | None = None
        # By name and GDB's global number of the thread, which is not used again.
        self._thread_variables: dict[tuple[str, int], int] = {}

    def symbol(self, name: str) -> gdb.Symbol | None:
        """Return libc's debug symbol ``name``, None where it has none, or they are of another build."""
        return self._debug_symbols.symbol(name) if self.identified.located is None else None

    @property
    def is_outdated(self) -> bool:
        """Whether more is known of the layout by now than when this was made."""
        located = self.identified.located
        return located is not None and located.is_outdated

    @property
    def malloc_code(self) -> MallocCode | None:
        """Where the functions of malloc's are that have no names, None where debug symbols name them."""
        located = self.identified.located
        return None if located is None else located.malloc_code

    @property
    def malloc_entries(self) -> Mapping[int, str]:
        """The names of malloc's public functions by where they begin; empty where debug symbols name them all."""
        located = self.identified.located
        return {} if located is None else located.malloc_entries

    @cached_property
    def process_facts(self) -> ProcessFacts:
        """What readings of the allocator have in common; asked for once malloc is in use, when it is settled."""
        always_fail = self.flag("__always_fail_morecore")
        return ProcessFacts(self.abi, self.layout, self.release, self.mp, self.main_arena, always_fail)

    @cached_property
    def may_shrink_heap(self) -> bool | None:
        """What check_may_shrink_heap answers in this process, None where that cannot be told."""
        return shrinks_heaps_with_mmap()

    @cached_property
    def scans_bins(self) -> bool | None:
        """Whether memalign itself looks through bins, as in glibc 2.38.0; None where that cannot be told."""
        from gdbheap.debugger.located import has_message

        image = self.identified.image
        # The constants that GDB shows beside a core file are those of the file that it has.
        memory = _core_alone() if self.identified.warning else self.memory
        return None if image is None else has_message(memory, image, _SCAN_MESSAGE)

    def _required(self, name: str) -> int:
        address = self.symbols.address(name)
        if address is None:
            setting = name.strip("_").replace("_", "-")
            raise TargetError(
                f"Where {name} is in {self.libc} cannot be found, though its type is known: "
                f"give its address with 'set heap {setting} ADDRESS'."
            )
        return address

    def _require_arena(self, address: int, given: bool) -> None:
        """Raise TargetError where what was given as the address of main_arena, or is it in a core, can be none."""
        where = f"the address given, {address:#x}" if given else f"{address:#x}, as the symbols of {self.libc} have it"
        try:
            arena = read_arena(self.memory, self.abi, self.layout, address, 0)
        except MemoryFault as fault:
            raise TargetError(f"There is no main_arena at {where}: GDB {fault}.") from None
        # malloc_init_state makes the bins lead to themselves, and never are all of them in use.
        headers = [arena.bin_header(self.abi, index + 1) for index in range(len(arena.bins) // 2)]
        if any(arena.bins) and not any(map(eq, arena.bins[::2], headers)):
            hint = "'set heap main-arena auto' looks it up again." if given else "The libc is of another build."
            raise TargetError(f"There is no main_arena at {where}: none of its bins would be empty. {hint}")

    def _single_thread_flag(self) -> tuple[int, int, bool] | None:
        """Return where SINGLE_THREAD_P looks: address, size, and whether it is set while there is one thread only.

        None where malloc does not ask (up to glibc 2.26) or the flag is not found.
        """
        if not self.layout.asks_single_thread:
            return None
        several = self.symbols.address("__libc_multiple_threads")  # up to 2.35
        if several is not None:
            return several, 4, False
        single = self.symbols.address("__libc_single_threaded_internal")
        if single is None and self._knows_single_threaded_by_its_other_name:
            single = self.symbols.address("__libc_single_threaded")
        return None if single is None else (single, 1, True)

    @property
    def _knows_single_threaded_by_its_other_name(self) -> bool:
        """Whether libc's own variable has a public name too: from 2.36 on, where it is not in each thread's block."""
        version = self.release.version
        return self.abi.word_size == 8 and version is not None and version >= (2, 36)

    def variables_of(self, arena: int | None) -> ReadPlan:
        """Return how to read mp_, ``__curbrk``, the malloc_state at ``arena`` and what decides on the arena.

        The last are SINGLE_THREAD_P's flag, narenas, narenas_limit and free_list. What there is none of is empty.
        """
        plan = self._variables.get(arena)
        if plan is None:
            none, word = (self.mp, 0), self.abi.word_size
            addresses = [self.curbrk, *map(self.symbols.address, ("narenas", "arena_get2::narenas_limit", "free_list"))]
            curbrk, *counts = [none if address is None else (address, word) for address in addresses]
            state = (arena, self.layout.state.size) if arena else none
            single = none if self._single is None else self._single[:2]
            plan = ReadPlan([(self.mp, self.layout.par.size), curbrk, state, single, *counts])
            self._variables[arena] = plan
        return plan

    def is_single_thread(self, flag: bytes) -> bool | None:
        """Return what SINGLE_THREAD_P answers when its flag has these bytes, None where that cannot be told.

        Where the flag is not known (in each thread's control block on i386, hidden elsewhere up to 2.35), several
        threads tell it, but one alone does not: there may have been others.
        """
        if self._single is not None and flag:
            return any(flag) == self._single[2]
        several = self.layout.asks_single_thread and len(gdb.selected_inferior().threads()) > 1
        return False if several else None

    def word(self, name: str) -> int | None:
        """Return the word that glibc's variable ``name`` holds, None where it is not known or not readable."""
        address = self.symbols.address(name)
        if address is None:
            return None
        try:
            return self.abi.read_word(self.memory, address)
        except MemoryFault:
            return None

    def flag(self, name: str) -> bool | None:
        """Return the C bool that glibc's variable ``name`` holds, None where it is not known or not readable."""
        address = self.symbols.address(name)
        if address is None:
            return None
        try:
            return self.memory.read(address, 1) != b"\0"
        except MemoryFault:
            return None

    @property
    def safe_linking(self) -> bool:
        """Whether the links of tcache and fastbins are mangled; taken for true where nothing tells."""
        if self._safe_linking is None:
            found = detect_safe_linking(self.symbols, self.layout, self.release.version)
            self._safe_linking = self._observed_safe_linking() if found is None else found
        return self._safe_linking is not False

    def _observed_safe_linking(self) -> bool | None:
        """Return whether the links that there are now are mangled, None where there are none."""
        try:
            arena = read_arena(self.memory, self.abi, self.layout, self.main_arena, 0)
            fronts = [chunk + self.abi.header for chunk in arena.fastbins if chunk]
            tcache = self.symbols.thread_local("tcache")
            if tcache is not None and self.layout.tcache is not None:
                address = self.abi.read_word(self.memory, tcache)
                data = self.memory.read(address, self.layout.tcache.size) if address else b""
                entries = self.layout.tcache.decode(data, self.abi.order)["entries"] if data else ()
                fronts += [pointer for pointer in entries if pointer]
        except MemoryFault:
            return None
        return observe_safe_linking(self.memory, self.abi, fronts)

    def thread_word(self, name: str, thread: gdb.InferiorThread) -> int | None:
        """Return the word in the thread-local variable ``name`` of the selected ``thread``, None where unknown."""
        key = (name, thread.global_num)
        variable = self._thread_variables.get(key)
        if variable is None:
            variable = self.symbols.thread_local(name)
            if variable is None:
                return None
            self._thread_variables[key] = variable
        try:
            return self.abi.read_word(self.memory, variable)
        except MemoryFault:
            return None

    def tcache_address(self, thread: gdb.InferiorThread) -> int | None:
        """Return the address of the selected ``thread``'s tcache struct: 0 where it has none, None where unknown."""
        given = settings.tcache(thread)
        return self.thread_word("tcache", thread) if given is None else given


def each_thread() -> Iterator[gdb.InferiorThread]:
    """Select the threads of the inferior one after another, and at the end the one that was selected before."""
    selected = gdb.selected_thread()
    if selected is None:
        return
    try:
        frame: gdb.Frame | None = gdb.selected_frame()
    except gdb.error:
        frame = None
    try:
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda item: item.num):
            thread.switch()
            yield thread
    finally:
        selected.switch()
        if frame is not None and frame.is_valid():
            frame.select()


def stack_pointer() -> int | None:
    """Return the stack pointer of the selected thread, None where it runs."""
    try:
        return int(gdb.newest_frame().read_register("sp"))
    except (gdb.error, ValueError):
        return None


def each_thread_of(inferior: int) -> Iterator[gdb.InferiorThread]:
    """Select the stopped threads of an inferior one after another; the last one stays selected."""
    for other in gdb.inferiors():
        if other.num == inferior and other.pid:
            for thread in other.threads():
                if thread.is_valid() and thread.is_stopped():
                    thread.switch()
                    yield thread


def objfile_name(objfile: gdb.Objfile) -> str:
    """Return the base name of an object file."""
    return os.path.basename(objfile.filename or "")


def program_file() -> str | None:
    """Return the path of the program that GDB has loaded, None where it has none."""
    space = gdb.current_progspace()
    return None if space is None else space.filename


def command_line() -> str:
    """Return the program that GDB has loaded with the arguments that it will be given, as a shell would have them."""
    # gdb.parameter has the arguments of no inferior but the first, and of none in some releases.
    shown = re.fullmatch(r'.*? is "(.*)"\.\n?', gdb.execute("show args", to_string=True), re.DOTALL)
    return f"{program_file() or ''} {shown.group(1) if shown else ''}".strip()


def is_core() -> bool:
    """Return whether the selected inferior is a core file."""
    return connection_kind() == "core"


def is_libc(name: str) -> bool:
    """Return whether a file of this base name is glibc's libc."""
    return _LIBC.search(name) is not None


def is_runtime(path: str) -> bool:
    """Return whether the file is part of the C library's run time: libc or the dynamic loader."""
    name = os.path.basename(path)
    return is_libc(name) or _LOADER.search(name) is not None


def _objfiles() -> list[gdb.Objfile]:
    return [objfile for objfile in gdb.objfiles() if objfile.owner is None and objfile.is_valid()]


def find_target() -> Target:
    """Return the facts about glibc's malloc in the selected inferior.

    Raises TargetError, with the sentence for the user, where there is no process, no glibc or nothing that tells
    where its allocator is.
    """
    require_process()
    objfiles = _objfiles()
    libcs = [objfile for objfile in objfiles if is_libc(objfile_name(objfile))]
    if libcs and is_static():
        # Its own malloc is not that of the libc which dlopen, iconv or a look-up of names has loaded for a library.
        return Target(next(objfile for objfile in objfiles if objfile.filename == program_file()))
    if len(libcs) > 1:
        from gdbheap.debugger.copies import own_objfile, own_start

        own = own_start()
        return Target(libcs[0] if own is None else own_objfile(libcs, own), own)
    if libcs:
        return Target(libcs[0])
    unread = _unread_libc()
    if unread is not None:
        try:
            found = _in_use(unread) if _has_loader(objfiles) else Target(unread)
        except TargetError:
            # Of a core that is cut off there may be no more to find.
            if not is_core() or settings.main_arena() is not None:
                raise
            found = None
        if found is not None:
            return found
    program = program_file()
    for objfile in objfiles:
        if objfile.filename == program and is_core() and not is_mapped(objfile):
            raise TargetError(
                f"{program} is not the program that wrote the core file, in which nothing is where that would be: give "
                "GDB the very program ('file PROGRAM'; 'info proc cmdline' may tell which)."
            )
        if objfile.filename == program and not _has_loader(objfiles):  # perhaps a static program
            try:
                return Target(objfile)
            except TargetError:
                if objfile.lookup_static_symbol("main_arena") is not None or settings.main_arena() is not None:
                    raise
                if has_musl_inside(program or ""):
                    raise TargetError(_USES_MUSL) from None
    raise TargetError(_no_libc([objfile_name(objfile) for objfile in objfiles], unread is not None))


def _unread_libc() -> MappedFile | None:
    """Return the libc that is mapped, when GDB has read no file of it; None where there is none."""
    from gdbheap.debugger.maps import mapped_ranges

    names = [item.name for item in mapped_ranges() if is_libc(base_name(item))]
    return MappedFile(names[0]) if names else None


def _in_use(libc: MappedFile) -> Target | None:
    """Return the facts about a libc that GDB has not read, None where its malloc was not called yet.

    While the loader works GDB has not read it either, but will.
    """
    try:
        found = Target(libc)
        arena = read_arena(found.memory, found.abi, found.layout, found.main_arena, 0)
    except (TargetError, MemoryFault):
        return None
    return found if any(arena.bins) else None


def is_static() -> bool:
    """Return whether the program holds its C library itself: it names no loader, and the kernel has loaded none."""
    program = program_file()
    if program is None or is_runtime(program):
        return False
    if re.search(r" is \.interp$", gdb.execute("info files", to_string=True), re.MULTILINE):
        return False
    try:
        base = re.search(r"AT_BASE\s.*?(\w+)\s*$", gdb.execute("info auxv", to_string=True), re.MULTILINE)
    except gdb.error:
        return False
    return base is not None and int(base.group(1), 0) == 0


def _has_loader(objfiles: list[gdb.Objfile]) -> bool:
    names = [objfile_name(objfile) for objfile in objfiles]
    return any(_LOADER.search(name) or _MUSL.search(name) for name in names)


def require_process() -> None:
    """Raise TargetError unless there is a process or a core file to look at."""
    if gdb.selected_inferior().pid != 0:
        return
    if program_file() is None:
        raise TargetError(
            "There is no program and no process: start GDB with one (gdb --args PROGRAM ARGS), "
            "or use 'attach PID' or 'core-file FILE'."
        )
    raise TargetError("The program is not running, so it has no heap: use 'start' or 'run' first.")


def require_no_process() -> None:
    """Raise TargetError unless there is a program that does not run yet."""
    if gdb.selected_inferior().pid != 0:
        raise TargetError("The program is running already: 'kill' ends it, or use 'heap catch' and 'continue'.")
    if program_file() is None:
        raise TargetError("There is no program to run: start GDB with one (gdb --args PROGRAM ARGS).")


_USES_MUSL = (
    "This program uses musl's C library; gdbheap knows glibc's malloc only. 'heap catch' shows which memory it gets."
)


def _no_libc(names: list[str], mapped: bool) -> str:
    if any(_MUSL.search(name) for name in names):
        return _USES_MUSL
    if any(_LOADER.search(name) for name in names):
        if mapped:
            return (
                "GDB has not read glibc's libc.so.6 yet, though it is mapped. Either the program is still in the "
                "dynamic loader: go on to main first ('break main', 'continue'). Or GDB does not find its file ('set "
                "sysroot FOLDER' tells it where): then the heap can be seen once malloc has been called."
            )
        return (
            "glibc's libc.so.6 is not loaded yet: the program is still in the dynamic loader; "
            "go on to main first ('break main', 'continue')."
        )
    if is_core() and mapped:
        return (
            "GDB has not read the file of glibc's libc.so.6, which the program had mapped, and malloc's variables "
            "cannot be found in what the core file has of it: give GDB the very program that wrote it ('file "
            "PROGRAM'), and where it comes from another machine that machine's libraries ('set sysroot FOLDER')."
        )
    if is_core() and _is_linked_dynamically():
        return (
            "The core file does not tell GDB which libraries were loaded, so glibc's libc.so.6 cannot be found: give "
            "GDB the very program that wrote it ('file PROGRAM'), and where it comes from another machine that "
            "machine's libraries ('set sysroot FOLDER'). Where the loader's data is not in it, there is no more to see."
        )
    return (
        "There is no glibc in this process: no libc.so.6 is loaded and the program itself holds no main_arena "
        "(another C library, none at all, or a static program without debug symbols; 'help set heap main-arena' tells "
        "when addresses given by hand are enough)."
    )


def _is_linked_dynamically() -> bool:
    """Return whether the program asks for a loader; also where GDB knows no program, as most programs do."""
    return program_file() is None or " is .interp" in gdb.execute("info files", to_string=True)


def _core_alone() -> Memory:
    """Return a reader of what the loaded core file itself holds; of the process's memory where there is none."""
    from gdbheap.debugger.maps import OpenCore

    if not is_core():
        return GdbMemory()
    try:
        return OpenCore(Nothing())
    except (OSError, NotACore):
        return Nothing()


def _abi(layout: Layout) -> Abi:
    word = word_size()
    name = architecture_name()
    # i386 aligns to 16 from 2.26 on, the release that brought the tcache; other 32-bit machines to 8.
    wide = word == 8 or (name.startswith("i386") and layout.tcache is not None)
    little = "little" in gdb.execute("show endian", to_string=True)
    return Abi(word, little, 16 if wide else 2 * word, _page_size())


def architecture_name() -> str:
    """Return GDB's name of the selected inferior's architecture, as ``i386:x86-64``."""
    try:
        return gdb.selected_inferior().architecture().name()
    except (AttributeError, gdb.error):
        found = re.search(r'"auto" \(currently "?([^")]+)', gdb.execute("show architecture", to_string=True))
        return found.group(1) if found else str(gdb.parameter("architecture"))


def _page_size() -> int:
    try:
        found = re.search(r"AT_PAGESZ\s.*?(\d+)\s*$", gdb.execute("info auxv", to_string=True), re.MULTILINE)
    except gdb.error:
        found = None
    return int(found.group(1)) if found else 0x1000
