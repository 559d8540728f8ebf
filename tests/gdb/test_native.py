"""Promise: reading a process's memory without GDB gives the bytes that GDB gives, and leaves GDB's own view of code."""

from __future__ import annotations

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import needs
from tests.support.programs import Programs

#: In GDB: both ways of reading, over every mapping, and a count of those that were read without GDB.
AGREE = """
from gdbheap.debugger import model, session
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.memory import MemoryFault
class Counted:
    def __init__(self, memory):
        self.memory, self.reads = memory, 0
    def read(self, address, size):
        self.reads += 1
        return self.memory.read(address, size)
ours, theirs = model.heap_memory(), session.target().memory
beyond = Counted(theirs)
if hasattr(ours, '_beyond'):
    ours._beyond = beyond
def read(memory, address, size):
    try:
        return memory.read(address, size)
    except MemoryFault:
        return None
copied, copy = [], getattr(ours, '_copy', None)
if copy is not None:
    def counted(address, size):
        copied.append(address)
        return copy(address, size)
    ours._copy = counted
count = 0
for item in mapped_ranges():
    if item.start >= 1 << 47:
        continue
    parts = [(item.start, min(item.size, 1 << 20)), (item.start + 5, 1), (item.end - 8, 8), (item.end - 8, 16)]
    for address, size in parts:
        assert read(ours, address, size) == read(theirs, address, size), (hex(address), size)
        count += 1
        ours._copy, kept = None, getattr(ours, '_copy', None)
        assert read(ours, address, size) == read(theirs, address, size), (hex(address), size)
        ours._copy = kept
assert read(ours, 8, 8) is None
print('AGREED', count, beyond.reads, len(copied))
"""


@pytest.mark.parametrize("name", ["totals", "threads", "census"])
def test_both_ways_agree(gdb: Gdb, programs: Programs, name: str) -> None:
    """Breakpoints stay in the code while the program is stopped: GDB hides them, so code must be read through it."""
    done = gdb(
        "set breakpoint always-inserted on",
        "break stop_here",
        "break malloc",
        "disable 2",
        "run",
        "enable 2",
        f"python exec({AGREE!r})",
        program=programs[name],
    ).succeeded()
    line = next(line for line in done.stdout.splitlines() if line.startswith("AGREED"))
    _, count, beyond, copied = (int(word) if word.isdigit() else 0 for word in line.split())
    assert count > 80
    assert 0 < beyond < 2 * count, "some were read without GDB, and some through it"
    assert 0 < copied < count, "large ones were read with process_vm_readv"


def test_without_proc_gdb_reads(gdb: Gdb, programs: Programs) -> None:
    """Where /proc cannot be read the answer is the same, but for what only /proc tells."""
    refuse = (
        "import builtins\nreal = builtins.open\n"
        "def refusing(path, *rest, **more):\n"
        "    if str(path).startswith('/proc/') and str(path).rsplit('/', 1)[1] in ('mem', 'smaps'):\n"
        "        raise PermissionError(13, 'Permission denied', path)\n"
        "    return real(path, *rest, **more)\n"
        "builtins.open = refusing"
    )
    done = gdb(
        "break stop_here",
        "run",
        "echo ANSWER\\n",
        "heap",
        "echo ANSWER\\n",
        f"python exec({refuse!r})",
        "heap",
        program=programs["census"],
    ).succeeded()
    _, first, second = done.stdout.split("ANSWER\n")
    assert "cannot be read: Permission denied" in second
    tables = [text.split("malloc counts")[0].strip() for text in (first, second)]
    assert tables[0] == tables[1]


def test_a_remote_process_is_asked_through_gdb(gdb: Gdb, programs: Programs, answers: Answers) -> None:
    """The same account, but for what is resident; /proc of this machine is not taken for the other's."""
    needs("gdbserver")
    gdb("break stop_here", "run", f"heap {answers.into('local')}", program=programs["census"]).succeeded()
    done = gdb(
        f"target remote | gdbserver --once - {programs['census']}",
        "break stop_here",
        "continue",
        f"heap {answers.into('remote')}",
        "kill",
        program=programs["census"],
    )
    done.has_no_internal_error()
    local, remote = answers["local"], answers["remote"]
    assert remote["kernel"]["why_not_resident"] == "the process is not of this machine"
    assert remote["kernel"]["whole"]["resident"] is None
    assert remote["mmapped_found"] == local["mmapped_found"]
    assert remote["mmapped_found"]["proven"] is True
    for key in ("mallinfo2", "sum", "problems"):
        assert remote[key] == local[key]
    mapped = [answer["kernel"]["arenas"]["mapped"] for answer in (local, remote)]
    assert mapped[0] == mapped[1] > 0
