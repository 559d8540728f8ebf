"""Fixtures that all tests may use: the C programs, built once a session, and GDB with gdbheap loaded."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import hypothesis
import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import ROOT, needs
from tests.support.programs import Programs
from tests.support.symbols import reason_to_skip

# No test depends on how fast the machine is, or on what else it does.
hypothesis.settings.register_profile(
    "gdbheap", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("gdbheap")


def pytest_configure() -> None:
    """Have SIGINT end programs, where the tests run behind a shell's back (&), which makes all of them ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot hold without glibc's debug symbols, where the tests run without (scripts/matrix.sh)."""
    for item in items:
        module = getattr(item, "module", None)
        reason = reason_to_skip(module.__name__ if module is not None else "", item.name)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Build c_fixtures once, into a folder of this session."""
    for tool in ("make", "gcc", "g++"):
        needs(tool)
    folder = tmp_path_factory.mktemp("fixtures")
    command = ["make", "-s", f"-j{os.cpu_count() or 1}", "-C", str(ROOT / "c_fixtures"), f"BUILD={folder}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return Programs(folder)


@pytest.fixture(scope="session")
def gdb() -> Gdb:
    """Return GDB in batch mode with the checkout's gdbheap loaded."""
    runner = Gdb()
    needs(runner.path)
    return runner


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    """Return a place for the JSON that one test's commands write."""
    return Answers(tmp_path)


@pytest.fixture(scope="session")
def calling(gdb: Gdb) -> None:
    """Skip what has GDB call functions of a program, where this GDB cannot on this processor.

    GDB 13 cannot write the registers back where the processor has more of them than it knows.
    """
    result = gdb("break exit", "run", "print ((int (*)(void)) getpid)()", program=needs("ls"), load=None)
    if result.status != 0:
        pytest.skip(f"GDB cannot call a function here: {result.stderr.strip().splitlines()[-1]}")
