"""An ELF object as it lies in memory: its segments, relocations, dynamic symbols and build-id; no debugger is asked."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gdbheap.memory import Memory, MemoryFault, Snapshot

_PT_LOAD, _PT_DYNAMIC, _PT_NOTE, _PT_TLS = 1, 2, 4, 7
_DT_STRTAB, _DT_SYMTAB, _DT_STRSZ = 5, 6, 10
_DT_RELA, _DT_RELASZ, _DT_REL, _DT_RELSZ, _DT_RELRSZ, _DT_RELR = 7, 8, 17, 18, 35, 36
_NT_GNU_BUILD_ID = 3
_STT_FUNC, _STT_SECTION, _STT_TLS = 2, 3, 6
_EM_386, _EM_X86_64, _EM_AARCH64 = 3, 62, 183

#: By machine: the relocation that adds the load bias, and those that are offsets from the thread pointer.
_RELATIVE: Mapping[int, int] = {_EM_386: 8, _EM_X86_64: 8, _EM_AARCH64: 1027}
_THREAD_OFFSETS: Mapping[int, frozenset[int]] = {
    _EM_386: frozenset({14, 37}),
    _EM_X86_64: frozenset({18}),
    _EM_AARCH64: frozenset({1030, 1031}),
}
#: No library has more program headers, dynamic entries or bytes of relocations: what claims so is no ELF object.
_MOST_HEADERS, _MOST_ENTRIES, _MOST_BYTES = 128, 1024, 1 << 24


class NotElf(Exception):
    """What lies at an address is no ELF object; the message is a full sentence."""


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD: addresses from ``start`` to ``end`` in memory, of which the file has ``held`` bytes at ``offset``."""

    start: int
    end: int
    writable: bool
    executable: bool
    offset: int
    held: int


@dataclass(frozen=True)
class ThreadLocals:
    """A PT_TLS: the initial image, ``held`` bytes at ``start``, of ``size`` bytes of thread-local variables."""

    start: int
    held: int
    size: int
    alignment: int


@dataclass(frozen=True)
class Relocation:
    """A relocation that was applied at ``address``; ``value`` is what it stored, None where only memory tells."""

    address: int
    value: int | None


@dataclass(frozen=True)
class ElfImage:
    """An object that is loaded with ``bias``: what is added to the addresses in its file.

    ``build_id`` is in hexadecimal digits, empty where there is none or it is unreadable. ``dynamic`` is empty too
    where that is unreadable.
    """

    bias: int
    machine: int
    word_size: int
    little_endian: bool
    segments: tuple[Segment, ...]
    dynamic: Mapping[int, int]
    build_id: str
    thread_locals: ThreadLocals | None = None

    def holds(self, address: int) -> bool:
        """Return whether an address is inside one of the segments."""
        return any(segment.start <= address < segment.end for segment in self.segments)

    @property
    def order(self) -> str:
        """The ``struct`` prefix of the byte order."""
        return "<" if self.little_endian else ">"

    @property
    def word_code(self) -> str:
        """The ``struct`` code of an unsigned word."""
        return "Q" if self.word_size == 8 else "I"


