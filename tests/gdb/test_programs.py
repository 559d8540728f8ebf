"""Promise: ordinary programs under `heap catch`: every call is recorded, and every one of malloc's predicted exactly.

Each test adds a row to a table, which is printed at the end (see it with pytest -s) and written to build/programs.txt:
program, calls that strace saw, calls recorded, calls by malloc, of these predicted exactly. Where a program makes
others there is a row for each process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tabulate import tabulate

from tests.gdb.test_events_strace import one_for_one, plain, seen
from tests.support.debugger import Answers, Gdb, malloc_events
from tests.support.environment import ROOT, glibc_version, needs, plain_environment
from tests.support.procmaps import MAPS, mapped_bytes
from tests.support.programs import Programs
from tests.support.recorded_processes import Pair, pairs, reported, traced
from tests.support.strace import Call, trace
from tests.support.strace_processes import trace_tree
from tests.support.symbols import to_the_byte

pytestmark = pytest.mark.skipif(glibc_version() == (0, 0), reason="the C library is not glibc")

#: A row of the table.
Row = tuple[str, int, int, int, int]
HEADERS = ("program", "strace", "recorded", "malloc's", "exact")
PROT_NONE, MAP_STACK = 0, 0x20000

PYTHON = """
lists = [[number] * (number % 700) for number in range(4000)]
dicts = [{key: str(key) * 9 for key in range(count)} for count in range(300)]
text = "".join(str(number) for number in range(300000))
del lists
more = [bytes(size) for size in range(0, 900000, 30000)]
"""
PERL = """
my %h; $h{$_} = "x" x ($_ % 900) for 1 .. 15000;
my @a = map { [1 .. $_ % 60] } 1 .. 10000;
my $s = join ",", sort keys %h; $s x= 20; undef %h; my $n = length $s;
"""
SQL = """
create table t(a integer, b text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000)
insert into t select i * 7919 % 30011, hex(i * i) from n;
create index by_b on t(b, a);
select count(*) from t where b > '7';
drop index by_b;
"""
C_SOURCE = """
#include <stdio.h>
int main(int argc, char **argv) { return printf("%d %s\\n", argc, argv[0]) < 0; }
"""
CC_SOURCE = """
#include <map>
#include <string>
int main() { std::map<std::string, int> numbers; return numbers["one"]; }
"""
#: One child after another; a child's child; children that are forked and run nothing else.
SHELL = """
ls -l /usr > /dev/null
(cd /; ls > /dev/null; exit 3)
sort --parallel=1 -o /dev/null "$1" || exit 9
x=$(sed -n 5p "$1"; awk 'END { print NR }' "$1")
echo $x
exit 7
"""
#: All of a pipeline's children run at the same time.
PIPELINE = """
sort --parallel=1 "$1" | uniq -c | awk '{ n += $1 } END { print n }'
(ls / & ls /usr & wait)
"""
AWK = "{ n[$1 % 5000] = n[$1 % 5000] $1 } END { print length(n) }"

#: The programs are given files: GDB starts them without a shell, but quotes their arguments as if for one.
INPUT = {
    "it.py": PYTHON,
    "it.pl": PERL,
    "it.sql": SQL,
    "it.awk": AWK,
    "small.c": C_SOURCE,
    "small.cc": CC_SOURCE,
    "it.sh": SHELL,
    "pipe.sh": PIPELINE,
}


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    """Collect the rows; print and write them when the module is done."""
    rows: list[Row] = []
    yield rows
    text = tabulate(rows, headers=HEADERS)
    print(f"\n{text}")
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "programs.txt").write_text(f"{text}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the programs' input."""
    folder = tmp_path_factory.mktemp("input")
    lines = "".join(f"{number * 7919 % 1_000_003:07}\n" for number in range(200_000))
    (folder / "lines").write_text(lines)
    (folder / "many").write_text(lines * 3)
    for name, text in INPUT.items():
        (folder / name).write_text(text)
    return folder


