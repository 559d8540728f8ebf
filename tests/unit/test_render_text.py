"""Text from the target made harmless, and numbers as people read them."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.render.escape import preview, printable
from gdbheap.render.units import count_of, hex_size, human_size, signed_hex

#: Control, format (the bidirectional marks are of it), line and paragraph separators, surrogates, and the unassigned.
UNSAFE = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
#: What reorders a line, by Unicode's own property rather than by category.
BIDI = {"LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
texts = st.text(st.characters(exclude_categories=[])) | st.text(
    "\x00\x1b[]m\r\n\t\x7f\x9b\u202e\u2066\u2028\u200f\udc9b\\"
)


def is_safe(text: str) -> bool:
    return not any(unicodedata.category(c) in UNSAFE or unicodedata.bidirectional(c) in BIDI for c in text)


@given(texts)
def test_no_text_reaches_the_terminal_as_a_command(text: str) -> None:
    assert is_safe(printable(text))
    printable(text).encode()


@given(texts)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    if is_safe(text):
        assert printable(text) == text


@given(st.binary())
def test_no_bytes_reach_the_terminal_as_a_command(data: bytes) -> None:
    decoded = printable(data.decode(errors="surrogateescape"))
    assert is_safe(decoded)
    decoded.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grün 名前 'quoted' \\n", "grün 名前 'quoted' \\n"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\tb\r\n", "a\\x09b\\x0d\\x0a"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
        ("\U000e0041", "\\U000e0041"),
        (b"\xff\x9b".decode(errors="surrogateescape"), "\\xff\\x9b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_escapes_say_what_was_there(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.binary(max_size=80), st.integers(0, 100))
def test_a_preview_has_one_character_a_byte(data: bytes, width: int) -> None:
    shown = preview(data, width)
    assert len(shown) == min(len(data), width)
    assert shown.isascii()
    assert is_safe(shown)
    for byte, character in zip(data, shown):
        assert character == (chr(byte) if chr(byte).isascii() and chr(byte).isprintable() else ".")


UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@given(st.integers(-(1 << 48), 1 << 48) | st.integers(-20000, 20000))
def test_a_size_is_right_to_a_tenth_of_its_unit(size: int) -> None:
    text = human_size(size)
    found = re.fullmatch(r"(-?[\d,]+(?:\.\d)?) (bytes?|[KMG]iB)", text)
    assert found is not None, text
    number = Fraction(found[1].replace(",", ""))
    unit = UNITS.get(found[2], 1)
    assert abs(number * unit - size) <= Fraction(unit, 20)
    assert not found[1].endswith(".0")
    if unit == 1:
        assert number == size
        assert (found[2] == "byte") == (abs(size) == 1)
        assert abs(size) < 10 << 10
        assert abs(size) < 1 << 10 or size % (1 << 10)
    else:
        assert unit <= abs(size)
        assert unit == 1 << 30 or abs(size) < unit << 10


@given(st.integers(1, 1023), st.sampled_from(sorted(UNITS)))
def test_whole_units_are_exact(count: int, unit: str) -> None:
    assert human_size(count * UNITS[unit]) == f"{count} {unit}"
    assert human_size(-count * UNITS[unit]) == f"-{count} {unit}"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (0x400, "1 KiB"),
        (0x408, "1,032 bytes"),
        (9728, "9,728 bytes"),
        (10752, "10.5 KiB"),
        (0x21000, "132 KiB"),
        (0x20D70, "131.4 KiB"),
        (0x180000, "1.5 MiB"),
        (0x4000000, "64 MiB"),
        (5 << 40, "5120 GiB"),
    ],
)
def test_sizes_as_people_read_them(size: int, text: str) -> None:
    assert human_size(size) == text


@given(st.integers(0, 1 << 48))
def test_a_size_both_ways(size: int) -> None:
    text = hex_size(size)
    assert int(text.split()[0], 16) == size
    assert size == 0 or human_size(size) in text


@given(st.integers())
def test_a_signed_number_of_bytes(value: int) -> None:
    text = signed_hex(value)
    assert int(text, 16) == value
    assert text == "0" or text.startswith("+0x" if value > 0 else "-0x")


@given(st.integers(0, 1 << 40), st.sampled_from(["chunk", "heap", "other arena"]))
def test_a_noun_in_its_form(number: int, noun: str) -> None:
    text = count_of(number, noun)
    assert text.endswith(noun if number == 1 else f"{noun}s")
    assert int(text.split()[0].replace(",", "")) == number
    assert "," in text or number < 1000
