"""Where a command's answer goes: GDB's own stream, or a file that is named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

import gdb

from gdbheap.debugger import settings
from gdbheap.render.style import Colour, Plain

SCHEMA = "gdbheap/1"
_BATCH = 1 << 16  # characters


def style(descriptor: int = 1) -> Plain:
    """Return the style for GDB's output, or its error stream (2), as the user's settings and the terminal want it."""
    wanted = settings.colour()
    if wanted == settings.AUTO:
        # sys.stdout is GDB's own stream, whose isatty() is always false: the descriptor tells.
        is_wanted = gdb.parameter("style enabled") and "NO_COLOR" not in os.environ and os.isatty(descriptor)
    else:
        is_wanted = wanted == "on"
    return Colour() if is_wanted else Plain()


def write_lines(lines: Iterable[str], stream: int = gdb.STDOUT) -> None:
    """Write the lines to a stream of GDB's, some at a time, so that its pager can stop a long answer.

    One string may hold several lines. Where making the lines fails, those that were made are written first.
    """
    batch: list[str] = []
    size = 0
    try:
        for line in lines:
            batch.append(line)
            size += len(line)
            if size >= _BATCH:
                written, batch, size = batch, [], 0
                gdb.write("\n".join(written) + "\n", stream)
    finally:
        if batch:
            gdb.write("\n".join(batch) + "\n", stream)


def line_width() -> int:
    """Return how many characters a line can have: as GDB is set, else as the terminal is wide, else 80."""
    width = gdb.parameter("width")  # None for no limit, as in batch mode
    if width:
        return int(width)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def encodes_unicode() -> bool:
    """Return whether the terminal is said to understand UTF-8 (``show host-charset``)."""
    return "UTF-8" in gdb.execute("show host-charset", to_string=True).upper()


def versioned(command: str, body: Mapping[str, object]) -> Mapping[str, object]:
    """Return the whole JSON object of a command: its schema's version, its name and the keys of its ``body``."""
    return {"schema": SCHEMA, "command": command, **body}


def write_json(command: str, body: Mapping[str, object], path: str) -> None:
    """Write the versioned object of a command as JSON: to the file ``path``, or to GDB's stream where that is empty.

    The file is written whole or not at all. Raises gdb.GdbError where it cannot be.
    """
    import json

    text = json.dumps(versioned(command, body), indent=1)
    if path:
        write_file(path, text + "\n")
    else:
        write_lines([style().json(text)])


def write_file(path: str, text: str) -> None:
    """Write the text to the file ``path``, where ``~`` is understood; the file is written whole or not at all.

    Raises gdb.GdbError where it cannot be.
    """
    import tempfile

    path = os.path.expanduser(path)
    try:
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise gdb.GdbError(f"Nothing was written: {path} exists and is not a regular file; name another file.")
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".gdbheap-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise gdb.GdbError(f"Nothing was written to {path}: {error.strerror}.") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
