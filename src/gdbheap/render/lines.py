"""Texts in lines that are no wider than the terminal."""

from __future__ import annotations

from collections.abc import Iterator


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yield a text in lines of at most ``width`` characters, broken at blanks where there are any."""
    line = ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
        while len(line) > width:
            yield line[:width]
            line = line[width:]
    yield line
