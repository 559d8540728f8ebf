"""scripts/demo.sh on programs good and bad, and the second run of scripts/setup.sh."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.environment import PATIENCE, ROOT, needs, plain_environment


def script(name: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / "scripts" / name), *map(str, arguments)],
        cwd=cwd,
        env=plain_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


def test_the_story(tmp_path: Path) -> None:
    done = script("demo.sh", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    answer = done.stdout[done.stdout.index("brk grew the heap by 0x21000") :]
    for fact in ("printf", "stdout's buffer", "tcache_init", "0x290", "top_pad", "MINSIZE", "(exact)", "malloc(1000)"):
        assert fact in answer


@pytest.mark.parametrize("arguments", [["two words", "it's", "$HOME * \\", ""]])
def test_a_programs_arguments_arrive_as_they_are(arguments: Sequence[str], tmp_path: Path) -> None:
    needs("printf")
    done = script("demo.sh", "printf", "<%s>", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "".join(f"<{argument}>" for argument in arguments) in done.stdout
    assert "(exact)" in done.stdout


def test_a_program_named_relative_to_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "a program").symlink_to(needs("true"))
    done = script("demo.sh", "./a program", cwd=tmp_path)
    assert "exited normally" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("program", "status", "sentence"),
    [
        ("no-such-program", 127, "there is no program 'no-such-program'."),
        ("./no-such-program", 127, "there is no program './no-such-program'."),
        (".", 127, "there is no program '.'."),
        ("cd", 127, "there is no program 'cd'."),
        (str(ROOT / "LICENSE"), 126, f"'{ROOT}/LICENSE' may not be executed."),
        (
            str(ROOT / "scripts" / "demo.sh"),
            126,
            f"'{ROOT}/scripts/demo.sh' is a script, or no program for this machine: name its interpreter before it.",
        ),
    ],
)
def test_what_is_no_program(program: str, status: int, sentence: str, tmp_path: Path) -> None:
    done = script("demo.sh", program, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"demo: {sentence}\n")


def test_the_second_set_up_does_nothing(tmp_path: Path) -> None:
    """It is silent, and starts neither apt-get nor pip."""
    assert script("setup.sh", "test").returncode == 0
    log = tmp_path / "log"
    done = subprocess.run(
        [needs("strace"), "-f", "-e", "trace=execve", "-s", "4096", "-o", log, "sh", ROOT / "scripts/setup.sh", "test"],
        env=plain_environment(), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    started = re.findall(r'execve\("([^"]*)", \[(.*)\], ', log.read_text())
    assert len(started) > 5
    for path, arguments in started:
        assert not re.search(r"\b(apt-get|dpkg|pip)\b", f"{path} {arguments}"), arguments


def test_an_unknown_purpose() -> None:
    done = script("setup.sh", "everything")
    assert done.returncode == 2
    assert "not 'everything'" in done.stderr
