"""Numbers as people read them."""

from __future__ import annotations

_in_bytes = False


def write_in_bytes(wanted: bool) -> None:
    """Make human_size write every size in bytes from now on, or in the largest unit that it fills.

    It is a setting of the whole program, as a locale is: whoever writes sizes need not hand it on.
    """
    global _in_bytes
    _in_bytes = wanted


def human_size(size: int) -> str:
    """Return a number of bytes as people read it: ``132 KiB``, ``1.5 MiB``, ``1,032 bytes``.

    It is in the largest unit that it fills, rounded to a tenth; less than 10 KiB that are no whole number of KiB are
    given in bytes, and so is every size after ``write_in_bytes(True)``.
    """
    if _in_bytes or (abs(size) < 10 << 10 and size % (1 << 10)):
        return f"{size:,} bytes" if abs(size) != 1 else f"{size} byte"
    for unit, name in ((1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")):
        rounded = round(size / unit, 1)
        if abs(rounded) < 1024 or name == "GiB":
            break
    return f"{rounded:.1f}".removesuffix(".0") + f" {name}" if size else "0 bytes"


def signed_hex(value: int) -> str:
    """Return a number of bytes with its sign: ``+0x21000``, ``-0x1000``, ``0``."""
    return f"{value:+#x}" if value else "0"


def count_of(number: int, noun: str) -> str:
    """Return ``number`` and the noun in its form: ``1 chunk``, ``2 chunks``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def hex_size(size: int) -> str:
    """Return a number of bytes both ways: ``0x21000 (132 KiB)``; just ``0`` for none."""
    return f"{size:#x} ({human_size(size)})" if size else "0"


def signed_size(delta: int) -> str:
    """Return a change as people read it: ``+132 KiB``, ``-1.9 MiB``, ``0 bytes``."""
    return f"{'-' if delta < 0 else '+' if delta else ''}{human_size(abs(delta))}"
