"""Commands of GDB's machine interface: one for each command that answers with an object, giving that object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import gdb

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from gdbheap.debugger.commands.base import HeapCommand

    # What GDB can put into a result record; all that is no list and no tuple is text there.
    MIValue = str | list["MIValue"] | dict[str, "MIValue"]


def mi_name(command: HeapCommand) -> str:
    """Return the name of the MI command that belongs to a command: ``-heap-chunks`` to ``heap chunks``."""
    return "-" + command.json_name.replace(" ", "-")


def mi_value(value: object) -> MIValue:
    """Return a JSON value as a result record has it: each value that is no list and no object as its JSON text.

    So null and booleans are ``null``, ``true`` and ``false``, and integers are decimal, whatever GDB's release would
    make of Python's values. A string stands as it is; half of a surrogate pair, which UTF-8 has no form for, as an
    escape.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {str(key): mi_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [mi_value(inner) for inner in value]
    import json

    return json.dumps(value)


def define(commands: Iterable[HeapCommand]) -> None:
    """Define the MI commands of those that have an answer; do nothing where GDB cannot (before GDB 12)."""
    if not hasattr(gdb, "MICommand"):
        return

    class HeapMICommand(gdb.MICommand):
        """The MI command that belongs to a command of ours."""

        def __init__(self, command: HeapCommand) -> None:
            self._command = command
            super().__init__(mi_name(command))

        def invoke(self, arguments: Sequence[str]) -> dict[str, object]:
            """Return the command's object, as a result record has it."""
            return {key: mi_value(value) for key, value in self._command.object(arguments).items()}

    for command in commands:
        if command.has_answer():
            HeapMICommand(command)
