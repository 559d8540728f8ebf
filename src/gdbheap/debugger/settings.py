"""What a user can set: `set heap ...`, `show heap ...`, under both of our prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import gdb

from gdbheap.debugger.errors import Told
from gdbheap.debugger.options import UsageError

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from typing import Any

AUTO = "auto"
#: Addresses that the user gave, by the setting's word.
_addresses: dict[str, int] = {}
#: Addresses of tcaches that the user gave, by process and GDB's global number of the thread.
_tcaches: dict[tuple[int, int], int] = {}
#: The settings by their word, one for each prefix; all of a word have the same value.
_twins: dict[str, list[Setting]] = {}


class Setting(gdb.Parameter):
    """One setting under a prefix; each prefix has its own, and they are kept the same.

    A subclass says its ``word``, its ``subject`` (a phrase that follows Set and Show), ``details``, GDB's ``kind`` of
    it with the ``choices`` of an enumeration, and the ``default``.
    """

    word = ""
    subject = ""
    details = ""
    kind = gdb.PARAM_STRING_NOESCAPE
    choices: Sequence[str] = ()
    default: Any = ""

    def __init__(self, prefix: str) -> None:
        self.__doc__ = self.details.replace("set heap", f"set {prefix}")
        self.set_doc = f"Set {self.subject}."
        self.show_doc = f"Show {self.subject}."
        super().__init__(
            f"{prefix} {self.word}", gdb.COMMAND_DATA, self.kind, *([self.choices] if self.choices else [])
        )
        self.value = self._kept = self.default
        _twins.setdefault(self.word, []).append(self)

    def get_set_string(self) -> str:
        """Take the value over, or refuse it with a sentence: GDB calls this when it was set."""
        try:
            with Told():
                self.take()
        except gdb.GdbError:
            self.value = self._kept
            raise
        for twin in _twins[self.word]:
            twin.value = twin._kept = self.value
        return ""

    def get_show_string(self, value: str) -> str:
        """Return the sentence that `show` prints."""
        sentence = self.shown(value)
        return sentence[0].upper() + sentence[1:]

    def take(self) -> None:
        """Act on a new value; raise UsageError for one that cannot be meant."""

    def shown(self, value: str) -> str:
        """Return what the setting is, where GDB writes its value as ``value``."""
        return f"{self.subject}: {value}."


class Colour(Setting):
    """Whether text is coloured."""

    word = "colour"
    subject = "whether answers are coloured"
    details = (
        "auto: where GDB writes to a terminal, 'show style enabled' is on and NO_COLOR is not in the environment;\n"
        "on: always, as for a pager that understands colours; off: never.\n\n"
        "Example: set heap colour off"
    )
    kind = gdb.PARAM_ENUM
    choices = (AUTO, "on", "off")
    default = AUTO


class Limit(Setting):
    """How many rows are listed."""

    word = "limit"
    subject = "how many rows a list has at most"
    details = (
        "It holds for commands that are not given -count N or -limit N: for the rows of 'heap chunks', 'heap events',\n"
        "'heap find' and 'heap refs', for each free list of 'heap bins' and 'heap tcache', for the groups of 'heap\n"
        "find' and for the chunks of 'heap map -words'. While it is 200, the default, a free list has at most 16, a\n"
        "table of groups 20 and -words 10. JSON has every row all the same (but for -words).\n"
        "'unlimited' lists every row, as -all does.\n\n"
        "Example: set heap limit 1000"
    )
    kind = gdb.PARAM_ZUINTEGER_UNLIMITED
    default = 200


class Preview(Setting):
    """How much of a chunk's content is shown in a row."""

    word = "preview"
    subject = "how many bytes of its content a chunk's row shows"
    details = "Each is one character of the row (default 32); 0 shows none.\n\nExample: set heap preview 64"
    kind = gdb.PARAM_ZUINTEGER
    default = 32


class Units(Setting):
    """How sizes are written for people."""

    word = "units"
    subject = "the units that sizes are written in for people"
    details = (
        "binary: the largest unit that they fill, as in 132 KiB; bytes: always bytes, as in 135,168 bytes.\n"
        "Hexadecimal sizes are in bytes always, and so are those in JSON.\n\n"
        "Example: set heap units bytes"
    )
    kind = gdb.PARAM_ENUM
    choices = ("binary", "bytes")
    default = "binary"

    def take(self) -> None:
        """Tell the functions that write sizes."""
        from gdbheap.render import units

        units.write_in_bytes(self.value == "bytes")


class _Address(Setting):
    """The address of one of glibc's variables."""

    default = AUTO

    def take(self) -> None:
        """Work the expression out, and forget what was known of the process."""
        text = str(self.value or "").strip() or AUTO
        if text == AUTO:
            _addresses.pop(self.word, None)
        else:
            _addresses[self.word] = _address(self.word, text)
        self.value = text
        _forget()

    def shown(self, value: str) -> str:
        """Return where the variable is, or that it is looked up."""
        given = _addresses.get(self.word)
        return super().shown(_found_how(given))


class MainArena(_Address):
    """Where main_arena is."""

    word = "main-arena"
    subject = "the address of glibc's main_arena"
    details = (
        "Give it, and 'set heap mp', where they cannot be found, or where another copy of glibc is found than you\n"
        "mean. ADDRESS is an expression that is worked out at once; 'auto' looks it up again. What is there must be a\n"
        "main_arena of a layout that glibc has had since 2.23. 'heap params -how' tells how it is found otherwise.\n\n"
        "Example: set heap main-arena 0x7ffff7fa8c60"
    )


