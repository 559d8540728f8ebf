"""Promise: on 64-bit ARM all but catching works: through qemu's GDB server, and in the core files that qemu writes.

Those have neither what is in a file as well nor the thread pointer.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.gdb.test_without_symbols import READING, name_of
from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import PATIENCE, glibc_version, needs
from tests.support.gdb_server import served

#: The root of the other machine's libraries, from Debian's libc6-dev-arm64-cross.
ROOT = Path("/usr/aarch64-linux-gnu")

#: With `abort` it ends where a core file is written; without, it says what its next requests got.
SOURCE = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
void *kept[60], *made[20];
void stop_here(void) {}
static void *work(void *unused)
{
    for (int i = 0; i < 20; i++) made[i] = malloc(100 + 50 * i);
    for (int i = 0; i < 20; i += 2) free(made[i]);
    stop_here();
    pause();
    return unused;
}
int main(int argc, char **argv)
{
    pthread_t thread;
    for (int i = 0; i < 60; i++) kept[i] = malloc(24 + 56 * i);
    for (int i = 0; i < 60; i += 4) free(kept[i]);
    kept[0] = malloc(400000);
    if (argc > 2 && pthread_create(&thread, NULL, work, NULL) == 0) sleep(1);
    stop_here();
    if (argc > 1) abort();
    void *next[4] = { malloc(24), malloc(5000), malloc(700), malloc(100000) };
    char *moved = realloc(kept[5], 3000);
    free(kept[6]);
    dprintf(2, "%p %p %p %p %p %p\\n", next[0], next[1], next[2], next[3], moved, malloc(360));
    return argv == NULL;
}
"""
#: What the program does next, as `heap predict` is asked for it.
NEXT = "malloc 24; malloc 5000; malloc 700; malloc 100000; realloc (long)kept[5] 3000; free (long)kept[6]; malloc 360"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program in each way; return their folder."""
    compiler = needs("aarch64-linux-gnu-gcc")
    needs("qemu-aarch64")
    needs("gdb-multiarch")
    folder = tmp_path_factory.mktemp("arm")
    (folder / "arm.c").write_text(SOURCE)
    for name, linking in (("dynamic", ["-no-pie"]), ("static", ["-static"]), ("stripped", ["-static", "-s"])):
        line = [compiler, "-g", "-O0", "-pthread", *linking, "-o", str(folder / name), str(folder / "arm.c")]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a program for aarch64 cannot be built: {done.stderr[:200]}")
    return folder


def emulated(program: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program in qemu; its core file is written beside it."""
    return subprocess.run(
        ["sh", "-c", 'ulimit -c unlimited; exec qemu-aarch64 -L "$@"', "sh", str(ROOT), str(program), *args],
        cwd=program.parent, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def core_of(built: Path, name: str, folder: Path, *args: str) -> Path:
    """Return a core file that qemu has written of one of the programs."""
    program = folder / name
    program.write_bytes((built / name).read_bytes())
    program.chmod(0o755)
    emulated(program, *args)
    cores = sorted(folder.glob("qemu_*.core"))
    if not cores:
        pytest.skip("this qemu writes no core files")
    return cores[0]


def ask(*commands: str, program: Path) -> Result:
    """Run commands in a GDB that knows the machine."""
    done = Gdb("gdb-multiarch")(*commands, program=program, before=[f"set sysroot {ROOT}"])
    done.has_no_internal_error()
    return done


def under_qemu(program: Path) -> AbstractContextManager[str]:
    """Run a program under qemu's own GDB server; give where it listens."""
    return served(["qemu-aarch64", "-L", str(ROOT), "-g", "{port}", str(program)])


def results(answers: Answers) -> list[int]:
    """Return what the predicted operations return, but for free, which returns nothing."""
    found = [item["result"] for item in answers["next"]["predictions"]]
    assert found.pop(5) is None
    return found


def truth(folder: Path, name: str) -> list[int]:
    """Return what the program itself got."""
    return [int(word, 16) for word in emulated(folder / name).stderr.split()]


#: Every command that reads a heap, besides those of READING.
ALSO: Sequence[str] = (
    "heap bins", "heap tcache", "heap check", "heap map", "heap chunk kept[1]", "heap refs kept[1]", "heap why-grow",
    "heap find -size 0x60", "heap predict growth", "heap params -how",
)  # fmt: skip


@pytest.mark.parametrize("name", ["dynamic", "static"])
def test_a_core(built: Path, tmp_path: Path, name: str) -> None:
    """The model, what it tells of growth, and what malloc would do next: that is what the program does."""
    core = core_of(built, name, tmp_path, "abort")
    answers = Answers(tmp_path)
    done = ask(
        f"core-file {core}",
        *(f"{command} {answers.into(name_of(command))}" for command in READING),
        f"heap predict {NEXT} {answers.into('next')}",
        answers_kept(answers),
        *ALSO,
        program=built / name,
    )
    if tcache_is_told(done):
        assert not done.stderr.replace("warning", "").count("cannot"), done.describe()
    assert set(READING) == {command for command in READING if answers.path(name_of(command)).exists()}
    main = answers["heap"]["arenas"][0]
    assert main["states"]["tcache"]["chunks"] == (5 if tcache_is_told(done) else 0)
    assert main["states"]["top"]["chunks"] == 1
    assert main["unaccounted"] == 0
    assert sum(state["bytes"] for state in main["states"].values()) == main["system_mem"]
    used = {item["pointer"] for item in answers["heap_chunks_all"]["arenas"][0]["chunks"] if item["state"] == "used"}
    assert set(answers["kept"]["kept"]) <= used
    # From 2.43 on the break moves by huge pages there, and top has room for what is mapped elsewhere.
    assert answers["heap"]["mmapped"]["chunks"] == (1 if glibc_version() < (2, 43) else 0)
    if not tcache_is_told(done):
        assert "Nothing is wrong in what could be checked" in done.stdout
        return
    assert "The heap is sound" in done.stdout
    first = r"the first +the first chunk, 0x290, is the tcache of thread 1"
    assert re.search(first, done.stdout) or name == "static" or glibc_version() >= (2, 43)
    # Where the heap of a static program begins depends on the length of its path.
    assert results(answers) == truth(tmp_path, name)


def tcache_is_told(done: Result) -> bool:
    """Return whether the tcache is known; glibc has a list of threads from 2.34 on, and before that it is said."""
    if glibc_version() >= (2, 34):
        return True
    assert "The tcache of thread 1 cannot be found" in done.stdout, done.describe()
    return False


def answers_kept(answers: Answers) -> str:
    """Return the command that reads the program's own pointers."""
    code = (
        "import gdb, json; json.dump({'schema': 'gdbheap/1', 'kept': [int(gdb.parse_and_eval('kept')[i]) "
        f"for i in range(60) if i % 4]}}, open({str(answers.path('kept'))!r}, 'w'))"
    )
    return f"python {code}"


def test_the_threads_of_a_core(built: Path, tmp_path: Path) -> None:
    """Each thread's tcache and arena are told by glibc's own list of threads: the core file has no thread pointers."""
    core = core_of(built, "dynamic", tmp_path, "abort", "threads")
    answers = Answers(tmp_path)
    done = ask(
        f"core-file {core}", f"heap {answers.into('heap')}", f"heap arenas {answers.into('arenas')}",
        f"heap tcache -all {answers.into('tcache')}", "info registers tpidr", program=built / "dynamic",
    )  # fmt: skip
    assert "tpidr" in done.stderr
    if glibc_version() < (2, 34):
        assert all(tcache["address"] is None and not tcache["known"] for tcache in answers["tcache"]["tcaches"])
        return
    main, other = answers["heap"]["arenas"]
    assert (main["states"]["tcache"]["chunks"], other["states"]["tcache"]["chunks"]) == (5, 10)
    assert [arena["threads"] for arena in answers["arenas"]["arenas"]] == [[1], [2]]


def test_a_core_that_tells_nothing(built: Path, tmp_path: Path) -> None:
    """A static program without symbols: what is not known is named, and nothing is wrong."""
    core = core_of(built, "stripped", tmp_path, "abort")
    answers = Answers(tmp_path)
    done = ask(f"core-file {core}", f"heap {answers.into('heap')}", "heap", program=built / "stripped")
    main = answers["heap"]["arenas"][0]
    assert main["unaccounted"] == 0
    assert main["states"]["top"]["chunks"] == 1
    assert main["states"]["tcache"]["chunks"] == 5 or "The tcache of thread 1 cannot be found" in done.stdout


def test_live(built: Path, tmp_path: Path) -> None:
    """Through qemu's GDB server: the same predictions, and the sentence that says what does not work.

    No setting was made, so each has its default; and what is mapped is told by its own name.
    """
    answers = Answers(tmp_path)
    with under_qemu(built / "dynamic") as address:
        done = ask(
            f"target remote {address}", "break stop_here", "continue", f"heap {answers.into('heap')}",
            f"heap predict {NEXT} {answers.into('next')}", f"heap params {answers.into('params')}", "heap catch",
            "heap", "kill", program=built / "dynamic",
        )  # fmt: skip
    assert "heap catch cannot read system calls on aarch64" in done.stderr
    if tcache_is_told(done):
        assert answers["heap"]["arenas"][0]["states"]["tcache"]["chunks"] == 5
        assert results(answers) == truth(built, "dynamic")
    assert [item["name"] for item in answers["params"]["params"] if item["is_default"] is False] == []
    # The emulated program's memory begins where qemu mapped it, not in the break area: that ends with its own data.
    kernel = answers["heap"]["kernel"]
    assert kernel is None or not [item for item in kernel["others"] if item["kind"] == "break"], kernel


def test_a_core_by_gcore_over_the_server(built: Path, tmp_path: Path) -> None:
    """It has no memory of the libraries, as qemu does not tell GDB what is mapped: that is said."""
    core = tmp_path / "core"
    with under_qemu(built / "dynamic") as address:
        ask(
            f"target remote {address}", "break stop_here", "continue", f"generate-core-file {core}", "kill",
            program=built / "dynamic",
        )  # fmt: skip
    if not core.exists():
        pytest.skip("GDB writes no core file of that process")
    answers = Answers(tmp_path)
    done = ask(f"core-file {core}", f"heap {answers.into('heap')}", program=built / "dynamic")
    if answers.path("heap").exists():
        assert answers["heap"]["arenas"][0]["states"]["top"]["chunks"] == 1
    else:
        assert "The core file does not tell GDB which libraries were loaded" in done.stderr, done.describe()
