"""Running GDB with and without glibc's debug symbols."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.debugger import Gdb

#: GDB commands (-iex) with which no file has separate debug symbols.
WITHOUT = ("set debug-file-directory /nonexistent",)
#: In this environment variable `none` makes every test run without glibc's debug symbols.
VARIABLE = "GDBHEAP_TEST_SYMBOLS"


def wanted() -> bool:
    """Return whether the tests are to be run with glibc's debug symbols."""
    return os.environ.get(VARIABLE) != "none"


@lru_cache(maxsize=4)
def _found_by(path: str) -> bool:
    from tests.support.debugger import Gdb

    done = Gdb(path)("catch syscall exit_group", "run", "ptype struct malloc_state", program="/bin/true", load=None)
    return "attached_threads" in done.stdout


def needs_symbols(gdb: Gdb) -> None:
    """Skip the test, with the reason, where GDB has no debug symbols of glibc's: its oracle reads them."""
    if not wanted():
        pytest.skip("its oracle is GDB's own reading of glibc's debug symbols")
    if not _found_by(gdb.path):
        pytest.skip("GDB finds no debug symbols of glibc's here")
