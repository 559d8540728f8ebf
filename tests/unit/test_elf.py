"""Promise: what is read of a loaded ELF object is what readelf says of its file."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from gdbheap.elf import (
    ElfImage,
    NotElf,
    dynamic_functions,
    dynamic_symbols,
    file_image,
    read_elf,
    relative_relocations,
    thread_offset_slots,
)
from gdbheap.memory import Memory, Snapshot
from tests.support.environment import needs

BIAS = 0x7F12_3456_7000


def objects() -> Iterator[Path]:
    """Yield the C libraries of this machine: other machines' and word sizes', where they are installed."""
    for pattern in ("/lib*/*/libc.so.6", "/lib*/libc.so.6", "/usr/*-linux-gnu*/lib*/libc.so.6"):
        yield from sorted(Path("/").glob(pattern[1:]))


OBJECTS = {str(path.resolve()): path for path in objects()}
EACH = pytest.mark.parametrize("path", OBJECTS.values(), ids=OBJECTS)


class At:
    """Memory with the start of a file at an address."""

    def __init__(self, content: bytes, address: int) -> None:
        self._memory = Snapshot([(address, content)])

    def read(self, address: int, size: int) -> bytes:
        return self._memory.read(address, size)


@lru_cache(maxsize=8)
def loaded(path: Path) -> tuple[Memory, ElfImage]:
    """Return a file as the loader places it, not yet relocated."""
    content = path.read_bytes()
    bias = BIAS if content[4] == 2 else 0xF700_0000
    image = read_elf(At(content, bias), bias)
    memory = file_image(content, image)
    return memory, read_elf(memory, bias)


def readelf(path: Path, *options: str) -> str:
    needs("readelf")
    command = ["readelf", "-W", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout


@EACH
def test_segments_and_build_id(path: Path) -> None:
    _, image = loaded(path)
    text = readelf(path, "-l", "-n")
    found = re.findall(r"^  LOAD +0x(\w+) 0x(\w+) 0x\w+ 0x(\w+) 0x(\w+) (.{3})", text, re.MULTILINE)
    assert [
        (segment.offset, segment.start - image.bias, segment.held, segment.end - segment.start)
        for segment in image.segments
    ] == [tuple(int(number, 16) for number in numbers[:4]) for numbers in found]
    assert [segment.writable for segment in image.segments] == ["W" in numbers[4] for numbers in found]
    assert [segment.executable for segment in image.segments] == ["E" in numbers[4] for numbers in found]
    assert image.build_id == re.findall(r"Build ID: (\w+)", text)[0]
    (locals_,) = re.findall(r"^  TLS +0x\w+ 0x(\w+) 0x\w+ 0x(\w+) 0x(\w+) .{3} 0x(\w+)", text, re.MULTILINE)
    start, held, size, alignment = (int(number, 16) for number in locals_)
    assert image.thread_locals is not None
    assert image.thread_locals.start - image.bias == start
    assert (image.thread_locals.held, image.thread_locals.size) == (held, size)
    assert image.thread_locals.alignment == alignment


@EACH
def test_relocations(path: Path) -> None:
    memory, image = loaded(path)
    text = readelf(path, "-r")
    kinds = {62: r"R_X86_64_RELATIVE", 3: "R_386_RELATIVE", 183: "R_AARCH64_RELATIV"}
    kind = kinds[image.machine]
    rows = re.findall(rf"^([0-9a-f]+)  ?\w+ +{kind}\w* *(\w*)$", text, re.MULTILINE)
    # Those that are packed are listed as bare addresses, in a section of their own.
    packed = re.search(r"'\.relr\.dyn'.*?\n\s*(\d+) offsets\n((?:[0-9a-f]+\n)+)", text, re.DOTALL)
    listed = {int(address, 16): int(addend, 16) if addend else None for address, addend in rows}
    if packed is not None:
        listed.update((int(line, 16), None) for line in packed.group(2).split())
    found = {
        relocation.address - image.bias: None if relocation.value is None else relocation.value - image.bias
        for relocation in relative_relocations(memory, image)
    }
    assert found
    assert found == listed
    thread = r"R_X86_64_TPOFF64|R_386_TLS_TPOFF(?:32)?|R_AARCH64_TLS_TPREL\w*|R_AARCH64_TLSDESC"
    slots = re.findall(rf"^([0-9a-f]+)  ?\w+ +(?:{thread})\b", text, re.MULTILINE)
    assert slots
    assert sorted(slot - image.bias for slot in thread_offset_slots(memory, image)) == sorted(
        int(slot, 16) for slot in slots
    )


@EACH
def test_dynamic_symbols(path: Path) -> None:
    memory, image = loaded(path)
    rows = re.findall(
        r"^ *\d+: ([0-9a-f]+) +\S+ (\w+) +\w+ +\w+ +(\w+) ([^@\s]+)", readelf(path, "--dyn-syms"), re.MULTILINE
    )
    listed: dict[str, set[int]] = {}
    for value, kind, section, name in rows:
        if section != "UND" and kind not in ("TLS", "SECTION"):
            listed.setdefault(name, set()).add(int(value, 16) + (0 if section == "ABS" else image.bias))
    found = dynamic_symbols(memory, image)
    assert {"malloc", "__libc_malloc", "__curbrk"} <= found.keys()
    absolute = {name for name, values in listed.items() if all(value < image.bias for value in values)}
    assert found.keys() == listed.keys()
    assert all(found[name] in listed[name] for name in found.keys() - absolute)


@EACH
def test_dynamic_functions(path: Path) -> None:
    memory, image = loaded(path)
    rows = re.findall(
        r"^ *\d+: ([0-9a-f]+) +(\d+) FUNC +\w+ +\w+ +\d+ ([^@\s]+)", readelf(path, "--dyn-syms"), re.MULTILINE
    )
    listed = {(int(value, 16) + image.bias, int(size), name) for value, size, name in rows if size != "0"}
    found = dynamic_functions(memory, image)
    assert found == sorted(found)
    assert {(start, end - start, name) for start, end, name in found} <= listed
    assert {start for start, _, _ in found} == {start for start, _, _ in listed}
    assert "malloc" in {name for _, _, name in found}


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"MZ" + bytes(62), b"\x7fELF\x02\x01" + bytes(58)])
def test_what_is_no_object(content: bytes) -> None:
    from gdbheap.memory import MemoryFault

    with pytest.raises((NotElf, MemoryFault)):
        read_elf(Snapshot([(0x1000, content)] if content else []), 0x1000)


@pytest.mark.parametrize("path", list(OBJECTS.values())[:1])
@pytest.mark.parametrize("kept", [64, 0x100, 0x400, 0x1000])
def test_what_is_cut_off(path: Path, kept: int) -> None:
    """Whatever part of it is missing, what is left is read, or the answer is that it cannot be."""
    from gdbheap.memory import MemoryFault

    content = path.read_bytes()[:kept]
    try:
        image = read_elf(Snapshot([(BIAS, content)]), BIAS)
    except (NotElf, MemoryFault):
        return
    assert image.dynamic == {}
    assert list(relative_relocations(Snapshot([(BIAS, content)]), image)) == []
