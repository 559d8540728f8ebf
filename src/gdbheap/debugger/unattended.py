"""Code of ours that GDB calls while the program runs: nothing that fails there may stop or end the program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gdbheap.debugger.neutral import Neutral
from gdbheap.growth.history import History


@contextmanager
def unattended(history: Callable[[], History]) -> Iterator[None]:
    """Note in the history what is raised inside, and go on; an interrupt of the user's goes through.

    GDB's settings that change what it reads are neutral inside.
    """
    try:
        with Neutral():
            yield
    except Exception as error:
        note_failure(history(), error)


def note_failure(history: History, error: Exception) -> None:
    """Note that looking at a call failed."""
    history.missed(f"Looking at a call failed ({type(error).__name__}: {error}): what it did is not known.")
