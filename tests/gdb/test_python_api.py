"""Promise: `import gdbheap` in GDB gives a script what the commands show, as records, and says when they are stale."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs

DUMP = """
def dump(path, **values):
    import json
    json.dump({'schema': 'gdbheap/1', **values}, open(path, 'w'))
"""


def script(code: str) -> str:
    return f"python exec({DUMP + textwrap.dedent(code)!r}, {{'gdb': gdb}})"


def at_stop(gdb: Gdb, programs: Programs, name: str, *commands: str, before: Sequence[str] = ()) -> Result:
    return gdb(*before, "break stop_here", "run", *commands, program=programs[name])


@pytest.mark.parametrize("name", ["totals", "threads"])
def test_the_records_are_those_of_the_commands(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    code = f"""
    import gdbheap
    heap = gdbheap.heap()
    fields = ('address', 'pointer', 'size', 'flags', 'state', 'request_max', 'behind_damage')
    def rows(chunks):
        return [{{field: getattr(chunk, field) for field in fields}} for chunk in chunks]
    dump(
        {str(answers.path("python"))!r},
        arenas=[[arena.name, arena.address, arena.system_mem, arena.top, arena.top_size] for arena in heap.arenas],
        chunks=rows(heap.chunks()),
        by_number=[rows(heap.chunks(arena.number)) for arena in heap.arenas],
        by_record=[rows(heap.chunks(arena)) for arena in heap.arenas],
        large=rows(heap.chunks(0, state='used', min_size=200, max_size=400)),
        params=dict(heap.params.values),
        tcached=sorted(chunk for tcache in heap.tcaches.values() for chunk in tcache.chunks),
        mallinfo=dict(heap.account.mallinfo),
        events=[[event.id, event.syscall, event.result] for event in heap.events],
        problems=list(heap.problems),
    )
    """
    commands = ["arenas", "chunks", "params", "events"]
    at_stop(
        gdb,
        programs,
        name,
        f"heap {answers.into('heap')}",
        *(f"heap {command} {answers.into(command)}" for command in commands),
        script(code),
        before=["heap catch -malloc"],
    ).succeeded()
    found = answers["python"]
    assert found["arenas"] == [
        [arena["name"], arena["address"], arena["system_mem"], arena["top"], arena["top_size"]]
        for arena in answers["arenas"]["arenas"]
    ]
    listed = [arena["chunks"] for arena in answers["chunks"]["arenas"]]
    fields = found["chunks"][0].keys()
    mmapped = [{field: chunk[field] for field in fields} for chunk in answers["chunks"]["mmapped"]["chunks"]]
    assert found["by_number"] == found["by_record"] == listed
    assert found["chunks"] == [*(chunk for chunks in listed for chunk in chunks), *mmapped]
    assert found["large"] == [chunk for chunk in listed[0] if chunk["state"] == "used" and 200 <= chunk["size"] <= 400]
    assert {param["name"]: param["value"] for param in answers["params"]["params"]} == found["params"]
    assert found["tcached"] == sorted(
        chunk["address"] for chunks in listed for chunk in chunks if chunk["state"] == "tcache"
    )
    assert found["mallinfo"] == answers["heap"]["mallinfo2"]
    assert found["events"] == [
        [event["id"], event["syscall"], event["result"]] for event in answers["events"]["events"]
    ]
    assert found["problems"] == []


def test_the_chunk_at_an_address(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    code = f"""
    import gdbheap
    heap = gdbheap.heap()
    def at(address):
        found = heap.chunk_at(address)
        return found and [found.chunk.state, found.chunk.pointer, found.arena and found.arena.name]
    value = gdb.parse_and_eval
    dump(
        {str(answers.path("python"))!r},
        pointers=[int(value(name)) for name in ('used[5]', 'small[0]', 'mapped[0]')],
        found=[at(value(name)) for name in ('used[5]', '(char *)small[0] + 3', '(char *)mapped[0] + 5000')],
        outside=at(value('&used')),
    )
    """
    at_stop(gdb, programs, "totals", script(code)).succeeded()
    used, small, mapped = answers["python"]["pointers"]
    assert answers["python"]["found"] == [
        ["used", used, "main_arena"], ["tcache", small, "main_arena"], ["used", mapped, None]
    ]  # fmt: skip
    assert answers["python"]["outside"] is None


def test_it_does_not_outlive_its_stop(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    code = f"""
    import gdbheap
    heap = gdbheap.heap()
    chunks = heap.chunks()
    next(chunks)
    def why(ask):
        try:
            ask()
        except gdb.GdbError as error:
            return str(error)
    before = why(lambda: heap.arenas)
    gdb.execute('set var used[0] = 0')
    changed = why(lambda: next(chunks))
    heap = gdbheap.heap()
    gdb.execute('stepi')
    dump(
        {str(answers.path("python"))!r},
        before=before,
        changed=changed,
        after=[
            why(lambda: heap.arenas), why(lambda: heap.params), why(lambda: heap.tcaches), why(lambda: heap.account),
            why(lambda: heap.chunk_at(1)), why(lambda: list(heap.chunks())),
        ],
        anew=why(lambda: gdbheap.heap().arenas),
    )
    """
    at_stop(gdb, programs, "totals", script(code)).succeeded()
    sentence = "The program has gone on since this heap was read: call gdbheap.heap() again."
    found = answers["python"]
    assert (found["before"], found["anew"]) == (None, None)
    assert found["changed"] == sentence
    assert found["after"] == [sentence] * 6


def test_errors(gdb: Gdb, programs: Programs) -> None:
    code = """
    import gdbheap
    def why(ask):
        try:
            ask()
        except (gdb.GdbError, ValueError) as error:
            return type(error).__name__ + ': ' + str(error)
    print(why(gdbheap.heap))
    gdb.execute('break stop_here')
    gdb.execute('run')
    heap = gdbheap.heap()
    print(why(lambda: list(heap.chunks(9))))
    print(why(lambda: list(heap.chunks(state='lost'))))
    gdb.execute('kill')
    print(why(lambda: heap.arenas))
    """
    done = gdb(script(code), program=programs["totals"]).succeeded()
    for sentence in (
        "GdbError: The program is not running, so it has no heap: use 'start' or 'run' first.",
        "GdbError: There is no arena '9': there are 1 (0 is main_arena)",
        "ValueError: the state of a chunk is one of used, tcache, fastbin, unsorted, small, large, free, top,",
        "GdbError: This heap is of another process than the selected one: call gdbheap.heap() again.",
    ):
        assert sentence in done.stdout


def test_what_is_not_sound_is_said(gdb: Gdb, programs: Programs) -> None:
    code = """
    import gdbheap
    heap = gdbheap.heap()
    print(len(list(heap.chunks(0))) > 5, heap.problems)
    """
    done = at_stop(gdb, programs, "totals", "set var *((unsigned long *)used[30] - 1) = 7", script(code)).succeeded()
    assert "True ('The size word of the chunk at 0x" in done.stdout
