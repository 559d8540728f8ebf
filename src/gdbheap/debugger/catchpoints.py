"""The catchpoint of a recording, and what GDB must be told besides to hold it in processes that come later."""

from __future__ import annotations

import re
from collections.abc import Iterable

import gdb

#: By what `heap catch -follow` is called: GDB's own settings follow-fork-mode, detach-on-fork and schedule-multiple.
FOLLOW = {"parent": ("parent", "on", "off"), "child": ("child", "on", "off"), "both": ("parent", "off", "on")}
_MADE = re.compile(r"^Catchpoint (\d+) \(", re.MULTILINE)
_SETTINGS = ("follow-fork-mode", "detach-on-fork", "schedule-multiple")


class Catchpoints:
    """One catchpoint for the user to see and to handle, and one without a say in each process that a fork made.

    GDB counts which calls are caught by inferior, and takes a catchpoint into the count of the inferior that it was
    made in. So the others need one of their own; its condition is false, since GDB evaluates the first one's for all.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._calls = ""
        self._condition = ""
        self._covered: list[tuple[int, gdb.Progspace | None, int]] = []  # inferior, its program space, catchpoint
        self._spare: list[int] = []
        self._settings: tuple[str, ...] | None = None  # the user's own, while ours are in force

    def set(self, calls: Iterable[int], condition: str) -> None:
        """Catch the calls of these numbers; ``condition`` is evaluated at each. Raises gdb.error where that fails."""
        self._calls = " ".join(str(call) for call in calls)
        self._condition = condition
        self.number = self._catch(condition)

    def _catch(self, condition: str) -> int:
        # Not from $bpnum: a hook of the user's on the command may have set it.
        made = _MADE.search(gdb.execute(f"catch syscall {self._calls}", to_string=True))
        assert made is not None
        number = int(made.group(1))
        gdb.execute(f"condition {number} {condition}", to_string=True)
        self._covered.append((gdb.selected_inferior().num, gdb.current_progspace(), number))
        return number

    def cover(self) -> None:
        """See to it that calls of the selected inferior are caught, if GDB follows it from now on.

        After vfork a child shares its parent's program space, and GDB would mix up the two counts (GDB 13 then hangs
        where several such children are about): it is covered once it runs a program of its own.
        """
        if self.number is None:
            return
        inferior, space = gdb.selected_inferior().num, gdb.current_progspace()
        if any(other.num != inferior and other.pid and other.progspace == space for other in gdb.inferiors()):
            return
        if not any(num == inferior and known == space for num, known, _ in self._covered):
            self._catch("0")

    def uncover(self, inferior: int) -> None:
        """Note that what was made for an inferior, whose process has ended, can go."""
        for entry in [entry for entry in self._covered if entry[0] == inferior and entry[2] != self.number]:
            self._covered.remove(entry)
            self._spare.append(entry[2])

    def tidy(self) -> None:
        """Delete what is no longer needed; only while GDB has stopped for the user, and has no breakpoint inserted.

        At another time GDB would take them out of the count of whichever inferior is selected.
        """
        while self._spare:
            _delete(self._spare.pop())

    def follow(self, which: str | None) -> None:
        """Let GDB follow forks into the ``parent``, the ``child`` or ``both``; None leaves that to GDB's settings."""
        if which is None:
            return
        self._settings = tuple(_shown(setting) for setting in _SETTINGS)
        _set(FOLLOW[which])

    def delete(self) -> bool:
        """Delete all catchpoints and put GDB's settings back; return whether the user had not deleted the first one."""
        if self._settings is not None:
            _set(self._settings)
            self._settings = None
        self.tidy()
        covered, self._covered = self._covered, []
        number, self.number = self.number, None
        deleted = {entry[2]: _delete(entry[2]) for entry in covered}
        return number is not None and deleted.get(number, False)

    @property
    def listed(self) -> bool:
        """Whether the catchpoint is there; the user may have deleted it by hand."""
        return self.number is not None and self._listing() != ""

    def problem(self) -> str | None:
        """Return a sentence that says why nothing is recorded though it should be, None where all is well."""
        if self.number is None:
            return None
        listing = self._listing()
        if not listing:
            return f"Catchpoint {self.number} was deleted: 'heap catch' begins anew."
        if re.match(rf"{self.number}\s+\S+.*?\s+keep\s+n\b", listing) is not None:
            return f"Catchpoint {self.number} is disabled: 'enable {self.number}' goes on with the recording."
        if self._condition not in listing:
            return (
                f"Catchpoint {self.number} has another condition than {self._condition}, with which it records: "
                f"'condition {self.number} {self._condition}' goes on with the recording; for a stop of your own, "
                "set a catchpoint of your own."
            )
        return None

    def _listing(self) -> str:
        text = gdb.execute(f"info breakpoints {self.number}", to_string=True)
        return text[text.index(f"\n{self.number} ") + 1 :] if f"\n{self.number} " in text else ""


def _delete(number: int) -> bool:
    try:
        text = gdb.execute(f"delete {number}", to_string=True)
    except gdb.error:
        return False
    return "No breakpoint number" not in text


def _shown(setting: str) -> str:
    value = gdb.parameter(setting)
    return value if isinstance(value, str) else "on" if value else "off"


def _set(values: Iterable[str]) -> None:
    for setting, value in zip(_SETTINGS, values):
        gdb.execute(f"set {setting} {value}", to_string=True)
