"""Where glibc's malloc is in the selected process: as symbols tell it, or found in its memory where none do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import gdb

from gdbheap.debugger import settings
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.images import MappedFile, initial_contents, loaded_image
from gdbheap.debugger.located import DebugSymbols, DynamicSymbols, LocatedSymbols, ThreadLocals, banner_version
from gdbheap.debugger.processes import local_pid
from gdbheap.elf import ElfImage
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.discover import Discovery, Found, Given, NotFound, Source, discover
from gdbheap.ptmalloc.generations import GENERATIONS
from gdbheap.ptmalloc.layout import Layout, LayoutUnknown
from gdbheap.symbols import Symbols


@dataclass(frozen=True)
class Identified:
    """A glibc whose malloc was found.

    ``symbols`` answer for it, with the structs of ``layout``; their ``local`` is what looks for thread-local variables.
    ``release`` is its version, None where that is unknown. ``origin`` says in a phrase where symbols and layout are
    from. ``warning`` is a sentence, empty where there is nothing to say. ``located`` is what was found in memory, None
    where debug symbols told it. ``image`` is the object as it lies in memory, None where that could not be read.
    ``unwinds`` is whether GDB has its very file, without which it cannot follow a stack through it.
    """

    symbols: DebugSymbols | LocatedSymbols
    layout: Layout
    release: tuple[int, int] | None
    origin: str
    warning: str = ""
    located: LocatedSymbols | None = None
    image: ElfImage | None = None
    unwinds: bool = True

    @property
    def found(self) -> Discovery | None:
        """Where things were found in memory, None where debug symbols told it."""
        return None if self.located is None else self.located.found


def identify(
    objfile: gdb.Objfile | MappedFile,
    known: Symbols,
    memory: Memory,
    core_alone: Callable[[], Memory],
    is_program: bool,
    machine: str,
    page_size: int,
) -> Identified:
    """Return the malloc of the glibc in ``objfile``, whose symbols, as far as GDB has any, are ``known``.

    ``core_alone`` makes a reader of what a core file itself holds. ``machine`` is GDB's name of the architecture.
    Raises TargetError.
    """
    name = objfile.filename or "the program"
    image = loaded_image(memory, objfile, is_program)
    other, unwinds = "", True
    if isinstance(objfile, MappedFile):
        other, unwinds = _unread(name), False
    elif image is not None and _differ(image.build_id, objfile.build_id):
        other = (
            f"What is loaded as {name} is another build (build-id {image.build_id}) than the file of that name "
            f"(build-id {objfile.build_id}): that file's symbols are not used.{_other_root()}"
        )
        unwinds = False
    elif image is not None and image.build_id and _debug_file_of_another_build(objfile, image.build_id):
        other = (
            f"The debug symbols that GDB has for {name} are of another build than what is loaded (build-id "
            f"{image.build_id}): they are not used."
        )
    if not other:
        try:
            layout = Layout.from_symbols(known)
        except LayoutUnknown:
            pass
        else:
            built = f", build-id {objfile.build_id}" if objfile.build_id else ""
            local, release = None, release_of(known, memory, name)
            if image is not None:
                source = Source(memory, image, name, page_size)
                local = _thread_locals(known, layout, source, is_program, machine)
                release = release or banner_version(memory, source)
            origin = f"the debug symbols of {name}{built}"
            return Identified(DebugSymbols(known, local), layout, release, origin, image=image)
    if image is None:
        raise TargetError(f"{other} {_ask(name, NotFound('main_arena', 'its ELF header cannot be read'))}".strip())
    if other:
        memory = core_alone()
    source = Source(memory, image, name, page_size, None if other else initial_contents(objfile, image))
    beyond: Symbols = DynamicSymbols(source) if other else known
    release = release_of(beyond, memory, "" if other else name) or banner_version(memory, source)
    try:
        found = discover(source, release, _given(beyond, is_program))
    except NotFound as missing:
        raise TargetError(f"{other} {_ask(name, missing)}".strip()) from None
    located = LocatedSymbols(beyond, source, found, is_program, machine)
    located.settle()
    layout = located.found.layout
    brought = "{}.{}".format(*located.found.fitting[0].since)
    why = "no debug symbols are used" if other else f"{name} has no debug symbols"
    origin = f"the layout that glibc has had since {brought}: {why}, and it fits what is in memory"
    return Identified(located, layout, release, origin, other, located, image, unwinds)


def _unread(name: str) -> str:
    """Return what to say where GDB has not read the file of libc, which is mapped as ``name``."""
    if gdb.selected_inferior().progspace.filename is None:
        pid = local_pid()
        program = "'file PROGRAM'" if pid is None else f"'file /proc/{pid}/exe'"
        do = f"GDB knows no program, from which it would learn where libraries are: {program} tells it"
    else:
        do = "'set sysroot FOLDER' tells it where that very file is, 'sharedlibrary' has it read what it knows of"
    return f"GDB has not read the file of {name}, and goes by what is in memory alone ({do})."


def _other_root() -> str:
    """Return where the very files are that a process uses whose root is not GDB's, empty where that is not the case."""
    root = f"/proc/{local_pid()}/root"
    try:
        same = os.path.samefile(root, "/")
    except OSError:  # it is no process of this machine, or not ours to look at
        return ""
    return "" if same else f" The process has another root than GDB: 'set sysroot {root}'."


