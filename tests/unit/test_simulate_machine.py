"""The simulated allocator without a process: layers of memory, files of operations, and what holds on any heap."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbheap.memory import MemoryFault, Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.comparison import compare
from gdbheap.simulate.linux import is_placeholder
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import KINDS, Operation, Prediction, predict
from gdbheap.simulate.outlook import look_ahead
from gdbheap.simulate.public import usable_size
from gdbheap.simulate.sequence import Entry, SequenceError, entry_text, parse_sequence, replay
from gdbheap.simulate.settings import environment_settings, set_value
from gdbheap.simulate.trace import ENDS, ROLES, SOURCES
from gdbheap.simulate.whatif import run_sequence
from gdbheap.simulate.words import Words
from tests.support.fresh_machine import fresh
from tests.support.heap_image import LAYOUTS
from tests.support.operations import PROFILES, random_operations

EVERY = sorted(LAYOUTS)


@pytest.mark.parametrize(("version", "bits"), EVERY)
@pytest.mark.parametrize("profile", PROFILES)
def test_chunks_never_overlap(version: str, bits: int, profile: str) -> None:
    """Memory is aligned, large enough, and nobody else's; at the end the arena's chunks fill it without a gap."""
    machine = fresh(version, bits)
    entries = random_operations(8, 800, profile)
    memory: dict[int, int] = {}
    wanted: dict[int, int] = {}
    for entry, got in zip(entries, replay(machine, entries, memory)):
        if entry.result >= 0 and got:
            count, size = entry.arguments[-2:] if entry.name in ("calloc", "reallocarray") else (1, entry.arguments[-1])
            wanted[entry.result] = count * size
            assert got % machine.abi.alignment == 0
            assert usable_size(machine, got) >= wanted[entry.result]
            if KINDS[entry.name].parameters[0] == "alignment":
                assert got & entry.arguments[0] - 1 == 0 or bin(entry.arguments[0]).count("1") != 1
    live = sorted((memory[name], memory[name] + wanted[name]) for name in memory)
    assert all(end <= start for (_, end), (start, _) in zip(live, live[1:]))
    assert len(live) > 5
    place, end = machine.abi.first_chunk(machine.mp("sbrk_base")), machine.variables.curbrk
    starts = set()
    while place < (end or 0):
        starts.add(place + machine.header)
        assert machine.size(place) >= machine.min_size
        place += machine.size(place)
    assert place == end
    in_heap = [pointer for pointer in memory.values() if not is_placeholder(machine.word_size, pointer)]
    assert starts >= set(in_heap)


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_a_prediction_leaves_the_state_as_it_was(version: str, bits: int) -> None:
    """Whatever is predicted, the same question gets the same answer, also behind operations that were predicted."""
    machine = fresh(version, bits)
    first = predict(machine, Operation("malloc", (1000,)))
    again = predict(machine, Operation("malloc", (1000,)))
    assert (first.result, first.steps, first.calls) == (again.result, again.steps, again.calls)
    second = predict(first.after, Operation("malloc", (1000,)))
    freed = predict(second.after, Operation("free", (first.result or 0,)))
    assert predict(first.after, Operation("malloc", (1000,))).result == second.result
    assert predict(freed.after, Operation("malloc", (1000,))).result == first.result
    assert predict(second.after, Operation("malloc", (1000,))).result not in (first.result, second.result)
    assert not compare(freed.after, freed.after).lists
    changed = compare(second.after, freed.after)
    assert [(item.kind, item.after[0][0]) for item in changed.lists] == [("tcache", first.chunk)]
    for item in (first, second, freed):
        assert item.end in ENDS
        assert all(step.role in ROLES for step in item.steps)
    assert first.source in SOURCES


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_checks_that_hold_are_steps(version: str, bits: int) -> None:
    """free of a large chunk between two free ones: what is checked of it, and of each neighbour that it takes in."""
    machine = fresh(version, bits).above()
    pointers = []
    for size in (3000, 3000, 3000, 24):
        made = predict(machine, Operation("malloc", (size,)))
        pointers.append(made.result or 0)
        machine = made.after
    for pointer in (pointers[0], pointers[2]):
        machine = predict(machine, Operation("free", (pointer,))).after
    found = predict(machine, Operation("free", (pointers[1],)))
    checks = [(step.function, step.address) for step in found.steps if step.role == "check"]
    chunk = pointers[1] - machine.header
    assert [address for _, address in checks[:2]] == [chunk, chunk]
    neighbours = [pointers[0] - machine.header, pointers[2] - machine.header]
    assert [address for function, address in checks if function == "unlink_chunk"] == neighbours
    broken = machine.above()
    broken.words[neighbours[0] + 2 * machine.word_size] = chunk  # its fd does not lead back
    found = predict(broken, Operation("free", (pointers[1],)))
    assert (found.end, found.message) == ("abort", "corrupted double-linked list")
    assert [step.role for step in found.steps[-2:]] == ["move", "fail"]


def test_large_tcache_bins() -> None:
    """From 2.42 on tcache_max may be large: 2.43 keeps such bins in order and takes chunks of the very size."""
    machine = fresh("2.43").above()
    assert set_value(machine, "tcache_max", 40000)
    state = machine
    made: list[Prediction] = []
    for size in (9000, 12000, 10000, 11000):
        made.append(predict(state, Operation("malloc", (size,))))
        state = made[-1].after
    for item in made:
        state = predict(state, Operation("free", (item.result or 0,))).after
    tcache = state.thread.tcache
    assert tcache is not None
    assert tcache > 0
    for size, item in ((10000, made[2]), (12000, made[1]), (9000, made[0])):
        found = predict(state, Operation("malloc", (size,)))
        assert (found.source, found.result) == ("tcache", item.result)
    other = predict(state, Operation("malloc", (9500,)))
    assert other.source != "tcache", "a larger chunk does not do"


def test_what_can_be_asked_for_grows_with_the_heap() -> None:
    machine = fresh()
    assert look_ahead(machine).largest == -1
    state = predict(machine, Operation("malloc", (1000,))).after
    found = look_ahead(state)
    assert not predict(state, Operation("malloc", (found.largest,))).calls
    assert predict(state, Operation("malloc", (found.largest + 1,))).calls
    assert found.top == state.size(state.words[state.main_arena + state.top_at]) - state.min_size


def test_what_is_not_known_needs_no_less_than_a_system_call() -> None:
    """Where the break is not known, nothing is said of requests that the top chunk is too small for."""
    state = predict(predict(fresh(), Operation("malloc", (1000,))).after, Operation("malloc", (100000,))).after
    known = look_ahead(state)
    assert known.beyond == ""
    state.variables.curbrk = None
    found = look_ahead(state)
    assert found.largest == known.largest
    assert "where the break is" in found.beyond


def test_settings_side_by_side() -> None:
    machine = fresh()
    entries = [Entry("malloc", (4000,), name) for name in range(1, 200)]
    plain, padded = (run_sequence(machine, entries, given) for given in ({}, {"top_pad": 1 << 20}))
    assert padded.call_count < plain.call_count
    assert padded.live == plain.live == 199 * 0xFB0
    assert padded.held > plain.held
    with pytest.raises(Unpredictable, match="refuses mxfast"):
        run_sequence(machine, entries, {"mxfast": 1 << 20})
    ended = run_sequence(machine, [*entries, Entry("free", (5,), -1), Entry("free", (5,), -1)], {})
    assert ended.problem is None, "memory that is gone has no name any more: free(NULL)"


def test_the_environment() -> None:
    found = environment_settings(
        {
            "GLIBC_TUNABLES": "glibc.malloc.top_pad=0x1000:glibc.malloc.tcache_count=3:glibc.cpu.x=1:"
            "glibc.malloc.mxfast=no",
            "MALLOC_ARENA_MAX": "2",
            "MALLOC_TOP_PAD_": "9",
        }
    )
    assert found == {"top_pad": 0x1000, "tcache_count": 3, "arena_max": 2}


def test_lines_and_entries() -> None:
    entries = [*random_operations(1, 300, "mixed"), Entry("malloc", (8,), 7, 3)]
    assert parse_sequence(entry_text(entry) for entry in entries) == entries
    assert parse_sequence(["# nothing", "", "malloc 0x20 = 1"]) == [Entry("malloc", (32,), 1)]
    for line in ("malloc", "malloc = 1", "nothing 1", "@x malloc 8 = 1", "free", "trim 0 = 1", "@2"):
        with pytest.raises(SequenceError, match="Line 2"):
            parse_sequence(["malloc 8 = 1", line])


WRITES = st.lists(
    st.tuples(st.sampled_from(["write", "fresh", "zero", "unmap"]), st.integers(0, 30), st.integers(1, 9))
)


@settings(max_examples=200)
@given(WRITES, WRITES)
def test_layers_of_memory(below: list[tuple[str, int, int]], above: list[tuple[str, int, int]]) -> None:
    """A layer reads as plain memory would that the same was done to; what is below it stays."""
    start, size = 0x10000 - 20 * 8, 40 * 8  # words are filed by blocks of 64 KiB: the memory lies in two of them
    data = random.Random(1).randbytes(size)
    plain: list[int | None] = list(data)
    words = Words(Abi(8), Snapshot([(start, data)]))

    def do(target: Words, changes: list[tuple[str, int, int]]) -> None:
        for kind, place, count in changes:
            low, high = start + 8 * place, start + 8 * (place + count)
            if kind == "write" and None in plain[8 * place : 8 * place + 8]:
                continue
            if kind == "write":
                target[low] = 0x0102030405060708 * count % (1 << 64)
                plain[8 * place : 8 * place + 8] = (0x0102030405060708 * count % (1 << 64)).to_bytes(8, "little")
            elif kind == "unmap":
                target.unmap(low, high)
                plain[8 * place : 8 * (place + count)] = [None] * 8 * count
            else:
                # The kernel only makes memory where there is none.
                if kind == "fresh":
                    target.unmap(low, high)
                getattr(target, kind)(low, high)
                plain[8 * place : 8 * (place + count)] = [0] * 8 * count

    def reads_as(target: Words, wanted: list[int | None]) -> None:
        for place in range(0, len(wanted), 8):
            part = wanted[place : place + 8]
            if None in part:
                if all(byte is None for byte in part) and start + place not in target:
                    with pytest.raises(MemoryFault):
                        target.read(start + place, 8)
                continue
            assert list(target.read(start + place, 8)) == part
            assert target[start + place] == int.from_bytes(bytes(byte or 0 for byte in part), "little")

    do(words, below)
    kept = list(plain)
    layer = words.above()
    do(layer, above)
    reads_as(layer, list(plain[:size]))
    reads_as(words, kept[:size])


@pytest.mark.parametrize("version", ["2.36", "2.43"])
def test_a_key_that_is_not_known(version: str) -> None:
    """free of what is in the tcache is unknown then; what it has put there itself, it knows."""
    machine = replace_key(fresh(version), known=True)
    first = predict(machine, Operation("malloc", (40,)))
    freed = predict(first.after, Operation("free", (first.result or 0,)))
    assert freed.goes_on
    assert predict(freed.after, Operation("free", (first.result or 0,))).end == "abort"
    other = replace_key(freed.after, known=False)
    again = predict(other, Operation("free", (first.result or 0,)))
    assert again.end == "unknown"
    assert "tcache_key" in (again.message or "")
    taken = predict(other, Operation("malloc", (40,)))
    assert predict(taken.after, Operation("free", (first.result or 0,))).goes_on, "it is in no list"


def replace_key(machine: Machine, known: bool) -> Machine:
    """Return a machine whose glibc has another key than the chunks have that were freed before."""
    made = machine.above()
    made.glibc = replace(machine.glibc, key=0x1234567 if known else 0x7654321, key_known=known)
    return made


@pytest.mark.parametrize("front", [True, False])
def test_a_limit_of_fastbins_that_is_not_known(front: bool) -> None:
    """An empty fastbin needs none; a chunk in one of main_arena's tells of all that are no larger."""
    machine = fresh("2.36").above()
    machine.set_mp("tcache_count", 0)
    pointers = []
    for _ in range(3):
        got = predict(machine, Operation("malloc", (40,)))
        pointers.append(got.result or 0)
        machine = got.after
    if front:
        machine = predict(machine, Operation("free", (pointers[0],))).after
    machine.variables.max_fast = None
    assert predict(machine, Operation("malloc", (24,))).goes_on
    freed = predict(machine, Operation("free", (pointers[1],)))
    assert freed.goes_on if front else freed.end == "unknown"
    larger = predict(machine, Operation("malloc", (88,)))
    assert predict(larger.after, Operation("free", (larger.result or 0,))).end == "unknown"
