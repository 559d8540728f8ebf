"""Who points into a chunk, as lines and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.refs import KINDS, FrameWord, Reference, Unknown
from gdbheap.render.chunks import BEHIND_TEXT, chunk_object, state_text
from gdbheap.render.escape import printable
from gdbheap.render.find import Wholeness, wholeness_lines, wholeness_object
from gdbheap.render.style import Plain
from gdbheap.render.tables import table
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
        f"searched: {count_of(searched.mappings, 'mapping')}, {hex_size(searched.bytes)}, and the registers "
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
    parts += map(printable, _place_parts(item))
    if item.path is not None:
        parts.append(printable(f"{item.path.variable} (frame #{item.path.level}, {item.path.function or '?'})"))
    if item.chunk is not None and item.address is not None:
        offset = item.address - item.chunk.pointer
        held = item.chunk
        state = state_text(held)
        if held.state != "used" and item.kind != "malloc":
            state += ": left over"
        whose = "the chunk itself" if held.address == target.address else f"chunk {held.address:#x}"
        if item.class_name is not None:
            state += f", class {printable(item.class_name)}"
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


def _place_parts(item: Reference) -> list[str]:
    return [*([item.where] if item.where else []), *([] if item.frame is None else [frame_text(item.frame)])]


def frame_text(word: FrameWord) -> str:
    """Return the frame and the variable that a word or a register belongs to."""
    text = f"frame #{word.level}, {word.function or '?'}"
    if word.variable is not None:
        text += f", {word.variable}"
    notes = []
    if word.saved_by is not None:
        by = word.saved_by
        owner = "its caller's " if by[0] == word.level and word.variable is None else ""
        saver = "saved here" if by[0] == word.level else f"saved by frame #{by[0]}, {by[1] or '?'}"
        notes.append(f"{owner}{word.register}, {saver}")
    if not word.in_scope:
        notes.append("out of scope")
    if word.unknown is not None:
        notes.append(_UNKNOWN[word.unknown])
    return f"{text} ({'; '.join(notes)})" if notes else text


_UNKNOWN = {
    Unknown.NO_SYMBOLS: "no debug symbols: no variable known",
    Unknown.OPTIMISED: "optimised: no variable known",
    Unknown.RED_ZONE: "red zone: no variable known",
    Unknown.NO_VARIABLE: "no variable there",
}


def frame_object(word: FrameWord | None) -> dict[str, object] | None:
    """Return what a word is to a function that has not returned, as JSON has it."""
    if word is None:
        return None
    saved = None if word.saved_by is None else {"level": word.saved_by[0], "function": word.saved_by[1]}
    return {
        "level": word.level,
        "function": word.function,
        "variable": word.variable,
        "in_scope": word.in_scope,
        "register": word.register,
        "saved_by": saved,
        "unknown": None if word.unknown is None else word.unknown.value,
    }


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
                "where": ", ".join(_place_parts(item)),
                "frame": frame_object(item.frame),
                "path": frame_object(item.path),
                "class": item.class_name,
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
