"""How text is coloured: not at all, or with the escape sequences of a terminal."""

from __future__ import annotations

_CODES = {"heading": "1", "address": "34", "good": "32", "bad": "1;31", "dim": "2", "name": "33"}
#: The states of chunks where they are drawn; where used bytes share a place with another state, that is behind them.
_STATES = {"used": 34, "tcache": 96, "fastbin": 32, "unsorted": 35, "small": 33, "large": 91, "free": 31, "top": 90}
_CODES.update({state: f"{code}" for state, code in _STATES.items()})
_CODES.update({f"used on {state}": f"{_STATES['used']};{code + 10}" for state, code in _STATES.items()})


#: What stands before a sentence that may be true of a step only.
DOUBT = "not certain: "


class Plain:
    """No colour: every method returns its text as it is."""

    def paint(self, role: str, text: str) -> str:
        """Return ``text`` as the role (heading, address, good, bad, dim, name, a state) is shown."""
        return text

    def code(self, source: str) -> str:
        """Return a line of C as it is shown."""
        return source

    def json(self, text: str) -> str:
        """Return a JSON document as it is shown."""
        return text


class Doubting(Plain):
    """Another style, in which nothing that looks wrong is stated as a fact: it may be a step of a thread's."""

    def __init__(self, style: Plain) -> None:
        self._style = style

    def paint(self, role: str, text: str) -> str:
        """Return ``text`` as the role is shown; what is ``bad`` is called uncertain."""
        if role == "bad":
            return self._style.paint(role, f"{DOUBT}{text.strip()}")
        return self._style.paint(role, text)

    def code(self, source: str) -> str:
        """Return a line of C as it is shown."""
        return self._style.code(source)

    def json(self, text: str) -> str:
        """Return a JSON document as it is shown."""
        return self._style.json(text)


class Colour(Plain):
    """Colours for a terminal that understands ANSI sequences; C and JSON are highlighted by pygments."""

    def paint(self, role: str, text: str) -> str:
        """Return ``text`` in the colour of the role."""
        return f"\033[{_CODES[role]}m{text}\033[m"

    def _highlight(self, text: str, language: str) -> str:
        try:
            from pygments import highlight
            from pygments.formatters import TerminalFormatter
            from pygments.lexers import get_lexer_by_name
        except ModuleNotFoundError:  # that it is missing was said when gdbheap was loaded
            return text

        return str(highlight(text, get_lexer_by_name(language), TerminalFormatter())).rstrip("\n")

    def code(self, source: str) -> str:
        """Return a line of C, highlighted."""
        return self._highlight(source, "c")

    def json(self, text: str) -> str:
        """Return a JSON document, highlighted."""
        return self._highlight(text, "json")
