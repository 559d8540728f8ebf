"""Promise: each branch of malloc's dealings with the kernel is recognised, and its arguments predicted to the byte.

The modes of c_fixtures/paths.c go through the branches; what each does stands there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gdbheap.simulate.paths import PATHS
from tests.gdb.test_events_strace import SYSCALLS, one_for_one
from tests.support.debugger import Answers, Gdb, malloc_events
from tests.support.environment import glibc_version, plain_environment
from tests.support.programs import Programs
from tests.support.strace import trace
from tests.support.symbols import known_to_be, to_the_byte, wanted

pytestmark = pytest.mark.skipif(glibc_version() == (0, 0), reason="the C library is not glibc")
HUGE_PAGES = pytest.mark.skipif(glibc_version() < (2, 35), reason="glibc.malloc.hugetlb came with glibc 2.35")

MIB = 1 << 20
HEAP_MAX = 64 * MIB
PROT_NONE, MAP_HUGETLB, ENOMEM = 0, 0x40000, -12
MADV_DONTNEED, MADV_HUGEPAGE = 4, 14

#: The branches that every program's first malloc takes.
FIRST = "brk-query brk-first"
NEW_ARENA = "heap-reserve heap-align heap-commit"

#: The branches that each mode takes.
MODES: dict[str, str] = {
    "data-limit": f"{FIRST} brk-extend mmap-fallback brk-moved",
    "no-data": f"{FIRST} brk-extend mmap-fallback mmap-chunk",
    "no-data-threads": f"{FIRST} brk-extend mmap-fallback mmap-chunk {NEW_ARENA} heap-unmap",
    "blocked": f"{FIRST} brk-extend mmap-fallback brk-moved trim trim-advice",
    "blocked-first": "brk-first mmap-fallback",
    "blocked-large": f"{FIRST} brk-extend mmap-fallback brk-moved",
    "top-pad": f"{FIRST} brk-extend trim",
    "threshold": f"{FIRST} brk-extend mmap-chunk munmap-chunk",
    "fixed-threshold": f"{FIRST} brk-extend mmap-chunk munmap-chunk",
    "mmap-max": f"{FIRST} brk-extend trim mmap-chunk munmap-chunk",
    "aligned": f"{FIRST} mmap-chunk munmap-chunk mremap-chunk",
    "callers": f"{FIRST} brk-extend trim mmap-chunk munmap-chunk mremap-chunk",
    "resize": f"{FIRST} brk-extend mmap-fallback mmap-chunk munmap-chunk mremap-chunk",
    "arenas": f"{FIRST} {NEW_ARENA} heap-grow",
    "arena-max": f"{FIRST} brk-extend trim {NEW_ARENA} heap-grow",
    "one-arena": f"{FIRST} brk-extend trim",
    "arena-test": f"{FIRST} {NEW_ARENA} heap-grow",
    "arena-again": f"{FIRST} {NEW_ARENA} heap-grow",
    "arena-retry": f"{FIRST} brk-extend {NEW_ARENA} mmap-chunk",
    "heaps": f"{FIRST} {NEW_ARENA} heap-grow heap-unmap heap-trim",
    "heaps-of-two": f"{FIRST} {NEW_ARENA} heap-grow heap-unmap heap-trim",
    "larger-than-heaps": f"{FIRST} {NEW_ARENA} mmap-chunk munmap-chunk",
    "larger-than-heaps-mapped": f"{FIRST} {NEW_ARENA} mmap-chunk munmap-chunk",
    "no-arena": f"{FIRST} {NEW_ARENA} heap-grow mmap-chunk munmap-chunk",
    "one-heap": f"{FIRST} {NEW_ARENA} mmap-chunk munmap-chunk",
    "second-heap-refused": f"{FIRST} {NEW_ARENA} heap-grow heap-trim mmap-chunk munmap-chunk",
    "trims": f"{FIRST} brk-extend trim trim-advice",
    "trim-grows": f"{FIRST} trim",
    "trim-arenas": f"{FIRST} brk-extend trim trim-advice {NEW_ARENA} heap-grow",
    "heap-trims": f"{FIRST} {NEW_ARENA} heap-grow heap-trim",
    "foreign-before": "brk-first brk-align brk-extend",
    "foreign-between": f"{FIRST} brk-moved brk-align brk-extend",
    "foreign-trimmed": f"{FIRST} brk-moved brk-align brk-extend trim",
    "foreign-down": f"{FIRST} brk-moved",
    "foreign-raw": f"{FIRST} brk-extend",
    "impossible": f"{FIRST} brk-extend mmap-fallback mmap-chunk",
    "impossible-threads": f"{FIRST} brk-extend mmap-fallback mmap-chunk {NEW_ARENA}",
    "cross-free": f"{FIRST} brk-extend heap-grow heap-trim {NEW_ARENA}",
    "fragmented": f"{FIRST} brk-extend",
    "small": f"{FIRST} brk-extend trim trim-advice",
}
if glibc_version() >= (2, 43):  # no tcache is made before the first chunk that it could hold is freed
    MODES["resize"] = f"{FIRST} mmap-fallback mmap-chunk munmap-chunk mremap-chunk"
    MODES["one-heap"] = f"{FIRST} {NEW_ARENA} mmap-chunk"

PLAIN_TUNABLES = {
    "top-pad-0": "glibc.malloc.top_pad=0",
    "top-pad-large": "glibc.malloc.top_pad=1234567",
    "threshold-small": "glibc.malloc.mmap_threshold=4000",
    "threshold-large": "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=70000",
    "arena-max": "glibc.malloc.arena_max=2",
    "arena-test": "glibc.malloc.arena_test=1:glibc.malloc.mmap_max=1",
    "no-tcache": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
    "thp": "glibc.malloc.hugetlb=1",
    "huge": "glibc.malloc.hugetlb=2",
}

#: Modes that go through most branches under any setting; the other modes are run with all of them in the slow test.
WITH_TUNABLES = ("callers", "heaps")


def recorded(gdb: Gdb, answers: Answers, program: Path, mode: str, tunables: str | None = None) -> list[dict[str, Any]]:
    """Return the events of a mode's whole run."""
    gdb(
        "heap catch",
        "handle SIGABRT nostop noprint pass",  # foreign-down catches it
        "run",
        f"heap events {answers.into('events')}",
        before=[] if tunables is None else [f"set environment GLIBC_TUNABLES {tunables}"],
        program=program,
        args=[mode],
    ).succeeded()
    return answers.events("events")


