"""glibc's debug symbols for what a test itself evaluates in GDB, while gdbheap goes without them.

Sourced by nothing: its text is a part of the Python that Answers.python runs inside GDB.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import gdb

#: The variables of libc's that are thread-local: GDB cannot read those of a file that was added by hand.
_LOCAL = {"tcache": "tcache_perthread_struct", "thread_arena": "struct malloc_state"}
_local_at: dict[str, int] = {}


def _libc() -> gdb.Objfile | None:
    for objfile in gdb.objfiles():
        if objfile.owner is None and re.search(r"/libc(\.so\.6|-2\.\d+\.so)$", objfile.filename or ""):
            return objfile
    return None


def _number(expression: str) -> int:
    return int(gdb.parse_and_eval(expression))


@contextlib.contextmanager
def debug_symbols() -> Iterator[None]:
    """Give GDB the file with the debug symbols of the libc that is loaded, for as long as this takes.

    libc is found by the file that GDB has for it, and the file with the symbols by that one's build-id. Before libc
    is loaded there is nothing to read.
    """
    libc = _libc()
    if libc is None:
        yield
        return
    build_id = libc.build_id or ""
    path = f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug"
    if not os.path.exists(path):
        raise gdb.GdbError(f"there is no {path}")
    # libc is linked to begin at 0, so that its first section is in its first page.
    sections = re.findall(
        rf"^\t(0x\w+) - 0x\w+ is \S+ in {re.escape(libc.filename or '')}$",
        gdb.execute("info files", to_string=True),
        re.MULTILINE,
    )
    distance = min(int(start, 16) for start in sections) & ~0xFFF
    # GDB selects the newest frame when files come and go.
    level = _level()
    gdb.execute(f"add-symbol-file {path} -o {distance:#x}", to_string=True)
    try:
        _select(level)
        with contextlib.suppress(gdb.error):  # there is no process
            _find_locals()
        yield
    finally:
        gdb.execute(f"remove-symbol-file {path}", to_string=True)
        _select(level)


def _level() -> int | None:
    """Return how many frames are newer than the selected one, None where there is no frame."""
    try:
        frame: gdb.Frame | None = gdb.selected_frame()
    except gdb.error:
        return None
    count = -1
    while frame is not None:
        frame, count = frame.newer(), count + 1
    return count


def _select(level: int | None) -> None:
    if level:
        gdb.execute(f"frame {level}", to_string=True)


def _find_locals() -> None:
    """See how far from each thread's control block the thread-local variables are: the loader's link_map tells."""
    _local_at.clear()
    entry = gdb.parse_and_eval("((struct r_debug *) &_r_debug)->r_map").cast(
        gdb.lookup_type("struct link_map").pointer()
    )
    while int(entry) and not re.search(r"/libc(\.so\.6|-2\.\d+\.so)$", entry["l_name"].string()):
        entry = entry["l_next"]
    block = int(entry["l_tls_offset"])
    for name in _LOCAL:
        found = re.search(r"at offset (0x[0-9a-f]+|\d+) in", gdb.execute(f"info address {name}", to_string=True))
        if found is not None:
            _local_at[name] = int(found.group(1), 0) - block


def localised(expression: str) -> str:
    """Return an expression in which libc's thread-local variables stand by the selected thread's addresses."""

    def place(found: re.Match[str]) -> str:
        address = _number("(unsigned long) $fs_base") + _local_at[found.group(0)]
        return f"(*({_LOCAL[found.group(0)]} **) {address})"

    names = "|".join(name for name in _LOCAL if name in _local_at)
    return re.sub(rf"(?<![\w.>:])(?:{names})\b", place, expression) if names else expression


def read(expression: str) -> Any:
    """Return what an expression is, read with glibc's debug symbols."""
    return gdb.parse_and_eval(localised(expression))
