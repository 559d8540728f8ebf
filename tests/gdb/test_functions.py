"""Promise: $_heap_chunk and its like say in any expression what `heap chunks` says, and cost the program nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs
from tests.support.symbols import wanted

#: Inside GDB: what the functions say of each chunk that `heap chunks -json FILE` lists, at three addresses of each.
COMPARE = """
import gdb, json
def compare(path):
    arenas = json.load(open(path))
    chunks = [(arena['name'], chunk) for arena in arenas['arenas'] for chunk in arena['chunks']]
    chunks += [(None, chunk) for chunk in arenas['mmapped']['chunks']]
    step = len(chunks) // 400 + 1
    for name, chunk in chunks[::step] + chunks[-3:]:
        number = -1 if name is None else 0 if name == 'main_arena' else int(name.split()[1])
        expected = chunk['address'], chunk['size'], chunk['state'], number
        inside = () if chunk['state'] == 'fencepost' else (chunk['pointer'],)
        for address in (chunk['address'], *inside, chunk['address'] + chunk['size'] - 1):
            found = (
                int(gdb.parse_and_eval('$_heap_chunk(%d)' % address)),
                int(gdb.parse_and_eval('$_heap_size(%d)' % address)),
                gdb.parse_and_eval('$_heap_state(%d)' % address).string(),
                int(gdb.parse_and_eval('$_heap_arena(%d)' % address)),
            )
            if found != expected:
                raise gdb.GdbError('%#x: %r, not %r' % (address, found, expected))
    print('compared', len(chunks[::step]), 'of', len(chunks), set(chunk['state'] for _, chunk in chunks))
"""

#: Inside GDB: go on until the program is in stop_here.
GO_ON = """
while gdb.selected_frame().name() != 'stop_here':
    gdb.execute('continue', to_string=True)
"""


def hits(done: Result) -> dict[int, int]:
    """Return how often each breakpoint's condition was true, by its number."""
    found: dict[int, int] = {}
    for line in done.stdout.splitlines():
        listed = re.match(r"(\d+) +breakpoint ", line)
        counted = re.match(r"\s+breakpoint already hit (\d+) time", line)
        if listed:
            number = int(listed[1])
            found[number] = 0
        elif counted:
            found[number] = int(counted[1])
    return found


@pytest.mark.parametrize("name", ["totals", "threads", "foreign", "growth"])
def test_they_say_what_heap_chunks_says(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    done = gdb(
        "heap catch -malloc",
        "break stop_here",
        "run",
        f"heap chunks {answers.into('chunks')} -all",
        f"python exec({COMPARE!r}); compare({str(answers.path('chunks'))!r})",
        program=programs[name],
    ).succeeded()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("compared")]
    assert "'top'" in line


def test_in_conditions(gdb: Gdb, programs: Programs) -> None:
    """Each condition is true exactly where the program itself says so, and the program is called by none of them."""
    pairs = [
        ('$_streq($_heap_state(p), "tcache")', "freed"),
        ('$_streq($_heap_state(p), "used")', "chunk_bytes && !freed"),
        ('$_streq($_heap_state(p), "unknown")', "!chunk_bytes"),
        ("$_heap_size(p) > 1000", "chunk_bytes > 1000"),
        ("$_heap_size(p) == chunk_bytes", "1"),
        ("$_heap_chunk(p) == 0", "!chunk_bytes"),
        ("$_heap_chunk(p) + 16 == p", "chunk_bytes && ((unsigned long)p % 16 == 0)"),
        ("$_heap_arena(p) == 0", "chunk_bytes"),
    ]
    conditions = [condition for pair in pairs for condition in pair]
    done = gdb(
        "python calls = []",
        "python gdb.events.inferior_call.connect(calls.append)",
        *(f"break visit if {condition}" for condition in conditions),
        "break stop_here",
        "run",
        f"python exec({GO_ON!r})",
        "info breakpoints",
        "python print('calls', len(calls))",
        program=programs["visits"],
    ).succeeded()
    counts = hits(done)
    for place, (ours, theirs) in enumerate(pairs):
        assert counts[2 * place + 1] == counts[2 * place + 2] > 0, (ours, theirs, done.describe())
    assert "calls 0" in done.stdout


