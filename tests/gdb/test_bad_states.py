"""Promise: whatever state the program or the core file is in, each command ends soon, in an answer or one sentence."""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.gdb.test_bad_input import sentences
from tests.support.debugger import QUIET_START, Answers, Gdb, Result
from tests.support.environment import ROOT, needs, plain_environment
from tests.support.interrupting import interrupt_at
from tests.support.programs import Programs
from tests.support.symbols import needs_symbols

#: A command line of each command that looks at the heap.
LOOKING = (
    "heap", "heap arenas", "heap top", "heap params", "heap chunks", "heap bins", "heap tcache", "heap check",
    "heap chunk $sp", "heap find -min-size 100", "heap refs $sp", "heap why-grow",
)  # fmt: skip
LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")


def survives(result: Result) -> Result:
    """Check that every command was answered or refused in a sentence, and none fell over."""
    result.has_no_internal_error()
    for line in sentences(result):
        assert not line.startswith(("Python", "  File")), result.describe()
    return result


def all_of(gdb: Gdb, *setup: str, program: Path | str | None, args: Sequence[str] = (), **more: object) -> Result:
    """Give every command, with an echo behind each: the session goes on."""
    steps = [step for command in LOOKING for step in (command, "echo WENT-ON\\n")]
    result = survives(gdb(*setup, *steps, program=program, args=args, **more))  # type: ignore[arg-type]
    assert result.stdout.count("WENT-ON") == len(LOOKING), result.describe()
    return result


@pytest.mark.parametrize("setup", [(), ("starti",), ("break main", "run"), ("run",)], ids=["none", "ld", "main", "end"])
def test_before_and_after(gdb: Gdb, programs: Programs, setup: Sequence[str]) -> None:
    """Not started, in the loader, before malloc's first use, at the end."""
    result = all_of(gdb, *setup, program=programs["seed"])
    assert result.status in (0, 1)


@pytest.mark.parametrize("library", ["libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2"])
def test_another_allocator(gdb: Gdb, programs: Programs, library: str) -> None:
    """glibc's heap is empty or nearly so: it is sound, and no chunk is made up."""
    path = LIBRARIES / library
    if not path.exists():
        pytest.skip(f"{library} is not installed")
    result = all_of(gdb, f"set environment LD_PRELOAD {path}", "break stop_here", "run", program=programs["totals"])
    assert "The heap is corrupt" not in result.stdout + result.stderr


