"""Running strace and reading what it wrote, as an account of memory's system calls that is not gdbheap's own."""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.environment import PATIENCE, ROOT, needs, plain_environment

#: How many arguments each call has, and which of them is a file descriptor.
ARGUMENTS = {"brk": 1, "mmap": 6, "munmap": 2, "mremap": 5, "mprotect": 3, "madvise": 3}
DESCRIPTOR = {"mmap": 4}
#: mremap has a new address only with this flag.
MREMAP_FIXED = 2
THREAD_MAKERS = ("clone", "clone3")

_CALL = re.compile(r"(\w+)\(([^()]*)\)\s+= (.+)")
_UNFINISHED = re.compile(r"(\w+)\(([^()]*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>([^()]*)\)\s+= (.+)")
_RESULT = re.compile(r"(0x[0-9a-f]+|-?\d+)(?: (E[A-Z0-9]+) \(.*\))?")
_IGNORED = re.compile(r"\+\+\+ .* \+\+\+|--- .* ---")


@dataclass(frozen=True)
class Call:
    """One system call: ``result`` is signed, a failure is the negative errno, None a call that never returned."""

    tid: int
    syscall: str
    args: tuple[int, ...]
    result: int | None


@dataclass(frozen=True)
class Trace:
    """A program's calls in the order in which they were made, and its threads in the order of their making."""

    calls: tuple[Call, ...]
    tids: tuple[int, ...]

    def of_thread(self, index: int) -> list[Call]:
        """Return the calls of the thread that was made as the ``index``-th, 0 the main thread."""
        return [call for call in self.calls if call.tid == self.tids[index]]


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _numbers(text: str) -> list[int]:
    return [int(part, 0) for part in text.split(",") if part.strip()]


def _args(syscall: str, numbers: Sequence[int]) -> tuple[int, ...]:
    args = list(numbers)
    assert len(args) == ARGUMENTS[syscall], f"{syscall} with {len(args)} arguments"
    if syscall in DESCRIPTOR:
        index = DESCRIPTOR[syscall]
        args[index] = _signed(args[index], 32)
    if syscall == "mremap" and not args[3] & MREMAP_FIXED:
        args = args[:4]
    return tuple(args)


def _result(text: str) -> int | None:
    if text.startswith("?"):
        return None
    match = _RESULT.fullmatch(text)
    assert match, f"strace's result {text!r}"
    number, name = match.groups()
    if name is None:
        return _signed(int(number, 0), 64)
    value: int = getattr(errno, name)
    return -value


def read_call(tid: int, syscall: str, args: str, result: str) -> Call:
    """Return a call of ARGUMENTS from its arguments and its result as strace wrote them, raw."""
    return Call(tid, syscall, _args(syscall, _numbers(args)), _result(result))


def parse(text: str) -> Trace:
    """Read the file that ``strace -f -o FILE -e raw=all`` wrote: every line must be one that is understood.

    A call stands where it was made, however late it returned.
    """
    calls: list[Call] = []
    tids: list[int] = []
    waiting: dict[int, tuple[int, str, list[int]]] = {}  # by thread: place among the calls, name, arguments so far

    def finish(place: int, tid: int, syscall: str, numbers: list[int], result: str) -> None:
        if syscall in THREAD_MAKERS:
            made = _result(result)
            assert made is not None
            if made > 0:
                tids.append(made)
        else:
            calls[place] = Call(tid, syscall, _args(syscall, numbers), _result(result))

    def place_for(tid: int, syscall: str) -> int:
        if syscall not in THREAD_MAKERS:
            calls.append(Call(tid, syscall, (), None))
        return len(calls) - 1

    for line in text.splitlines():
        number, _, rest = line.partition(" ")
        tid, rest = int(number), rest.strip()
        if not tids:
            tids.append(tid)
        if _IGNORED.fullmatch(rest):
            continue
        if match := _CALL.fullmatch(rest):
            syscall, numbers, result = match.groups()
            finish(place_for(tid, syscall), tid, syscall, _numbers(numbers), result)
        elif match := _UNFINISHED.fullmatch(rest):
            syscall, numbers = match.groups()
            assert tid not in waiting, f"two unfinished calls of one thread: {line!r}"
            waiting[tid] = (place_for(tid, syscall), syscall, _numbers(numbers))
        elif match := _RESUMED.fullmatch(rest):
            syscall, numbers, result = match.groups()
            place, name, first = waiting.pop(tid)
            assert name == syscall, f"{name} was unfinished: {line!r}"
            finish(place, tid, syscall, first + _numbers(numbers), result)
        else:
            raise AssertionError(f"a line of strace that is not understood: {line!r}")
    for place, syscall, numbers in waiting.values():
        if syscall not in THREAD_MAKERS:
            calls[place] = Call(calls[place].tid, syscall, _args(syscall, numbers), None)
    return Trace(tuple(calls), tuple(tids))


def trace(
    output: Path, program: Path | str, args: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Trace:
    """Run ``program`` under strace as GDB runs it: no address randomisation, no shell, pipes for its output."""
    watched = ",".join((*ARGUMENTS, *THREAD_MAKERS))
    strace, setarch = needs("strace"), needs("setarch")
    line = [setarch, "-R", strace, "-f", "-X", "raw", "-e", "raw=all", "-e", f"trace={watched}", "-o", str(output)]
    done = subprocess.run(
        [*line, str(program), *args],
        cwd=ROOT,
        env=dict(environment or plain_environment()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    if not output.exists() or not output.read_text():
        pytest.skip(f"strace can't run here: {done.stderr.decode(errors='replace').strip()}")
    assert done.returncode == 0, done.stderr
    read = parse(output.read_text())
    assert read.calls, "strace saw no call"
    return read
