"""Promise: a static 32-bit program without symbols tells the tcache and the arena of each of its threads.

No register tells where such a thread's variables are, and neither libthread_db nor glibc's list of threads is there.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import needs
from tests.support.programs import FOR_32_BIT

#: Frees fewer chunks of each size than any tcache takes, in each thread, and says what malloc counts of it all.
SOURCE = """
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void *work(void *other)
{
    void *kept[12];
    for (int i = 0; i < 12; i++) kept[i] = malloc(16 + 48 * i);
    for (int i = 0; i < 12; i += 2) free(kept[i]);
    if (other == NULL) {
        struct mallinfo now = mallinfo();
        fprintf(stderr, "mallinfo %d %d\\n", now.arena, now.fordblks);
        abort();
    }
    pthread_barrier_wait(other);
    for (;;) pthread_barrier_wait(other);
}
int main(int argc, char **argv)
{
    pthread_t thread;
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, argc);
    for (int i = 1; i < argc; i++) pthread_create(&thread, NULL, work, &barrier);
    if (argc > 1) pthread_barrier_wait(&barrier);
    return work(NULL) != NULL;
}
"""
FREED = 6


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program without symbols, or skip the test."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "it.c").write_text(SOURCE)
    line = [needs("gcc"), *FOR_32_BIT, "-w", "-O0", "-static", "-s", "-pthread", "-o", str(folder / "it")]
    done = subprocess.run([*line, str(folder / "it.c")], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"gcc cannot build static 32-bit programs here: {done.stderr[:200]}")
    return folder / "it"


@pytest.mark.parametrize("core", [False, True], ids=["live", "core"])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_tcache_of_each_thread(
    gdb: Gdb, answers: Answers, tmp_path: Path, program: Path, threads: int, core: bool
) -> None:
    """Each thread has freed as many chunks, and each works on an arena of its own."""
    asked = [f"heap {answers.into('heap')}", f"heap arenas {answers.into('arenas')}", "heap tcache -all"]
    args = ["1"] * threads
    file = tmp_path / "it.core"
    end = [f"generate-core-file {file}"] if core else asked
    done = gdb("run", *end, program=program, args=args)
    done.has_no_internal_error()
    counted = re.search(r"^mallinfo (\d+) (\d+)$", done.stderr + done.stdout, re.MULTILINE)
    assert counted, done.describe()
    if core:
        done = gdb(f"core-file {file}", *asked, program=program)
        done.has_no_internal_error()
    assert "cannot be found" not in done.stdout + done.stderr, done.describe()
    arenas = answers["heap"]["arenas"]
    assert [arena["states"]["tcache"]["chunks"] for arena in arenas] == [FREED] * (threads + 1)
    assert sorted(arena["threads"] for arena in answers["arenas"]["arenas"]) == [[n] for n in range(1, threads + 2)]
    assert sum(arena["system_mem"] for arena in arenas) == int(counted.group(1))
    # What mallinfo calls free leaves the tcaches out.
    free = ("fastbin", "unsorted", "small", "large", "top")
    assert sum(arena["states"][name]["bytes"] for arena in arenas for name in free) == int(counted.group(2))
