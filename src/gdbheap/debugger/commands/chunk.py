"""heap chunk: all that is known of one chunk, or what else is at an address."""

from __future__ import annotations

import re

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, expression_completions, number
from gdbheap.debugger.options import Option, Parsed, UsageError

_BYTES = 64
#: More than this of a chunk is for GDB's own commands to show (x, dump memory).
_MOST_BYTES = 1 << 20
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+|["']""")

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.render.style import Plain


class HeapChunk(HeapCommand):
    """Show one chunk."""

    word = "chunk"
    shows_heap = True
    summary = "Show the chunk that holds an address: size, state, list, neighbours, content, and what free would do."
    details = (
        "EXPRESSION is a pointer, a variable or any address inside a chunk; an array or a struct stands for where it\n"
        "is. Where no chunk is, the answer says what is there: a stack, a library, malloc's own variables, nothing.\n"
        "Functions of the program are not called."
    )
    operands = "EXPRESSION"
    options = (
        Option("bytes", "N", f"Show N bytes of the content (default {_BYTES})."),
        JSON,
    )
    examples = ("heap chunk p", "heap chunk &node->next -bytes 256", "heap chunk -json -- -1 + (long) p")

    def split(self, argument: str) -> list[str]:
        """Return the words of a command line as they were typed: quotes belong to the expression, but for a file's."""
        words = _WORD.findall(argument)
        for place, word in enumerate(words[1:], 1):
            if words[place - 1].startswith("-j") and word[0] in "\"'" and word[-1] == word[0] and len(word) > 1:
                words[place] = word[1:-1]
        return words

    def completions(self, text: str, word: str) -> list[str]:
        """Return the options, or what GDB completes an expression with."""
        typed = text.split()
        last = "" if not typed or text[-1].isspace() else typed[-1]
        if last.startswith("-") or not last:
            return super().completions(text, word)
        return expression_completions(last, word)

    def answer(self, parsed: Parsed) -> Answer:
        """Return the chunk that holds the address, or what is there."""
        from gdbheap.debugger.expressions import address_of
        from gdbheap.debugger.inspector import Inspector
        from gdbheap.ptmalloc.place import Place
        from gdbheap.render.chunk import inspection_lines, inspection_object, place_lines, place_object

        if not parsed.words:
            raise UsageError(f"Which chunk? '{self._name} EXPRESSION' takes a pointer or an address in it.")
        size = number(parsed, "bytes", _BYTES)
        if size > _MOST_BYTES:
            raise UsageError(f"-bytes is at most {_MOST_BYTES:,}; 'dump binary memory' writes more to a file.")
        address = address_of(" ".join(parsed.words))
        inspector = Inspector()
        found = inspector.inspect(address, size)
        if isinstance(found, Place):
            place, frees = found, inspector.foretell([address])
            return Answer(
                lambda: place_object(address, place, frees), lambda style: place_lines(address, place, frees, style)
            )
        inspection = found
        pointers = [inspection.chunk.pointer]
        # free takes a pointer at its word, so one into the middle is another question.
        if address not in (inspection.chunk.address, inspection.chunk.pointer):
            pointers.append(address)
        frees = inspector.foretell(pointers)

        def lines(style: Plain) -> Iterator[str]:
            return inspection_lines(inspection, frees, style)

        return Answer(lambda: inspection_object(inspection, frees), lines)
