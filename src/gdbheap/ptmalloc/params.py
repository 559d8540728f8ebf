"""malloc_par: glibc's settings and counters for the whole process (``mp_``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Params:
    """The fields of ``mp_`` by glibc's own names, in the order of memory; a field that this glibc lacks is absent."""

    address: int
    values: Mapping[str, int]

    def get(self, name: str, default: int = 0) -> int:
        """Return the field ``name``, or ``default`` where this glibc has no such field."""
        return self.values.get(name, default)
