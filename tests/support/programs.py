"""The C programs that the tests look at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.environment import ROOT, needs


class Programs:
    """The built fixtures, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        assert path.exists(), f"no fixture {name}"
        return path

    def source(self, name: str) -> Path:
        """Return the source file ``name`` of c_fixtures."""
        return ROOT / "c_fixtures" / name


#: What makes gcc build for 32-bit x86. Only gcc-multilib, which bars compilers for other machines, leads it to the
#: kernel's headers by itself.
FOR_32_BIT = ("-m32", "-idirafter", "/usr/include/x86_64-linux-gnu")


def build_32_bit(name: str, folder: Path) -> Path:
    """Return the fixture ``name``, built as a 32-bit program in ``folder``; skip the test where gcc cannot."""
    program = folder / f"{name}-32"
    source = ROOT / "c_fixtures" / f"{name}.c"
    command = [needs("gcc"), *FOR_32_BIT, "-w", "-g", "-O0", "-pthread", "-o", str(program), str(source)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("gcc cannot build 32-bit programs here")
    return program
