"""What the sourced script does once it has found this package: see that all is there that gdbheap needs, and load it.

The script does not do it itself, since GDB reads scripts byte by byte. It hands in its module ``gdb``. However old the
Python of a GDB is, it must be able to parse this file, so as to be told so in a sentence: types are in comments.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than all the rest of this file
    from typing import Any, List, Sequence, Tuple

OLDEST_GDB = 10
OLDEST_PYTHON = (3, 9)
#: The packages that gdbheap uses where they are there, with what is different without each.
PACKAGES = {"pygments": "source lines and JSON have no colour", "tabulate": "tables are laid out plainly"}


def too_old(gdb_version, python_version):
    # type: (str, Sequence[Any]) -> str
    """Say in a sentence that GDB or its Python is too old; answer an empty string where both will do.

    ``gdb_version`` is what ``gdb.VERSION`` holds, ``python_version`` what ``sys.version_info`` does. A version of GDB
    that cannot be read counts as new enough.
    """
    number = ""
    for character in gdb_version:
        if character.isdigit() or (number and character == "."):
            number += character
        elif number:
            break
    if number and int(number.split(".")[0]) < OLDEST_GDB:
        return "gdbheap needs GDB %d or newer, and this is GDB %s." % (OLDEST_GDB, number.rstrip("."))
    python = tuple(python_version[:2])
    if python < OLDEST_PYTHON:
        return "gdbheap needs a GDB with Python %d.%d or newer, and this has Python %d.%d." % (OLDEST_PYTHON + python)
    return ""


def missing():
    # type: () -> List[str]
    """Return the names of the packages that gdbheap uses and this Python does not find."""
    # Looking is much quicker than importing. GDB's own finder, up to GDB 13, has no find_spec.
    lookups = [finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec")]
    return [name for name in PACKAGES if name not in sys.modules and not any(look(name, None) for look in lookups)]


def sites_of(root):
    # type: (str) -> Tuple[List[str], str]
    """Return the folders that may hold what gdbheap at ``root`` uses, and what to do where they do not.

    ``root`` is the package's parent: ``src`` in a checkout, or a site-packages.
    """
    above = os.path.dirname(root)
    if os.path.basename(root) == "src":
        library = above + "/.venv/lib"
        names = sorted(os.listdir(library)) if os.path.isdir(library) else []
        return ["%s/%s/site-packages" % (library, name) for name in names], "run sh %s/scripts/setup.sh" % above
    return [root], "run python3 -m pip install " + " ".join(PACKAGES)


def find_packages(root, recorded):
    # type: (str, Sequence[str]) -> str
    """Make importable what gdbheap at ``root`` uses; answer a sentence where that fails, else an empty string.

    What GDB's Python has comes first. Folders of ours, and those that the launcher has ``recorded``, go to the end of
    its path, so that they never hide a module of GDB's own.
    """
    lacking = missing()
    archive = os.path.dirname(root)
    if lacking and os.path.isfile(archive):
        # The single file, which holds them: to look there would compile them.
        sys.path.append(archive + "/site")
        return ""
    sites, advice = sites_of(root)
    for site in sites + list(recorded):
        if not lacking:
            break
        if site not in sys.path:
            sys.path.append(site)
            lacking = missing()
    if not lacking:
        return ""
    python = "%d.%d" % sys.version_info[:2]
    without = " and ".join(PACKAGES[name] for name in lacking)
    return "GDB's Python %s does not find %s: %s. For more, %s." % (python, " and ".join(lacking), without, advice)


def load(gdb, root):
    # type: (Any, str) -> None
    """Load gdbheap from ``root`` into the GDB whose module is ``gdb``; raise its GdbError with the reason why not."""
    loaded = os.path.dirname(os.path.dirname(__file__))
    if os.path.realpath(loaded) != os.path.realpath(root):
        gdb.write("gdbheap is already loaded from %s: start a new GDB to load it from %s.\n" % (loaded, root))
        return
    refusal = too_old(gdb.VERSION, sys.version_info)
    if refusal:
        raise gdb.GdbError(refusal)

    lack = find_packages(root, getattr(gdb, "gdbheap_sites", ()))
    import gdbheap.debugger

    gdbheap.debugger.load()
    if lack:
        gdb.write(lack + "\n", gdb.STDERR)
