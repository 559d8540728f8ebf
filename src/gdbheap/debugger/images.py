"""The ELF objects of the selected process as they lie in its memory, and the files that GDB has for them."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import gdb

from gdbheap.debugger.language import c_value, word_size
from gdbheap.debugger.thread_list import ThreadList
from gdbheap.elf import ElfImage, NotElf, file_image, read_elf
from gdbheap.mappings import MappedRange
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.scan import Pieces

_PAGE = 0x1000
_DELETED = " (deleted)"
#: Larger files are no C library.
_LARGEST_FILE = 256 << 20
#: The loader maps a thread control block with the thread-local variables of all libraries: these are larger.
_LARGEST_BLOCK = 1 << 20
#: Where a 32-bit x86 control block has the kernel's number of its thread: behind 24 words, and a list's two.
_BEFORE_TID = 26 * 4
#: Of its table of error messages, its locales, and its symbols.
_MUSLS_TEXTS = (b"\0Illegal byte sequence\0Domain error\0", b"\0MUSL_LOCPATH\0", b"\0__libc_start_init\0")
#: The parts of a core file, load1 and so on, are in the same list; no part of the program begins with those names.
_SECTION = re.compile(r"^\t(0x[0-9a-f]+) - 0x[0-9a-f]+(?: @ 0x[0-9a-f]+)? is (\.\S+)(?: in (.*))?$")


@dataclass(frozen=True)
class MappedFile:
    """A library that is mapped, but whose file GDB has not read: what an Objfile tells of it, which is little."""

    filename: str
    build_id: None = None

    def lookup_static_symbol(self, name: str) -> None:
        """Return None: it has no symbols."""

    def lookup_global_symbol(self, name: str) -> None:
        """Return None: it has no symbols."""


def loaded_image(memory: Memory, objfile: gdb.Objfile | MappedFile, is_program: bool) -> ElfImage | None:
    """Return the object that is loaded for ``objfile``, None where its ELF header cannot be read.

    ``is_program`` says that it is the program itself.
    """
    starts = _starts(objfile, is_program)
    mapped = [item.start for item in _mappings_of(objfile)[:1]]
    for address in starts + mapped:
        try:
            return read_elf(memory, address)
        except (NotElf, MemoryFault):
            continue
    if isinstance(objfile, MappedFile):
        return None
    # A core file may go without what is in a file as well; GDB shows it as zeros. What is found with the help of that
    # file is checked against what the core has. Where GDB puts a file of another build by its dynamic section, that
    # is not where the object is mapped.
    for address in (set(starts) & set(mapped)) if starts and mapped else starts + mapped:
        try:
            return read_elf(_HeaderOfFile(objfile.filename or "", address, memory), address)
        except (NotElf, MemoryFault, OSError):
            continue
    return None


class _HeaderOfFile:
    """A memory in which the first page of an object is that of its file."""

    def __init__(self, path: str, address: int, beyond: Memory) -> None:
        with open(path, "rb") as file:
            self._content = file.read(_PAGE)
        self._address = address
        self._beyond = beyond

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of it is unreadable."""
        start = address - self._address
        if start >= 0 and start + size <= len(self._content):
            return self._content[start : start + size]
        return self._beyond.read(address, size)


