"""Promise: a large heap of many threads is told to the byte, and a core file of it tells the same as the process."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.gdb import test_totals as agreement
from tests.gdb.test_totals import Looked
from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version, mmapped_header
from tests.support.mallinfo import FIGURES, without_drift
from tests.support.procmaps import MAPS, parse
from tests.support.programs import Programs

#: What is asked of the process and of its cores; each answer must be the same but for what a core cannot know.
COMMANDS = ("heap", "heap arenas", "heap top", "heap params", "heap chunks")
#: What glibc 2.43 counts too much: the header of a chunk each time that it is resized, as two of the fixture's are.
DRIFT = 2 * mmapped_header()
#: Keys that a process and its core do not share: what is in physical memory, and mappings that are not malloc's.
ONLY_OF_A_PROCESS = ("resident", "why_not_resident", "others", "whole")

#: GDB's number of each thread by the kernel's: a core may list the threads in another order.
THREADS = "{str(t.num): t.ptid[1] for t in gdb.selected_inferior().threads()}"
ROLLUP = "open('/proc/%d/smaps_rollup' % gdb.selected_inferior().pid).read()"
MAPPED = "[[int(value('mapped')[i]), int(value('mapped_usable')[i])] for i in range(int(value('mapped_count')))]"


def asking(answers: Answers, name: str) -> list[str]:
    """Return GDB's commands that put all answers of one target into files whose names begin with ``name``."""
    asked = [f"{command} {answers.into(f'{name} {command}'.replace(' ', '_'))}" for command in COMMANDS]
    return [*asked, answers.python(f"{name}_threads", {"numbers": THREADS})]


class Seen:
    """The same heap three times: as a process, as gcore's core, and as the kernel's."""

    def __init__(self, answers: Answers, kernel: bool) -> None:
        self.answers = answers
        self.kernel = kernel

    def answer(self, target: str, command: str) -> Any:
        """Return an answer without what only a process knows, and with the kernel's numbers of threads."""
        numbers = self.answers[f"{target}_threads"]["numbers"]

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                kept = {key: plain(inner) for key, inner in value.items() if key not in ONLY_OF_A_PROCESS}
                if "threads" in kept:
                    kept["threads"] = sorted(numbers[str(number)] for number in kept["threads"])
                return kept
            return [plain(inner) for inner in value] if isinstance(value, list) else value

        return plain(self.answers[f"{target} {command}".replace(" ", "_")])


def kernel_writes_cores() -> bool:
    """Return whether the kernel writes core files where a process runs, and lets us raise the limit for them."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()
    return "/" not in pattern and "|" not in pattern and resource.getrlimit(resource.RLIMIT_CORE)[1] != 0


@pytest.fixture(scope="module")
def seen(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Look at the fixture alive, and at two cores of that very process."""
    folder = tmp_path_factory.mktemp("census")
    answers = Answers(folder)
    limit = "resource.setrlimit(resource.RLIMIT_CORE, [resource.getrlimit(resource.RLIMIT_CORE)[1]] * 2)"
    wanted = kernel_writes_cores()
    gdb(
        f"python import resource; {limit}",
        f"set cwd {folder}",
        "break stop_here",
        "run",
        answers.python("truth", {**FIGURES, "mp": "fields('mp_')", "maps": MAPS, "rollup": ROLLUP, "mapped": MAPPED}),
        *asking(answers, "live"),
        f"generate-core-file {folder}/gcore",
        *(["signal SIGABRT"] if wanted else []),
        program=programs["census"],
    ).has_no_internal_error()
    found = [folder / name for name in os.listdir(folder) if name.startswith("core")]
    cores = {"gcore": folder / "gcore", **({"kernel": found[0]} if found else {})}
    for name, path in cores.items():
        gdb(f"core-file {path}", *asking(answers, name), program=programs["census"]).succeeded()
        path.unlink()
    return Seen(answers, bool(found))


