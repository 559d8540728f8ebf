"""Text from the target made safe for a terminal: nothing in it can move the cursor, colour or reorder the line."""

from __future__ import annotations

import unicodedata

#: Unicode categories that a terminal acts on or that hide: control, format (bidirectional marks), surrogate,
#: private use, unassigned, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape decodes it
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def printable(text: str) -> str:
    """Return ``text`` with every character that a terminal would act on written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


_PREVIEW = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))


def preview(data: bytes, width: int) -> str:
    """Return the bytes as at most ``width`` characters: printable ASCII as it is, a dot for every other byte.

    A backslash stays one: each byte is one character, so that offsets can be counted.
    """
    return data[:width].translate(_PREVIEW).decode("ascii")