def read_elf(memory: Memory, address: int) -> ElfImage:
    """Return the object whose ELF header is at ``address``.

    Raises NotElf where there is none that is sound, and MemoryFault where it is unreadable.
    """
    head = memory.read(address, 64)
    if head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        raise NotElf(f"There is no ELF object at {address:#x}.")
    word, order = (8 if head[4] == 2 else 4), "<" if head[5] == 1 else ">"
    layout = f"{order}HHI{'QQQ' if word == 8 else 'III'}IHHHHHH"
    kind, machine, _, _, phoff, _, _, _, phentsize, phnum, *_ = struct.unpack_from(layout, head, 16)
    if kind not in (2, 3) or not 0 < phnum <= _MOST_HEADERS or phentsize != (56 if word == 8 else 32):
        raise NotElf(f"What is at {address:#x} is no loaded ELF object.")
    table = memory.read(address + phoff, phnum * phentsize)
    headers = [_program_header(table, place * phentsize, word, order) for place in range(phnum)]
    loads = [header for header in headers if header.kind == _PT_LOAD]
    if not loads:
        raise NotElf(f"The ELF object at {address:#x} has no segment that is loaded.")
    first = min(loads, key=lambda header: header.vaddr)
    bias = address - (first.vaddr - first.offset)
    segments = tuple(
        Segment(
            bias + header.vaddr,
            bias + header.vaddr + header.memsz,
            bool(header.flags & 2),
            bool(header.flags & 1),
            header.offset,
            min(header.filesz, header.memsz),
        )
        for header in loads
    )
    image = ElfImage(bias, machine, word, order == "<", segments, {}, "")
    for header in headers:
        start = bias + header.vaddr
        if header.kind == _PT_DYNAMIC:
            image = replace(image, dynamic=_read_dynamic(memory, image, start, header.memsz))
        elif header.kind == _PT_NOTE and not image.build_id:
            image = replace(image, build_id=_find_build_id(memory, order, start, header.memsz))
        elif header.kind == _PT_TLS:
            found = ThreadLocals(start, min(header.filesz, header.memsz), header.memsz, max(header.align, 1))
            image = replace(image, thread_locals=found)
    return image


@dataclass(frozen=True)
class _Header:
    kind: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


def _program_header(table: bytes, place: int, word: int, order: str) -> _Header:
    if word == 8:
        kind, flags, offset, vaddr, _, filesz, memsz, align = struct.unpack_from(f"{order}IIQQQQQQ", table, place)
    else:
        kind, offset, vaddr, _, filesz, memsz, flags, align = struct.unpack_from(f"{order}IIIIIIII", table, place)
    return _Header(kind, flags, offset, vaddr, filesz, memsz, align)