@pytest.fixture(scope="module")
def looked(seen: Seen, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    """Return what the checks of test_totals are made of."""
    answers = Answers(tmp_path_factory.mktemp("looked"))
    names = {"truth": "truth", **{name: f"live_heap_{name}" for name in ("arenas", "top", "params", "chunks")}}
    for name, source in {**names, "heap": "live_heap"}.items():
        answers.path(name).symlink_to(seen.answers.path(source))
    return Looked(answers)


def test_it_is_the_heap_that_is_meant(looked: Looked) -> None:
    arenas = looked.by_address("arenas")
    assert len(arenas) == 8
    assert sum(len(arena["threads"]) for arena in arenas.values()) == 17
    assert max(len(arena["heaps"]) for arena in arenas.values()) == 3
    states = {chunk["state"] for chunk in looked.each_chunk("used", "tcache", "fastbin", "unsorted", "large", "top")}
    assert len(states) >= 5
    assert len(looked.answers["truth"]["mapped"]) == looked.mallinfo["hblks"] == 9


def test_every_figure_of_mallinfo_and_malloc_info(looked: Looked) -> None:
    agreement.test_chunks_add_up_to_mallinfo(looked)
    agreement.test_chunks_add_up_to_malloc_info(looked)
    agreement.test_top_agrees_with_mallinfo(looked)
    agreement.test_overview_agrees(looked)
    assert looked.answers["heap"]["sum"] == looked.mallinfo["arena"] + looked.mallinfo["hblkhd"]


def test_mmapped_chunks_are_those_that_were_asked_for(looked: Looked) -> None:
    """The pointers that malloc returned, aligned or not, and what malloc_usable_size said of them."""
    truth = dict(looked.answers["truth"]["mapped"])
    chunks = looked.answers["chunks"]["mmapped"]
    assert {chunk["pointer"]: chunk["request_max"] for chunk in chunks["chunks"]} == truth
    assert without_drift(chunks["problems"]) == []
    assert {chunk["flags"] for chunk in chunks["chunks"]} == {2}
    assert [chunk["address"] for chunk in chunks["chunks"]] == sorted(chunk["address"] for chunk in chunks["chunks"])
    found = looked.answers["heap"]["mmapped_found"]
    assert (found["chunks"], found["bytes"]) == (looked.mallinfo["hblks"], looked.mallinfo["hblkhd"] - DRIFT)
    assert found["proven"] is True
    assert without_drift([found["problem"]] if found["problem"] else []) == []
    assert (found["tcache_chunks"], found["tcache_bytes"]) == (0, 0)


def test_the_kernels_map(looked: Looked) -> None:
    """All that is malloc's is mapped; with all else it is what /proc/PID/maps says, and what smaps_rollup says."""
    answer, truth = looked.answers["heap"], looked.answers["truth"]
    kernel, ranges = answer["kernel"], parse(truth["maps"])
    assert kernel["whole"]["mapped"] == sum(part.end - part.start for part in ranges)
    assert kernel["arenas"]["mapped"] == looked.mallinfo["arena"]
    assert kernel["mmapped"]["mapped"] == looked.mallinfo["hblkhd"] - DRIFT
    for arena in answer["arenas"]:
        assert arena["kernel"]["mapped"] == arena["system_mem"]
        assert 0 < arena["kernel"]["resident"] <= arena["system_mem"]
        assert arena["kernel"]["missing"] == 0
    parts = [kernel["arenas"], kernel["mmapped"], *kernel["others"]]
    for key in ("mapped", "resident"):
        assert sum(part[key] for part in parts) == kernel["whole"][key]
    others = {part["kind"]: part["mapped"] for part in kernel["others"]}
    named = [part for part in ranges if part.name.startswith("/")]
    assert others["file"] == sum(part.end - part.start for part in named)
    stacks = [part for part in ranges if part.name == "[stack]"]
    # Where the kernel makes guards inside a mapping (MADV_GUARD_INSTALL, glibc 2.42), they count with the stacks.
    guards = 0x1000 if glibc_version() >= (2, 42) else 0
    assert others["stack"] == 16 * ((8 << 20) + guards) + sum(part.end - part.start for part in stacks)
    heaps = sum(len(arena["heaps"]) for arena in looked.answers["arenas"]["arenas"])
    rest = heaps * (64 << 20) - sum(arena["system_mem"] for arena in answer["arenas"][1:])
    assert others.get("heap-reserved", 0) + others.get("heap-kept", 0) == rest
    (line,) = [line for line in truth["rollup"].splitlines() if line.startswith("Rss:")]
    assert abs(kernel["whole"]["resident"] - int(line.split()[1]) * 1024) <= 0x20000, "GDB reads a little in between"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("core", ["gcore", "kernel"])
def test_a_core_tells_what_the_process_told(seen: Seen, core: str, command: str) -> None:
    if core == "kernel" and not seen.kernel:
        pytest.skip("the kernel writes no core files here")
    live = seen.answer("live", command)
    assert live["command"] == command
    assert seen.answer(core, command) == live


def test_a_core_says_what_it_does_not_know(seen: Seen) -> None:
    kernel = seen.answers["gcore_heap"]["kernel"]
    assert kernel["why_not_resident"] == "a core file does not tell it"
    assert kernel["whole"]["resident"] is None
    assert kernel["whole"]["missing"] == 0
