"""Noticing that a list which is only read comes back into itself."""

from __future__ import annotations

from gdbheap.simulate.machine import Machine


class Circle:
    """Is told of each chunk of a list in turn, and raises what Machine.loop returns once one comes again.

    Brent's way: of all chunks that came by, one is remembered, and after twice as many another one.
    """

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self._name = name
        self._marked: int | None = None
        self._count, self._until = 0, 2

    def visit(self, chunk: int) -> None:
        """Note that the list has come to ``chunk``; raise Unpredictable where it goes round."""
        if chunk == self._marked:
            raise self._machine.loop(self._name)
        self._count += 1
        if self._count == self._until:
            self._marked, self._until = chunk, 2 * self._until