class Mp(_Address):
    """Where mp_ is."""

    word = "mp"
    subject = "the address of glibc's mp_"
    details = (
        "mp_ has malloc's settings and counters. See 'help set heap main-arena': both are needed, and given, alike.\n\n"
        "Example: set heap mp 0x7ffff7fa8240"
    )


class TcacheAddress(Setting):
    """Where a thread's tcache is."""

    word = "tcache"
    subject = "the address of the selected thread's tcache"
    details = (
        "Give it where the thread's variable `tcache` cannot be read, so that free chunks in it would pass for used.\n"
        "ADDRESS is an expression: that of the thread's tcache_perthread_struct, or 0 where it has none. It holds for\n"
        "the thread that is selected now, until the process ends; 'auto' forgets those of all threads.\n\n"
        "Example: set heap tcache 0x555555559010"
    )
    default = AUTO

    def take(self) -> None:
        """Note the address for the selected thread."""
        text = str(self.value or "").strip() or AUTO
        if text == AUTO:
            _tcaches.clear()
        else:
            thread = gdb.selected_thread()
            if thread is None:
                raise UsageError("There is no thread whose tcache it could be: start the program first.")
            _tcaches[gdb.selected_inferior().pid, thread.global_num] = _address(self.word, text)
        self.value = text
        _forget()

    def shown(self, value: str) -> str:
        """Return where the selected thread's tcache is, or that it is looked up."""
        thread = gdb.selected_thread()
        given = None if thread is None else tcache(thread)
        return super().shown(_found_how(given))


#: All settings, in the order in which they are shown.
SETTINGS: tuple[type[Setting], ...] = (Colour, Limit, Preview, Units, MainArena, Mp, TcacheAddress)


def _found_how(given: int | None) -> str:
    return "looked up (auto)" if given is None else f"{given:#x}, as given"


def _address(word: str, text: str) -> int:
    from gdbheap.debugger.commands.base import evaluate

    address = evaluate(text, f"The address for 'set heap {word}'")
    if address < 0:
        raise UsageError(f"An address is not negative: 'set heap {word}' was given {text}.")
    return address


def _forget() -> None:
    from gdbheap.debugger import session, stops

    session.drop()
    stops.note_change()


class _Prefix(gdb.Command):
    """`set heap` and `show heap`: what all the settings are under."""

    def __init__(self, verb: str, prefix: str) -> None:
        self.__doc__ = f"{verb.capitalize()} how gdbheap reads and shows the heap."
        super().__init__(f"{verb} {prefix}", gdb.COMMAND_DATA, prefix=True)
        self._verb = verb
        self._prefix = prefix

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Show all settings; for `set` refuse what is none of them."""
        if argument:
            words = ", ".join(setting.word for setting in SETTINGS)
            raise gdb.GdbError(f"There is no setting '{argument.split()[0]}' of the heap; the settings are: {words}.")
        if self._verb == "set":
            gdb.execute(f"help set {self._prefix}")
            return
        for setting in SETTINGS:
            gdb.write(f"{setting.word}:  ")
            gdb.execute(f"show {self._prefix} {setting.word}")


def define(prefixes: Iterable[str]) -> None:
    """Define the settings under each of the prefixes; one whose `set` or `show` another extension has is left out."""
    for prefix in prefixes:
        taken = [verb for verb in ("set", "show") if is_defined(f"{verb} {prefix}")]
        if taken:
            gdb.write(
                f"The command '{taken[0]} {prefix}' belongs to another extension, so it is left alone: gdbheap's "
                "settings are under 'set gdbheap' and 'show gdbheap'.\n"
            )
            continue
        for verb in ("set", "show"):
            _Prefix(verb, prefix)
        for setting in SETTINGS:
            setting(prefix)


def is_defined(command: str) -> bool:
    """Return whether GDB has a command of exactly this name, other than one that only begins with it."""
    return command in gdb.execute(f"complete {command}", to_string=True).splitlines()


def _value(setting: type[Setting]) -> Any:
    twins = _twins.get(setting.word)
    return twins[0].value if twins else setting.default


def colour() -> str:
    """Return whether answers are coloured: auto, on or off."""
    return str(_value(Colour))


def limit(usual: int = Limit.default) -> int | None:
    """Return how many rows a list has at most, None for no limit.

    ``usual`` is what a list has that is to be shorter or longer than others while nobody has set anything.
    """
    rows = _value(Limit)
    if rows == Limit.default:
        return usual
    return None if rows is None or rows < 0 else int(rows)


def preview() -> int:
    """Return how many bytes of its content a chunk's row shows."""
    return int(_value(Preview))


def main_arena() -> int | None:
    """Return the address that the user gave for main_arena, None where none was given."""
    return _addresses.get(MainArena.word)


def mp() -> int | None:
    """Return the address that the user gave for mp_, None where none was given."""
    return _addresses.get(Mp.word)


def tcache(thread: gdb.InferiorThread) -> int | None:
    """Return the address that the user gave for a thread's tcache (0: it has none), None where none was given."""
    return _tcaches.get((thread.inferior.pid, thread.global_num))
