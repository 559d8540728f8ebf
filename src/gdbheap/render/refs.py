"""Who points into a chunk, as lines and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.refs import KINDS, Reference
from gdbheap.render.chunks import BEHIND_TEXT, chunk_object, state_text
from gdbheap.render.escape import printable
from gdbheap.render.find import Wholeness, wholeness_lines, wholeness_object
from gdbheap.render.state import table
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, hex_size


@dataclass(frozen=True)
class Searched:
    """What was searched: so many ``mappings`` of ``bytes`` together, and the registers of so many ``threads``."""

    mappings: int
    bytes: int
    threads: int


@dataclass(frozen=True)
class Found:
    """The references to a ``chunk`` in ``arena`` (its name, None for an mmapped chunk): those that are ``shown``.

    ``kinds`` and ``aims`` count all of them: by kind, and by what they point to (start, inside, header).
    """

    chunk: Chunk
    arena: str | None
    shown: Sequence[Reference]
    kinds: dict[str, int]
    aims: dict[str, int]

    @property
    def count(self) -> int:
        """How many references there are."""
        return sum(self.kinds.values())


#: What a pointer can point to: the user pointer, what is behind it, or the chunk's header, as malloc's own links do.
AIMS = ("start", "inside", "header")


def aim(chunk: Chunk, value: int) -> str:
    """Return what a pointer into ``chunk`` points to, one of AIMS."""
    if value == chunk.pointer:
        return "start"
    return "inside" if value > chunk.pointer else "header"


def reference_lines(found: Found, abi: Abi, searched: Searched, whole: Wholeness, style: Plain) -> Iterator[str]:
    """Yield the chunk, its references, and what was searched for them."""
    chunk = found.chunk
    yield (
        f"chunk {style.paint('address', f'{chunk.address:#x}')} (pointer {chunk.pointer:#x}) of {chunk.size:#x} bytes, "
        f"{state_text(chunk)}, {'with a mapping of its own' if found.arena is None else f'in {found.arena}'}"
    )
    if found.count:
        names = {"start": "to its start", "inside": "to its inside", "header": "to its header"}
        parts = [f"{found.aims[name]:,} {names[name]}" for name in AIMS if found.aims.get(name)]
        yield f"{count_of(found.count, 'pointer')} into it: {', '.join(parts)}"
        yield ""
        rows = [(item.kind, _address(item), where_text(item, chunk), _target(item, chunk)) for item in found.shown]
        if rows:
            yield from table(("held by", "at", "where", "points to"), rows)
        left = found.count - len(found.shown)
        if left:
            counted = ", ".join(f"{kind} {found.kinds[kind]:,}" for kind in KINDS if found.kinds.get(kind))
            yield f"{left:,} of them left out: -limit N or -all shows them. All: {counted}."
        yield ""
    else:
        yield "no pointer into it was found"
    yield (
        f"searched: {count_of(searched.mappings, 'writable mapping')}, {hex_size(searched.bytes)}, and the registers "
        f"of {count_of(searched.threads, 'thread')}"
    )
    held = [item.chunk for item in found.shown if item.chunk is not None]
    if any(each.behind_damage for each in (chunk, *held)):
        yield BEHIND_TEXT
    yield from wholeness_lines(whole, style)


def _address(item: Reference) -> str:
    return "-" if item.address is None else f"{item.address:#x}"


def where_text(item: Reference, target: Chunk) -> str:
    """Return where a reference to the chunk ``target`` is, in words."""
    parts = []
    if item.thread is not None and item.kind != "malloc":
        parts.append(f"thread {item.thread}")
    if item.where:
        parts.append(printable(item.where))
    if item.chunk is not None and item.address is not None:
        offset = item.address - item.chunk.pointer
        held = item.chunk
        state = state_text(held)
        if held.state != "used" and item.kind != "malloc":
            state += ": left over"
        whose = "the chunk itself" if held.address == target.address else f"chunk {held.address:#x}"
        parts.append(f"{whose} at pointer {offset:+#x} ({held.size:#x} bytes, {state})")
    elif not item.live:
        parts.append("left over")
    if item.file:
        parts.append(printable(os.path.basename(item.file)))
    elif item.kind == "other":
        parts.append("an anonymous mapping")
    if item.mangled:
        parts.append("mangled")
    return ", ".join(parts)


def _target(item: Reference, chunk: Chunk) -> str:
    what = aim(chunk, item.value)
    if what == "start":
        return "start"
    return f"{item.value - chunk.pointer:+#x}" + (" (header)" if what == "header" else "")


def references_object(found: Found, searched: Searched, whole: Wholeness) -> dict[str, object]:
    """Return the references as JSON has them."""
    return {
        "chunk": {**chunk_object(found.chunk), "arena": found.arena},
        "count": found.count,
        "kinds": {kind: found.kinds.get(kind, 0) for kind in KINDS},
        "aims": {name: found.aims.get(name, 0) for name in AIMS},
        "references": [
            {
                "kind": item.kind,
                "address": item.address,
                "value": item.value,
                "offset": item.value - found.chunk.pointer,
                "aim": aim(found.chunk, item.value),
                "where": item.where,
                "thread": item.thread,
                "file": item.file,
                "live": item.live,
                "mangled": item.mangled,
                "chunk": None if item.chunk is None else {**chunk_object(item.chunk), "arena": item.arena},
            }
            for item in found.shown
        ],
        "left_out": found.count - len(found.shown),
        "searched": {"mappings": searched.mappings, "bytes": searched.bytes, "threads": searched.threads},
        **wholeness_object(whole),
    }