class Run:
    """One program under a recording and under strace, with the same environment.

    ``gained`` is by how many bytes the process's mappings grew in the recorded run, as the kernel lists them.
    """

    def __init__(
        self,
        gdb: Gdb,
        answers: Answers,
        program: Path | str,
        args: Sequence[str],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        variables = variables or {}
        gdb(
            "heap catch",
            "starti",
            answers.python("before", {"maps": MAPS}),
            "catch syscall exit_group",
            "continue",
            answers.python("after", {"maps": MAPS}),
            f"heap events {answers.into('events')}",
            before=[f"set environment {name} {value}" for name, value in variables.items()],
            program=program,
            args=args,
        ).succeeded()
        self.events = answers.events("events")
        self.traced = trace(answers.folder / "strace", program, args, {**plain_environment(), **variables})
        self.mine = list(malloc_events(self.events))
        self.gained = mapped_bytes(answers["after"]["maps"]) - mapped_bytes(answers["before"]["maps"])

    @property
    def own_calls(self) -> list[Call]:
        """The calls that strace saw of the process itself, where it has one thread."""
        return self.traced.of_thread(0)

    def row(self, name: str, calls: Sequence[Call]) -> Row:
        exact = [event for event in self.mine if event["exact"] is True]
        return name, len(calls), len(self.events), len(self.mine), len(exact)

    def none_missed(self) -> None:
        """Fail unless the events add up to what the kernel maps more: in the same run, however threads raced in it."""
        assert all(event["delta"] is not None for event in self.events)
        assert sum(event["delta"] for event in self.events) == self.gained

    def all_exact(self) -> None:
        """Fail with a list of malloc's calls that were not predicted, each with its reason."""
        assert self.mine, "malloc made a call"
        exact_or_listed(self.events)


#: What is not known, and said to be so, where threads make their arenas at the same time.
RACE = "shared by all threads without a lock"


def exact_or_listed(events: Sequence[dict[str, Any]]) -> None:
    """Fail with a list of malloc's calls that were not predicted, and where another's was predicted."""
    missing = [
        f"event {event['id']}: {event['syscall']}{tuple(event['args'])}, predicted {event['predicted']}: "
        f"{event['unpredicted_because']} ({', '.join(str(frame['function']) for frame in event['frames'][:6])})"
        for event in malloc_events(events)
        if not to_the_byte(event) and not (event["exact"] is None and RACE in (event["unpredicted_because"] or ""))
    ]
    assert not missing, "\n".join(missing)
    assert all(event["predicted"] is None for event in events if event["kind"] != "malloc")


#: Programs of one thread: the command, its arguments, and its environment beside the plain one. {files} is the folder
#: of their input, and {fixtures} that of the built fixtures.
SINGLE: Mapping[str, tuple[str, Sequence[str], Mapping[str, str]]] = {
    "ls -l /usr/bin": ("ls", ["-l", "/usr/bin"], {}),
    "sort, one thread": ("sort", ["--parallel=1", "-o", "/dev/null", "{files}/lines"], {}),
    "python3": ("/usr/bin/python3", ["-S", "{files}/it.py"], {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}),
    "python3, its memory by malloc": (
        "/usr/bin/python3",
        ["-S", "{files}/it.py"],
        {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONMALLOC": "malloc"},
    ),
    "perl": ("perl", ["{files}/it.pl"], {"PERL_HASH_SEED": "0"}),
    "sqlite3": ("sqlite3", ["-batch", "-init", "{files}/it.sql", ":memory:"], {}),
    "gcc (the driver)": ("gcc", ["-c", "-O2", "-o", "/dev/null", "{files}/small.c"], {}),
    "xz": ("xz", ["--keep", "--stdout", "--threads=1", "{files}/lines"], {}),
    "awk": ("awk", ["-f", "{files}/it.awk", "{files}/lines"], {}),
    "cplus (C++)": ("{fixtures}/cplus", [], {}),
    "apt-config (C++)": ("apt-config", ["dump"], {}),
}


@pytest.mark.parametrize("name", list(SINGLE))
def test_program_of_one_thread(
    gdb: Gdb, answers: Answers, programs: Programs, files: Path, table: list[Row], name: str
) -> None:
    """Recorded is what strace saw, one for one; of malloc's own calls each is predicted to the byte."""
    command, args, variables = SINGLE[name]
    places = {"files": str(files), "fixtures": str(programs.folder)}
    filled = [argument.format(**places) for argument in args]
    run = Run(gdb, answers, needs(command.format(**places)), filled, variables)
    table.append(run.row(name, run.own_calls))
    one_for_one(run.events, run.own_calls)
    run.none_missed()
    run.all_exact()


def lasting(name: str, args: Sequence[int]) -> tuple[str, tuple[int, ...]] | None:
    """Return what is the same in each run of a call by a program whose threads run at the same time, if it always is.

    Addresses depend on who comes first. So does where a heap's reservation lies, and with it what is mapped and
    unmapped to align it; how many heaps there are is seen by their mprotect.
    """
    if name == "mmap":
        reserves = args[2] == PROT_NONE and not args[3] & MAP_STACK
        return None if reserves else (name, (*args[1:4], *args[5:]))
    if name == "munmap":
        return None if args[1] >= 1 << 20 else (name, (args[1],))
    return name, () if name == "brk" else tuple(args[1:])


def multiset(calls: Sequence[tuple[str, Sequence[int]]]) -> Counter[tuple[str, tuple[int, ...]]]:
    return Counter(each for each in (lasting(name, args) for name, args in calls) if each is not None)


#: Programs of several threads: whether all calls are the same in each run but for addresses and alignment.
THREADED: Mapping[str, tuple[str, Sequence[str], bool]] = {
    "8 threads at once": ("{fixtures}/crowd", [], True),
    "C++, 4 threads": ("{fixtures}/crew", [], True),
    "sort, 4 threads": ("sort", ["--parallel=4", "-o", "/dev/null", "{files}/many"], False),
    "xz, 4 threads": ("xz", ["--keep", "--stdout", "--threads=4", "--block-size=300KiB", "{files}/lines"], False),
}


@pytest.mark.parametrize("name", list(THREADED))
def test_program_of_several_threads(
    gdb: Gdb, answers: Answers, programs: Programs, files: Path, table: list[Row], name: str
) -> None:
    """What does not depend on which thread is faster is as strace saw it, and malloc's calls are predicted to the byte.

    Two runs of such a program differ. Where they do not by design, as multisets of what stays the same; else the main
    thread's first calls, up to the start of the first thread. Nothing that changed the mappings was missed.
    """
    command, args, repeatable = THREADED[name]
    places = {"files": str(files), "fixtures": str(programs.folder)}
    run = Run(gdb, answers, needs(command.format(**places)), [argument.format(**places) for argument in args])
    table.append(run.row(name, run.traced.calls))
    assert len(run.traced.tids) > 2
    if repeatable:
        assert multiset([(event["syscall"], event["args"]) for event in run.events]) == multiset(
            [(call.syscall, call.args) for call in run.traced.calls]
        )
    alone = first_thread(run.events)
    one_for_one(run.events[:alone], run.traced.calls[:alone])
    run.none_missed()
    run.all_exact()


def first_thread(events: Sequence[dict[str, Any]]) -> int:
    """Return how many events there are up to the first one about the stack of a thread, that one included."""
    return next(place for place, event in enumerate(events, 1) if event["kind"] == "thread-stack")


#: Programs that make others, one after the other: the command and its arguments. {out} is a file to write.
FAMILIES: Mapping[str, tuple[str, Sequence[str]]] = {
    "gcc": ("gcc", ["-O2", "-o", "{out}", "{files}/small.c"]),
    "g++ -c": ("g++", ["-c", "-o", "{out}", "{files}/small.cc"]),
    "sh": ("sh", ["{files}/it.sh", "{files}/lines"]),
}


def family(
    gdb: Gdb, answers: Answers, files: Path, command: str, args: Sequence[str]
) -> tuple[dict[str, Any], list[Pair]]:
    """Run a program under `heap trace` and under strace; return the recording, and both runs process by process."""
    filled = [argument.format(files=files, out=answers.folder / "out") for argument in args]
    found = traced(gdb, answers, needs(command), filled)
    root, status = trace_tree(answers.folder / "strace", needs(command), filled)
    assert found["status"] == status
    return found, pairs(found, root)


def add_rows(table: list[Row], name: str, both: Sequence[Pair]) -> None:
    """Add a row for each process to the table."""
    for pair in both:
        mine = pair.recorded.of_malloc
        exact = [event for event in mine if event["exact"] is True]
        who = ".".join(str(number) for number in pair.place)
        row = f"{name} {who} {pair.name}", len(pair.seen.calls), len(pair.recorded.events), len(mine), len(exact)
        table.append(row)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_program_with_its_children(gdb: Gdb, answers: Answers, files: Path, table: list[Row], name: str) -> None:
    """Each process ran what it ran under strace, and made the same calls, one for one; malloc's are predicted."""
    found, both = family(gdb, answers, files, *FAMILIES[name])
    assert len(both) > 1
    add_rows(table, name, both)
    for pair in both:
        pair.ran_the_same()
        one_for_one(pair.recorded.events, reported(pair, found))
    exact_or_listed(found["events"])


def test_forked_processes_at_the_same_time(gdb: Gdb, answers: Answers, files: Path, table: list[Row]) -> None:
    """The processes of a pipeline: no call of any of them is missed, and malloc's are predicted."""
    found, both = family(gdb, answers, files, "sh", ["{files}/pipe.sh", "{files}/lines"])
    add_rows(table, "sh, a pipeline", both)
    for pair in both:
        pair.ran_the_same()
        one_for_one(pair.recorded.events, pair.seen.calls)
    exact_or_listed(found["events"])


def test_vforked_processes_at_the_same_time(gdb: Gdb, answers: Answers, files: Path, table: list[Row]) -> None:
    """Between a vfork and the exec after it GDB may miss calls of others: that is said.

    What is recorded is what strace saw, in its order, and no other call.
    """
    found, both = family(gdb, answers, files, "gcc", ["-pipe", "-o", "{out}", "{files}/small.c"])
    add_rows(table, "gcc -pipe", both)
    missed = 0
    for pair in both:
        pair.ran_the_same()
        calls = iter([seen(call)[:2] for call in pair.seen.calls])
        recorded = [event for event in pair.recorded.events if event["gap"] is None]
        for event in recorded:
            assert plain(event)[:2] in calls, f"event {event['id']} comes where strace saw it"
        missed += len(pair.seen.calls) - len(recorded)
        missed += sum(event["result"] is None for event in recorded)
    assert found["gaps"] or not missed
    assert all(event["exact"] is not False for event in found["events"])
