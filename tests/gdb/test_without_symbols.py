"""Promise: without glibc's debug symbols each answer is the same as with them, or a clear unknown."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import needs
from tests.support.programs import Programs
from tests.support.symbols import WITHOUT, needs_symbols

#: Every command that reads the heap and answers in JSON.
READING = ("heap", "heap arenas", "heap top", "heap params", "heap chunks -all")
#: Programs with what makes their heaps differ: arenas, tcaches, mmapped chunks, holes, other layouts of the break.
STOPPED = ("totals", "threads", "many", "usable", "foreign", "census", "deep")


def name_of(command: str) -> str:
    """Return a name for the file with a command's answer."""
    return re.sub(r"\W+", "_", command)


def read_all(
    gdb: Gdb, folder: Path, program: Path | None, *setup: str, before: tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Return what each command answers after ``setup``, by the command."""
    folder.mkdir()
    answers = Answers(folder)
    commands = [f"{command} {answers.into(name_of(command))}" for command in READING]
    gdb(*setup, *commands, program=program, before=before).succeeded()
    return {command: without_resident(answers[name_of(command)]) for command in READING}


def without_resident(answer: Any) -> Any:
    """Return an answer without what is resident: GDB's reading of a file's page makes that page resident."""
    if isinstance(answer, dict):
        return {key: without_resident(value) for key, value in answer.items() if key != "resident"}
    return [without_resident(value) for value in answer] if isinstance(answer, list) else answer


@pytest.mark.quick
@pytest.mark.parametrize("program", STOPPED)
def test_the_same_answers_as_with_symbols(gdb: Gdb, programs: Programs, tmp_path: Path, program: str) -> None:
    needs_symbols(gdb)
    # GDB starts each process at the same addresses.
    stop = ("break stop_here", "run")
    known = read_all(gdb, tmp_path / "with", programs[program], *stop)
    found = read_all(gdb, tmp_path / "without", programs[program], *stop, before=WITHOUT)
    assert found == known
    assert known["heap"]["arenas"][0]["states"]["used"]["chunks"] > 0


@pytest.mark.quick
def test_how_is_said(gdb: Gdb, programs: Programs, answers: Answers) -> None:
    """The addresses are those that the debug symbols have, where there are any: each found another way."""
    code = {name: f"number('&{name}')" for name in ("main_arena", "mp_")}
    local = ("tcache", "thread_arena")
    stop = ("break stop_here", "run")
    done = gdb(
        *stop,
        f"heap params -how {answers.into('found')}",
        "heap params -how",
        program=programs["totals"],
        before=WITHOUT,
    ).succeeded()
    found = {fact["name"]: fact for fact in answers["found"]["how"]}
    for name in ("layout", "release", "__curbrk", *code, *local):
        assert found[name]["how"], name
        assert found[name]["how"] in done.stdout
    needs_symbols(gdb)
    gdb(
        *stop,
        answers.python("symbols", code),
        f"heap params -how {answers.into('known')}",
        program=programs["totals"],
    ).succeeded()
    for name in code:
        assert found[name]["address"] == answers["symbols"][name], name
    known = {fact["name"]: fact for fact in answers["known"]["how"]}
    assert known.keys() == found.keys()
    for name, fact in known.items():
        # GDB needs a libthread_db that fits for thread-local variables: it may know less.
        assert fact["address"] == found[name]["address"] or (name in local and fact["text"] == "unknown"), name
    assert "debug symbols" in known["main_arena"]["how"]
    assert "debug symbols" not in found["main_arena"]["how"]


#: What is written over main_arena: from which field on, how many words, and the word.
DAMAGES = {
    "top": ("top", 1, 0x4141414141414141),
    "no top": ("top", 1, 0),
    "next": ("next", 1, 0x41414140),
    "flags": ("mutex", 1, 0xFFFFFFFF00000000),
    "max_system_mem": ("max_system_mem", 1, 0),
    "attached_threads": ("attached_threads", 1, 1 << 50),
    "most bins": ("bins[0]", 200, 0x41414140),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_main_arena_is_found(gdb: Gdb, programs: Programs, answers: Answers, damage: str) -> None:
    """It is where libc's file has it, however little makes sense there now; what is wrong is then shown."""
    needs_symbols(gdb)
    field, count, word = DAMAGES[damage]
    stop = ("break stop_here", "run")
    code = {"arena": "number('&main_arena')", "field": f"number('&main_arena.{field}')"}
    gdb(*stop, answers.python("known", code), program=programs["totals"]).succeeded()
    known = answers["known"]
    gdb(
        *stop, *(f"set var *(unsigned long *) {known['field'] + 8 * place:#x} = {word:#x}" for place in range(count)),
        f"heap params -how {answers.into('found')}", f"heap check {answers.into('check')}",
        program=programs["totals"], before=WITHOUT,
    ).has_no_internal_error()  # fmt: skip
    assert {fact["name"]: fact["address"] for fact in answers["found"]["how"]}["main_arena"] == known["arena"]
    assert answers["check"]["findings"]


#: What of an event must be the same with and without symbols, where it is known at all.
KNOWN = ("args", "result", "delta", "arena", "request", "chunk_size", "path", "terms", "predicted", "exact")


def recorded(gdb: Gdb, folder: Path, program: Path, before: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    folder.mkdir()
    answers = Answers(folder)
    gdb("heap catch", "run", f"heap events {answers.into('events')}", program=program, before=before).succeeded()
    return answers.events("events")


@pytest.mark.quick
@pytest.mark.parametrize("program", ["growth", "seed", "many", "usable"])
def test_the_same_explanations_as_with_symbols(gdb: Gdb, programs: Programs, tmp_path: Path, program: str) -> None:
    """Each call is explained in the same way, or the request is a range that holds the right one."""
    needs_symbols(gdb)
    known = recorded(gdb, tmp_path / "with", programs[program])
    found = recorded(gdb, tmp_path / "without", programs[program], WITHOUT)
    assert [event["syscall"] for event in found] == [event["syscall"] for event in known]
    assert [event["kind"] for event in found] == [event["kind"] for event in known]
    exact = 0
    for one, other in zip(known, found):
        for key in KNOWN:
            assert other[key] in (None, [], one[key]), (key, one, other)
        if other["chunk_size_range"] is not None:
            low, high = other["chunk_size_range"]
            assert low <= one["chunk_size"] <= high
            assert high - low <= 0x1000, "what one page leaves open, and no more"
        exact += other["exact"] is True
        if one["exact"] and one["chunk_size"] and one["syscall"] == "brk" and one["delta"] > 0:
            assert other["chunk_size"] or other["chunk_size_range"], other
    made = [event for event in known if event["kind"] == "malloc"]
    assert exact >= 0.7 * len(made), f"{exact} of {len(made)}"


@pytest.mark.quick
def test_a_range_is_called_a_range(gdb: Gdb, programs: Programs, answers: Answers) -> None:
    """A mapping is in whole pages, so which request it was made for is not known."""
    done = gdb(
        "heap catch -malloc", "run", f"heap events {answers.into('events')}", "heap why-grow",
        program=programs["growth"], before=WITHOUT,
    ).succeeded()  # fmt: skip
    mapped = [event for event in answers.events("events") if event["syscall"] == "mmap"]
    assert mapped
    assert all(event["exact"] is None and event["chunk_size"] is None for event in mapped)
    # growth.c asks for 1 << 20 bytes.
    assert all(low <= (1 << 20) + 16 <= high for low, high in (event["chunk_size_range"] for event in mapped))
    assert "that is a range" in done.stdout


@pytest.mark.quick
@pytest.mark.parametrize("linking", [("-static",), ("-static-pie",), ("-static", "-s"), ("-static-pie", "-s")])
def test_static(gdb: Gdb, tmp_path: Path, linking: tuple[str, ...]) -> None:
    """A static program has no debug symbols of glibc's; its symbol table, where it has one, is the oracle."""
    compiler = needs("gcc")
    source = tmp_path / "static.c"
    source.write_text(
        "#include <stdlib.h>\n#include <stdio.h>\n#include <malloc.h>\n"
        "struct malloc_state { int mine; } free_list; long narenas = 77;\n"
        "void *kept[40];\n"
        "int main(void) {\n"
        "  setvbuf(stdout, 0, _IONBF, 0);\n  for (int i = 0; i < 40; i++) kept[i] = malloc(100 + 40 * i);\n"
        "  for (int i = 0; i < 40; i += 3) free(kept[i]);\n"
        "  for (int i = 0; i < 6; i++) kept[i] = malloc(40);\n"
        "  for (int i = 0; i < 6; i++) free(kept[i]);\n"
        "  kept[0] = malloc(300000);\n"
        '  struct mallinfo2 info = mallinfo2();\n  printf("%zu %zu %zu %zu\\n", info.arena, info.hblks, '
        "info.fordblks, info.keepcost);\n  fflush(stdout);\n  abort();\n}\n".replace(
            "mallinfo2", "mallinfo2" if _has_mallinfo2() else "mallinfo"
        ).replace("%zu", "%zu" if _has_mallinfo2() else "%d")
    )
    program = tmp_path / "static"
    subprocess.run([compiler, "-g", "-O0", *linking, "-o", str(program), str(source)], check=True)
    answers = Answers(tmp_path)
    commands = [f"{command} {answers.into(name_of(command))}" for command in READING]
    done = gdb("run", *commands, "heap params -how", program=program)
    done.has_no_internal_error()
    arena, mmapped, free, keepcost = map(int, re.findall(r"^(\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)[0])
    account = answers["heap"]
    main = account["arenas"][0]
    assert main["system_mem"] == arena
    params = {fact["name"]: fact["value"] for fact in answers["heap_params"]["params"]}
    assert params["n_mmaps"] == mmapped == 1
    assert main["states"]["top"]["bytes"] == keepcost
    # mallinfo counts the tcache's chunks as used.
    states = main["states"]
    assert sum(state["bytes"] for name, state in states.items() if name in FREE) == free, states
    # Of the larger ones eight are small enough; the six of one size are a list, whose links are mangled from 2.32 on.
    assert states["tcache"]["chunks"] == 14, states


#: The states that mallinfo counts as free.
FREE = ("fastbin", "unsorted", "small", "large", "top")


def _has_mallinfo2() -> bool:
    from tests.support.environment import glibc_version

    return glibc_version() >= (2, 33)


@pytest.mark.quick
def test_what_is_missing_is_asked_for(gdb: Gdb, programs: Programs) -> None:
    """In one sentence: what, why not, what to install where, and the setting that takes it by hand."""
    done = gdb("break stop_here", "run", "set heap main-arena 0x10", "heap", before=WITHOUT, program=programs["totals"])
    done.has_no_internal_error()
    (sentence,) = [line for line in done.stderr.splitlines() if "cannot be found" in line]
    for words in (
        "Where main_arena is in /", "cannot be found without debug symbols", "is no main_arena of a known layout",
        "Debian, Ubuntu: libc6-dbg", "Fedora: dnf debuginfo-install glibc",
        "Arch, or any of them: 'set debuginfod enabled on'",
        "'set heap main-arena ADDRESS'",
    ):  # fmt: skip
        assert words in sentence, sentence
    assert sentence.endswith(".")
