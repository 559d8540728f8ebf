"""The shell's command ``gdbheap``: GDB with the extension loaded, on a program and its arguments."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from gdbheap import __version__, launch_trace
from gdbheap.loading import PACKAGES

HELP = """\
Usage: gdbheap [GDB OPTIONS] [PROGRAM [ARGUMENTS...]]
       gdbheap trace [-o FILE] [-json FILE] [-force] [--] PROGRAM [ARGUMENTS...]

Start GDB with the heap commands loaded, on PROGRAM with its ARGUMENTS. In GDB, `help heap` lists the commands.
With `trace` run PROGRAM to its end instead and print who its memory was for: see `gdbheap trace --help`. (A program
that is called trace is ./trace, or stands behind --args.)

GDB OPTIONS stand before PROGRAM and go to GDB as they are, such as -p PID, --core FILE, -ex COMMAND or -batch.
The GDB that is started is the one that the environment variable GDB names, or else `gdb`.

  --help      print this text
  --version   print gdbheap's version

Example: why does `ls` ask the kernel for memory?

  gdbheap -batch -ex 'heap catch' -ex run -ex 'heap why-grow -all' ls /
"""

#: GDB's options that are followed by a value, when it is not joined to them by `=`.
VALUED = frozenset(
    "annotate se symbols s exec e core c pid p command x eval-command ex init-command ix init-eval-command iex"
    " early-init-command eix early-init-eval-command eiex interpreter i ui directory d data-directory D cd tty t"
    " baud b l".split()
)
#: GDB's options that stand alone.
PLAIN = frozenset(
    "args batch batch-silent configuration dbx f fullname help n nh no-escape-args nowindows nw nx q quiet r readnever"
    " readnow return-child-result silent statistics tui version w windows write".split()
)


def takes_value(option: str) -> bool:
    """Tell whether GDB takes the word after ``option`` (as typed, dashes included) as the option's value.

    Like GDB, accept one dash or two, and any unambiguous beginning of a name.
    """
    name = option[2:] if option.startswith("--") else option[1:]
    if "=" in name:
        return False
    if name in VALUED or name in PLAIN:
        return name in VALUED
    meant = [known for known in VALUED | PLAIN if known.startswith(name)]
    return bool(meant) and all(known in VALUED for known in meant)


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into GDB's options and the program with its arguments (empty where there is none)."""
    index = 0
    while index < len(words):
        word = words[index]
        if word in ("--", "-args", "--args"):
            return list(words[:index]), list(words[index + 1 :])
        if not word.startswith("-") or word == "-":
            break
        index += 2 if takes_value(word) else 1
    return list(words[:index]), list(words[index:])


def script() -> Path | None:
    """Return the script that GDB sources: installed in this package, or at the root of the checkout."""
    package = Path(__file__).resolve().parent
    candidates = (package / "gdbheap", package.parent.parent / "gdbheap")
    return next((path for path in candidates if path.is_file()), None)


def sites() -> list[str]:
    """Return the folders, other than this package's own, where this Python finds what gdbheap uses."""
    own = str(Path(__file__).resolve().parent.parent)
    found: list[str] = []
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            folder = str(origin.parent.parent if spec.submodule_search_locations else origin.parent)
            if folder not in (own, *found):
                found.append(folder)
    return found


def gdb_command(gdb: str, source: Path, words: Sequence[str]) -> list[str]:
    """Return the command line that starts ``gdb`` with ``source`` sourced, for the launcher's arguments ``words``."""
    options, program = split(words)
    return [*loading(gdb, source), *options, *(["--args", *program] if program else [])]


def loading(gdb: str, source: Path) -> list[str]:
    """Return the beginning of a command line that starts ``gdb`` with ``source`` sourced."""
    recorded = sites()
    record = ["-iex", f"python gdb.gdbheap_sites = {recorded!a}"] if recorded else []
    return [gdb, *record, "-ix", str(source)]


def main() -> int:
    """Run the command; return an exit status only where GDB could not be started."""
    words = sys.argv[1:]
    traced = None
    if words[:1] == ["trace"]:
        try:
            traced = launch_trace.prepare(words[1:])
        except launch_trace.TraceError as error:
            print(f"gdbheap: {error}", file=sys.stderr)
            return error.status
        if traced is None:
            print(launch_trace.HELP, end="")
            return 0
    options, _ = split(words)
    if options and options[0] in ("-h", "-help", "--help"):
        print(HELP, end="")
        return 0
    if options and options[0] in ("-v", "-version", "--version"):
        print(f"gdbheap {__version__}")
        return 0
    wanted = os.environ.get("GDB") or "gdb"
    gdb = shutil.which(wanted)
    if gdb is None:
        print(f"gdbheap: there is no GDB called '{wanted}': install gdb, or set GDB to its path.", file=sys.stderr)
        return 127
    source = script()
    if source is None:
        print("gdbheap: its GDB script is missing: install gdbheap anew with pip.", file=sys.stderr)
        return 1
    sys.stdout.flush()
    try:
        command = gdb_command(gdb, source, words) if traced is None else [*loading(gdb, source), *traced]
        os.execv(gdb, command)
    except OSError as error:
        print(f"gdbheap: {gdb} cannot be started: {error.strerror}.", file=sys.stderr)
    return 126
