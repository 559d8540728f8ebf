"""Promise: `heap check` is right about programs of other machines, and refuses the heap of another C library."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.gdb.test_bad_input import sentences
from tests.gdb.test_bad_states import all_of
from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import needs
from tests.support.gdb_server import served
from tests.support.programs import FOR_32_BIT
from tests.support.symbols import wanted

#: Stops with a sound heap, and again when a string has run over the size of the top chunk; malloc notices that.
SOURCE = r"""
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
void *kept[60];
void stop_here(void) {}
int main(void)
{
    free(malloc(24)); /* glibc 2.43 makes the tcache at the first free */
    for (int i = 0; i < 60; i++)
        kept[i] = malloc(24 + 56 * i);
    for (int i = 0; i < 60; i += 4)
        free(kept[i]);
    kept[0] = malloc(8 << 20); /* a mapping of its own, on aarch64 with huge pages too */
    stop_here();
    memset(kept[59], 'A', malloc_usable_size(kept[59]) + sizeof(size_t));
    stop_here();
    kept[1] = malloc(100000);
    return 0;
}
"""
MESSAGE = "malloc(): corrupted top size"


def built(folder: Path, compiler: str, *options: str) -> Path:
    """Build the program; skip where that compiler cannot."""
    needs(compiler)
    source, program = folder / "over.c", folder / "over"
    source.write_text(SOURCE)
    line = [compiler, "-g", "-O0", "-w", *options, "-o", str(program), str(source)]
    if subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip(f"{' '.join(line[:1] + list(options))} does not build programs here")
    return program


def follow(gdb: Gdb, answers: Answers, program: Path, start: Sequence[str], before: Sequence[str] = ()) -> Result:
    """Check at both stops, and where malloc has noticed."""
    result = gdb(
        "break stop_here", *start, f"heap check {answers.into('sound')}",
        "continue", f"heap check {answers.into('damaged')}",
        answers.python("truth", {
            "top": "number('(unsigned long) kept[59]') + 24 + 56 * 59",
            "pointer": "number('(unsigned long) kept[59]')",
        }),
        "continue", f"heap check {answers.into('end')}", "heap check", "kill",
        program=program, before=before,
    )  # fmt: skip
    result.has_no_internal_error()
    return result


def is_right(answers: Answers, word_size: int) -> dict[str, Any]:
    """Check what was said at the three stops; return the last answer."""
    sound, damaged, end, truth = (answers[name] for name in ("sound", "damaged", "end", "truth"))
    assert sound["sound"] == sound["complete"]
    assert sound["findings"] == []
    assert sound["chunks"] >= 60
    assert not damaged["sound"]
    (finding,) = damaged["findings"]
    assert finding["kind"] == "top-size"
    assert abs(finding["address"] - truth["top"]) <= 16
    assert finding["size"] == word_size
    assert int(finding["found"], 16) == int.from_bytes(b"A" * word_size, "little")
    assert MESSAGE in {catch["message"] for catch in finding["catches"]}
    assert finding["culprit"]["pointer"] == truth["pointer"]
    assert bytes.fromhex(finding["culprit"]["content"]).startswith(b"A" * 16)
    assert [item["address"] for item in end["findings"]] == [finding["address"]]
    return end


def test_i386(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """A 32-bit program: sound, damaged as foretold, and explained at the abort."""
    program = built(tmp_path, "gcc", *FOR_32_BIT)
    result = follow(gdb, answers, program, ["run"])
    end = is_right(answers, 4)
    assert MESSAGE in result.stderr.splitlines()
    if end["abort"] is None:
        assert (
            "malloc_printerr"
            not in gdb("break stop_here", "run", "info symbol malloc_printerr", program=program).stdout
        )
        return  # without libc's symbols nothing on the stack says that it was malloc
    assert (end["abort"]["fault"], end["abort"]["message"]) == (False, MESSAGE)
    # From 2.42 on malloc itself has left the stack, and on i386 its caller goes through a table by a register.
    assert end["abort"]["call"] == "malloc" or (end["abort"]["call"] is None and not wanted())


def test_i386_without_symbols_of_libc(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """As with Debian's biarch libc, which never has any: malloc's memory is found all the same."""
    program = built(tmp_path, "gcc", *FOR_32_BIT)
    result = follow(gdb, answers, program, ["run"], ["set debug-file-directory /nonexistent"])
    is_right(answers, 4)
    assert "a fault of the processor" not in result.stdout, "it was a SIGABRT"


def test_aarch64_under_qemu(answers: Answers, tmp_path: Path) -> None:
    """A 64-bit ARM program behind qemu's own GDB server, which tells no mappings and no other process's memory."""
    root = "/usr/aarch64-linux-gnu"
    qemu, debugger = needs("qemu-aarch64"), needs("gdb-multiarch")
    program = built(tmp_path, "aarch64-linux-gnu-gcc", "-no-pie")
    with served([str(qemu), "-L", root, "-g", "{port}", str(program)]) as address:
        follow(
            Gdb(str(debugger)), answers, program,
            [f"target remote {address}", "continue"], [f"set sysroot {root}"],
        )  # fmt: skip
    is_right(answers, 8)


def test_x86_64_under_qemu(answers: Answers, gdb: Gdb, tmp_path: Path) -> None:
    """The same for a program of this machine; where GDB finds no libraries behind qemu, that is said."""
    qemu = needs("qemu-x86_64")
    program = built(tmp_path, "gcc", "-no-pie")
    with served([str(qemu), "-g", "{port}", str(program)]) as address:
        result = follow(
            gdb, answers, program, [f"target remote {address}", "continue", "info sharedlibrary"],
            ["set sysroot /"],
        )  # fmt: skip
    if "No shared libraries loaded" in result.stdout:
        assert not answers.path("sound").exists()
        assert any("no libc.so.6 is loaded" in line for line in sentences(result)), result.describe()
    else:
        is_right(answers, 8)


def test_a_program_linked_with_musl(gdb: Gdb, tmp_path: Path) -> None:
    """Another C library's malloc, in a library of its own: each command says so in a sentence."""
    program = built(tmp_path, "musl-gcc")
    result = all_of(gdb, "break stop_here", "run", program=program)
    said = sentences(result)
    assert any("musl" in line or "C library" in line for line in said), result.describe()
    assert "The heap is corrupt" not in result.stdout + result.stderr
    assert "sound" not in result.stdout
