"""GDB's settings that change what it reads of a program, as they are by default while gdbheap reads."""

from __future__ import annotations

import gdb

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The settings that matter, with the values that gdbheap needs; ``unlimited`` is None in Python.
_NEEDED = {
    "target-charset": "auto",  # what GDB makes of names: Python need not know the user's
    "max-value-size": "unlimited",
    "backtrace limit": "unlimited",
    "backtrace past-main": "off",
    "backtrace past-entry": "off",
    "filename-display": "relative",
}
_VALUES = {"unlimited": (None, -1), "off": (False,)}
_WANTED = {name: _VALUES.get(text, (text,)) for name, text in _NEEDED.items()}


#: GDB's own default of max-value-size, in bytes: no value that gdbheap reads is larger.
_LARGE = 65536


def _text(value: object) -> str:
    if value is None:
        return "unlimited"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:#x}" if isinstance(value, int) else str(value)  # whatever input-radix is


class Neutral:
    """A ``with`` block in which those settings have their defaults; the user's are back behind it."""

    def __init__(self) -> None:
        self._theirs: list[str] = []

    def __enter__(self) -> None:
        for name, wanted in _WANTED.items():
            value = gdb.parameter(name)
            if value not in wanted and not (isinstance(value, int) and value >= _LARGE):
                self._theirs.append(f"set {name} {_text(value)}")
                gdb.execute(f"set {name} {_NEEDED[name]}", to_string=True)

    def __exit__(self, *_: object) -> None:
        while self._theirs:
            gdb.execute(self._theirs.pop(), to_string=True)


def neutrally(handler: Callable[..., None]) -> Callable[..., None]:
    """Return an event handler that runs while the settings have their defaults."""

    def handle(*arguments: Any) -> None:
        with Neutral():
            handler(*arguments)

    return handle
