"""What GDB reads by the language of the selected frame, read as C: others have no void, and no such casts (Rust)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import gdb

_CURRENT = re.compile(r'"(?:auto; currently )?([^"]+)"')
#: What is written in C means the same in these.
_LIKE_C = ("c", "c++")


@contextmanager
def as_c() -> Iterator[None]:
    """Have GDB read expressions and names of types as C's, whatever the program is written in."""
    current = _CURRENT.search(gdb.execute("show language", to_string=True))
    if current is not None and current.group(1) in _LIKE_C:
        yield
        return
    setting = gdb.parameter("language")
    gdb.execute("set language c", to_string=True)
    try:
        yield
    finally:
        gdb.execute(f"set language {setting}", to_string=True)


def c_value(expression: str) -> gdb.Value:
    """Return the value of an expression in C; raise gdb.error as gdb.parse_and_eval does."""
    with as_c():
        return gdb.parse_and_eval(expression)


def symbol_text(address: int) -> str:
    """Return what ``info symbol`` says of an address, with C++ names as they are written, whatever the user has set."""
    with as_c():
        return gdb.execute(f"with print demangle on -- info symbol {address:#x}", to_string=True)


def void_pointer() -> gdb.Type:
    """Return the type of a pointer to anything."""
    with as_c():
        return gdb.lookup_type("void").pointer()


def word_size() -> int:
    """Return how many bytes a pointer has in the selected inferior."""
    return int(gdb.Value(0).type.pointer().sizeof)