def _starts(objfile: gdb.Objfile | MappedFile, is_program: bool) -> list[int]:
    """Return where its ELF header is by its sections: the page of the first of them; nowhere where GDB shows none.

    Of a libc that is loaded several times (dlmopen) the program's own comes first.
    """
    starts = [min(sections.values()) // _PAGE * _PAGE for sections in _sections(objfile, is_program) if sections]
    if len(starts) > 1 and not is_program:
        from gdbheap.debugger.copies import own_start

        own = own_start()
        starts.sort(key=lambda start: start != own)
    return starts


def _sections(objfile: gdb.Objfile | MappedFile, is_program: bool) -> list[dict[str, int]]:
    """Return where the sections of each copy of an object are, by their names."""
    copies: list[dict[str, int]] = [{}]
    for line in gdb.execute("info files", to_string=True).splitlines():
        found = _SECTION.match(line)
        if found is not None and (found.group(3) or None) == (None if is_program else objfile.filename):
            if found.group(2) in copies[-1]:
                copies.append({})
            copies[-1][found.group(2)] = int(found.group(1), 16)
    return copies


def is_mapped(objfile: gdb.Objfile) -> bool:
    """Return whether something is mapped where the program would be, as far as is known what is mapped."""
    from gdbheap.debugger.maps import mapped_ranges

    sections = [start for copy in _sections(objfile, True) for start in copy.values()]
    mapped = mapped_ranges()
    # A core file may hold its data alone, and tell of nothing else.
    return not sections or not mapped or any(item.start <= start < item.end for start in sections for item in mapped)


def _mappings_of(objfile: gdb.Objfile | MappedFile) -> list[MappedRange]:
    from gdbheap.debugger.maps import mapped_ranges
    from gdbheap.debugger.target import is_libc

    name = os.path.basename(objfile.filename or "")
    names = {name, os.path.basename(os.path.realpath(objfile.filename or ""))}
    mapped = [(base_name(item), item) for item in mapped_ranges()]
    # Up to glibc 2.33 the file that libc.so.6 leads to has the release in its name, which another build may not have.
    return [item for base, item in mapped if base in names or (is_libc(name) and is_libc(base))]


def is_another_build(memory: Memory, objfile: gdb.Objfile) -> bool:
    """Return whether what is loaded for a library is of another build than its file, as far as that can be told."""
    image = loaded_image(memory, objfile, False)
    return image is not None and bool(image.build_id) and image.build_id != (objfile.build_id or image.build_id)


def base_name(mapping: MappedRange) -> str:
    """Return the base name of the file that is mapped; the kernel tells behind it where the file is there no more."""
    name = os.path.basename(mapping.name)
    return name[: -len(_DELETED)] if name.endswith(_DELETED) else name


def initial_contents(objfile: gdb.Objfile | MappedFile, image: ElfImage) -> Memory | None:
    """Return what the file that GDB has for ``objfile`` holds, at the addresses of ``image``.

    None where it is not on this machine, or is of another build.
    """
    path = objfile.filename or ""
    try:
        if os.path.getsize(path) > _LARGEST_FILE:
            return None
        with open(path, "rb") as file:
            content = file.read()
        found = file_image(content, image)
        same = read_elf(found, image.segments[0].start)
    except (OSError, NotElf, MemoryFault, ValueError):
        return None
    return found if same.build_id == image.build_id else None


@lru_cache(maxsize=8)
def has_musl_inside(path: str) -> bool:
    """Return whether the file of a static program has musl's C library in it: by texts that only that one has."""
    try:
        if os.path.getsize(path) > _LARGEST_FILE:
            return False
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return False
    return any(text in content for text in _MUSLS_TEXTS)


def thread_pointer(machine: str) -> int | None:
    """Return the selected thread's thread pointer, None where it is not known.

    ``machine`` is GDB's name of the architecture.
    """
    register = "tpidr" if machine.startswith("aarch64") else "fs_base" if machine.startswith("i386:x86-64") else ""
    if register:
        try:
            value = int(c_value(f"(unsigned long) ${register}"))
        except (gdb.error, ValueError):  # void where there is no such register
            value = 0
        return value or _told_by_glibc(machine)
    if not machine.startswith("i386"):
        return None
    return _pthread_handle() or _told_by_glibc(machine) or _control_block()


def thread_pointers(machine: str, most: int) -> list[int]:
    """Return the thread pointers that are known of the first ``most`` threads."""
    from gdbheap.debugger.target import each_thread

    found = [thread_pointer(machine) for _ in islice(each_thread(), most)]
    return [pointer for pointer in found if pointer is not None]


def _told_by_glibc(machine: str) -> int | None:
    """Return the selected thread's thread pointer as glibc's own list of threads tells it."""
    from gdbheap.debugger.target import GdbMemory

    thread = gdb.selected_thread()
    if thread is None:
        return None
    little = "little" in gdb.execute("show endian", to_string=True)
    threads = ThreadList(GdbMemory(), word_size(), little)
    return threads.thread_pointer(thread.ptid[1], machine.startswith("i386"))


def _pthread_handle() -> int | None:
    """Return the pthread_t of the selected thread, as libthread_db tells it; on x86 that is the thread pointer."""
    thread = gdb.selected_thread()
    try:
        data = thread.handle() if thread is not None and hasattr(thread, "handle") else b""
    except (gdb.error, RuntimeError):
        return None
    order = "little" if "little" in gdb.execute("show endian", to_string=True) else "big"
    return int.from_bytes(data, "little" if order == "little" else "big") or None


def _control_block() -> int | None:
    """Return the selected thread's control block in a 32-bit x86 process, None where it is not known.

    It has its own address, twice, and behind that the kernel's number of the thread (struct pthread of nptl/descr.h).
    Where that is another number, as in a container, the only control block of a process is that of its only thread.
    """
    thread = gdb.selected_thread()
    if thread is None:
        return None
    tid = array("I", [thread.ptid[1]]).tobytes()
    found = {address for start, data in _places_of_blocks() for address in _blocks_of(tid, start, data)}
    if len(found) != 1 and len(gdb.selected_inferior().threads()) == 1:
        found = {address for start, data in _places_of_blocks() for address in _all_blocks(start, array("I", data))}
    return found.pop() if len(found) == 1 else None


def _places_of_blocks() -> Iterator[tuple[int, bytes]]:
    """Yield where memory begins that may have thread control blocks of a 32-bit process, and its bytes."""
    from gdbheap.debugger.maps import mapped_ranges
    from gdbheap.debugger.target import GdbMemory, stack_pointer

    stack = stack_pointer()
    for item in mapped_ranges():
        if item.name not in ("", "[heap]") or "w" not in item.permissions:
            continue
        # Of a thread that glibc made it is at the end of its stack; a static program has the first one's in its heap.
        parts = [(item.start, min(item.end, item.start + _LARGEST_BLOCK))]
        if item.size > _LARGEST_BLOCK and stack is not None and item.start <= stack < item.end:
            # From glibc 2.42 on stacks whose guards are inside them may be one mapping.
            page = stack // _PAGE * _PAGE
            parts = [(item.end - _LARGEST_BLOCK, item.end), (page, min(item.end, page + _LARGEST_BLOCK))]
        for start, end in parts:
            pieces = Pieces(GdbMemory(), Abi(4))  # those guards cannot be read
            piece = pieces.next(start, end)
            while piece is not None:
                yield piece
                piece = pieces.next(piece[0] + len(piece[1]), end)


def _blocks_of(tid: bytes, start: int, data: bytes) -> Iterator[int]:
    """Yield the addresses of the control blocks in ``data``, from ``start`` on, that have this thread number."""
    place = data.find(tid, _BEFORE_TID)
    while place >= 0:
        block = place - _BEFORE_TID
        itself = array("I", [start + block]).tobytes()
        if block % 4 == 0 and data[block : block + 4] == data[block + 8 : block + 12] == itself:
            yield start + block
        place = data.find(tid, place + 1)


def _all_blocks(start: int, words: Sequence[int]) -> Iterator[int]:
    """Yield the addresses of what looks like a control block, whoever's, in the ``words`` from ``start`` on."""
    for place in range(len(words) - 2):
        address = start + 4 * place
        if words[place] == address and words[place + 2] == address:
            yield address
