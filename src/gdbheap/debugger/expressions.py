"""What a user means by an expression: the address that it has, with nothing of the program called or changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import gdb

from gdbheap.debugger.language import word_size
from gdbheap.debugger.options import UsageError

_NUMBERS = (
    gdb.TYPE_CODE_PTR,
    gdb.TYPE_CODE_INT,
    gdb.TYPE_CODE_CHAR,
    gdb.TYPE_CODE_ENUM,
    gdb.TYPE_CODE_BOOL,
    gdb.TYPE_CODE_MEMBERPTR,
)
_REFERENCES = (gdb.TYPE_CODE_REF, getattr(gdb, "TYPE_CODE_RVALUE_REF", gdb.TYPE_CODE_REF))
_QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
#: What assigns. GDB's own setting may-write-memory cannot be switched off while there is a process.
_ASSIGNS = re.compile(r"(?<![=!<>])=(?!=)|<<=|>>=|\+\+|--")


@contextmanager
def _without_calls() -> Iterator[None]:
    """Keep GDB from calling functions of the program: looking at a heap must not change it."""
    if not gdb.parameter("may-call-functions"):
        yield
        return
    gdb.execute("set may-call-functions off", to_string=True)
    try:
        yield
    finally:
        gdb.execute("set may-call-functions on", to_string=True)


def address_of(text: str) -> int:
    """Return the address that the expression ``text`` has: a pointer's or a number's value, else where it is.

    An array or a struct in memory stands for its own address. Raises UsageError where it has none.
    """
    if _ASSIGNS.search(_QUOTED.sub("", text)):
        raise UsageError(
            f"'{text}' is no address: it would write to the program, which would change what is looked at."
        )
    with _without_calls():
        try:
            return _address(gdb.parse_and_eval(text))
        except (gdb.error, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split()).rstrip(".")
            if "may-call-functions" in said:
                said = "it would call a function of the program, which would change what is looked at"
            raise UsageError(f"'{text}' is no address: {said}.") from None


def _address(value: gdb.Value) -> int:
    kind = value.type.strip_typedefs()
    if kind.code in _REFERENCES:
        value = value.referenced_value()
        kind = value.type.strip_typedefs()
    if value.is_optimized_out:
        raise ValueError("its value was optimized out")
    if kind.code in _NUMBERS:
        bits = 8 * word_size()
        return int(value) % (1 << bits)
    if kind.code == gdb.TYPE_CODE_FUNC or value.address is not None:
        assert value.address is not None
        return int(value.address)
    raise ValueError(f"it is a value of the type {kind}, which is nowhere in memory")
