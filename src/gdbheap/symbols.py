"""The facts that a target's symbols and debug information give: addresses, struct layouts, thread-local variables."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}


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

    @cached_property
    def _decoders(self) -> dict[tuple[str, frozenset[str]], _Decoder]:
        return {}

    def decode(self, data: bytes, order: str, signed: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return the fields of a struct whose bytes are ``data``: integers, and tuples of them for arrays.

        ``order`` is "<" or ">". Fields are unsigned, but for those named in ``signed``. A field that is no integer of
        1, 2, 4 or 8 bytes, nor an array of such, is left out.
        """
        decoder = self._decoders.get((order, signed))
        if decoder is None:
            decoder = self._decoders[order, signed] = _Decoder(self, order, signed)
        return decoder.decode(data)


class _Decoder:
    """Takes a struct apart with one call: the same few structs are read at every recorded system call."""

    def __init__(self, described: Struct, order: str, signed: frozenset[str]) -> None:
        self._places: list[tuple[str, int, int]] = []  # name, first value, how many (0: not an array)
        layout, end, values = order, 0, 0
        for name, field in sorted(described.fields.items(), key=lambda item: item[1].offset):
            code = _CODES.get(field.size // field.count) if field.count > 0 else None
            if code is None or field.offset < end or field.size % field.count:
                continue
            layout += f"{field.offset - end}x{field.count}{code if name in signed else code.upper()}"
            end = field.offset + field.size
            self._places.append((name, values, field.count if field.count > 1 else 0))
            values += field.count
        self._struct = struct.Struct(layout)

    def decode(self, data: bytes) -> dict[str, Any]:
        values = self._struct.unpack_from(data)
        return {name: values[first : first + count] if count else values[first] for name, first, count in self._places}


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
