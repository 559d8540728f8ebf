"""Promise: a file that a command writes is written whole or not at all, where it was named, over nothing else."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.debugger import Gdb, Result
from tests.support.programs import Programs

#: Commands that write a file, and what must stand before them. {} is the file.
WRITERS = {
    "heap -json {}": (),
    "heap chunks -json {}": (),
    "heap check -json {}": (),
    "heap events -json {}": ("heap catch",),
    "heap timeline -svg {}": ("heap catch",),
    "heap timeline -json {}": ("heap catch",),
    "heap map -svg {}": (),
}


def write(gdb: Gdb, programs: Programs, command: str, before: Sequence[str], path: object, *more: str) -> Result:
    """Stop a program and let a command write ``path``."""
    result = gdb(*before, "break stop_here", "run", command.format(path), *more, program=programs["growth"])
    result.has_no_internal_error()
    return result


def nothing_else(folder: Path, *names: str) -> None:
    """Check that no other file was left in a folder."""
    assert sorted(item.name for item in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize(("command", "before"), WRITERS.items())
def test_an_existing_file_is_overwritten_only_when_asked(
    gdb: Gdb, programs: Programs, tmp_path: Path, command: str, before: Sequence[str]
) -> None:
    path = tmp_path / "answer"
    path.write_text("mine\n")
    refused = write(gdb, programs, command, before, path)
    assert refused.status == 1, refused.describe()
    assert str(path) in refused.stderr
    assert "-force" in refused.stderr
    assert path.read_text() == "mine\n"
    nothing_else(tmp_path, "answer")
    write(gdb, programs, f"{command} -force", before, path).succeeded()
    assert len(path.read_text()) > 100
    nothing_else(tmp_path, "answer")
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


@pytest.mark.parametrize(("command", "before"), WRITERS.items())
@pytest.mark.parametrize("force", ["", " -force"])
def test_no_planted_link_is_followed(
    gdb: Gdb, programs: Programs, tmp_path: Path, command: str, before: Sequence[str], force: str
) -> None:
    """Neither one that leads to a file nor one that leads nowhere, asked or not."""
    target, link, dangling = (tmp_path / name for name in ("target", "link", "dangling"))
    target.write_text("mine\n")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "new")
    for path in (link, dangling):
        result = write(gdb, programs, command + force, before, path)
        assert result.status == 1, result.describe()
        assert "not a regular file" in result.stderr
        assert path.is_symlink()
    assert target.read_text() == "mine\n"
    nothing_else(tmp_path, "target", "link", "dangling")


@pytest.mark.parametrize(("command", "before"), WRITERS.items())
@pytest.mark.parametrize("path", ["/dev/full", "/nonexistent/folder/file", "/proc/version", "/dev/null/file"])
def test_where_nothing_can_be_written(
    gdb: Gdb, programs: Programs, command: str, before: Sequence[str], path: str
) -> None:
    """A device, a folder that is missing, a file that may not be written: one sentence, and the session goes on."""
    result = write(gdb, programs, command, before, path, "echo went on\\n", command.format(path))
    assert result.status == 1, result.describe()
    assert "went on" in result.stdout
    assert path in result.stderr or os.path.dirname(path) in result.stderr


@pytest.mark.parametrize(("command", "before"), WRITERS.items())
def test_a_full_disk(gdb: Gdb, programs: Programs, tmp_path: Path, command: str, before: Sequence[str]) -> None:
    """A file that cannot be written to its end is not there at all."""
    path = tmp_path / "answer"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = "python import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))"
    assert hard in (-1, resource.RLIM_INFINITY), "the limit can be lowered and lifted again"
    result = gdb(*before, "break stop_here", "run", limit, command.format(path), program=programs["growth"])
    result.has_no_internal_error()
    assert result.status == 1, result.describe()
    assert "too large" in result.stderr, result.stderr
    nothing_else(tmp_path)
