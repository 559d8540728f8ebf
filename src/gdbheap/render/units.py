"""Numbers as people read them."""

from __future__ import annotations


def human_size(size: int) -> str:
    """Return a number of bytes in the largest binary unit that fits: ``132 KiB``, ``1.5 MiB``, ``1,032 bytes``.

    What is not a whole number of units is rounded to a tenth, from ten units on; below that it is given in bytes.
    """
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(size) >= unit and (size % unit == 0 or unit > 1 << 10 or abs(size) >= 10 * unit):
            return f"{size / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{size:,} bytes" if abs(size) != 1 else f"{size} byte"


def signed_hex(value: int) -> str:
    """Return a number of bytes with its sign: ``+0x21000``, ``-0x1000``, ``0``."""
    return f"{value:+#x}" if value else "0"


def count_of(number: int, noun: str) -> str:
    """Return ``number`` and the noun in its form: ``1 chunk``, ``2 chunks``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def hex_size(size: int) -> str:
    """Return a number of bytes both ways: ``0x21000 (132 KiB)``; just ``0`` for none."""
    return f"{size:#x} ({human_size(size)})" if size else "0"
