"""Chunks close up: their words, and what each of them is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gdbheap.ptmalloc.closeup import ROW, Closeup, ListPlace, Word, rows_of
from gdbheap.render.chunks import BEHIND_TEXT, chunk_object, state_text
from gdbheap.render.escape import preview
from gdbheap.render.lines import wrapped
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of, hex_size

#: Neighbours never have the same colour.
_ROLES = ("address", "name", "good", "unsorted", "tcache")
#: What stands behind a word, and what it says.
_MARKS: Mapping[str, tuple[str, str]] = {
    "size": ("*", "size and flags"),
    "prev_size": ("=", "prev_size, the size of the free chunk above"),
    "above": ("^", "still the chunk above, which has this word while it is in use"),
    "next": (">", "a link of a free list"),
    "fd": (">", "a link of a free list"),
    "bk": (">", "a link of a free list"),
    "fd_nextsize": (">", "a link of a free list"),
    "bk_nextsize": (">", "a link of a free list"),
    "key": ("k", "key, by which free knows that the chunk is in a tcache"),
}
_LEAST_NOTE = 36


@dataclass(frozen=True)
class Margin:
    """The bracket around the lines of a chunk."""

    first: str
    middle: str
    last: str
    alone: str

    def of(self, place: int, count: int) -> str:
        """Return what stands before line ``place`` of ``count``."""
        if count == 1:
            return self.alone
        return self.first if not place else self.last if place == count - 1 else self.middle


UNICODE = Margin("┌", "│", "└", "─")
ASCII = Margin("/", "|", "\\", "-")


def words_lines(
    closeups: Iterable[Closeup],
    places: Mapping[int, ListPlace],
    heads: Mapping[int, str],
    style: Plain,
    *,
    word_size: int,
    width: int,
    ascii_only: bool,
) -> Iterator[str]:
    """Yield the chunks' words in lines of at most ``width`` characters, and at the end what the marks mean.

    ``places`` are the chunks that are on free lists, by address; ``heads`` are what links can lead to that is no
    chunk, by address.
    """
    margin = ASCII if ascii_only else UNICODE
    in_row = ROW // word_size
    row_width = _row_width(in_row, word_size)
    while row_width > width and in_row > 1:
        in_row //= 2
        row_width = _row_width(in_row, word_size)
    beside = width - row_width - 2 >= _LEAST_NOTE
    seen: set[str] = set()
    behind_damage = False
    above = _ROLES[-1]
    for number, closeup in enumerate(closeups):
        role = _ROLES[number % len(_ROLES)]
        behind_damage |= closeup.chunk.behind_damage
        lines: list[str] = []
        for first in range(0, len(closeup.words), in_row):
            words = closeup.words[first : first + in_row]
            seen.update(word.role for word in words)
            row = _row(closeup, words, word_size, style, role, above, with_text=row_width <= width)
            notes = _notes(closeup, words, places, heads)
            if beside:
                lines += _with_notes(row, notes, in_row - len(words), word_size, row_width, width)
            else:
                told = [line for note in notes for line in wrapped(note, width - 2)]
                # What the chunk is comes before its first row, where links lead behind theirs.
                lines += [row, *told] if first else [*told, row]
        for text in _what_follows(closeup):
            lines += wrapped(text, width - 2)
        for place, line in enumerate(lines):
            yield f"{style.paint(role, margin.of(place, len(lines)))} {line}".rstrip()
        above = role
    yield from _key(seen, width)
    if behind_damage:
        yield from wrapped(BEHIND_TEXT, width)


def _row_width(in_row: int, word_size: int) -> int:
    """Return the width of a row with its bracket: the address, each word with its mark, and the text."""
    return 2 + 14 + in_row * (2 * word_size + 2) + 1 + in_row * word_size


def _row(
    closeup: Closeup, words: Sequence[Word], word_size: int, style: Plain, role: str, above: str, *, with_text: bool
) -> str:
    offset = words[0].address - closeup.chunk.address
    found, text = f"{words[0].address:#014x}", ""
    for word in words:
        colour = above if word.role == "above" else role
        mark = _MARKS.get(word.role, (" ", ""))[0]
        found += " " + style.paint(colour, f"{word.value:0{2 * word_size}x}") + mark
        text += style.paint(colour, preview(closeup.data[offset : offset + word_size], word_size))
        offset += word_size
    return f"{found} {text}" if with_text else found


def _with_notes(
    row: str, notes: Sequence[str], missing: int, word_size: int, row_width: int, width: int
) -> Iterator[str]:
    """Yield a row with its notes beside it, and below where they need more lines."""
    lines = [line for note in notes for line in wrapped(note, width - row_width - 2)]
    fill = " " * (missing * (3 * word_size + 2))
    yield f"{row}{fill}  {lines[0]}" if lines else row
    yield from (" " * row_width + line for line in lines[1:])


def _notes(
    closeup: Closeup, words: Sequence[Word], places: Mapping[int, ListPlace], heads: Mapping[int, str]
) -> list[str]:
    """Return what is told beside a row: what the chunk is, in its first; where links lead."""
    notes = []
    chunk = closeup.chunk
    if words[0].address == chunk.address:
        flags = ", ".join(chunk.flag_names) or "no flags"
        place = places.get(chunk.address)
        where = "" if place is None else f": number {place.position} of {place.length} in {place.name}"
        notes.append(f"{state_text(chunk)} {chunk.size:#x}, {flags}{where}")
    for word in words:
        if word.role in _MARKS and _MARKS[word.role][0] == ">":
            notes.append(f"{word.role} {_target_text(word, heads)}")
    return notes


def _target_text(word: Word, heads: Mapping[int, str]) -> str:
    if word.target is None:
        return "leads nowhere" if word.value == 0 else "leads nowhere (decoded): the last of its list"
    decoded = "" if word.target == word.value else " (decoded)"
    name = heads.get(word.target)
    return f"-> {word.target:#x}{decoded}" + (f", {name}" if name else "")


def _what_follows(closeup: Closeup) -> Iterator[str]:
    if closeup.problem is not None:
        yield closeup.problem
    elif closeup.left_out:
        yield f"... {hex_size(closeup.left_out)} left out, {count_of(rows_of(closeup.left_out), 'row')}"


def _key(seen: Iterable[str], width: int) -> Iterator[str]:
    """Yield what the marks mean that were shown."""
    shown = {_MARKS[role] for role in seen if role in _MARKS}
    for mark, meaning in dict.fromkeys(_MARKS.values()):
        if (mark, meaning) in shown:
            yield from wrapped(f"{mark} {meaning}", width)


def words_object(closeups: Iterable[Closeup], places: Mapping[int, ListPlace], left_out: int) -> dict[str, object]:
    """Return chunks close up as JSON has them."""
    return {
        "chunks": [
            {
                "chunk": chunk_object(closeup.chunk),
                "list": _place_object(places.get(closeup.chunk.address)),
                "words": [
                    {"address": word.address, "value": word.value, "role": word.role, "target": word.target}
                    for word in closeup.words
                ],
                "bytes_left_out": closeup.left_out,
                "problem": closeup.problem,
            }
            for closeup in closeups
        ],
        "left_out": left_out,
    }


def _place_object(place: ListPlace | None) -> dict[str, object] | None:
    if place is None:
        return None
    return {"name": place.name, "position": place.position, "length": place.length}
