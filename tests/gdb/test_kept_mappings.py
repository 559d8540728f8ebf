"""Promise: from glibc 2.43 on a tcache keeps chunks that have mappings of their own, and each is told as free, once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version, needs

pytestmark = pytest.mark.skipif(glibc_version() < (2, 43), reason="up to glibc 2.42 no tcache takes mappings")

#: Frees two mappings that fit its tcache, one that does not, and two chunks of the heap; one mapping stays in use.
SOURCE = """
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
void stop_here(void) {}
void *kept[6];
int main(void)
{
    size_t wanted[6] = {55000, 60000, 52000, 90000, 30000, 40000};
    for (int i = 0; i < 6; i++) kept[i] = malloc(wanted[i]);
    for (int i = 1; i < 6; i++) free(kept[i]);
    struct mallinfo2 now = mallinfo2();
    fprintf(stderr, "mappings %zu of %zu\\n", now.hblks, now.hblkhd);
    stop_here();
    return 0;
}
"""


def test_mappings_that_are_free(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """They count as mapped, and as free; the rows, the lists and the sums agree."""
    program, source = tmp_path / "keeps", tmp_path / "keeps.c"
    source.write_text(SOURCE)
    subprocess.run([needs("gcc"), "-g", "-O0", "-o", str(program), str(source)], check=True)
    result = gdb(
        "break stop_here", "run", f"heap {answers.into('heap')}", f"heap chunks {answers.into('chunks')}",
        f"heap tcache {answers.into('tcache')}", "heap check", "heap chunk kept[1]",
        program=program,
        before=["set environment GLIBC_TUNABLES glibc.malloc.tcache_max=65536:glibc.malloc.mmap_threshold=50000"],
    ).succeeded()  # fmt: skip
    counted = re.search(r"^mappings (\d+) of (\d+)$", result.stdout + result.stderr, re.MULTILINE)
    assert counted, result.describe()
    heap = answers["heap"]
    assert (heap["mmapped"]["chunks"], heap["mmapped"]["bytes"]) == tuple(map(int, counted.groups()))
    found = heap["mmapped_found"]
    sizes = [(60000 + 24 + 4095) // 4096 * 4096, (52000 + 24 + 4095) // 4096 * 4096]
    assert (found["tcache_chunks"], found["tcache_bytes"]) == (2, sum(sizes))
    assert "free of those, in a tcache: 2 chunks" in result.stdout
    rows = answers["chunks"]["mmapped"]["chunks"]
    assert sorted(row["state"] for row in rows) == ["tcache", "tcache", "used"]
    assert heap["arenas"][0]["states"]["tcache"]["chunks"] == 2
    (tcache,) = answers["tcache"]["tcaches"]
    on_lists = {chunk["address"] for item in tcache["lists"] for chunk in item["members"]}
    assert {row["address"] for row in rows if row["state"] == "tcache"} < on_lists
    assert len(on_lists) == 4
    assert "The heap is sound" in result.stdout
    assert "free, in a tcache, with a mapping of its own" in result.stdout
