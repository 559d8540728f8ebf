"""Which global or static variable, and which member of it, an address is."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple

import gdb

from gdbheap.debugger.language import symbol_text
from gdbheap.debugger.member_paths import member_path

#: How the names of sections begin that hold variables.
_DATA = (".data", ".bss", ".rodata", ".tdata", ".tbss", "COMMON")
_SYMBOL = re.compile(r"(.+?)(?: \+ (\d+))? in section (\S+)(?: of .*)?")


class StaticVariable(NamedTuple):
    """A variable that is there for as long as its file is loaded.

    ``path`` is its name with the member or element: ``table[2].name``; where the type is not known the place is told in
    bytes: ``table + 0x28``. ``is_data`` is whether it is data, and no code.
    """

    path: str
    is_array: bool
    is_static: bool
    is_data: bool


def variable_at(address: int, word_size: int) -> str | None:
    """Return the variable at ``address`` with its member: ``table[2].name``; None where no symbol tells it."""
    found = static_at(address, word_size)
    return None if found is None else found.path


def static_at(address: int, word_size: int) -> StaticVariable | None:
    """Return the global or static variable at ``address``, None where no symbol tells it."""
    # 'set verbose on' and 'set trace-commands on' put lines of their own before.
    found = next(filter(None, map(_SYMBOL.fullmatch, symbol_text(address).splitlines())), None)
    if found is None:
        return None
    name, offset = found[1], int(found[2] or 0)
    is_data = found[3].startswith(_DATA)
    symbol = _symbol(name, address - offset)
    kind = None if symbol is None else symbol.type
    if symbol is None or kind is None or kind.sizeof <= offset:
        return StaticVariable(f"{name} + {offset:#x}" if offset else name, False, False, is_data)
    is_array = kind.strip_typedefs().code == gdb.TYPE_CODE_ARRAY
    is_static = gdb.lookup_global_symbol(name) is None
    return StaticVariable(name + member_path(kind, offset, word_size), is_array, is_static, is_data)


def _symbol(name: str, start: int) -> gdb.Symbol | None:
    """Return the symbol of the variable that begins at ``start``, None where no debug information tells it."""
    symbols = []
    with suppress(gdb.error):
        symbols = [gdb.lookup_global_symbol(name), *_static_symbols(name)]
    for symbol in symbols:
        if symbol is None or not symbol.is_variable:
            continue
        with suppress(gdb.error, RuntimeError, TypeError):
            value = symbol.value()
            if value.address is not None and int(value.address) == start:
                return symbol
    return None


def _static_symbols(name: str) -> list[gdb.Symbol]:
    """Return the static variables of that name in all files."""
    if hasattr(gdb, "lookup_static_symbols"):  # GDB 10
        return list(gdb.lookup_static_symbols(name))
    found = gdb.lookup_static_symbol(name)
    return [] if found is None else [found]