@pytest.mark.parametrize("others", ["run on", "are stopped"])
def test_in_conditions_of_a_program_with_threads(gdb: Gdb, programs: Programs, others: str) -> None:
    """GDB lets the other threads run while it evaluates a condition, unless it is told not to."""
    pairs = [
        ('$_streq($_heap_state(p), "tcache")', "freed"),
        ('$_streq($_heap_state(p), "used")', "!freed"),
        ("$_heap_size(p) == chunk_bytes", "!freed"),
    ]
    done = gdb(
        *(["maint set target-non-stop off"] if others == "are stopped" else []),
        *(f"break visit if {condition}" for pair in pairs for condition in pair),
        'break visit if $_streq($_heap_state(p), "unknown")',
        "break stop_here",
        "run",
        f"python exec({GO_ON!r})",
        "info breakpoints",
        program=programs["bystanders"],
    ).succeeded()
    counts = hits(done)
    for place, pair in enumerate(pairs):
        if others == "run on" and '"used"' in pair[0] and counts[2 * len(pairs) + 1]:
            # GDB 10 reads no thread-local variable of a thread that runs: it may be in that one's tcache.
            assert (counts[2 * place + 1], counts[2 * len(pairs) + 1]) == (0, 45), done.describe()
            continue
        assert counts[2 * place + 1] == counts[2 * place + 2] == 45, (pair, done.describe())


def test_what_one_condition_read_serves_the_next(gdb: Gdb, programs: Programs) -> None:
    """At one stop the heap is read once; at the next it is read anew."""
    code = (
        "import gdbheap.debugger.lookup as lookup\n"
        "class Counted(lookup.Lookup):\n"
        "  made = 0\n"
        "  def __init__(self):\n"
        "    Counted.made += 1\n"
        "    super().__init__()\n"
        "lookup.Lookup = Counted\n"
    )
    done = gdb(
        f"python exec({code!r})",
        "break visit if $_heap_size(p) == -1 || $_heap_chunk(p) == -1 || $_heap_arena(p) == 7",
        "run",
        "python print('made', Counted.made)",
        program=programs["visits"],
    ).succeeded()
    assert f"made {24 * 3 + 2}\n" in done.stdout


def test_a_stop_that_no_condition_asks_for_is_not_made(gdb: Gdb, programs: Programs) -> None:
    """GDB goes on by itself from a false condition; what was read at the stop before is not used again."""
    done = gdb(
        'break visit if $_streq($_heap_state(p), "tcache") && $_heap_size(p) > 600',
        "run",
        "print freed",
        "print chunk_bytes > 600",
        "print $_heap_size(p) == chunk_bytes",
        program=programs["visits"],
    ).succeeded()
    assert re.findall(r"^\$\d+ = (.*)$", done.stdout, re.MULTILINE) == ["1", "1", "1"]


def test_why_states_are_not_compared_by_gdb_itself(gdb: Gdb, programs: Programs) -> None:
    """What the documents say of ==: GDB calls the program's malloc, unless it may not, or it fails."""
    done = gdb(
        "python calls = []",
        "python gdb.events.inferior_call.connect(calls.append)",
        "break visit",
        "run",
        'print $_heap_state(p) == "used"',
        "python print('called' if calls else 'not called')",
        "python calls.clear()",
        "set may-call-functions off",
        'print $_heap_state(p) == "used"',
        'print $_streq($_heap_state(p), "used")',
        "python print('then', len(calls))",
        program=programs["visits"],
    )
    assert "Too many array elements" in done.stderr or "\ncalled\n" in done.stdout
    assert re.search(r"^\$\d+ = 1\nthen 0$", done.stdout, re.MULTILINE)