def _thread_locals(
    known: Symbols, layout: Layout, source: Source, is_program: bool, machine: str
) -> ThreadLocals | None:
    """Return what looks for thread-local variables where GDB cannot read them, None where main_arena is not known."""
    main_arena = known.address("main_arena")
    alike = [one for one in GENERATIONS.get(source.image.word_size, ()) if one.layout.state.size == layout.state.size]
    if main_arena is None or not alike:
        return None
    generation = replace(alike[-1], layout=layout)
    dummy = known.address("__tcache_dummy")
    return ThreadLocals(source, source.abi(generation), main_arena, (generation,), dummy, is_program, machine)


def _differ(one: str, other: str | None) -> bool:
    return bool(one) and bool(other) and one != other


def _debug_file_of_another_build(objfile: gdb.Objfile | MappedFile, build_id: str) -> bool:
    """Return whether a separate file of debug symbols that GDB uses for ``objfile`` has another build-id."""
    return any(
        other.owner is not None and other.owner.filename == objfile.filename and _differ(build_id, other.build_id)
        for other in gdb.objfiles()
        if other.is_valid()
    )


def _given(symbols: Symbols, is_program: bool) -> Given:
    """Return what need not be looked for: what the user gave, or what a static program's symbol table has."""

    def one(name: str, given: int | None, setting: str) -> Found | None:
        if given is not None:
            return Found(given, f"given by 'set heap {setting}'")
        address = symbols.address(name) if is_program else None
        return None if address is None else Found(address, f"the ELF symbol {name}")

    return Given(
        one("main_arena", settings.main_arena(), "main-arena"),
        one("mp_", settings.mp(), "mp"),
    )


def release_of(symbols: Symbols, memory: Memory, path: str) -> tuple[int, int] | None:
    """Return glibc's version, None where neither its symbols nor its file's name tell it."""
    # __nptl_version is in libc itself from 2.34 on; before that the file's name has the version.
    address = symbols.address("__nptl_version")
    text = ""
    if address is not None:
        try:
            text = memory.read(address, 8).split(b"\0")[0].decode("ascii", "replace")
        except MemoryFault:
            text = ""
    found = re.match(r"(\d+)\.(\d+)", text) or re.search(r"libc-(\d+)\.(\d+)\.so$", os.path.realpath(path))
    return (int(found.group(1)), int(found.group(2))) if found else None


def _ask(libc: str, missing: NotFound) -> str:
    """Return the sentence that asks for what was not found."""
    setting = missing.what.strip("_").replace("_", "-")
    return (
        f"Where {missing.what} is in {libc} cannot be found without debug symbols ({missing}): install them (Debian, "
        "Ubuntu: libc6-dbg; Fedora: dnf debuginfo-install glibc; Arch, or any of them: 'set debuginfod enabled on' "
        f"before the program is started), or give its address with 'set heap {setting} ADDRESS'."
    )
