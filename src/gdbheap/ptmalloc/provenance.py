"""How a fact about the target was found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Provenance:
    """One of glibc's variables, or what was taken for granted of it, and how that is known.

    ``thread`` is GDB's number of the thread whose variable it is, None where it is not thread-local. ``address`` is
    where the variable is, None where it is not known or where the fact has no address; ``text`` says it in words then.
    """

    name: str
    thread: int | None
    address: int | None
    text: str
    how: str