def test_address_sanitizer(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """A program whose malloc is libasan's."""
    done = subprocess.run(
        ["gcc", "-g", "-w", "-fsanitize=address", "-o", tmp_path / "asan", programs.source("seed.c")],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("gcc has no address sanitizer")
    all_of(gdb, "set environment ASAN_OPTIONS detect_leaks=0", "break exit", "run", program=tmp_path / "asan")


def test_static(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """Debian's static libc has no debug symbols."""
    done = subprocess.run(
        ["gcc", "-g", "-w", "-static", "-pthread", "-o", tmp_path / "static", programs.source("totals.c")],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("there is no static libc")
    all_of(gdb, "break stop_here", "run", program=tmp_path / "static")


def test_stripped(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """A program without any symbol; libc has its own."""
    needs("strip")
    subprocess.run(["strip", "-o", tmp_path / "stripped", programs["totals"]], check=True)
    result = all_of(gdb, "catch syscall exit_group", "run", program=tmp_path / "stripped")
    assert "The heap is sound" in result.stdout


FOREIGN = r"""
#include <stdlib.h>
long main_arena[300] = {0x4141414141414141, 0x4242}, mp_ = 77, tcache = 5;
struct malloc_state { int mine; } state;
struct malloc_par { char *mine; } par;
void stop_here(void) {}
int main(void) { for (int i = 0; i < 9; i++) free(malloc(100 * i)); stop_here(); return 0; }
"""


def test_foreign_symbols(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """A program that calls its own things as glibc does: glibc's are looked at all the same."""
    needs("gcc")
    source, program = tmp_path / "foreign.c", tmp_path / "foreign"
    source.write_text(FOREIGN)
    subprocess.run(["gcc", "-g", "-w", "-o", program, source], check=True)
    result = all_of(gdb, "break stop_here", "run", f"heap check {answers.into('check')}", program=program)
    assert answers["check"]["sound"], result.describe()
    assert answers["check"]["chunks"] >= 9
    assert answers["check"]["listed"] >= 8


#: The arena of unlink_chunk's chunk, as arena_for_chunk has it: the heap that it is in begins with its address.
ARENA_OF_P = (
    "number('(unsigned long) &main_arena' if number('(unsigned long) p') < 0x600000000000 else "
    "'*(unsigned long *)((unsigned long) p & ~0x3ffffffUL)')"
)


def test_another_thread_inside_malloc(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """It is said which thread that is, and whose lists may be between two steps: those of its arena, and its tcache."""
    needs_symbols(gdb)
    gdb(
        "set breakpoint pending on", "break unlink_chunk if $_thread == 3", "run",
        answers.python("truth", {"arena": ARENA_OF_P}),
        "thread 1", f"heap check {answers.into('check')}", f"heap arenas {answers.into('arenas')}", "kill",
        program=programs["churn"], args=["7", "3", "0"],
    ).has_no_internal_error()  # fmt: skip
    notes = [note for note in answers["check"]["notes"] if note.startswith("Thread 3 is inside ")]
    names = {arena["address"]: arena["name"] for arena in answers["arenas"]["arenas"]}
    arena = names[answers["truth"]["arena"]]
    assert any(f"lists of {arena} may be between two steps" in note for note in notes), answers["check"]["notes"]
    assert answers["check"]["sound"]


TWO_THREADS = """
#include <pthread.h>
#include <stdlib.h>
void stop_here(void) {}
static void *work(void *unused)
{
    void *kept[6];
    for (int i = 0; i < 6; i++) kept[i] = malloc(100);
    for (int i = 0; i < 6; i++) free(kept[i]);
    if (unused == NULL) stop_here();
    return unused;
}
int main(void)
{
    pthread_t thread;
    work(&thread);
    return pthread_create(&thread, NULL, work, NULL) || pthread_join(thread, NULL);
}
"""


def test_a_thread_with_the_registers_of_another(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """As qemu's server shows one that is just ending: no chunk is counted twice, and nothing is called wrong."""
    program, source = tmp_path / "two", tmp_path / "two.c"
    source.write_text(TWO_THREADS)
    subprocess.run([needs("gcc"), "-g", "-pthread", "-o", str(program), str(source)], check=True)
    result = gdb(
        "break stop_here", "run", "thread 1", "set $of_main = $fs_base", "thread 2", "set $own = $fs_base",
        "set $fs_base = $of_main", f"heap {answers.into('heap')}", f"heap tcache -all {answers.into('tcaches')}",
        "heap check", "set $fs_base = $own",
        before=("set auto-load libthread-db off", "set libthread-db-search-path /nonexistent"), program=program,
    )  # fmt: skip
    result.has_no_internal_error()
    if any("cannot be found" in problem for problem in answers["heap"]["problems"]):
        pytest.skip("thread-local variables cannot be read here without libthread_db")
    assert [arena["states"]["tcache"]["chunks"] for arena in answers["heap"]["arenas"]] == [6, 0]
    assert not any(arena["problems"] for arena in answers["heap"]["arenas"]), result.describe()
    (problem,) = answers["heap"]["problems"]
    assert "it would be that of thread 1" in problem
    assert [item["why"] for item in answers["tcaches"]["tcaches"]] == [None, problem]
    assert "The heap is corrupt" not in result.stdout


GOES_ON = """
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
void stop_here(void) {}
void *kept;
static void *work(void *first)
{
    char *own = malloc(100);
    pthread_join(*(pthread_t *)first, NULL);
    usleep(100000);
    stop_here();
    return own;
}
pthread_t first;
int main(void)
{
    pthread_t thread;
    kept = malloc(3000);
    first = pthread_self();
    pthread_create(&thread, NULL, work, &first);
    pthread_exit(NULL);
}
"""


def test_a_process_whose_first_thread_has_ended(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """/proc shows its memory under the number of another thread: what is mapped and resident, and who points where."""
    program, source = tmp_path / "goes", tmp_path / "goes.c"
    source.write_text(GOES_ON)
    subprocess.run([needs("gcc"), "-g", "-pthread", "-o", str(program), str(source)], check=True)
    maps = "[line.split()[0] for line in open('/proc/%d/maps' % gdb.selected_thread().ptid[1])]"
    result = gdb(
        "break stop_here", "run", f"python print('MAPS', *{maps})", f"heap {answers.into('heap')}",
        f"heap refs kept {answers.into('refs')}", f"heap check {answers.into('check')}", program=program,
    ).succeeded()  # fmt: skip
    listed = next(line.split()[1:] for line in result.stdout.splitlines() if line.startswith("MAPS"))
    spans = [[int(number, 16) for number in item.split("-")] for item in listed]
    kernel = answers["heap"]["kernel"]
    assert kernel["whole"]["mapped"] == sum(end - start for start, end in spans)
    assert kernel["arenas"]["mapped"] == sum(arena["system_mem"] for arena in answers["heap"]["arenas"])
    assert kernel["whole"]["resident"] is not None
    assert any("kept" in item["where"] for item in answers["refs"]["references"])
    assert answers["check"]["findings"] == []


def test_symbols_of_another_libc(gdb: Gdb, programs: Programs, answers: Answers, tmp_path: Path) -> None:
    """A core file under another program: what GDB knows does not fit; nothing hangs."""
    core = tmp_path / "core"
    gdb("break stop_here", "run", f"generate-core-file {core}", program=programs["totals"]).succeeded()
    all_of(gdb, f"core-file {core}", program=programs["growth"])


@pytest.mark.parametrize("mode", ["fork", "vfork-exec", "spawn", "exec", "thread-fork"])
def test_after_fork_vfork_and_exec(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """Whatever process GDB follows, and whatever program that has become, its own heap is checked."""
    result = gdb(
        "set follow-fork-mode child",
        "set detach-on-fork off",
        "set schedule-multiple on",
        "catch fork", "catch vfork", "catch exec", "break grow",
        "run", "heap check", "echo NEXT\\n",
        "continue", "heap check", "echo NEXT\\n",
        "continue", "heap check", "echo NEXT\\n",
        "continue", "heap check", "info inferiors", "kill inferiors 1", "kill inferiors 2",
        program=programs["family"],
        args=[mode],
    )  # fmt: skip
    survives(result)
    assert "The heap is corrupt" not in result.stdout + result.stderr, result.describe()
    assert result.stdout.count("NEXT") == 3


@pytest.mark.parametrize("around", [
    "pipe {} | cat", "with width 40 -- {}", "with print address off -- {}", "with style enabled off -- {}",
])  # fmt: skip
@pytest.mark.parametrize("command", ["heap", "heap check", "heap chunks -state used -count 3"])
def test_commands_around_ours(gdb: Gdb, programs: Programs, around: str, command: str) -> None:
    """GDB's own commands that run others give the same lines."""
    plain = gdb("break stop_here", "run", "echo MARK\\n", command, program=programs["totals"]).succeeded()
    inside = gdb("break stop_here", "run", "echo MARK\\n", around.format(command), program=programs["totals"])
    inside.succeeded()
    # And a chunk in a tcache holds tcache_key, a random number.
    of_program = re.compile(r"the whole process.*|.*resident.*|(?<= tcache ).*", re.MULTILINE)
    first, second = (of_program.sub("", item.stdout.split("MARK\n")[1]) for item in (plain, inside))
    assert first.split() == second.split() or command == "heap"  # 'heap' counts pages that both runs share or not


#: GDB has `set logging enabled` from 12 on, and `set logging on` before that.
LOGGING = (
    "python exec(\"try: gdb.execute('set logging enabled {0}')\\nexcept gdb.error: gdb.execute('set logging {0}')\")"
)


def test_logging(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """GDB's log has what the terminal has."""
    log = tmp_path / "log"
    gdb(
        "break stop_here", "run", f"set logging file {log}", "set logging redirect on", LOGGING.format("on"),
        "heap check", "heap chunks", LOGGING.format("off"), program=programs["totals"],
    ).succeeded()  # fmt: skip
    text = log.read_text()
    assert "The heap is sound" in text
    assert "chunks shown" in text


@pytest.mark.parametrize("command", ["heap check", "heap chunks -all", "heap", "heap find -min-size 8 -all"])
def test_ctrl_c_in_mid_walk(gdb: Gdb, answers: Answers, programs: Programs, command: str) -> None:
    """The command ends at once, the next one works, and its answer is that of an undisturbed session."""
    interrupted = [step for reads in (2, 20) for step in (interrupt_at(reads), command, "echo WENT-ON\\n")]
    result = gdb(
        "set pagination off", "break stop_here", "run", f"heap check {answers.into('first')}",
        *interrupted, interrupt_at(0), f"heap check {answers.into('then')}",
        f"heap top {answers.into('top')}",
        program=programs["many"], args=["600000"],
    )  # fmt: skip
    result.has_no_internal_error()
    assert (result.stdout + result.stderr).count("Quit\n") == 2, "it was interrupted each time"
    assert result.stdout.count("WENT-ON") == 2
    assert answers["first"] == answers["then"], "nothing is left half read"
    assert answers["top"]["arenas"][0]["size"] > 0


class Mi:
    """A GDB that speaks MI, with our commands loaded."""

    def __init__(self, gdb: Gdb, program: Path, *args: str) -> None:
        line = [gdb.path, "-nx", "-q", "-i=mi2"]
        for command in QUIET_START:
            line += ["-iex", command]
        self._process = subprocess.Popen(
            [*line, "-ex", "source gdbheap", "--args", str(program), *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=plain_environment(),
        )  # fmt: skip
        self.seen = ""

    def until(self, pattern: str, patience: float = 40) -> str:
        """Read until a pattern comes; return what came."""
        assert self._process.stdout is not None
        end, start = time.monotonic() + patience, len(self.seen)
        while not re.search(pattern, self.seen[start:]):
            left = end - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.seen[start:][-3000:]}"
            if select.select([self._process.stdout], [], [], left)[0]:
                data = os.read(self._process.stdout.fileno(), 65536)
                assert data, self.seen[start:]
                self.seen += data.decode("utf-8", "replace")
        return self.seen[start:]

    def __call__(self, command: str, pattern: str = r"\^(done|error|running)[^\n]*\n") -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return self.until(pattern)

    def close(self) -> None:
        """End it, and the program."""
        self._process.kill()
        self._process.wait(20)


def test_other_threads_running(gdb: Gdb, programs: Programs) -> None:
    """In non-stop mode the answer says that memory may move, and what is found does not count."""
    mi = Mi(gdb, programs["churn"], "5", "4", "0")
    try:
        for command in ("-gdb-set non-stop on", "-gdb-set mi-async on", "-break-insert stop_here"):
            mi(command)
        mi("-exec-run", r"\*stopped,reason=\"breakpoint-hit\"")
        for _ in range(3):
            for command in ("heap check", "heap", "heap arenas", "heap chunks", "heap bins", "heap tcache"):
                said = mi(f'-interpreter-exec console "{command}"')
                assert "Traceback" not in said
                assert "Python Exception" not in said
                if command == "heap check":
                    assert "The heap is corrupt" not in said
                    assert "running: memory may change while it is read" in said, said
                    assert "^done" in said, said
    finally:
        mi.close()


@pytest.fixture(scope="module")
def cores(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A core of a sound heap and one of a corrupt one."""
    folder = tmp_path_factory.mktemp("cores")
    found = {}
    for name, program, args in (("sound", "threads", []), ("corrupt", "corrupt", ["unsorted-overrun"])):
        path = folder / name
        gdb("break stop_here", "run", f"generate-core-file {path}", program=programs[program], args=args).succeeded()
        found[name] = path
    return found


def test_checking_a_core(gdb: Gdb, answers: Answers, programs: Programs, cores: dict[str, Path]) -> None:
    """The same findings as in the process."""
    gdb(f"core-file {cores['sound']}", f"heap check {answers.into('sound')}", program=programs["threads"]).succeeded()
    assert answers["sound"]["sound"]
    result = gdb(f"core-file {cores['corrupt']}", f"heap check {answers.into('corrupt')}", program=programs["corrupt"])
    assert result.status == 1
    assert answers["corrupt"]["findings"][0]["kind"] == "list-size"
    assert answers["corrupt"]["findings"][0]["catches"]


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 90, 99])
def test_a_truncated_core(gdb: Gdb, programs: Programs, cores: dict[str, Path], tmp_path: Path, percent: int) -> None:
    """Cut anywhere: an answer as far as it goes, or a sentence."""
    data = cores["sound"].read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(data[: len(data) * percent // 100])
    result = all_of(gdb, f"core-file {cut}", program=programs["threads"])
    assert "internal-error" not in result.stdout + result.stderr


@pytest.mark.parametrize("number", range(4))
def test_a_mutated_core(gdb: Gdb, programs: Programs, cores: dict[str, Path], tmp_path: Path, number: int) -> None:
    """Random bytes all over its memory, the heap and malloc's variables among it."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    data = bytearray(cores[chance.choice(("sound", "corrupt"))].read_bytes())
    for _ in range(10 ** (number + 1)):
        place = chance.randrange(0x2000, len(data) - 8)
        if any(data[place : place + 8]) or chance.random() < 0.1:
            data[place] = chance.choice((0, 1, 0x41, 0xFF, chance.randrange(256)))
    path = tmp_path / "mutated"
    path.write_bytes(data)
    survives(gdb(f"core-file {path}", *LOOKING, program=programs["threads"]))  # or GDB is stopped after PATIENCE


#: Files that are no core file: empty, a header alone, a script, zeros, program headers that lead nowhere.
NO_CORES = (
    b"", b"\x7fELF", b"#!/bin/sh\n", bytes(4096),
    b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x04\0\x3e\0" + b"\xff" * 200,
)  # fmt: skip


@pytest.mark.parametrize("content", NO_CORES)
def test_a_core_that_is_none(gdb: Gdb, programs: Programs, tmp_path: Path, content: bytes) -> None:
    """It is refused, or nothing is found in it."""
    path = tmp_path / "core"
    path.write_bytes(content)
    all_of(gdb, f"core-file {path}", program=programs["threads"])


@pytest.mark.parametrize("kept", ["0x0", "0x1", "0x7e", "0x7f"])
def test_a_core_without_some_of_its_memory(gdb: Gdb, programs: Programs, tmp_path: Path, kept: str) -> None:
    """coredump_filter left memory out, anonymous or of files: the heap is not called corrupt for that."""
    core = tmp_path / "core"
    gdb(
        "break stop_here", "run",
        f"python open('/proc/%d/coredump_filter' % gdb.selected_inferior().pid, 'w').write('{kept}')",
        "set use-coredump-filter on", f"generate-core-file {core}", program=programs["totals"],
    ).succeeded()  # fmt: skip
    result = all_of(gdb, f"core-file {core}", program=programs["totals"])
    assert "The heap is corrupt" not in result.stdout + result.stderr, result.describe()


def test_gdbserver(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A process behind gdbserver, where /proc of this machine says nothing."""
    needs("gdbserver")
    remote = f"target remote | gdbserver --once - {programs['totals']}"
    result = gdb(remote, "break stop_here", "continue", f"heap check {answers.into('check')}", "kill",
                 program=programs["totals"])  # fmt: skip
    survives(result)
    assert answers["check"]["sound"]
    assert answers["check"]["findings"] == []


def test_a_library_that_is_gone(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """The program's file is deleted while it runs."""
    copy = tmp_path / "copy"
    shutil.copy(programs["totals"], copy)
    all_of(gdb, "break stop_here", "run", f"shell rm {copy}", program=copy)
