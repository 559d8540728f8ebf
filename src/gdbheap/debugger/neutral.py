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


def _theirs() -> dict[str, object]:
    """Return the settings that the user has set to other values than those that gdbheap needs."""
    values = ((name, gdb.parameter(name)) for name in _NEEDED)
    return {
        name: value
        for name, value in values
        if value not in _WANTED[name] and not (isinstance(value, int) and value >= _LARGE)
    }


class WhileRunning:
    """Whether Neutral is needed, looked up once each time that the program goes on: only a stop lets a user set.

    Six settings take as long to look up as a stack to recognise.
    """

    def __init__(self) -> None:
        self._known: bool | None = None
        for registry in (gdb.events.cont, gdb.events.new_objfile, gdb.events.exited):
            registry.connect(self._forget)

    def _forget(self, _event: object) -> None:
        self._known = None

    @property
    def needs_neutral(self) -> bool:
        """Whether one of the settings is another than gdbheap needs."""
        if self._known is None:
            self._known = bool(_theirs())
        return self._known


class Neutral:
    """A ``with`` block in which those settings have their defaults; the user's are back behind it."""

    def __init__(self) -> None:
        self._theirs: list[str] = []

    def __enter__(self) -> None:
        theirs = _theirs()
        self._theirs = [f"set {name} {_text(value)}" for name, value in theirs.items()]
        _set([f"set {name} {_NEEDED[name]}" for name in theirs])

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
