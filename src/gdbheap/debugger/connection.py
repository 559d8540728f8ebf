"""How GDB is connected to what it looks at."""

from __future__ import annotations

import re

import gdb

_SELECTED = re.compile(r"^\* +\d+ +(\S+)", re.MULTILINE)


def connection_kind() -> str | None:
    """Return GDB's word for the selected inferior's connection: native, core, remote ...; None where there is none.

    Inferior.connection would tell it too (from GDB 11 on), but GDB 13.1 can end itself over that object.
    """
    found = _SELECTED.search(gdb.execute("info connections", to_string=True))
    return None if found is None else found.group(1)
