"""Taking structs apart: offsets, arrays, signs, byte orders, and fields that are left out."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.symbols import Field, Struct

ORDERS = ("<", ">")


def laid_out(fields: Mapping[str, Field], size: int = 64) -> Struct:
    return Struct("example", size, fields)


@pytest.mark.parametrize("order", ORDERS)
def test_offsets_holes_and_sizes(order: str) -> None:
    example = laid_out({"last": Field(24, 2), "byte": Field(1, 1), "word": Field(8, 8), "half": Field(4, 4)}, 32)
    data = bytearray(b"\xee" * 32)
    struct.pack_into(f"{order}B", data, 1, 200)
    struct.pack_into(f"{order}I", data, 4, 0x80000001)
    struct.pack_into(f"{order}Q", data, 8, 0xFEDCBA9876543210)
    struct.pack_into(f"{order}H", data, 24, 0xFFFE)
    found = example.decode(bytes(data), order)
    assert found == {"byte": 200, "half": 0x80000001, "word": 0xFEDCBA9876543210, "last": 0xFFFE}
    assert list(found) == ["byte", "half", "word", "last"]


@pytest.mark.parametrize("order", ORDERS)
def test_arrays_are_tuples(order: str) -> None:
    example = laid_out({"counts": Field(0, 6, 3), "one": Field(8, 4), "bins": Field(16, 16, 2)}, 32)
    data = struct.pack(f"{order}3H2xI4x2Q", 1, 2, 3, 4, 5, 6)
    assert example.decode(data, order) == {"counts": (1, 2, 3), "one": 4, "bins": (5, 6)}


def test_only_what_is_named_is_signed() -> None:
    example = laid_out({"flags": Field(0, 4), "size": Field(4, 4), "many": Field(8, 4, 2)}, 12)
    data = b"\xff" * 12
    assert example.decode(data, "<") == {"flags": 0xFFFFFFFF, "size": 0xFFFFFFFF, "many": (0xFFFF, 0xFFFF)}
    signed = frozenset({"flags", "many", "no such field"})
    assert example.decode(data, "<", signed) == {"flags": -1, "size": 0xFFFFFFFF, "many": (-1, -1)}


def test_the_same_struct_in_both_orders() -> None:
    example = laid_out({"size": Field(0, 4)}, 4)
    assert example.decode(b"\0\0\0\1", ">") == {"size": 1}
    assert example.decode(b"\0\0\0\1", "<") == {"size": 0x1000000}


@pytest.mark.parametrize(
    "odd",
    [
        Field(4, 3),  # no integer
        Field(4, 16),  # a struct, or a long double
        Field(4, 0),
        Field(4, 8, 0),  # a flexible array
        Field(4, 7, 3),  # not a whole number of elements
        Field(4, 12, 4),  # elements of three bytes
    ],
)
def test_what_is_no_integer_is_left_out(odd: Field) -> None:
    example = laid_out({"before": Field(0, 4), "odd": odd, "after": Field(24, 4)}, 28)
    assert example.decode(struct.pack("<I20xI", 7, 9), "<") == {"before": 7, "after": 9}


def test_a_member_inside_another_is_left_out() -> None:
    union = laid_out({"whole": Field(0, 8), "part": Field(4, 4), "next": Field(8, 4)}, 12)
    assert union.decode(struct.pack("<QI", 1 << 32, 5), "<") == {"whole": 1 << 32, "next": 5}


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(struct.error):
        laid_out({"size": Field(0, 8)}, 8).decode(b"\0" * 7, "<")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[dict[str, Field], list[int]]:
    fields, offset, values = {}, 0, []
    for index in range(draw(st.integers(1, 8))):
        size = draw(st.sampled_from([1, 2, 4, 8]))
        offset += draw(st.integers(0, 9))
        fields[f"field{index}"] = Field(offset, size)
        values.append(draw(st.integers(0, (1 << 8 * size) - 1)))
        offset += size
    return fields, values


@given(layouts(), st.booleans())
def test_any_layout_gives_back_what_was_written(case: tuple[dict[str, Field], list[int]], little: bool) -> None:
    fields, values = case
    data = bytearray(max(field.offset + field.size for field in fields.values()) + 3)
    for field, value in zip(fields.values(), values):
        data[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little" if little else "big")
    order = "<" if little else ">"
    assert list(laid_out(fields).decode(bytes(data), order).values()) == values
    signed = laid_out(fields).decode(bytes(data), order, frozenset(fields))
    for name, value in zip(fields, values):
        bits = 8 * fields[name].size
        assert signed[name] == (value - (1 << bits) if value >> bits - 1 else value)
