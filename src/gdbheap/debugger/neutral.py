"""GDB's settings that change what it reads of a program, as they are by default while gdbheap reads."""

from __future__ import annotations

import gdb

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
        commands = []
        for name, wanted in _WANTED.items():
            value = gdb.parameter(name)
            if value not in wanted and not (isinstance(value, int) and value >= _LARGE):
                self._theirs.append(f"set {name} {_text(value)}")
                commands.append(f"set {name} {_NEEDED[name]}")
        _set(commands)

    def __exit__(self, *_: object) -> None:
        theirs, self._theirs = self._theirs, []
        _set(theirs)


def _set(commands: Sequence[str]) -> None:
    """Run `set` commands; GDB forgets all frames where how far it unwinds is set, so select the same one again."""
    if not commands:
        return
    try:
        frame: gdb.Frame | None = gdb.selected_frame()
    except gdb.error:  # there is no thread, or it runs
        frame = None
    for command in commands:
        gdb.execute(command, to_string=True)
    if frame is not None and frame.is_valid():
        frame.select()


def neutrally(handler: Callable[..., None]) -> Callable[..., None]:
    """Return an event handler that runs while the settings have their defaults."""

    def handle(*arguments: Any) -> None:
        with Neutral():
            handler(*arguments)

    return handle