def _read_dynamic(memory: Memory, image: ElfImage, address: int, size: int) -> dict[int, int]:
    step = 2 * image.word_size
    try:
        data = memory.read(address, min(size, _MOST_ENTRIES * step) // step * step)
    except MemoryFault:
        return {}
    found: dict[int, int] = {}
    for tag, value in struct.iter_unpack(f"{image.order}2{image.word_code}", data):
        if not tag:
            break
        found.setdefault(tag, value)
    return found


def _find_build_id(memory: Memory, order: str, address: int, size: int) -> str:
    try:
        data = memory.read(address, min(size, 0x1000))
    except MemoryFault:
        return ""
    place = 0
    while place + 12 <= len(data):
        name_size, size, kind = struct.unpack_from(f"{order}III", data, place)
        name = place + 12
        content = name + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and data[name : name + name_size] == b"GNU\0":
            return data[content : content + size].hex()
        place = content + (size + 3) // 4 * 4
    return ""


def relative_relocations(memory: Memory, image: ElfImage) -> Iterator[Relocation]:
    """Yield the relocations that stored an address of the object itself.

    Raises MemoryFault where a table of them is unreadable.
    """
    relative = _RELATIVE.get(image.machine)
    for address, kind, addend in _table(memory, image):
        if kind == relative:
            yield Relocation(address, None if addend is None else image.bias + addend)
    for address in _relr(memory, image):
        yield Relocation(address, None)


def thread_offset_slots(memory: Memory, image: ElfImage) -> list[int]:
    """Return the addresses of the words that hold a thread-local variable's offset from the thread pointer.

    Raises MemoryFault where the table of relocations is unreadable.
    """
    kinds = _THREAD_OFFSETS.get(image.machine, frozenset())
    return [address for address, kind, _ in _table(memory, image) if kind in kinds]


def _address_of(image: ElfImage, value: int) -> int:
    # The loader adds the bias to these entries on most machines, and leaves them where it may not write.
    return value if value >= image.bias else value + image.bias


def _table(memory: Memory, image: ElfImage) -> Iterator[tuple[int, int, int | None]]:
    """Yield address, type and addend (None where it is stored in place) of each relocation of .rela.dyn or .rel.dyn."""
    shift = 32 if image.word_size == 8 else 8
    for tag, size_tag, has_addend in ((_DT_RELA, _DT_RELASZ, True), (_DT_REL, _DT_RELSZ, False)):
        if tag not in image.dynamic:
            continue
        step = image.word_size * (3 if has_addend else 2)
        size = min(image.dynamic.get(size_tag, 0), _MOST_BYTES) // step * step
        data = memory.read(_address_of(image, image.dynamic[tag]), size)
        for entry in struct.iter_unpack(f"{image.order}{2 + has_addend}{image.word_code}", data):
            kind = entry[1] & ((1 << shift) - 1)
            yield image.bias + entry[0], kind, entry[2] if has_addend else None


def _relr(memory: Memory, image: ElfImage) -> Iterator[int]:
    """Yield the addresses of the packed relative relocations (DT_RELR)."""
    if _DT_RELR not in image.dynamic:
        return
    word = image.word_size
    size = min(image.dynamic.get(_DT_RELRSZ, 0), _MOST_BYTES) // word * word
    data = memory.read(_address_of(image, image.dynamic[_DT_RELR]), size)
    where = 0
    for (entry,) in struct.iter_unpack(f"{image.order}{image.word_code}", data):
        if not entry & 1:
            yield image.bias + entry
            where = entry + word
            continue
        for bit in range(8 * word - 1):
            if entry >> (bit + 1) & 1:
                yield image.bias + where + bit * word
        where += (8 * word - 1) * word


def file_image(content: bytes, image: ElfImage) -> Memory:
    """Return the bytes that the file of ``image`` has for its segments, at the addresses that they are loaded at.

    ``content`` is the whole file. What the program has changed since is as it was; nothing is relocated.
    """
    return Snapshot(
        (segment.start, content[segment.offset : segment.offset + segment.held]) for segment in image.segments
    )


def dynamic_symbols(memory: Memory, image: ElfImage) -> dict[str, int]:
    """Return the addresses of the symbols that the object defines for others, by name.

    Of a name with several versions the last one counts. Raises MemoryFault where a table is unreadable.
    """
    # Thread-local ones have no address, sections no name.
    kinds = (_STT_SECTION, _STT_TLS)
    return {name: address for name, address, _, kind in _defined(memory, image) if kind not in kinds}


def dynamic_functions(memory: Memory, image: ElfImage) -> list[tuple[int, int, str]]:
    """Return start, end and name of each function that the object defines for others, by their starts.

    Of several names for the same code the plainest one counts: malloc, not __libc_malloc. Raises MemoryFault where a
    table is unreadable.
    """
    found: dict[int, tuple[int, str]] = {}
    for name, address, size, kind in _defined(memory, image):
        if kind == _STT_FUNC and size:
            known = found.get(address)
            if known is None or (len(name), name) < (len(known[1]), known[1]):
                found[address] = size, name
    return [(start, start + size, name) for start, (size, name) in sorted(found.items())]


def _defined(memory: Memory, image: ElfImage) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, address, size and type of each symbol that the object defines for others.

    The table has no length of its own; the linker has always put its strings behind it.
    """
    dynamic = image.dynamic
    if not {_DT_SYMTAB, _DT_STRTAB, _DT_STRSZ} <= dynamic.keys():
        return
    table, strings = (_address_of(image, dynamic[tag]) for tag in (_DT_SYMTAB, _DT_STRTAB))
    step = 24 if image.word_size == 8 else 16
    size = strings - table
    if not 0 < size <= _MOST_BYTES or dynamic[_DT_STRSZ] > _MOST_BYTES:
        return
    names = memory.read(strings, dynamic[_DT_STRSZ])
    layout = f"{image.order}{'IBBHQQ' if image.word_size == 8 else 'IIIBBH'}"
    for entry in struct.iter_unpack(layout, memory.read(table, size // step * step)):
        if image.word_size == 8:
            name, info, _, section, value, length = entry
        else:
            name, value, length, info, _, section = entry
        # Those without a section are other objects'.
        if section and name < len(names):
            text = names[name : names.find(b"\0", name)].decode("utf-8", "replace")
            yield text, image.bias + value, length, info & 15
