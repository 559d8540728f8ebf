"""Where things are, and the surroundings that GDB, strace and the programs under them are run in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Seconds after which a program that should have ended is taken to hang; no test measures time with it.
PATIENCE = 240


def plain_environment() -> dict[str, str]:
    """Return a small environment, the same on each machine: what a program allocates depends on its environment."""
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
    }


def needs(program: str) -> str:
    """Return the path of ``program``, or skip the test and say that it is missing."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def glibc_version() -> tuple[int, int]:
    """Return the release of the C library that this machine's programs run with; (0, 0) where it is another one."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if name != "glibc":
        return 0, 0
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def has_fastbins() -> bool:
    """Return whether this machine's glibc has fastbins: 2.43 has none."""
    return glibc_version() < (2, 43)


def mmapped_header() -> int:
    """Return how many bytes of its mapping the size of an mmapped chunk leaves out: from 2.43 on its header."""
    return 0 if glibc_version() < (2, 43) else 16
