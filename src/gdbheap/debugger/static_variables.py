"""Which global or static variable, and which member of it, an address is."""

from __future__ import annotations

import re
from contextlib import suppress

import gdb

from gdbheap.debugger.language import symbol_text
from gdbheap.debugger.member_paths import member_path

_SYMBOL = re.compile(r"(.+?)(?: \+ (\d+))? in section (\S+)(?: of .*)?")


def variable_at(address: int, word_size: int) -> str | None:
    """Return the variable at ``address`` with its member: ``table[2].name``; None where no symbol tells it.

    Where the type is not known the place is told in bytes: ``table + 0x28``.
    """
    # 'set verbose on' and 'set trace-commands on' put lines of their own before.
    found = next(filter(None, map(_SYMBOL.fullmatch, symbol_text(address).splitlines())), None)
    if found is None:
        return None
    name, offset = found[1], int(found[2] or 0)
    kind = _type_of(name, address - offset)
    if kind is None or kind.sizeof <= offset:
        return f"{name} + {offset:#x}" if offset else name
    return name + member_path(kind, offset, word_size)


def _type_of(name: str, start: int) -> gdb.Type | None:
    """Return the type of the variable ``name`` that begins at ``start``, None where no debug information tells it."""
    symbols = []
    with suppress(gdb.error):
        symbols = [gdb.lookup_global_symbol(name), *_static_symbols(name)]
    for symbol in symbols:
        if symbol is None or not symbol.is_variable:
            continue
        with suppress(gdb.error, RuntimeError, TypeError):
            value = symbol.value()
            if value.address is not None and int(value.address) == start:
                return value.type
    return None


def _static_symbols(name: str) -> list[gdb.Symbol]:
    """Return the static variables of that name in all files."""
    if hasattr(gdb, "lookup_static_symbols"):  # GDB 10
        return list(gdb.lookup_static_symbols(name))
    found = gdb.lookup_static_symbol(name)
    return [] if found is None else [found]
