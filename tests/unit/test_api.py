"""`import gdbheap` costs nothing and works everywhere; gdbheap.heap() says where it works."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gdbheap
from tests.support.environment import ROOT


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    code = "import sys, gdbheap; print([name for name in sys.modules if name.startswith('gdbheap.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / "src")}
    )
    assert done.stdout == "[]\n"


def test_outside_gdb_it_says_where_it_works() -> None:
    with pytest.raises(RuntimeError, match=r"^gdbheap\.heap\(\) works in GDB's own Python only: 'source gdbheap'"):
        gdbheap.heap()
