"""The layers of gdbheap: each part imports only what stands below it, and only gdbheap.debugger knows GDB."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"

#: From the bottom up. A part may import itself and every part of the rows before its own.
LAYERS = (
    ("gdbheap",),
    ("gdbheap.memory", "gdbheap.symbols", "gdbheap.mappings"),
    ("gdbheap.corefile", "gdbheap.elf"),
    ("gdbheap.ptmalloc",),
    ("gdbheap.simulate",),
    ("gdbheap.growth",),
    ("gdbheap.render",),
    ("gdbheap.debugger",),
)
#: What starts gdbheap stands apart. The loader hands over to the debugger, which it may only import when it does so.
STARTERS = {
    "gdbheap.loading": ("gdbheap", "gdbheap.debugger"),
    "gdbheap.launch_trace": (),
    "gdbheap.launcher": ("gdbheap", "gdbheap.launch_trace", "gdbheap.loading"),
    "gdbheap.__main__": ("gdbheap.launcher",),
}
#: gdbheap.heap() is what scripts inside GDB call. It alone reaches up, when it is called: see test_api.py.
LATE = {"gdbheap": "gdbheap.debugger.api."}
#: Packages that only some parts may import: GDB is the debugger's, and the core works from bytes and integers alone.
OWNERS = {
    "gdb": ("gdbheap.debugger",),
    "pygments": ("gdbheap.render", "gdbheap.debugger"),
    "tabulate": ("gdbheap.render", "gdbheap.debugger"),
}


def part_of(module: str) -> str:
    """Return the part that a module of ours belongs to: the first two components of its name."""
    return ".".join(module.split(".")[:2])


def allowed(part: str) -> frozenset[str]:
    """Return the parts that ``part`` may import."""
    if part in STARTERS:
        return frozenset(STARTERS[part])
    below: set[str] = set()
    for layer in LAYERS:
        if part in layer:
            return frozenset(below | {part})
        below.update(layer)
    raise AssertionError(f"{part} has no place in the layers")


def is_part(name: str) -> bool:
    """Tell whether ``name`` is one of the parts, rather than a name that gdbheap/__init__.py defines."""
    return name in STARTERS or any(name in layer for layer in LAYERS)


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of all that ``module`` imports, wherever in it, by whatever spelling."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def violations(text: str, module: str, is_package: bool = False) -> list[str]:
    """Return a line for each import in the source ``text`` of ``module`` that it may not have."""
    found = []
    part = part_of(module)
    for line, name in imported(ast.parse(text), module, is_package):
        top = name.split(".")[0]
        if top == "gdbheap" and name.startswith(LATE.get(module, "no name begins so")):
            continue
        if top == "gdbheap":
            target = part_of(name)
            if not is_part(target):
                target = "gdbheap" if name.count(".") == 1 else target
            if target not in allowed(part):
                found.append(f"{module}:{line} imports {name}")
        elif top in OWNERS and part not in OWNERS[top]:
            found.append(f"{module}:{line} imports {name}")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_every_import_points_downwards() -> None:
    found = [
        violation
        for module, path in modules()
        for violation in violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_nothing_that_is_read_can_run() -> None:
    """No module reads what may hold code: where anything is kept in a file at all, it is text or JSON."""
    found = [
        f"{module} imports {name}"
        for module, path in modules()
        for _, name in imported(ast.parse(path.read_text(encoding="utf-8")), module, path.name == "__init__.py")
        if name.split(".")[0] in ("pickle", "marshal", "shelve", "dbm", "runpy", "code")
    ]
    assert not found, "\n".join(found)


def test_every_module_has_a_place() -> None:
    names = {part_of(module) for module, _ in modules()}
    assert {"gdbheap", "gdbheap.memory", "gdbheap.ptmalloc", "gdbheap.loading"} <= names
    for name in names:
        assert part_of(name) in allowed(name) or name in STARTERS


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("gdbheap.memory", "import gdbheap.ptmalloc.abi"),
        ("gdbheap.memory", "from gdbheap.symbols import Symbols"),
        ("gdbheap.memory", "from gdbheap import ptmalloc"),
        ("gdbheap.ptmalloc.walk", "from gdbheap.growth.event import Event"),
        ("gdbheap.ptmalloc.walk", "from ..simulate import state"),
        ("gdbheap.ptmalloc.walk", "def late():\n    from ..growth.event import Event"),
        ("gdbheap.ptmalloc.walk", "if TYPE_CHECKING:\n    import gdb"),
        ("gdbheap.ptmalloc.walk", "import importlib\nimportlib.import_module('gdb')"),
        ("gdbheap.ptmalloc.walk", "__import__('gdb.types')"),
        ("gdbheap.growth.explain", "import tabulate"),
        ("gdbheap.growth.explain", "from .. import debugger"),
        ("gdbheap.render.text", "from gdbheap.debugger import target"),
        ("gdbheap.render.text", "from gdb import Value"),
        ("gdbheap.debugger.target", "import gdbheap.launcher"),
        ("gdbheap.launcher", "import gdbheap.debugger"),
        ("gdbheap.launcher", "import gdb"),
        ("gdbheap.loading", "import gdb"),
        ("gdbheap", "import gdbheap.memory"),
        ("gdbheap", "from gdbheap.debugger import model"),
        ("gdbheap", "from gdbheap.debugger.model import read_state"),
        ("gdbheap", "def heap():\n    import gdb"),
        ("gdbheap.launcher", "from gdbheap.debugger.api import heap"),
    ],
)
def test_a_forbidden_import_is_found(module: str, text: str) -> None:
    assert violations(text, module, is_package=module == "gdbheap")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("gdbheap.ptmalloc.walk", "from __future__ import annotations\nimport array\nfrom .abi import Abi"),
        ("gdbheap.ptmalloc.walk", "from gdbheap.memory import Memory\nfrom gdbheap.symbols import Symbols"),
        ("gdbheap.growth.explain", "from gdbheap.simulate.state import GrowthState"),
        ("gdbheap.render.text", "import pygments.lexers\nfrom gdbheap import __version__"),
        ("gdbheap", "def heap():\n    from gdbheap.debugger.api import heap"),
        ("gdbheap.debugger.session", "import gdb\nfrom gdbheap.render.text import lines\nfrom . import catch"),
    ],
)
def test_an_import_downwards_is_fine(module: str, text: str) -> None:
    assert not violations(text, module, is_package=module == "gdbheap")
