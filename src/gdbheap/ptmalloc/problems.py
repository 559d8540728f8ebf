"""Gathering what was found wrong without letting a wrecked heap fill memory with sentences about it."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 16
#: The last sentence of a list that was cut short.
MORE = "There are more problems like these."


class Problems:
    """A list of sentences that keeps the first MOST of them, and says at its end that there were more."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._more = False

    def add(self, text: str) -> None:
        """Add one sentence."""
        if len(self._texts) < MOST and text != MORE:
            self._texts.append(text)
        else:
            self._more = True

    def extend(self, texts: Iterable[str]) -> None:
        """Add several sentences, or all that another list kept."""
        for text in texts:
            self.add(text)

    def texts(self) -> tuple[str, ...]:
        """Return the sentences that were kept."""
        return (*self._texts, MORE) if self._more else tuple(self._texts)
