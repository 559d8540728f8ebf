"""What every command shares: its help from its options, its completion, and how its errors reach the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import gdb

from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.options import Option, Parsed, UsageError, complete, parse

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from gdbheap.render.style import Plain

JSON = Option(
    "json",
    "FILE",
    "Print one JSON object (docs/json.md) instead of text; with FILE, write it there beside the text.",
    optional=True,
)

FORCE = Option("force", "", "Overwrite FILE where it exists.")


def help_text(name: str, summary: str, operands: str, options: Sequence[Option], examples: Sequence[str]) -> str:
    """Return a command's help: the sentence, the usage line, each option, examples."""
    usage = " ".join([name, *(f"[{option.usage}]" for option in options), *([operands] if operands else [])])
    lines = [summary, "", f"Usage: {usage}"]
    if options:
        width = max(len(option.usage) for option in options)
        lines += ["", *(f"  {option.usage:<{width}}  {option.text}" for option in options)]
    if examples:
        lines += ["", *(f"Example: {example}" for example in examples)]
    return "\n".join(lines)


class Answer:
    """What a command answers: ``body`` makes the keys of its JSON object, ``lines`` the lines in a given style.

    Either is called once at most, and only when it is shown.
    """

    def __init__(self, body: Callable[[], Mapping[str, object]], lines: Callable[[Plain], Iterable[str]]) -> None:
        self.body = body
        self.lines = lines


class HeapCommand(gdb.Command):
    """One command under a prefix.

    A subclass says its ``word`` (empty for the prefix itself), ``summary`` (one sentence, for lists of commands),
    ``details``, ``options``, ``operands`` and ``examples``, and has an ``answer``; one that has none overrides ``run``.
    """

    word = ""
    summary = ""
    details = ""
    options: Sequence[Option] = ()
    operands = ""
    examples: Sequence[str] = ()
    command_class = gdb.COMMAND_DATA

    def __init__(self, prefix: str) -> None:
        name = f"{prefix} {self.word}".rstrip()
        if JSON in self.options:
            self.options = (*self.options, FORCE)
        examples = [example.replace("heap", prefix, 1) for example in self.examples]
        summary = f"{self.summary}\n{self.details}" if self.details else self.summary
        self.__doc__ = help_text(name, summary, self.operands, self.options, examples)
        super().__init__(name, self.command_class, prefix=not self.word)
        self._name = name

    def run(self, parsed: Parsed) -> None:
        """Do what the command line asks: show the answer, as lines, as JSON, or as both where a file is named."""
        from gdbheap.debugger.output import style, write_json, write_lines

        answer = self.answer(parsed)
        path = parsed.text("json")
        if path is not None:
            write_json(f"heap {self.word}".rstrip(), answer.body(), path, parsed.given("force"))
            if not path:
                return
        write_lines(answer.lines(style()))

    def answer(self, parsed: Parsed) -> Answer:
        """Return what the command line asks for."""
        raise NotImplementedError

    def split(self, argument: str) -> list[str]:
        """Return the words of a command line, their quotes taken off as GDB does it."""
        return gdb.string_to_argv(argument)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Run the command; every expected failure becomes one sentence of GDB's."""
        from gdbheap.memory import MemoryFault  # with typing, too slow to import for a session that never gets here

        self.dont_repeat()
        try:
            parsed = parse(self.split(argument), self.options)
            if parsed.words and not self.operands:
                raise UsageError(f"'{self._name}' takes no argument '{parsed.words[0]}': see 'help {self._name}'.")
            self.run(parsed)
        except (UsageError, TargetError, gdb.GdbError) as error:
            from gdbheap.render.escape import printable

            raise gdb.GdbError(printable(str(error))) from None
        except MemoryFault as error:
            raise gdb.GdbError(f"GDB {error}.") from None

    def complete(self, text: str, word: str | None) -> Sequence[str]:
        """Return the completions of the last word; none where GDB only asks how to break words (``word`` is None)."""
        return [] if word is None else self.completions(text, word)

    def completions(self, text: str, word: str) -> list[str]:
        """Return what can follow: options, or their values."""
        return complete(text, word, self.options)


def number(parsed: Parsed, name: str, default: int) -> int:
    """Return the option as a whole number that is not negative, ``default`` where it was not given."""
    text = parsed.text(name)
    if text is None:
        return default
    value = evaluate(text, f"-{name}")
    if value < 0:
        raise UsageError(f"-{name} is a number that is not negative, not {text}.")
    return value


def evaluate(text: str, what: str) -> int:
    """Return the integer (or address) that an expression of the user's has; raise UsageError where it has none."""
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return int(gdb.parse_and_eval(text))
    except (gdb.error, ValueError, RuntimeError) as error:
        raise UsageError(f"{what} is a number or an expression that has one, not '{text}': {error}") from None