def paths_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["path"] for event in malloc_events(events)]


def all_exact(events: list[dict[str, Any]]) -> None:
    """Fail at the first call of malloc's that was not predicted to the byte, and where another's was predicted.

    Without debug symbols it may be unknown, with a reason.
    """
    for event in events:
        if event["kind"] == "malloc":
            assert to_the_byte(event), (event["id"], event["syscall"], event["args"], event["unpredicted_because"])
            assert known_to_be(event, "predicted", event["args"])
            if event["predicted"] is None:
                continue
            assert event["path"] in PATHS
            assert event["terms"] or event["path"] == "brk-query"
        else:
            assert event["predicted"] is None


def agrees_with_strace(
    events: list[dict[str, Any]], output: Path, program: Path, mode: str, tunables: str | None = None
) -> None:
    environment = plain_environment()
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    one_for_one(events, trace(output, program, [mode], environment).calls)


@pytest.mark.parametrize("mode", list(MODES))
def test_every_call_of_a_mode_is_predicted(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, mode: str
) -> None:
    """The branches are the expected ones, each argument is predicted, and strace saw the same calls."""
    events = recorded(gdb, answers, programs["paths"], mode)
    agrees_with_strace(events, tmp_path / "strace", programs["paths"], mode)
    all_exact(events)
    # How much libc itself asks for in this mode, as in asprintf, differs by release: with it, whether free trims.
    by_release = {"trim"} if mode == "callers" and glibc_version() > (2, 36) else set()
    expected, found = set(MODES[mode].split()) | by_release, set(paths_of(events)) | by_release
    assert found == expected or (not wanted() and found <= {*expected, None})


