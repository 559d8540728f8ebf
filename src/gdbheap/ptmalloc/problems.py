"""Gathering what was found wrong without letting a wrecked heap fill memory with sentences about it."""

from __future__ import annotations

MOST = 16


class Problems:
    """A list of sentences that keeps the first ``most`` of them and counts the others."""

    def __init__(self, most: int = MOST) -> None:
        self._texts: list[str] = []
        self._most = most
        self._more = 0

    def add(self, text: str) -> None:
        """Add one sentence."""
        if len(self._texts) < self._most:
            self._texts.append(text)
        else:
            self._more += 1

    def extend(self, texts: tuple[str, ...]) -> None:
        """Add several sentences."""
        for text in texts:
            self.add(text)

    def texts(self) -> tuple[str, ...]:
        """Return the sentences that were kept, and at the end one that counts the others."""
        if not self._more:
            return tuple(self._texts)
        return (*self._texts, f"There are {self._more} more problems like these.")
