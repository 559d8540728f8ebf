"""One chunk as text: what came from the program is escaped, what is not known is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.inspection import Inspection, Listed, WordNote
from gdbheap.ptmalloc.inspection import Mapping as OwnMapping
from gdbheap.ptmalloc.lists import ChunkList
from gdbheap.ptmalloc.place import Place
from gdbheap.render.chunk import inspection_lines, inspection_object, place_lines, place_object
from gdbheap.render.style import Plain
from gdbheap.simulate.calls import Call
from gdbheap.simulate.free_chunk import Foretold, Freed
from gdbheap.simulate.trace import Step

CHUNK = Chunk(0x1000, 0x1010, 0x40, 1, "used", 0x38)
ARENA = Arena(0x9000, 0, 0, 0, 0x2000, 0x100, 0, (), (), 0x9060, (), 0x9000, 0, 1, 0x21000, 0x21000)
LIST = ChunkList("fastbin", 2, 0x40, 0x40, (0x900, 0x1000), (0x40, 0x40), None, None, (), True)
FOUND = Inspection(
    address=0x1010,
    chunk=CHUNK,
    word=0x41,
    usable=0x38,
    arena=None,
    threads=(),
    heap=None,
    mapping=OwnMapping(0x1000, 0x2000),
    before=None,
    after=None,
    listed=None,
    purpose=None,
    content_start=0x1010,
    content=b"hello, world\0" + bytes(3),
    notes=(),
    resumed=None,
    problems=(),
)


def text_of(found: Inspection, *frees: Foretold) -> str:
    return "\n".join(inspection_lines(found, frees, Plain()))


def foretold(body: dict[str, object]) -> dict[str, object]:
    frees = body["free"]
    assert isinstance(frees, list)
    (found,) = frees
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"hello, world\0\1\2", '"hello, world"'),
        (b"cut in the middl", '"cut in the middl" ...'),
        (b"two\nlines\ttab\0", r'"two\x0alines\x09tab"'),
        (b"a \\ backslash\0", r'"a \\ backslash"'),
        ("grün und blau\0".encode(), '"grün und blau"'),
        ("cut grü".encode()[:-1], '"cut gr" ...'),
        (b"abc\0", None),
        (b"\x1b[31mred\0", None),
        (b"not UTF-8 \xff\xfe\0", None),
        (bytes(16), None),
    ],
)
def test_text(content: bytes, shown: str | None) -> None:
    lines = [line for line in text_of(replace(FOUND, content=content)).splitlines() if line.startswith("text ")]
    assert [line.split(None, 1)[1] for line in lines] == ([] if shown is None else [shown])


def test_words_and_symbols_are_escaped() -> None:
    """Names of symbols are the program's: they may hold what a terminal acts on."""
    note = WordNote(8, 0x4242, "symbol", "\x1b[2Jname\u202e of \x07file")
    shown = text_of(replace(FOUND, notes=(note,)))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"0x4242 at +0x8: \x1b[2Jname\u202e of \x07file" in shown
    (line,) = place_lines(0x10, Place("file", "It is '\x1b[2Jname' of it."), (), Plain())
    assert line == r"0x10 is in no chunk. It is '\x1b[2Jname' of it."


def test_where_chunks_are_not_known_none_is_denied() -> None:
    """What a corrupt heap hides is not said to be in no chunk, and a neighbour is not said to be missing."""
    (line,) = place_lines(0x10, Place("gap", "The walk stopped at 0x8."), (), Plain())
    assert line == "0x10 may be in a chunk, but its chunk is not known. The walk stopped at 0x8."
    arena = replace(FOUND, mapping=None, arena=ARENA)
    assert "before        none: it is the first one there\nbehind        none: it is the last one there" in text_of(
        arena
    )
    assert "no chunk is before it" in text_of(arena)
    hidden = text_of(replace(arena, why_no_before="not known: so.", why_no_after="not known: and so."))
    assert "before        not known: so.\nbehind        not known: and so." in hidden
    assert "the chunk before it is in use" in hidden


def test_rows_of_the_content() -> None:
    shown = text_of(replace(FOUND, content=bytes(range(0x30, 0x30 + 20))))
    assert "+0x0000  30 31 32 33 34 35 36 37  38 39 3a 3b 3c 3d 3e 3f  0123456789:;<=>?" in shown
    assert "+0x0010  40 41 42 43" in shown
    assert "36 more bytes (-bytes N shows more)" in shown
    assert "content       unreadable" in text_of(replace(FOUND, content=b""))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (0x1010, "the user pointer"),
        (0x1000, "where the chunk begins"),
        (0x1008, "in its header"),
        (0x1020, "0x10 (16 bytes) behind the user pointer, 0x1010"),
        (0x800, "in its mapping, before the chunk"),
    ],
)
def test_where_in_the_chunk(address: int, words: str) -> None:
    assert f"{address:#x} is {words}" in text_of(replace(FOUND, address=address))


def test_the_size_word_in_words() -> None:
    assert "0x41 = size 0x40 + PREV_INUSE: the chunk before it is in use" in text_of(FOUND)
    assert "0x44 = size 0x40 + NON_MAIN_ARENA: the chunk before it is free; not in main_arena" in text_of(
        replace(FOUND, word=0x44)
    )
    assert "0x42 = size 0x40 + IS_MMAPPED (a mapping of its own)" in text_of(replace(FOUND, word=0x42))


def test_a_double_free_that_is_not_noticed() -> None:
    """free takes a chunk that is in a fastbin, but not its front: that is said."""
    listed = replace(FOUND, listed=Listed(LIST, 2, None), chunk=CHUNK._replace(state="fastbin"))
    taken = Foretold(0x1010, (Step("take", "_int_free", "It fits."),), (), Freed("fastbin", index=2))
    assert "fastbin 2, chunks of 0x40: number 2 of 2, from the front; no limit" in text_of(listed, taken)
    assert "free would not notice" in text_of(listed, taken)
    assert "_int_free: It fits." in text_of(listed, taken)
    body = inspection_object(listed, (taken,))
    assert foretold(body)["double_free"] is True
    stopped = replace(taken, end=Freed("abort", message="double free or corruption (fasttop)"))
    assert "free would not notice" not in text_of(listed, stopped)
    assert "double free or corruption (fasttop)" in text_of(listed, stopped)
    assert "free would not notice" not in text_of(FOUND, taken)


def test_calls_and_what_is_not_known() -> None:
    call = Call("brk", (0x5000,), "trim", (), 0, 0, 1, ("It is large.",), "systrim (malloc/malloc.c)")
    shown = text_of(FOUND, Foretold(0x1010, (), (call,), Freed("top", chunk=0x1000, size=0x900)))
    assert "systrim: it calls brk(0x5000)." in shown
    assert "It is large." in shown
    steps = (Step("why", "systrim", "It is large."), Step("change", "systrim", "The top chunk shrinks."))
    end = Freed("top", chunk=0x1000, size=0x900, changes=("The top chunk shrinks.",))
    once = text_of(FOUND, Foretold(0x1010, steps, (call,), end))
    assert [once.count(step.text) for step in steps] == [1, 1]
    unknown = Foretold(0x1010, (), (), None, "The tcache cannot be found.")
    assert "not be predictable. The tcache cannot be found." in text_of(FOUND, unknown)
    body = place_object(0x1010, Place("unmapped", "Nothing is mapped there."), (unknown,))
    assert foretold(body)["meaning"] == "The tcache cannot be found."
    assert foretold(body)["end"] is None
