"""The tests' own readers of strace and of the kernel's maps: what they read, and that they refuse what they can't."""

from __future__ import annotations

import errno

import pytest

from tests.support.procmaps import mapped_bytes
from tests.support.procmaps import parse as parse_maps
from tests.support.strace import Call, parse

TRACE = """\
10 brk(0)                            = 0x555555559000
10 mmap(0, 0x801000, 0, 0x20022, 0xffffffff, 0) = 0x7ffff75d1000
10 mremap(0x7ffff7dc2000, 0x2000, 0x9000, 0x1, 0xdead) = 0x7ffff7fb7000
10 mremap(0x1000, 0x2000, 0x2000, 0x3, 0x9000) = 0x9000
10 clone3(0x7fffffffe4e0, 0x58 <unfinished ...>
11 munmap(0x7fffeec00000, 0x1400000 <unfinished ...>
10 <... clone3 resumed>)             = 11
10 --- SIGCHLD {si_signo=SIGCHLD} ---
10 mprotect(0x1000, 0x1000, 0x1)     = -1 ENOMEM (Cannot allocate memory)
11 <... munmap resumed>)             = 0
11 +++ exited with 0 +++
10 munmap(0x1000, 0x1000 <unfinished ...>
10 +++ exited with 0 +++
"""


def test_strace_is_read() -> None:
    """Signed results and descriptors, calls that another thread interrupts, each in the place where it was made."""
    trace = parse(TRACE)
    assert trace.tids == (10, 11)
    assert trace.calls == (
        Call(10, "brk", (0,), 0x555555559000),
        Call(10, "mmap", (0, 0x801000, 0, 0x20022, -1, 0), 0x7FFFF75D1000),
        Call(10, "mremap", (0x7FFFF7DC2000, 0x2000, 0x9000, 1), 0x7FFFF7FB7000),
        Call(10, "mremap", (0x1000, 0x2000, 0x2000, 3, 0x9000), 0x9000),
        Call(11, "munmap", (0x7FFFEEC00000, 0x1400000), 0),
        Call(10, "mprotect", (0x1000, 0x1000, 1), -errno.ENOMEM),
        Call(10, "munmap", (0x1000, 0x1000), None),
    )
    assert [call.syscall for call in trace.of_thread(1)] == ["munmap"]


@pytest.mark.parametrize(
    "line",
    ["10 brk(0) = what", "10 brk(0", "10 mmap(0, 0) = 0", "10 <... brk resumed>) = 0", "10 unknown", "brk(0) = 0"],
)
def test_a_line_that_is_not_understood_is_refused(line: str) -> None:
    """An oracle that skips what it doesn't know would agree with anything."""
    with pytest.raises((AssertionError, KeyError, ValueError)):
        parse(line)


def test_the_kernels_maps_are_added_up() -> None:
    """All but the stack, which grows by itself."""
    text = (
        "555555554000-555555555000 r--p 00000000 00:2b 3023 /a name with spaces\n"
        "555555559000-55555557a000 rw-p 00000000 00:00 0 [heap]\n"
        "7ffff7fb7000-7ffff7fb9000 ---s 00000000 00:00 0 \n"
        "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]\n"
    )
    assert mapped_bytes(text) == 0x1000 + 0x21000 + 0x2000
    with pytest.raises(AssertionError):
        parse_maps("no line of the kernel's\n")
