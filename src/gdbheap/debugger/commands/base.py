"""What every command shares: its help from its options, its completion, and how its errors reach the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import gdb

from gdbheap.debugger.errors import Told
from gdbheap.debugger.options import Option, Parsed, UsageError, awaited, complete, parse

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.ptmalloc.unsettled import Unsettled
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
    """One command under a prefix, which help and messages call by the name ``shown``.

    A subclass says its ``word`` (empty for the prefix itself), ``summary`` (one sentence, for lists of commands),
    ``details``, ``options``, ``operands`` and ``examples``, and has an ``answer``; one that has none overrides ``run``.
    ``group`` is the part of `help heap` that lists it: see or explain. One that ``shows_heap`` says, before all that it
    shows, what may be changing meanwhile: ``unsettled``, None where that is not known.
    """

    word = ""
    group = "see"
    shows_heap = False
    unsettled: Unsettled | None = None
    summary = ""
    details = ""
    options: Sequence[Option] = ()
    operands = ""
    examples: Sequence[str] = ()
    command_class = gdb.COMMAND_DATA

    def __init__(self, prefix: str, shown: str) -> None:
        name = f"{shown} {self.word}".rstrip()
        if JSON in self.options:
            self.options = (*self.options, FORCE)
        examples = [example.replace("heap", shown, 1) for example in self.examples]
        summary = f"{self.summary}\n{self.details}" if self.details else self.summary
        self.__doc__ = help_text(name, summary, self.operands, self.options, examples)
        super().__init__(f"{prefix} {self.word}".rstrip(), self.command_class, prefix=not self.word)
        self._name = name

    @property
    def changing(self) -> bool:
        """Whether what the command reads may be changing: a thread runs, or is inside malloc."""
        return self.unsettled is not None and not self.unsettled.certain

    @property
    def json_name(self) -> str:
        """The command's name in its JSON object, whatever the prefix is."""
        return f"heap {self.word}".rstrip()

    @classmethod
    def has_answer(cls) -> bool:
        """Return whether the command answers with an object, and does not only do something."""
        return cls.answer is not HeapCommand.answer

    def run(self, parsed: Parsed) -> None:
        """Do what the command line asks: show the answer, as lines, as JSON, or as both where a file is named."""
        from gdbheap.debugger.output import style, write_json, write_lines

        answer = self._answer(parsed)
        path = parsed.text(JSON.name)
        if path is not None:
            write_json(self.json_name, answer.body(), path, parsed.given(FORCE.name))
            if not path:
                return
        write_lines(answer.lines(style()))

    def _answer(self, parsed: Parsed) -> Answer:
        """Return the answer, with what may be changing in the heap meanwhile."""
        if not self.shows_heap:
            return self.answer(parsed)
        from gdbheap.debugger.busy import unsettled_now
        from gdbheap.render.style import Doubting
        from gdbheap.render.unsettled import unsettled_lines, unsettled_object

        self.unsettled = found = unsettled_now()
        answer = self.answer(parsed)

        def lines(style: Plain) -> Iterator[str]:
            if found is not None:
                yield from unsettled_lines(found)
                style = style if found.certain else Doubting(style)
            yield from answer.lines(style)

        return Answer(lambda: {**answer.body(), "unsettled": unsettled_object(found)}, lines)

    def answer(self, parsed: Parsed) -> Answer:
        """Return what the command line asks for."""
        raise NotImplementedError

    def object(self, words: Sequence[str]) -> Mapping[str, object]:
        """Return the JSON object for the ``words`` of a command line, -json left out; raise gdb.GdbError."""
        from gdbheap.debugger.output import versioned

        with Told():
            parsed = self._parsed(words, [option for option in self.options if option is not JSON])
            parsed.values[JSON.name] = ""
            return versioned(self.json_name, self._answer(parsed).body())

    def split(self, argument: str) -> list[str]:
        """Return the words of a command line, their quotes taken off as GDB does it."""
        return gdb.string_to_argv(argument)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Run the command; every expected failure becomes one sentence of GDB's."""
        self.dont_repeat()
        with Told():
            self.run(self._parsed(self.split(argument), self.options))

    def _parsed(self, words: Sequence[str], options: Sequence[Option]) -> Parsed:
        parsed = parse(words, options)
        if parsed.words and not self.operands:
            raise UsageError(f"'{self._name}' takes no argument '{parsed.words[0]}': see 'help {self._name}'.")
        return parsed

    def complete(self, text: str, word: str | None) -> Sequence[str]:
        """Return the completions of the last word; none where GDB only asks how to break words (``word`` is None)."""
        return [] if word is None else self.completions(text, word)

    def completions(self, text: str, word: str) -> list[str]:
        """Return what can follow: options, or their values."""
        option = awaited(text, self.options)
        last = "" if not text or text[-1].isspace() else text.split()[-1]
        if option is None or last.startswith("-"):
            return complete(text, word, self.options)
        if option.value == "ADDRESS" and last:
            return expression_completions(last, word)
        if option.name == "arena":
            return [number for number in _arena_numbers() if number.startswith(last)]
        return complete(text, word, self.options)


def expression_completions(last: str, word: str) -> list[str]:
    """Return what GDB completes ``last``, the end of an expression, with; ``word`` is what of it may be replaced."""
    begin = f"print {last}"
    kept = len(begin) - len(word)
    found = gdb.execute(f"complete {begin}", to_string=True).splitlines()
    return [line[kept:] for line in found if line.startswith(begin)]


def _arena_numbers() -> list[str]:
    """Return the numbers of the arenas that there are, none where there is no heap."""
    from gdbheap.debugger.model import read_state

    try:
        with Told():
            return [str(arena.number) for arena in read_state().ring.arenas]
    except gdb.GdbError:
        return []


def number(parsed: Parsed, name: str, default: int) -> int:
    """Return the option as a whole number that is not negative, ``default`` where it was not given."""
    text = parsed.text(name)
    if text is None:
        return default
    value = evaluate(text, f"-{name}")
    if value < 0:
        raise UsageError(f"-{name} is a number that is not negative, not {text}.")
    return value


def within(parsed: Parsed, name: str, least: int, most: int) -> int | None:
    """Return the option as a number between two, both included; None where it was not given."""
    if not parsed.given(name):
        return None
    value = number(parsed, name, 0)
    if not least <= value <= most:
        raise UsageError(f"-{name} is a number from {least} to {most:,}, not {value:,}.")
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


def row_limit(parsed: Parsed, usual: int | None = None, option: str = "count") -> int | None:
    """Return how many rows a list has at most, None for all: as -count and -all say, else as `set heap limit` does.

    ``usual`` is how many it has while that is not set, where that is not what other lists have. ``option`` is the one
    that says it where -count has another meaning.
    """
    from gdbheap.debugger import settings

    if parsed.given(option):
        return number(parsed, option, 0)
    if parsed.given("all"):
        return None
    return settings.limit() if usual is None else settings.limit(usual)
