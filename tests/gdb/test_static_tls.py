"""Promise: libc's thread-local variables are found without libthread_db, where GDB itself finds them with it."""

from __future__ import annotations

import pytest

from tests.gdb.test_without_symbols import without_resident
from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version
from tests.support.programs import Programs
from tests.support.symbols import to_the_byte

pytestmark = pytest.mark.skipif(glibc_version() == (0, 0), reason="the C library is not glibc 2.34 or later")

WITHOUT = ("set libthread-db-search-path /nonexistent",)
#: The addresses of two variables in each thread: as gdbheap works them out, and as GDB says.
OURS = (
    "(lambda tls: [[tls.address(name) for name in ('tcache', 'thread_arena')] for thread in "
    "gdb.selected_inferior().threads() if not thread.switch()])"
    "(__import__('gdbheap.debugger.static_tls').debugger.static_tls.StaticTls('/lib/libc.so.6'))"
)
GDBS = (
    "[[number('(unsigned long)&%s' % name) for name in ('tcache', 'thread_arena')] for thread in "
    "gdb.selected_inferior().threads() if not thread.switch()]"
)


def test_the_addresses_are_gdbs_own(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """In five threads; libc's block is not the only one where a library has thread-local variables too."""
    gdb("break stop_here", "run", answers.python("both", {"ours": OURS, "gdbs": GDBS}), program=programs["threads"])
    found = answers["both"]
    assert found["ours"] == found["gdbs"]
    assert len({tuple(pair) for pair in found["ours"]}) == 5


@pytest.mark.parametrize("command", ["heap", "heap arenas"])
def test_nothing_is_missing_without_libthread_db(gdb: Gdb, answers: Answers, programs: Programs, command: str) -> None:
    """The arenas' threads and the threads' tcaches are the same."""
    for name, before in (("with", ()), ("without", WITHOUT)):
        steps = ("break stop_here", "run", f"{command} {answers.into(name)}")
        gdb(*steps, before=before, program=programs["threads"]).succeeded()
    assert without_resident(answers["with"]) == without_resident(answers["without"])


def test_a_trace_knows_the_arenas_of_threads(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """`heap trace` does without it; GDB's setting is the user's again after it."""
    report = answers.path("report").with_suffix(".txt")
    result = gdb(
        f"heap trace -o {report} {answers.into('trace')}",
        "show libthread-db-search-path",
        before=["set libthread-db-search-path /mine"],
        program=programs["threads"],
    ).succeeded()
    assert "/mine" in result.stdout
    mine = [event for event in answers["trace"]["events"] if event["kind"] == "malloc"]
    assert all(to_the_byte(event) for event in mine)
    chosen = [event["arena_choice"] for event in mine if event["thread"] > 1 and event["arena_choice"] is not None]
    assert any(choice["thread_arena"] for choice in chosen)