def test_addresses_of_every_form(gdb: Gdb, programs: Programs) -> None:
    done = gdb(
        "python calls = []",
        "python gdb.events.inferior_call.connect(calls.append)",
        "break visit",
        "run",
        "print $_heap_chunk(p)",
        "print $_heap_size(*(char (*)[8])p) == chunk_bytes",
        "print $_heap_size(*(char (*)[2][4])p) == chunk_bytes",
        "print $_heap_size((unsigned long)p) == chunk_bytes",
        "print $_heap_size(-1)",
        "print $_heap_state(main)",
        'print $_heap_state("a string of GDB\'s own")',
        *(["print $_heap_size(*main_arena.top)"] if wanted() else []),
        "print $_heap_size()",
        "print $_heap_size(p, p)",
        "print $_heap_events(1)",
        "python print('calls', len(calls))",
        program=programs["visits"],
    )
    done.has_no_internal_error()
    shown = re.findall(r"^\$\d+ = (.*)$", done.stdout, re.MULTILINE)
    assert re.fullmatch(r"\(void \*\) 0x[0-9a-f]+0", shown[0])
    assert shown[1:] == ["1", "1", "1", "0", '"unknown"']
    for sentence in (
        "What is not in the program's memory has no address: give a pointer or a number.",
        *(["The address is a pointer or a number, not a value of type struct malloc_chunk"] if wanted() else []),
        "It takes one address: $_heap_size(ADDRESS).",
        "It takes no argument: $_heap_events().",
    ):
        assert sentence in done.stderr
    assert "calls 0" in done.stdout


def test_memory_that_gdb_changes_is_read_again(gdb: Gdb, programs: Programs) -> None:
    done = gdb(
        "break visit",
        "run",
        "print $_heap_size(p) == chunk_bytes",
        "set var *((unsigned long *)p - 1) += 0x20",  # now it reaches into top, and the walk must stop before it
        "print $_heap_size(p)",
        "set var *((unsigned long *)p - 1) -= 0x20",
        "print $_heap_size(p) == chunk_bytes",
        program=programs["visits"],
    ).succeeded()
    assert re.findall(r"^\$\d+ = (.*)$", done.stdout, re.MULTILINE) == ["1", "0", "1"]


def test_what_may_be_in_an_unknown_tcache_is_not_called_used(gdb: Gdb, programs: Programs) -> None:
    """Where a thread's variables cannot be read, its freed chunks look as used ones do."""
    code = "import gdbheap.debugger.target as target; target.Target.tcache_address = lambda self, thread: None"
    done = gdb(
        "break stop_here",
        "run",
        "print $_heap_state(fast[0])",
        f"python {code}",
        "set heap main-arena auto",  # forgets what was read
        "print $_heap_state(fast[0])",
        "print $_heap_state(used[5])",
        "print $_heap_state(used[1])",
        "print $_heap_state(small[8])",
        program=programs["totals"],
    ).succeeded()
    shown = re.findall(r'^\$\d+ = "(.*)"$', done.stdout, re.MULTILINE)
    assert shown == ["tcache", "unknown", "unknown", "used", "small"]


def test_without_a_heap_a_sentence_says_why(gdb: Gdb, programs: Programs) -> None:
    done = gdb("print $_heap_size(1)", "print $_heap_events()", program=programs["visits"])
    done.has_no_internal_error()
    assert "The program is not running, so it has no heap" in done.stderr
    assert "$1 = 0" in done.stdout


def test_before_the_first_malloc_nothing_is_in_a_chunk(gdb: Gdb, programs: Programs) -> None:
    done = gdb("break main", "run", "print $_heap_state(&chunk_bytes)", program=programs["visits"]).succeeded()
    assert '$1 = "unknown"' in done.stdout


def test_recorded_events_are_counted(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    done = gdb(
        "heap catch -malloc",
        "break stop_here if $_heap_events() > 3",
        "run",
        "print $_heap_events()",
        f"heap events {answers.into('events')}",
        program=programs["growth"],
    ).succeeded()
    assert f"$1 = {len(answers.events('events'))}\n" in done.stdout


def test_in_a_core_file(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    core = tmp_path / "core"
    live = gdb(
        "break visit if freed",
        "run",
        "print $_heap_chunk(p)",
        "print $_heap_state(p)",
        f"generate-core-file {core}",
        program=programs["visits"],
    ).succeeded()
    dead = gdb(
        f"core-file {core}", "print $_heap_chunk(p)", "print $_heap_state(p)", program=programs["visits"]
    ).succeeded()
    said = [re.findall(r"^\$\d+ = (.*)$", done.stdout, re.MULTILINE) for done in (live, dead)]
    assert said[0] == said[1]
    assert said[0][1] == '"tcache"'
