"""One chunk, or what else is at an address, as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE
from gdbheap.ptmalloc.chunk import Chunk, flag_names
from gdbheap.ptmalloc.inspection import Inspection, Listed, WordNote
from gdbheap.ptmalloc.place import Place
from gdbheap.render.bins import limit_text, range_text
from gdbheap.render.chunks import chunk_object
from gdbheap.render.escape import preview, printable
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, hex_size
from gdbheap.simulate.calls import Call
from gdbheap.simulate.free_chunk import ENDS, Foretold

_INDENT = 14
_ROW = 16
#: Fewer printable characters than this may be a number by chance.
_LEAST_TEXT = 4
_BACKSLASH = "\\"
#: The places where a chunk may well be.
_UNKNOWN_PLACES = ("gap", "missing", "unknown")
_STATES = {
    "used": "in use",
    "tcache": "free, in a tcache",
    "fastbin": "free, in a fastbin",
    "unsorted": "free, on the unsorted list",
    "small": "free, in a small bin",
    "large": "free, in a large bin",
    "free": "free by its neighbour's flag, but on no list that could be read",
    "top": "the top chunk: what is left of the arena's memory",
    "fencepost": "a fencepost: malloc closes a part of the heap with it",
}


def _line(label: str, text: str) -> str:
    return f"{label:<{_INDENT}}{text}"


def place_lines(address: int, place: Place, frees: Sequence[Foretold], style: Plain) -> Iterator[str]:
    """Yield what is at an address that no chunk holds, as far as that is known."""
    what = "may be in a chunk, but its chunk is not known." if place.kind in _UNKNOWN_PLACES else "is in no chunk."
    yield f"{style.paint('address', f'{address:#x}')} {what} {printable(place.text)}"
    for foretold in frees:
        yield from _free_lines(foretold, style)


def inspection_lines(found: Inspection, frees: Sequence[Foretold], style: Plain) -> Iterator[str]:
    """Yield all that is known of a chunk."""
    chunk = found.chunk
    address = style.paint("address", f"{chunk.address:#x}")
    own = ", with a mapping of its own" if found.mapping is not None else ""
    yield f"chunk {address}, {hex_size(chunk.size)}: {style.paint('name', _STATES[chunk.state])}{own}"
    yield _line("address", _address_text(found))
    yield _line("size word", _size_word_text(found))
    yield _line("usable", _usable_text(found))
    yield _line("belongs to", _owner_text(found))
    if found.purpose is not None:
        yield _line("", found.purpose)
    if found.listed is not None:
        yield _line("list", _listed_text(found.listed))
    if found.mapping is None:
        yield _line("before", _neighbour_text(found.before, found.why_no_before or "none: it is the first one there"))
        yield _line("behind", _neighbour_text(found.after, found.why_no_after or "none: it is the last one there"))
    yield from _content_lines(found)
    if found.resumed is not None:
        yield style.paint("bad", _line("known from", found.resumed))
    for foretold in frees:
        yield from _free_lines(foretold, style)
        if is_unnoticed(found, foretold):
            text = "  The chunk is free already, and free would not notice: it would be on lists twice."
            yield style.paint("bad", _line("", text))
    yield from (style.paint("bad", problem) for problem in found.problems)


def is_unnoticed(found: Inspection, foretold: Foretold) -> bool:
    """Whether free would take a chunk that is free already, without any of its checks failing."""
    return (
        found.listed is not None
        and foretold.pointer == found.chunk.pointer
        and foretold.end is not None
        and foretold.end.kind not in ("abort", "crash")
    )


def _address_text(found: Inspection) -> str:
    chunk = found.chunk
    inside = found.address - chunk.pointer
    if inside == 0:
        where = "the user pointer: what malloc returned for it"
    elif found.address == chunk.address:
        where = f"where the chunk begins; its user pointer is {chunk.pointer:#x}"
        if found.before is not None and found.word & PREV_INUSE:
            where += " (the chunk before it may use this word too)"
    elif found.address < chunk.address:
        where = f"in its mapping, before the chunk; its user pointer is {chunk.pointer:#x}"
    elif inside < 0:
        where = f"in its header; its user pointer is {chunk.pointer:#x}"
    else:
        where = f"{hex_size(inside)} behind the user pointer, {chunk.pointer:#x}"
    return f"{found.address:#x} is {where}"


def _size_word_text(found: Inspection) -> str:
    word = found.word
    flags = word & FLAG_BITS
    if flags & IS_MMAPPED:
        return f"{word:#x} = size {word & ~FLAG_BITS:#x} + IS_MMAPPED (a mapping of its own)"
    parts = [f"size {word & ~FLAG_BITS:#x}", *flag_names(flags)]
    before = "the chunk before it is in use" if flags & PREV_INUSE else "the chunk before it is free"
    if flags & PREV_INUSE and found.before is None and found.why_no_before is None and found.mapping is None:
        before = "no chunk is before it that could be free"
    # Free merged chunks have the flag clear in every arena.
    arena = "; not in main_arena" if flags & NON_MAIN_ARENA else ""
    return f"{word:#x} = {' + '.join(parts)}: {before}{arena}"


def _usable_text(found: Inspection) -> str:
    chunk = found.chunk
    if chunk.state == "fencepost":
        return "nothing"
    if chunk.state == "top":
        return f"a request of up to {found.usable:,} bytes can be cut from it"
    text = f"{found.usable:,} bytes"
    if chunk.state == "used":
        return f"{text} (malloc_usable_size)"
    return f"{text}, when it is given out again"


def _owner_text(found: Inspection) -> str:
    if found.mapping is not None:
        end = found.mapping.start + found.mapping.length
        return f"no arena: its mapping is {found.mapping.start:#x} to {end:#x}, {hex_size(found.mapping.length)}"
    assert found.arena is not None  # what has no mapping of its own is an arena's
    where = "the break area" if found.arena.is_main else "a heap"
    if found.heap is not None:
        where = f"the heap {found.heap.address:#x} to {found.heap.end:#x}"
    users = "used by no thread that is known"
    if found.threads:
        numbers = ", ".join(str(number) for number in found.threads)
        users = f"used by thread{'s' if len(found.threads) > 1 else ''} {numbers}"
    return f"{found.arena.name} at {found.arena.address:#x}, {where}; {users}"


def _listed_text(listed: Listed) -> str:
    item = listed.list
    owner = "" if listed.thread is None else f" of thread {listed.thread}"
    count = len(item.addresses)
    more = "" if item.complete else " that could be read"
    place = f"number {listed.position} of {count}{more}, from the front"
    if count == 1 and item.complete:
        place = "the only one on it"
    return f"{item.name}{owner}, {range_text(item)}: {place}; {limit_text(item)}"


def _neighbour_text(chunk: Chunk | None, none: str) -> str:
    return none if chunk is None else f"{chunk.address:#x}, {hex_size(chunk.size)}: {_STATES[chunk.state]}"


def _text_of(found: Inspection) -> str | None:
    """Return the text that the chunk begins with, escaped; None where its content is something else."""
    if found.content_start != found.chunk.pointer or found.listed is not None:
        return None
    data, end, _ = found.content.partition(b"\0")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if end or error.end < len(data):
            return None
        text = data[: error.start].decode("utf-8")  # cut in the middle of a character
    if len(text) < _LEAST_TEXT or not all(each.isprintable() or each in "\n\t\r" for each in text):
        return None
    return f'"{printable(text.replace(_BACKSLASH, _BACKSLASH * 2))}"' + ("" if end else " ...")


def _content_lines(found: Inspection) -> Iterator[str]:
    text = _text_of(found)
    if text is not None:
        yield _line("text", text)
    first = found.content_start - found.chunk.pointer
    notes = {note.offset: note for note in found.notes}
    label = "content"
    for start in range(0, len(found.content), _ROW):
        row = found.content[start : start + _ROW]
        pairs = " ".join(f"{byte:02x}" for byte in row[:8]) + "  " + " ".join(f"{byte:02x}" for byte in row[8:])
        yield _line(label, f"+{first + start:#06x}  {pairs:<48}  {preview(row, _ROW)}".rstrip())
        label = ""
        for offset in range(first + start, first + start + len(row)):
            if offset in notes:
                yield _line("", f"         {_note_text(notes[offset])}")
    shown = first + len(found.content)
    if found.content and shown < found.usable:
        yield _line("", f"{count_of(found.usable - shown, 'more byte')} (-bytes N shows more)")
    elif not found.content and found.usable:
        yield _line("content", "unreadable")


def _note_text(note: WordNote) -> str:
    return f"{note.value:#x} at +{note.offset:#x}: {printable(note.text)}"


def _free_lines(foretold: Foretold, style: Plain) -> Iterator[str]:
    yield _line("free", f"free({foretold.pointer:#x}) in the selected thread would: {_end_text(foretold)}")
    for step in foretold.steps:
        yield _line("", f"  {step.function}: {step.text}")
    said = {step.text for step in foretold.steps}
    for call in foretold.calls:
        yield _line("", f"  {_call_text(call)}")
        yield from (_line("", f"    {sentence}") for sentence in call.why if sentence not in said)
    end = foretold.end
    if end is not None:
        yield from (_line("", f"  {sentence}") for sentence in end.changes if sentence not in said)
        if end.message is not None:
            yield _line("", "  " + style.paint("bad", end.message))


def _call_text(call: Call) -> str:
    arguments = ", ".join(f"{argument:#x}" for argument in call.args)
    return f"{call.source.split()[0]}: it calls {call.syscall}({arguments})."


def _end_text(foretold: Foretold) -> str:
    end = foretold.end
    if end is None:
        return f"not be predictable. {foretold.unknown}"
    if end.kind == "tcache":
        return f"put the chunk into bin {end.index} of that thread's tcache."
    if end.kind == "fastbin":
        return f"put the chunk at the front of fastbin {end.index}."
    merged = f", merged to {end.size:#x} bytes from {end.chunk:#x}," if end.merged else ""
    texts = {
        "nothing": "do nothing.",
        "unsorted": f"put the chunk{merged} at the front of the unsorted list.",
        "small": f"put the chunk{merged} at the front of small bin {end.index}.",
        "top": f"make the chunk part of the top chunk: {end.size or 0:#x} bytes from {end.chunk or 0:#x} on.",
        "munmap": "give the chunk's mapping back to the kernel.",
        "abort": "abort the program.",
        "crash": "crash the program (SIGSEGV).",
    }
    return texts[end.kind]


def place_object(address: int, place: Place, frees: Sequence[Foretold]) -> dict[str, object]:
    """Return what is at an address that no chunk holds as JSON has it."""
    mapping = place.mapping
    return {
        "address": address,
        "where": place.kind,
        "text": place.text,
        "symbol": place.symbol,
        "mapping": None
        if mapping is None
        else {
            "start": mapping.start,
            "end": mapping.end,
            "permissions": mapping.permissions,
            "name": mapping.name,
        },
        "thread": place.thread,
        "arena": None if place.arena is None else place.arena.name,
        "chunk": None,
        "free": [free_object(item) for item in frees],
    }


def inspection_object(found: Inspection, frees: Sequence[Foretold]) -> dict[str, object]:
    """Return all that is known of a chunk as JSON has it."""
    return {
        "address": found.address,
        "where": "chunk",
        "text": f"A chunk of {found.chunk.size:#x} bytes at {found.chunk.address:#x}: {_STATES[found.chunk.state]}.",
        "symbol": None,
        "mapping": None,
        "thread": None,
        "arena": None if found.arena is None else found.arena.name,
        "chunk": {
            **chunk_object(found.chunk),
            "size_word": found.word,
            "flag_names": list(flag_names(found.word & FLAG_BITS)),
            "offset": found.address - found.chunk.pointer,
            "usable": found.usable,
            "arena_address": None if found.arena is None else found.arena.address,
            "threads": list(found.threads),
            "heap": None if found.heap is None else found.heap.address,
            "mapped": None if found.mapping is None else {"start": found.mapping.start, "bytes": found.mapping.length},
            "purpose": found.purpose,
            "list": None if found.listed is None else _listed_object(found.listed),
            "before": None if found.before is None else chunk_object(found.before),
            "after": None if found.after is None else chunk_object(found.after),
            "content_start": found.content_start,
            "content": found.content.hex(),
            "words": [
                {
                    "offset": note.offset,
                    "value": note.value,
                    "kind": note.kind,
                    "text": note.text,
                    "target": note.target,
                    "class": note.type_name,
                }
                for note in found.notes
            ],
            "resumed": found.resumed,
            "problems": list(found.problems),
        },
        "free": [free_object(item, is_unnoticed(found, item)) for item in frees],
    }


def _listed_object(listed: Listed) -> dict[str, object]:
    return {
        "kind": listed.list.kind,
        "index": listed.list.index,
        "position": listed.position,
        "count": len(listed.list.addresses),
        "thread": listed.thread,
        "complete": listed.list.complete,
    }


def free_object(foretold: Foretold, unnoticed: bool = False) -> dict[str, object]:
    """Return what free would do as JSON has it; ``unnoticed`` says that it would be a double free of a free chunk."""
    end = foretold.end
    return {
        "pointer": foretold.pointer,
        "end": None if end is None else end.kind,
        "meaning": foretold.unknown if end is None else ENDS[end.kind],
        "message": None if end is None else end.message,
        "chunk": None if end is None else end.chunk,
        "size": None if end is None else end.size,
        "arena": None if end is None else end.arena,
        "index": None if end is None else end.index,
        "double_free": unnoticed,
        "merged": [] if end is None else list(end.merged),
        "changes": [] if end is None else list(end.changes),
        "steps": [{"function": step.function, "text": step.text} for step in foretold.steps],
        "calls": [
            {"syscall": call.syscall, "args": list(call.args), "path": call.path, "why": list(call.why)}
            for call in foretold.calls
        ],
    }
