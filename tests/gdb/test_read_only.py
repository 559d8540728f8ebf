"""Promise: looking at a program changes nothing in it: no command writes to its memory or its registers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs

COMMANDS = (
    "heap",
    "heap -json",
    "heap arenas",
    "heap top",
    "heap params",
    "heap chunks",
    "heap chunks -all",
    "heap chunks -json",
    "heap catch",
    "heap events",
    "heap why-grow",
    "heap why-grow -all",
    "heap catch -off",
    "help heap",
    "print $_heap_chunk(main_arena.top)",
    "print $_heap_state(main_arena.top)",
    "print main_arena",
    "print mp_",
    "show heap",
    "python import gdbheap; heap = gdbheap.heap(); list(heap.chunks()); heap.account; heap.chunk_at(1)",
)

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
            memory.seek(start)
            while start < end:
                data = memory.read(min(1 << 20, end - start))
                if not data:
                    raise gdb.GdbError('the segment cannot be read: ' + line)
                start += len(data)
                hashed.update(data)
            found[span] = hashed.hexdigest()
    selected = gdb.selected_thread()
    for thread in gdb.selected_inferior().threads():
        thread.switch()
        found['thread %d' % thread.num] = gdb.execute('info registers', to_string=True)
    selected.switch()
    found['selected'] = [selected.num, gdb.selected_frame().pc()]
    return found
"""


@pytest.mark.parametrize("name", ["totals", "threads", "growth"])
def test_no_command_changes_the_program(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """Each writable byte, each mapping and each register is the same after each command."""
    code = f"{DIGEST}digests = []\n"
    take = "python digests.append(digest())"
    steps = [step for command in COMMANDS for step in (command, take)]
    done = f"python json.dump({{'schema': 'gdbheap/1', 'digests': digests}}, open({str(answers.path('all'))!r}, 'w'))"
    gdb(
        "heap catch",
        "break stop_here",
        "run",
        f"python exec({code!r})",
        take,
        *steps,
        done,
        program=programs[name],
    ).succeeded()
    digests: list[dict[str, Any]] = answers["all"]["digests"]
    assert len(digests) == len(COMMANDS) + 1
    before = digests[0]
    assert sum(1 for key in before if "-" in key) >= 4, "the data of the program and of libc, the heap, the stack"
    for command, after in zip(COMMANDS, digests[1:]):
        changed = [key for key in before if after.get(key) != before[key]]
        assert not changed, f"{command} changed {changed}"
        assert after == before, command
