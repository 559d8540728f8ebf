"""Command lines as GDB writes them: ``-option value``, unambiguous prefixes, ``--`` before what is no option."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class UsageError(Exception):
    """A command line that cannot be understood; the message is a full sentence for the user."""


class Option:
    """One option of a command.

    ``value`` names its value in the help text ("" for a switch). An ``optional`` value may be left out. ``choices``
    are the words that it can be.
    """

    def __init__(
        self, name: str, value: str, text: str, *, optional: bool = False, choices: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.value = value
        self.text = text
        self.optional = optional
        self.choices = choices

    @property
    def usage(self) -> str:
        """The option as the usage line shows it."""
        if not self.value:
            return f"-{self.name}"
        return f"-{self.name} [{self.value}]" if self.optional else f"-{self.name} {self.value}"


class Parsed:
    """What a command line said: the options given, by name, and the words that are none."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.words: list[str] = []

    def given(self, name: str) -> bool:
        """Return whether the option was on the command line."""
        return name in self.values

    def text(self, name: str) -> str | None:
        """Return the option's value as it was typed, None where the option was not given."""
        return self.values.get(name)


def _find(word: str, options: Iterable[Option]) -> Option:
    matching = [option for option in options if option.name.startswith(word)]
    exact = [option for option in matching if option.name == word]
    if exact or len(matching) == 1:
        return (exact or matching)[0]
    if matching:
        names = ", ".join(f"-{option.name}" for option in matching)
        raise UsageError(f"-{word} could be any of {names}: write more of it.")
    known = ", ".join(f"-{option.name}" for option in options) or "none"
    raise UsageError(f"There is no option -{word} here; the options are: {known}.")


def parse(arguments: Sequence[str], options: Sequence[Option]) -> Parsed:
    """Return what ``arguments`` say; raise UsageError for an unknown option or a value that is missing.

    An optional value is the next word, unless that is an option or a plain number (a number is an operand: write
    ``./7`` for a file of that name).
    """
    parsed = Parsed()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            parsed.words += rest
            break
        if not word.startswith("-") or word == "-" or _is_number(word):
            parsed.words.append(word)
            continue
        option = _find(word.lstrip("-"), options)
        value = ""
        if option.value and option.optional:
            if rest and not rest[0].startswith("-") and not _is_number(rest[0]):
                value = rest.pop(0)
        elif option.value:
            if not rest:
                raise UsageError(f"-{option.name} needs a value: {option.usage}.")
            value = rest.pop(0)
            if option.choices and value not in option.choices:
                raise UsageError(f"-{option.name} is one of {', '.join(option.choices)}, not '{value}'.")
        parsed.values[option.name] = value
    return parsed


def _is_number(word: str) -> bool:
    try:
        int(word.lstrip("-"), 0)
    except ValueError:
        return False
    return True


def awaited(text: str, options: Sequence[Option]) -> Option | None:
    """Return the option whose value is typed at the end of a command line, None where something else is."""
    typed = text.split()
    if typed and not text[-1].isspace():
        typed.pop()
    if not typed or not typed[-1].startswith("-"):
        return None
    try:
        option = _find(typed[-1].lstrip("-"), options)
    except UsageError:
        return None
    return option if option.value else None


def complete(text: str, word: str, options: Sequence[Option]) -> list[str]:
    """Return the completions of a command line that ends in ``word``: options, or an option's values.

    GDB breaks words at "-", so ``word`` is what stands behind the last dash, and so is what is returned.
    """
    typed = text.split()
    last = typed.pop() if typed and not text[-1].isspace() else ""
    if last.startswith("-"):
        begun = last.lstrip("-")
        kept = len(begun) - len(word)
        return [option.name[kept:] for option in options if option.name.startswith(begun)]
    option = awaited(text, options)
    return [] if option is None else [choice for choice in option.choices if choice.startswith(word)]
