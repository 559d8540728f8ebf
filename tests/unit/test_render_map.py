"""The drawings of an arena: nothing that matters is outvoted, nothing is too wide, the sums are those of the heap."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.ptmalloc.closeup import ListPlace
from gdbheap.ptmalloc.extent import EVERYTHING, KINDS, ArenaMap, Spot, Window
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.render.cells import GROUPS, Scene, by_group, look_of
from gdbheap.render.map import ASCII, LEAST_WIDTH, UNICODE, cells_in_row, map_lines, sign_of
from gdbheap.render.map_svg import map_svg
from gdbheap.render.style import Colour, Plain
from gdbheap.render.words import words_lines
from tests.support.heap_image import MAIN_BASE, Image, main_heap
from tests.unit.test_ptmalloc_closeup import KEY, PIECES, close
from tests.unit.test_ptmalloc_extent import mapped, overlap
from tests.unit.test_ptmalloc_properties import pieces

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = b"\x1b[31m</text><script>&\"'\x07\xff"


def scene(drawn: ArenaMap, window: Window = EVERYTHING, content: bytes = b"") -> Scene:
    return Scene(drawn, window, {}, lambda spot, size: content[:size])


def drawing(shown: Scene, width: int = 80, rows: int = 40, ascii_only: bool = True) -> list[str]:
    return list(map_lines([shown], Plain(), width=width, rows=rows, ascii_only=ascii_only))


def cells_of(lines: list[str]) -> list[tuple[int, str]]:
    """Return the rows of a drawing: the address and the characters of each."""
    found = [re.fullmatch(r"(0x[0-9a-f]{12}) (.*)", line) for line in lines]
    return [(int(match[1], 16), match[2]) for match in found if match is not None]


def test_a_small_heap() -> None:
    image = Image("2.31")
    main_heap(image, [(0x20, "tcache"), (0x400, "used"), (0x30, "fastbin"), (0x500, "large"), (0x20, "used")])
    assert drawing(scene(mapped(image)), width=52) == [
        "main_arena at 0x10000100: 0x1000 (4 KiB) from the",
        "kernel",
        "a character stands for 16 bytes, a row for 512 bytes",
        "0x000020000000 ################################",
        "0x000020000200 #########TT#####################",
        "0x000020000400 ################################",
        "0x000020000600 ###########FFFLLLLLLLLLLLLLLLLLL",
        "0x000020000800 LLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLL",
        "0x000020000a00 LLLLLLLLLLLLLLLLLLLLLLLLLLLLLL##",
        "0x000020000c00 ................................",
        "0x000020000e00 ................................",
        "",
        "#   used      0x6b0 (1,712 bytes), 3 chunks",
        "T t tcache    0x20 (32 bytes), 1 chunk (free, in a",
        "              thread's tcache)",
        "F f fastbin   0x30 (48 bytes), 1 chunk (free, in a",
        "              fastbin)",
        "L l large     0x500 (1,280 bytes), 1 chunk (free, in",
        "              a large bin)",
        ". : top       0x400 (1 KiB), 1 chunk (free, the top",
        "              chunk)",
        "free      0x550 (1,360 bytes) in all without the top",
        "          chunk; the largest free chunk has 0x500",
        "          (1,280 bytes), at 0x200006e0 (large).",
        "below     0x550 (1,360 bytes) of that (100%) lies",
        "          below the last used chunk, so it cannot",
        "          become part of the top chunk.",
        "last used 0x20000be0, 0x20 (32 bytes): the heap",
        "          cannot end before it.",
        "",
        "Used, and some of it free: % up to a quarter, + up",
        "to a half, a small letter (: for top) more. The",
        "letter and the colour are those of the largest free",
        "part.",
    ]


@given(st.data())
def test_nothing_is_outvoted(data: st.DataObject) -> None:
    """A cell shows whether any of it is used and whether any of it is free, and how much; no line is too wide."""
    image = Image()
    rows = main_heap(image, data.draw(pieces("2.36", 64)))
    width, most = data.draw(st.integers(LEAST_WIDTH, 200)), data.draw(st.integers(1, 60))
    ascii_only = data.draw(st.booleans())
    lines = drawing(scene(mapped(image, most_cells=most * cells_in_row(width))), width, most, ascii_only)
    assert max(map(len, lines)) <= width
    assert not ascii_only or all(line.isascii() for line in lines)
    signs = ASCII if ascii_only else UNICODE
    shown = cells_of(lines)
    assert 0 < len(shown) <= most
    (area,) = mapped(image).areas
    assert shown[0][0] == MAIN_BASE
    total = sum(len(cells) for _, cells in shown)
    per_row = cells_in_row(width)
    cell = (shown[1][0] - shown[0][0]) // per_row if len(shown) > 1 else None
    if cell is None:
        sizes = [size for size in (16 << step for step in range(30)) if -(-(area.end - MAIN_BASE) // size) == total]
        cell = sizes[0]
    for row, (address, cells) in enumerate(shown):
        assert address == MAIN_BASE + row * per_row * cell
        for place, sign in enumerate(cells):
            begin = address + place * cell
            inside = overlap(rows, begin, begin + cell)
            used, idle = inside.pop("used"), sum(inside.values())
            assert (sign == signs.only) == (idle == 0)
            assert (sign in "TFUSL.") == (used == 0)
            assert (sign == signs.some) == (used > 0 and 0 < idle <= (idle + used) / 4)
            assert (sign == signs.much) == (used > 0 and (idle + used) / 4 < idle <= (idle + used) / 2)


def test_rows_begin_at_round_addresses_in_any_width() -> None:
    assert [cells_in_row(width) for width in (40, 46, 47, 78, 79, 80, 142, 143, 200)] == [
        16, 16, 32, 32, 64, 64, 64, 128, 128,
    ]  # fmt: skip


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_every_group_has_a_sign(group: int) -> None:
    parts = [0] * len(GROUPS)
    parts[group] = 8
    look = look_of(parts)
    assert look is not None
    assert look[0] == group
    assert len(sign_of(look, ASCII)) == 1
    assert sign_of(look, ASCII).isascii()
    assert look_of([0] * len(GROUPS)) is None
    assert sorted(kind for one in GROUPS for kind in one.kinds) == list(range(len(KINDS)))
    signs = [sign for one in GROUPS for sign in (one.letter, one.mixed) if sign] + [ASCII.only, ASCII.some, ASCII.much]
    assert len(set(signs)) == len(signs)


def test_an_unknown_byte_is_never_hidden() -> None:
    sizes = [0] * len(KINDS)
    sizes[KINDS.index("used")] = 4000
    sizes[KINDS.index("unknown")] = 16
    look = look_of(by_group(sizes))
    assert look is not None
    assert sign_of(look, UNICODE) == "?"


def test_colours_are_all_that_style_adds() -> None:
    image = Image()
    main_heap(image, PIECES)
    shown = scene(mapped(image))
    painted = list(map_lines([shown], Colour(), width=40, rows=1, ascii_only=False))
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in painted]
    assert plain == drawing(shown, width=40, rows=1, ascii_only=False)
    assert any("\x1b[34;106m▓" in line for line in painted), "used, on the ground of tcache"


def test_a_corrupt_heap_says_where_it_stops() -> None:
    image = Image()
    rows = main_heap(image, [(0x100, "used"), (0x600, "used"), (0x40, "used")])
    image.word(rows[2].address + 8, 0x41414140)
    lines = drawing(scene(mapped(image)), width=200)
    text = "\n".join(lines)
    assert "?" * (0x640 // 16) in "".join(cells for _, cells in cells_of(lines))
    assert "0x640 (1,600 bytes) (not known: the walk stopped)" in text
    assert f"The size word of the chunk at {rows[2].address:#x} is 0x41414140" in text


def test_an_arena_of_heaps() -> None:
    """Each region says its own range, and what is reserved behind it."""
    image = Image()
    main_heap(image, [(0x100, "used")])
    drawn = mapped(image)
    (area,) = drawn.areas
    heap = HeapInfo(area.address, 0, 0, 0x1000, 0x3000, 0x1000, 64 << 20)
    shown = Scene(drawn, EVERYTHING, {heap.address: heap}, lambda spot, size: b"")
    assert not [line for line in drawing(shown) if line.startswith("heap from")], "main_arena has none"


def tooltips(svg: str) -> list[list[str]]:
    root = ET.fromstring(svg)
    return [(cell[0].text or "").split("\n") for cell in root.iter(f"{SVG}g")]


@given(st.data())
def test_the_picture_has_every_byte(data: st.DataObject) -> None:
    """What the tooltips tell adds up to the region, and the rectangles fill their cells."""
    image = Image()
    main_heap(image, data.draw(pieces("2.36", 64)))
    drawn = mapped(image)
    (area,) = drawn.areas
    svg = map_svg([scene(drawn)], [])
    sums = dict.fromkeys((group.name for group in GROUPS), 0)
    for _, *parts in tooltips(svg):
        for part in parts:
            match = re.match(r"(\w+) (0x[0-9a-f]+) \(", part)
            assert match is not None, part
            sums[match[1]] += int(match[2], 16)
    assert list(sums.values()) == list(by_group(area.sizes))
    for cell in ET.fromstring(svg).iter(f"{SVG}g"):
        heights = [float(part.get("height", "0")) for part in cell.iter(f"{SVG}rect")]
        assert sum(heights) == 12
        assert min(heights) >= 2


def test_hostile_text_is_escaped() -> None:
    """What the program wrote can colour nothing, close nothing, and name nothing outside of the file."""
    image = Image()
    main_heap(image, [(0x100, "used")])
    shown = scene(mapped(image), content=HOSTILE)
    text = "\n".join(drawing(shown, width=200))
    assert "Its first bytes: .[31m</text><script>&" in text
    assert text.replace("\n", "").isprintable()
    svg = map_svg([shown], ["a \x1b[31m<b>"])
    root = ET.fromstring(svg)
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert any(".[31m</text><script>&" in line for line in texts)
    assert not list(root.iter(f"{SVG}script"))
    assert "\x1b" not in svg
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]


def words(image: Image, names: list[int], width: int = 80, ascii_only: bool = True) -> list[str]:
    rows = main_heap(image, PIECES, tcache_key=KEY)
    image.write(rows[2].address + 16, HOSTILE)
    shown = [close(image, rows[place], 3, first=place == 0) for place in names]
    places = {rows[1].address: ListPlace("tcache bin 2 of thread 1", 2, 2)}
    return list(
        words_lines(shown, places, {}, Plain(), word_size=image.abi.word_size, width=width, ascii_only=ascii_only)
    )


def test_words() -> None:
    assert words(Image("2.31"), [1, 2]) == [
        "/ tcache 0x40, PREV_INUSE: number 2 of 2 in tcache bin 2 of thread 1",
        "| 0x000020000290 0000000000000000^ 0000000000000041* ........A.......",
        "| 0x0000200002a0 0000000000000000> 0000000012345678k ........xV4.....",
        "| next leads nowhere",
        "| 0x0000200002b0 0000000000000000  0000000000000000  ................",
        "\\ ... 0x10 (16 bytes) left out, 1 row",
        "/ used 0x40, PREV_INUSE",
        "| 0x0000200002d0 0000000000000000^ 0000000000000041* ........A.......",
        "| 0x0000200002e0 742f3c6d31335b1b  7263733c3e747865  .[31m</text><scr",
        "| 0x0000200002f0 072722263e747069  00000000000000ff  ipt>&\"'.........",
        "\\ ... 0x10 (16 bytes) left out, 1 row",
        "* size and flags",
        "^ still the chunk above, which has this word while it is in use",
        "> a link of a free list",
        "k key, by which free knows that the chunk is in a tcache",
    ]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("width", [40, 60, 80, 110, 120, 200])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_words_fit_and_are_printable(bits: int, width: int, ascii_only: bool) -> None:
    """Every word is there at any width, in its place, beside its text; and nothing that the program wrote acts."""
    image = Image("2.36", bits)
    lines = words(image, list(range(len(PIECES))), width, ascii_only)
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert not ascii_only or all(line.isascii() for line in lines)
    size = bits // 8
    found = {}
    for line in lines:
        match = re.match(rf". (0x[0-9a-f]{{12}})((?: [0-9a-f]{{{2 * size}}}[ *=^>k]?)+)", line)
        if match is not None:
            for place, word in enumerate(re.findall(rf"[0-9a-f]{{{2 * size}}}", match[2])):
                found[int(match[1], 16) + place * size] = int(word, 16)
    assert len(found) >= len(PIECES) * 32 // size
    assert all(image.abi.read_word(image.memory, address) == value for address, value in found.items())


def test_neighbours_differ_in_colour() -> None:
    """A word of the chunk above has that one's colour, wherever it stands."""
    image = Image()
    rows = main_heap(image, PIECES, tcache_key=KEY)
    shown = [close(image, row, 2, first=row is rows[0]) for row in rows[:8]]
    lines = list(words_lines(shown, {}, {}, Colour(), word_size=8, width=80, ascii_only=True))
    firsts = [re.findall(r"\x1b\[(\d+)m([0-9a-f]{16})\x1b\[m(.)", line) for line in lines]
    headers = [found for found in firsts if found and found[1][2] == "*"]
    assert len(headers) == 8
    for above, here in zip(headers, headers[1:]):
        assert here[1][0] != above[1][0]
        assert here[0][0] == (above if here[0][2] == "^" else here)[1][0]


def test_the_last_used_chunk_is_shown_with_what_keeps_top() -> None:
    image = Image()
    main_heap(image, [(0x100, "used"), (0x40, "tcache")])
    drawn = mapped(image)
    assert drawn.last_used == Spot(MAIN_BASE + 0x290, 0x100, "used")
    text = " ".join(line.strip() for line in drawing(scene(drawn), width=200))
    assert "below top 0x20000390, 0x40 (64 bytes), tcache: it is free, but malloc keeps it apart" in text