@pytest.mark.parametrize("tunables", list(PLAIN_TUNABLES))
@pytest.mark.parametrize("mode", WITH_TUNABLES)
def test_predictions_under_tunables(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, mode: str, tunables: str
) -> None:
    """GLIBC_TUNABLES changes the sums and the branches, not that they are right."""
    setting = PLAIN_TUNABLES[tunables]
    events = recorded(gdb, answers, programs["paths"], mode, setting)
    agrees_with_strace(events, tmp_path / "strace", programs["paths"], mode, setting)
    all_exact(events)


@pytest.mark.slow
@pytest.mark.parametrize("tunables", list(PLAIN_TUNABLES))
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in WITH_TUNABLES])
def test_predictions_of_all_modes_under_tunables(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, mode: str, tunables: str
) -> None:
    """The same with the remaining modes."""
    test_predictions_under_tunables(gdb, answers, programs, tmp_path, mode, tunables)


def test_every_branch_is_taken_somewhere() -> None:
    """No path is without a fixture; those named here are taken under a setting, in tests of their own below."""
    taken = {path for paths in MODES.values() for path in paths.split()}
    assert set(PATHS) - taken == {"mmap-chunk-huge", "thp-advice"}


def test_first_growth_under_top_pad(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The tunable's value is a term of the sum."""
    events = recorded(gdb, answers, programs["paths"], "trims", PLAIN_TUNABLES["top-pad-large"])
    first = next(event for event in events if event["path"] == "brk-first")
    assert {"name": "top_pad", "value": 1234567} in first["terms"]
    assert first["delta"] == -(-sum(term["value"] for term in first["terms"]) // 4096) * 4096


@HUGE_PAGES
@pytest.mark.parametrize(
    ("mode", "tried"), [("callers", {"mmap-fallback", "mmap-chunk-huge"}), ("heaps", {"mmap-fallback", "heap-reserve"})]
)
def test_huge_pages_are_tried_first(gdb: Gdb, answers: Answers, programs: Programs, mode: str, tried: set[str]) -> None:
    """With hugetlb=2 the break is not moved, and mappings are asked for in huge pages before they are in plain ones."""
    events = recorded(gdb, answers, programs["paths"], mode, PLAIN_TUNABLES["huge"])
    all_exact(events)
    mine = list(malloc_events(events))
    assert not [event for event in mine if event["syscall"] == "brk"]
    huge = [event for event in mine if event["syscall"] == "mmap" and event["args"][3] & MAP_HUGETLB]
    assert {event["path"] for event in huge} == tried
    for event in huge:
        assert event["args"][1] % (2 * MIB) == 0
        if event["result"] == ENOMEM:  # no huge pages are set aside
            assert mine[mine.index(event) + 1]["syscall"] == "mmap"


@HUGE_PAGES
def test_the_break_in_huge_pages(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """With hugetlb=1 the break moves by huge pages, where the kernel leaves it to programs to ask for them."""
    asks_for_huge_pages()
    events = recorded(gdb, answers, programs["paths"], "top-pad", PLAIN_TUNABLES["thp"])
    moved = [event for event in malloc_events(events) if event["delta"]]
    first, *later = [event for event in moved if event["delta"] > 0]
    if glibc_version() < (2, 43):  # where the break is at first is not known there
        assert first["delta"] == 2 * MIB
    else:
        assert first["result"] % (2 * MIB) == 0
    assert later
    assert all(event["result"] % (2 * MIB) == 0 for event in later), "from then on it ends on a huge page"
    assert all(event["delta"] % (2 * MIB) == 0 for event in moved if event["delta"] < 0)


def test_a_refused_break_is_followed_by_a_mapping(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The refusal is an event of its own, and so is what took its place; the heap was not contiguous after that."""
    mine = list(malloc_events(recorded(gdb, answers, programs["paths"], "blocked")))
    for event, following in zip(mine, mine[1:]):
        if event["syscall"] == "brk" and event["args"][0] and event["result"] != event["args"][0]:
            assert following["path"] == "mmap-fallback"
            assert event["delta"] == 0
    fallbacks = [event["delta"] for event in mine if event["path"] == "mmap-fallback"]
    assert fallbacks[0] % MIB == 0
    if (2, 35) <= glibc_version() < (2, 38):  # the later ones are only as large as they have to be
        assert all(delta < MIB for delta in fallbacks[1:])


def test_remapping_in_place_moved_and_refused(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    events = recorded(gdb, answers, programs["paths"], "resize")
    resized = [event for event in events if event["path"] == "mremap-chunk"]
    where = ["refused" if e["result"] < 0 else "in place" if e["result"] == e["args"][0] else "moved" for e in resized]
    assert where == ["moved", "in place", "in place", "in place", "refused"]
    # Without a tcache (2.43) nothing has been in the heap before.
    tried = ["mmap-chunk", *(FIRST.split() if glibc_version() >= (2, 43) else ["brk-extend"]), "mmap-fallback"]
    refused = events[events.index(resized[-1]) + 1 :][: len(tried)]
    assert [event["path"] for event in refused] == tried, "realloc tries malloc"
    assert all(event["delta"] == 0 for event in refused)


def asked_for(events: list[dict[str, Any]], requests: list[int]) -> None:
    """Fail unless chunks with mappings of their own were for these requests."""
    mapped = [event for event in events if event["path"] == "mmap-chunk"]
    assert len(mapped) == len(requests)
    for event, request in zip(mapped, requests):
        assert known_to_be(event, "request", request)
        assert known_to_be(event, "chunk_size", (request + 8 + 15) // 16 * 16)


def test_a_raised_threshold_and_a_fixed_one(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """After free has raised it the same size comes from the heap, but not above 32 MiB, and not where it was set."""
    events = recorded(gdb, answers, programs["paths"], "threshold")
    asked_for(events, [200 << 10, MIB, 33 * MIB, 33 * MIB, 31 * MIB])
    events = recorded(gdb, answers, programs["paths"], "fixed-threshold")
    asked_for(events, [200 << 10] * 3 + [(64 << 10) - 9, 4 * MIB])


def test_the_sum_of_an_aligned_mapping(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """valloc's mapping goes back: the chunk is not at its start, and its size and its distance are the length."""
    events = recorded(gdb, answers, programs["paths"], "aligned")
    (mapped,) = [
        event for event in events if event["path"] == "mmap-chunk" and 300 << 10 < event["request"] < 310 << 10
    ][:1]
    freed = next(event for event in events if event["syscall"] == "munmap" and event["args"][0] == mapped["result"])
    names = {term["name"]: term["value"] for term in freed["terms"]}
    assert names["offset"] == 0xFF0
    assert set(names) - {"CHUNK_HDR_SZ"} == {"size", "offset"}  # the size is without the header from 2.43 on
    assert sum(names.values()) == mapped["args"][1] == freed["args"][1]


@pytest.mark.parametrize(("mode", "count"), [("arenas", 7), ("arena-max", 3), ("one-arena", 1), ("arena-again", 2)])
def test_how_many_arenas(gdb: Gdb, answers: Answers, programs: Programs, mode: str, count: int) -> None:
    """Each thread's own, or as many as are allowed, or that of a thread that has ended."""
    events = recorded(gdb, answers, programs["paths"], mode)
    made = [event for event in events if event["path"] == "heap-commit"]
    assert 1 + len(made) == count
    used = {event["arena"]["address"] for event in malloc_events(events) if event["arena"] is not None}
    assert len(used) == count


def test_heaps_go_whole(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Twelve chunks of 19 MiB need four heaps, the next four one more; all but the first go again."""
    events = recorded(gdb, answers, programs["paths"], "heaps")
    assert [event["delta"] for event in events if event["path"] == "heap-unmap"] == [-HEAP_MAX] * 4
    assert len([event for event in events if event["path"] == "heap-commit"]) == 5


def test_a_new_top_is_trimmed_before_it_serves(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The break goes up twice and then down, within one malloc."""
    mine = [event["path"] for event in malloc_events(recorded(gdb, answers, programs["paths"], "foreign-trimmed"))]
    assert mine[mine.index("brk-moved") :][:3] == ["brk-moved", "brk-align", "trim"]


def test_heaps_of_a_setuid_program(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """There a heap's end is given back by mapping over it."""
    if os.geteuid() != 0:
        pytest.skip("only root can debug a setuid program as such")
    program = tmp_path / "paths"
    shutil.copy(programs["paths"], program)
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    if os.statvfs(program).f_flag & os.ST_NOSUID:
        pytest.skip("programs here cannot be setuid")
    events = recorded(gdb, answers, program, "heaps")
    all_exact(events)
    trimmed = [event for event in events if event["path"] == "heap-trim"]
    assert trimmed, "the kernel ran it as another user"
    assert all(event["syscall"] == "mmap" and event["args"][2] == PROT_NONE for event in trimmed)


def test_pages_go_back_in_every_arena(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """malloc_trim asks for whole pages of each arena's free chunks, and moves nothing but main_arena's break."""
    events = recorded(gdb, answers, programs["paths"], "trim-arenas")
    advised = [event for event in events if event["path"] == "trim-advice"]
    assert {event["arena"]["name"] for event in advised} == {"main_arena", "arena 1", "arena 2", "arena 3"}
    for event in advised:
        start, length, advice = event["args"]
        assert (start % 4096, length % 4096, advice) == (0, 0, MADV_DONTNEED)
        assert length > 0
        assert event["delta"] == 0
        size, to_page = (term["value"] for term in event["terms"])
        assert size + to_page - length in range(4096)
        assert -to_page >= 48, "the header and the links of the chunk stay"


def test_the_end_of_a_threads_heap_is_advised(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """After it the heap grows over the same bytes without a call: it is not made accessible again."""
    events = recorded(gdb, answers, programs["paths"], "heap-trims")
    trimmed = [event for event in events if event["path"] == "heap-trim"]
    assert all(event["syscall"] == "madvise" and event["delta"] == 0 for event in trimmed)
    for number in (1, 2):
        of_arena = [e["path"] for e in malloc_events(events) if e["arena"] and e["arena"]["name"] == f"arena {number}"]
        assert "heap-grow" not in of_arena[of_arena.index("heap-trim") :]


def asks_for_huge_pages() -> None:
    """Skip where the kernel gives huge pages always or never: glibc up to 2.42 then does not ask for them."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[madvise]" not in enabled.read_text():
        pytest.skip("transparent huge pages are not on [madvise] here")


@HUGE_PAGES
@pytest.mark.parametrize("mode", ["callers", "heaps", "resize", "data-limit", "trim-arenas"])
def test_huge_pages_are_asked_for(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, mode: str) -> None:
    """With hugetlb=1 each new memory of a huge page or more is advised: the break's, a heap's, a mapping's."""
    asks_for_huge_pages()
    events = recorded(gdb, answers, programs["paths"], mode, PLAIN_TUNABLES["thp"])
    agrees_with_strace(events, tmp_path / "strace", programs["paths"], mode, PLAIN_TUNABLES["thp"])
    all_exact(events)
    asked = "path" if wanted() else "purpose"  # without debug symbols its arena may be unknown, and so the branch
    advised = [event for event in events if event[asked] in ("thp-advice", "huge pages for new memory")]
    # From 2.43 on the first growth only leads to the next huge page, and data-limit has none after it.
    assert advised or (mode == "data-limit" and glibc_version() >= (2, 43))
    assert all(event["args"][2] == MADV_HUGEPAGE and event["args"][1] >= 2 * MIB for event in advised)


#: Recordings of some calls only: with each of these, the others may decide what the recorded ones are.
NARROWED = ("brk mmap", "brk", "mmap", "mprotect", "madvise", "munmap mremap", "brk mprotect madvise", "mmap munmap")


@pytest.mark.parametrize("calls", NARROWED)
@pytest.mark.parametrize("mode", ["callers", "blocked", "trim-arenas", "heaps-of-two", "resize", "second-heap-refused"])
def test_narrowed_recordings_are_exact_or_unknown(
    gdb: Gdb, answers: Answers, programs: Programs, mode: str, calls: str
) -> None:
    """A call that is not recorded is passed over, or named where its answer decides; nothing is called wrong."""
    if calls == "madvise" and mode in ("callers", "resize") and glibc_version() < (2, 35):
        pytest.skip("without huge pages this mode makes no such call")
    gdb(
        f"heap catch {calls}",
        "run",
        f"heap events {answers.into('events')}",
        before=["set environment GLIBC_TUNABLES glibc.malloc.hugetlb=1"],
        program=programs["paths"],
        args=[mode],
    ).succeeded()
    chosen = calls.split()
    left_out = [name for name in SYSCALLS if name not in chosen]
    for event in malloc_events(answers["events"]["events"]):
        assert event["syscall"] in chosen
        assert event["exact"] is not False, (event["id"], event["args"], event["predicted"], event["path"])
        if event["exact"] is None:
            reason = event["unpredicted_because"]
            if wanted():
                assert any(f"a call of {name}, which" in reason for name in left_out), reason
            assert reason


def test_what_a_narrowed_recording_still_predicts(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """`heap catch brk mmap` leaves out nothing that decides about these two in a program of one thread."""
    gdb(
        "heap catch brk mmap",
        "run",
        f"heap events {answers.into('events')}",
        before=["set environment GLIBC_TUNABLES glibc.malloc.hugetlb=1"],
        program=programs["paths"],
        args=["callers"],
    ).succeeded()
    all_exact(answers.events("events"))


def test_a_recording_that_begins_inside_malloc_trim(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The first call is not known to be the right one; from the second on they are predicted."""
    gdb(
        "break malloc_trim",
        "run",
        "catch syscall madvise",
        "continue",
        "continue",
        "continue",  # at the entry of the second call
        "delete",
        "heap catch",
        "continue",
        f"heap events {answers.into('events')}",
        program=programs["paths"],
        args=["trim-arenas"],
    ).succeeded()
    first, *others = list(malloc_events(answers.events("events")))
    assert (first["syscall"], first["exact"]) == ("madvise", None)
    assert "under way" in first["unpredicted_because"]
    all_exact(others)


def test_each_name_of_malloc(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """calloc, strdup and the functions that are given memory by malloc: the program's own call is in the chain."""
    events = recorded(gdb, answers, programs["paths"], "callers")
    functions = {frame["function"] for event in malloc_events(events) for frame in event["frames"]}
    for name in ("calloc", "strdup", "strndup", "vasprintf", "mem_finish"):
        assert any(name in (function or "") for function in functions), name
    events = recorded(gdb, answers, programs["paths"], "aligned")
    functions = {frame["function"] for event in malloc_events(events) for frame in event["frames"]}
    for name in ("memalign", "posix_memalign"):
        assert any(name in (function or "") for function in functions), name
