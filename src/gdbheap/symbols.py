"""The facts that a target's symbols and debug information give: addresses, layouts of structs, thread-local variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Field:
    """One member of a struct: ``offset`` and ``size`` in bytes, ``count`` of elements (1 unless it is an array)."""

    offset: int
    size: int
    count: int = 1


@dataclass(frozen=True)
class Struct:
    """The layout of a struct: its ``size`` in bytes and its fields by name."""

    name: str
    size: int
    fields: Mapping[str, Field]


class Symbols(Protocol):
    """Where things are in a target. Every method answers None for what the target does not tell."""

    def address(self, name: str) -> int | None:
        """Return the address of glibc's variable or function ``name``, static ones included."""
        ...

    def struct(self, name: str) -> Struct | None:
        """Return the layout of glibc's ``struct name``."""
        ...

    def thread_local(self, name: str) -> int | None:
        """Return the address of glibc's thread-local variable ``name`` in the selected thread."""
        ...
