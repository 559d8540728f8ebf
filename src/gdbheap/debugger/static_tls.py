"""Where libc's thread-local variables are, without libthread_db: from the loader's own record of the library."""

from __future__ import annotations

import os
import re

import gdb

from gdbheap.debugger.language import c_value

#: More objects than any namespace of a loader has.
_MOST_OBJECTS = 10_000


class StaticTls:
    """The thread-local variables of one library that was loaded with the program, on x86-64.

    They lie at a fixed distance below each thread's control block (glibc's TLS_TCB_AT_TP): l_tls_offset of the
    library's link_map says where its block begins.
    """

    def __init__(self, library: str) -> None:
        self._library = library
        self._block: int | None = None
        self._looked = False
        self._offsets: dict[str, int | None] = {}

    def address(self, name: str) -> int | None:
        """Return the address of the variable ``name`` in the selected thread, None where that is not known."""
        offset = self._offset(name)
        if offset is None:
            return None
        if not self._looked:
            self._looked = True
            self._block = self._block_distance()
        try:
            control_block = int(gdb.parse_and_eval("$fs_base"))
        except (gdb.error, ValueError):  # void where there is no such register
            return None
        return None if self._block is None or control_block == 0 else control_block - self._block + offset

    def _offset(self, name: str) -> int | None:
        if name not in self._offsets:
            try:
                text = gdb.execute(f"info address {name}", to_string=True)
            except gdb.error:
                text = ""
            found = re.search(r"thread-local variable at offset (0x[0-9a-f]+|\d+) in", text)
            self._offsets[name] = int(found.group(1), 0) if found else None
        return self._offsets[name]

    def _block_distance(self) -> int | None:
        """Return how far below the control block the library's thread-local variables begin."""
        try:
            entry = c_value("_rtld_global._dl_ns[0]._ns_loaded")
            for _ in range(_MOST_OBJECTS):
                if int(entry) == 0:
                    return None
                if os.path.basename(entry["l_name"].string("utf-8", "replace")) == os.path.basename(self._library):
                    distance = int(entry["l_tls_offset"])
                    return distance if distance > 0 else None  # -1 and -2 stand for none and for "not static"
                entry = entry["l_next"]
        except (gdb.error, ValueError):
            pass
        return None
