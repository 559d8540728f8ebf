"""heap predict: what malloc would do next."""

from __future__ import annotations

import re

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, expression_completions, number
from gdbheap.debugger.options import Option, Parsed, UsageError

#: The operations, as gdbheap.simulate.operations has them, which is not imported before it is needed.
_OPERATIONS = (
    *("malloc", "calloc", "realloc", "reallocarray", "free"),
    *("memalign", "aligned_alloc", "posix_memalign", "valloc", "pvalloc", "trim", "mallopt"),
)


class HeapPredict(HeapCommand):
    """Say what malloc would do next."""

    word = "predict"
    group = "explain"
    summary = "Say what a call of malloc, free and their like would do now, why, and what it leaves behind."
    details = (
        "Nothing is run or written: glibc's own decisions are followed on the memory as it is.\n"
        "OPERATION is one of:\n"
        "  malloc N | calloc N M | realloc P N | reallocarray P N M | free P\n"
        "  free_sized P N | free_aligned_sized P A N (glibc 2.43)\n"
        "  memalign A N | aligned_alloc A N | posix_memalign A N | valloc N | pvalloc N | trim [PAD]\n"
        "  mallopt PARAMETER VALUE\n"
        "Several are separated by ';': each finds what those before it left, and $1, $2 are their results. Numbers\n"
        "and pointers may be expressions; write commas between arguments that have spaces.\n"
        "'heap predict growth' says what can still be asked for without a system call, and what the next malloc of\n"
        "each size would take."
    )
    operands = "OPERATION [; OPERATION...] | growth"
    options = (
        Option("steps", "", "Every step: what was looked at, the condition with its values, glibc's function."),
        Option("after", "", "What changes in the lists, the top chunk and malloc's variables."),
        Option("thread", "T", "As this thread would call it, by GDB's number (default: the selected thread)."),
        JSON,
    )
    examples = (
        "heap predict malloc 1000",
        "heap predict free p -after",
        "heap predict malloc 24; free $1; malloc 24 -steps",
        "heap predict growth",
    )

    def split(self, argument: str) -> list[str]:
        """Return the words of a command line; a semicolon is a word of its own."""
        return super().split(argument.replace(";", " ; "))

    def completions(self, text: str, word: str) -> list[str]:
        """Return the options, the operations, or what an argument of one can be."""
        last = text.split()[-1:] if text and not text[-1].isspace() else []
        if last and last[0].startswith("-"):
            return super().completions(text, word)
        operation = text.rpartition(";")[2].lstrip()
        if " " in operation or "(" in operation:
            argument = re.split(r"[\s(,;]", text)[-1]
            return expression_completions(argument, word) if argument else []
        return [name for name in (*_OPERATIONS, "growth") if name.startswith(word)]

    def answer(self, parsed: Parsed) -> Answer:
        """Return the prediction that is asked for."""
        from gdbheap.debugger.predicting import machine_and_setting, parse_operations, predict_all
        from gdbheap.render.predict import (
            outlook_lines,
            outlook_object,
            prediction_lines,
            prediction_object,
            setting_object,
        )

        text = " ".join(parsed.words)
        thread = number(parsed, "thread", 0) if parsed.given("thread") else None
        if text.strip() == "growth":
            from gdbheap.simulate.outlook import look_ahead

            if parsed.given("steps") or parsed.given("after"):
                raise UsageError("-steps and -after go with operations, not with growth.")
            machine, setting = machine_and_setting(thread)
            outlook = look_ahead(machine)
            return Answer(
                lambda: {**setting_object(setting, machine), "predictions": None, "growth": outlook_object(outlook)},
                lambda style: outlook_lines(outlook, machine, setting, style),
            )
        asked = parse_operations(text)
        machine, setting = machine_and_setting(thread)
        found = predict_all(machine, asked)
        steps, after = parsed.given("steps"), parsed.given("after")
        return Answer(
            lambda: {
                **setting_object(setting, machine),
                "predictions": [prediction_object(item) for item in found],
                "growth": None,
            },
            lambda style: prediction_lines(found, setting, style, steps, after),
        )
