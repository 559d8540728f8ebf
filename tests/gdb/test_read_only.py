"""Promise: looking at a program changes nothing in it: no command writes to its memory or its registers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs

#: What stands in the place of a command's operands and of an option's value, where none will do.
OPERANDS = {
    "heap chunk": "info_stream",
    "heap refs": "info_stream",
    "heap catch": "brk mmap",
    "heap predict": "malloc 100; free $1; realloc info_stream 5000; free info_stream; trim",
    "heap what-if": "/nonexistent/run.ops top_pad=0",
}
VALUES = {
    "N": "1", "T": "1", "BYTES": "100", "ADDRESS": "info_stream", "EXPRESSION": "info_stream", "PID": "1",
    "STATE": "used", "KIND": "malloc", "NAME": "brk", "REGEX": "x", "TEXT": "text",
}  # fmt: skip
#: What else looks at the heap: functions, printers, settings, the Python API.
OTHERS = (
    "help heap",
    "print $_heap_chunk(main_arena.top)",
    "print $_heap_state(main_arena.top)",
    "print main_arena",
    "print mp_",
    "show heap",
    "python import gdbheap; heap = gdbheap.heap(); list(heap.chunks()); heap.account; heap.chunk_at(1)",
)
#: Commands that run the program on, which is what they are for.
RUNNING = ("heap trace",)


#: Inside GDB: a digest of each segment that the program can write, its mappings, and the registers of each thread.
DIGEST = """
import gdb, hashlib, json
def digest():
    pid = gdb.selected_inferior().pid
    found = {'maps': open('/proc/%d/maps' % pid).read()}
    with open('/proc/%d/mem' % pid, 'rb') as memory:
        for line in found['maps'].splitlines():
            span, permissions = line.split()[:2]
            if not permissions.startswith('rw'):
                continue
            start, end = (int(word, 16) for word in span.split('-'))
            hashed = hashlib.sha256()
            while start < end:
                memory.seek(start)
                try:
                    data = memory.read(min(1 << 20, end - start))
                except OSError:  # a guard page (MADV_GUARD_INSTALL), as threads have them from glibc 2.43 on
                    data = b''
                hashed.update(data)
                start += len(data) or 4096
            found[span] = hashed.hexdigest()
    selected = gdb.selected_thread()
    for thread in gdb.selected_inferior().threads():
        thread.switch()
        found['thread %d' % thread.num] = gdb.execute('info registers', to_string=True)
    selected.switch()
    found['selected'] = [selected.num, gdb.selected_frame().pc()]
    return found
"""


#: Inside GDB: each time that GDB calls a function of the program.
CALLS = """
calls = []
gdb.events.inferior_call.connect(lambda event: calls.append(str(event)))
"""


def command_lines(gdb: Gdb) -> list[str]:
    """Return command lines that use every command and every option, found in GDB's own help."""
    listed = gdb("help heap").succeeded().stdout
    names = ["heap", *(line[3:].split(" -- ")[0] for line in listed.splitlines() if line.startswith("gdbheap "))]
    names = [name for name in names if (name not in RUNNING and " " in name) or name == "heap"]
    assert len(names) >= 12, names
    lines = [*OTHERS]
    for name in names:
        page = gdb(f"help {name}").succeeded().stdout
        (usage,) = re.findall(rf"^Usage: {re.escape(name)}(.*)$", page, re.MULTILINE)
        plain = f"{name} {OPERANDS.get(name, '')}".strip()
        assert name in OPERANDS or not re.search(r"(?<!\[)\b[A-Z]{3,}\b(?![^\[]*\])", usage), f"{name}: {usage}"
        lines.append(plain)
        for option, optional, value in re.findall(r"\[(-[\w-]+)(?: (\[)?([^\]\s]+)\]?)?\]", usage):
            if optional or not value:
                lines.append(f"{plain} {option}")
            elif value != "FILE":
                lines.append(f"{plain} {option} {VALUES.get(value, value.split('|')[0])}")
    lines += ["heap catch -off"]
    assert any("-json" in line for line in lines)
    return lines


@pytest.mark.parametrize("name", ["totals", "threads"])
def test_no_command_changes_the_program(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """Each writable byte, each mapping and each register is the same after each command, and nothing was called.

    A command may refuse what it is asked; the program is the same all the same.
    """
    code = f"{DIGEST}{CALLS}digests = []\n"
    take = "python digests.append(digest())"
    lines = command_lines(gdb)
    steps = [step for command in lines for step in (command, take)]
    done = (
        f"python json.dump({{'schema': 'gdbheap/1', 'digests': digests, 'calls': calls}}, "
        f"open({str(answers.path('all'))!r}, 'w'))"
    )
    result = gdb(
        "heap catch",
        "break stop_here",
        "run",
        f"python exec({code!r})",
        take,
        *steps,
        done,
        program=programs[name],
    )
    result.has_no_internal_error()
    assert answers["all"]["calls"] == []
    digests: list[dict[str, Any]] = answers["all"]["digests"]
    assert len(digests) == len(lines) + 1
    before = digests[0]
    assert sum(1 for key in before if "-" in key) >= 4, "the data of the program and of libc, the heap, the stack"
    for command, after in zip(lines, digests[1:]):
        changed = [key for key in before if after.get(key) != before[key]]
        assert not changed, f"{command} changed {changed}"
        assert after == before, command


def test_a_change_would_be_seen(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The comparison itself: one byte of the heap, and one call."""
    code = f"{DIGEST}{CALLS}digests = []\n"
    take = "python digests.append(digest())"
    done = (
        f"python json.dump({{'schema': 'gdbheap/1', 'digests': digests, 'calls': calls}}, "
        f"open({str(answers.path('all'))!r}, 'w'))"
    )
    gdb(
        "break stop_here", "run", f"python exec({code!r})", take, "set var *(char*)info_stream = 77", take,
        "call (void) stop_here()", take, done, program=programs["totals"],
    )  # fmt: skip
    digests = answers["all"]["digests"]
    assert digests[0] != digests[1]
    assert answers["all"]["calls"]
