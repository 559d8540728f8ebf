"""Build dist/gdbheap: the script that GDB sources, with a zip archive of all that it loads behind it.

Run it with the Python of .venv, or through scripts/bundle.sh: pygments and tabulate are taken from there.
"""

from __future__ import annotations

import argparse
import ast
import os
import py_compile
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 9)
DISTRIBUTIONS = ("pygments", "tabulate")

#: What of the two packages is carried, with all that these import in turn: pygments is large, and most of it lexers.
WANTED = (
    "pygments.console",
    "pygments.formatters.terminal",
    "pygments.formatters.terminal256",
    "pygments.lexers.c_cpp",
    "pygments.lexers.data",
    "pygments.lexers.special",
    "pygments.styles.default",
    "pygments.styles.native",
    "pygments.styles.vs",
    "tabulate",
)
LIST_MODULES = """
import importlib, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] in ("pygments", "tabulate"):
        print(os.path.dirname(os.path.dirname(sys.modules[name.split(".")[0]].__file__)), module.__file__, sep="\\0")
"""

#: GDB reads ahead into a buffer of this many bytes at most, before the script can seek to the end of the file.
READ_AHEAD = 8192


def package_files() -> Iterator[tuple[str, bytes]]:
    """Yield gdbheap's own modules, as pairs of a name in the archive and the content."""
    folder = ROOT / "src" / "gdbheap"
    for path in folder.rglob("*.py"):
        if path.relative_to(folder).as_posix() not in ("__main__.py", "launcher.py"):
            yield path.relative_to(ROOT).as_posix(), path.read_bytes()
    yield "LICENSE", (ROOT / "LICENSE").read_bytes()


def dependency_files() -> Iterator[tuple[str, bytes]]:
    """Yield the modules of pygments and tabulate that are carried, and their licences."""
    listing = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *WANTED], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    ).stdout
    for line in listing.splitlines():
        folder, _, file = line.partition("\0")
        yield "site/" + Path(file).relative_to(folder).as_posix(), Path(file).read_bytes()
    for name in DISTRIBUTIONS:
        licences = [path for path in distribution(name).files or () if path.name.startswith(("LICENSE", "LICENCE"))]
        if not licences:
            raise SystemExit(f"The licence of {name} is not to be found, and gdbheap may not carry {name} without it.")
        for path in licences:
            yield f"site/{name}/{path.name}", Path(str(path.locate())).read_bytes()


def compiled(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield each module of ``files`` as this Python compiles it.

    A GDB with the same Python then loads in a third of the time; another one takes the source next to it.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "module.py"), Path(folder, "module.pyc")
        for name, content in files.items():
            if name.endswith(".py"):
                source.write_bytes(content)
                py_compile.compile(
                    str(source),
                    str(target),
                    dfile=f"gdbheap/{name}",
                    doraise=True,
                    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                )
                yield name + "c", target.read_bytes()


def archive(files: dict[str, bytes]) -> bytes:
    """Return a zip archive of ``files`` that is the same whenever and wherever it is made."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            writer.writestr(entry, files[name], compresslevel=9)
    return buffer.getvalue()


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Build the single file that a machine with only GDB can source.")
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "dist" / "gdbheap", help="default: dist/gdbheap")
    target: Path = parser.parse_args().file
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of a compiled set of constants follows the hashes.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    files = dict(package_files())
    files.update(dependency_files())
    for name, content in files.items():
        if name.endswith(".py"):
            try:
                ast.parse(content, name, feature_version=OLDEST_PYTHON)
            except SyntaxError as error:
                reason = f"does not run on Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]}: {error.msg}"
                raise SystemExit(f"{name}, line {error.lineno}, {reason}.") from None
    files.update(dict(compiled(files)))
    script = (ROOT / "gdbheap").read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(target.name + ".new")
    new.write_bytes(script + b"\n" * READ_AHEAD + archive(files))
    os.replace(new, target)
    print(f"{target}: {target.stat().st_size // 1024} KiB, {len(files)} files in its archive")
    return 0


if __name__ == "__main__":
    sys.exit(main())
