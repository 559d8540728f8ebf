"""memalign and its family on releases that no binary here has: what differs between 2.36, 2.38.0, 2.38's fixes, 2.39.

2.38.0 looks through bins before it asks malloc: those from that of the chunk up to, and without, that of twice its
size. A chunk does whose aligned place is its start or MINSIZE and more behind it, and that is exactly as large as
wanted with nothing before the place, or larger than both. In a small bin the first is taken; in a large one, whose
chunks become smaller, the one with the least left over, the last among equals.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbheap.ptmalloc.bins import bin_index, read_free_lists
from gdbheap.simulate.kernel_calls import arena_of_machine
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.operations import Operation, Prediction, predict
from gdbheap.simulate.public import usable_size
from gdbheap.simulate.sequence import replay
from gdbheap.simulate.settings import set_value
from tests.support.fresh_machine import fresh
from tests.support.operations import PROFILES, random_operations

SCANNING = "the bins from"


def do(machine: Machine, name: str, *arguments: int) -> Prediction:
    found = predict(machine, Operation(name, arguments))
    assert found.goes_on, found.message
    return found


def bare(release: tuple[int, int] = (2, 38), scans_bins: bool | None = True, bits: int = 64) -> Machine:
    """Return an allocator whose chunks all go to bins: without tcache and fastbins."""
    machine = fresh("2.36", bits, release, scans_bins).above()
    assert set_value(machine, "tcache_count", 0)
    assert set_value(machine, "mxfast", 0)
    return machine


def with_free(machine: Machine, requests: list[int]) -> Machine:
    """Return the allocator after chunks for these requests were freed, none beside another, and sorted into bins."""
    pointers = []
    for request in requests:
        made = do(machine, "malloc", request)
        pointers.append(made.result or 0)
        machine = do(made.after, "malloc", 24).after
    for pointer in pointers:
        machine = do(machine, "free", pointer).after
    return do(machine, "malloc", 100_000).after


def bins(machine: Machine) -> dict[int, list[tuple[int, int]]]:
    """Return the chunks of each bin, front to back, as heap bins would list them."""
    arena = arena_of_machine(machine, machine.main_arena)
    lists = read_free_lists(machine.words, machine.abi, machine.layout, arena, machine.safe_linking)
    return {item.index: list(zip(item.addresses, item.sizes)) for item in lists if item.kind in ("small", "large")}


def chosen(machine: Machine, alignment: int, nb: int) -> int | None:
    """Return the chunk that memalign of 2.38.0 takes from the bins, by the rules at the head of this file."""
    contents = bins(machine)
    for index in range(bin_index(machine.abi, nb), bin_index(machine.abi, 2 * nb)):
        fitting = []
        for chunk, size in contents.get(index, []):
            lead = -(chunk + machine.header) % alignment
            if (lead == 0 or lead >= machine.min_size) and (size > nb + lead or (size == nb and lead == 0)):
                fitting.append((chunk, size))
        if fitting and index < machine.first_large_bin:
            return fitting[0][0]
        if fitting:
            least = min(size for _, size in fitting)
            return [chunk for chunk, size in fitting if size == least][-1]
    return None


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(st.one_of(st.integers(24, 1200), st.integers(1000, 9000)), min_size=1, max_size=25),
    bits=st.sampled_from((64, 32)),
    alignment=st.integers(5, 11).map(lambda power: 1 << power),
    wanted=st.integers(0, 5000),
)
def test_the_chunk_that_is_taken(requests: list[int], bits: int, alignment: int, wanted: int) -> None:
    machine = with_free(bare(bits=bits), requests)
    nb = machine.abi.request_to_chunk(wanted)
    expected = chosen(machine, alignment, nb)
    found = do(machine, "memalign", alignment, wanted)
    assert found.result is not None
    assert found.result % alignment == 0
    assert usable_size(found.after, found.result) >= wanted
    texts = [step.text for step in found.steps]
    if expected is None:
        assert any("bytes are asked for, so that one is inside" in text for text in texts)
        return
    assert not any("bytes are asked for" in text for text in texts)
    assert found.result == expected + machine.header + -(expected + machine.header) % alignment
    assert found.chunk not in [chunk for chunks in bins(found.after).values() for chunk, _ in chunks]


def test_which_of_several() -> None:
    """In a small bin the one at its front, which was sorted last; in a large one the best, the last of equals."""
    machine = with_free(bare(), [600, 600, 600])
    small = bins(machine)[bin_index(machine.abi, 0x260)]
    assert len(small) == 3
    assert do(machine, "memalign", 32, 300).chunk == small[0][0] + -(small[0][0] + 16) % 32
    machine = with_free(bare(), [5000, 4800, 4900, 4800])
    large = bins(machine)[bin_index(machine.abi, 0x12D0)]
    equal = [chunk for chunk, size in large if size == 0x12D0]
    assert len(equal) == 2
    found = do(machine, "memalign", 256, 4000)
    assert found.chunk == equal[1] + -(equal[1] + 16) % 256


def test_bins_of_twice_the_size_are_left_to_malloc() -> None:
    machine = with_free(bare(), [2 * 0x110 - 8])
    assert chosen(machine, 32, 0x110) is None
    found = do(machine, "memalign", 32, 0x108)
    assert any(SCANNING in step.text for step in found.steps)
    assert any("bytes are asked for" in step.text for step in found.steps)


@pytest.mark.parametrize(
    ("release", "scans", "goes_to_tcache"),
    [((2, 36), None, True), ((2, 38), True, True), ((2, 38), False, False), ((2, 39), None, False)],
)
def test_where_the_bytes_before_it_go(release: tuple[int, int], scans: bool | None, goes_to_tcache: bool) -> None:
    """Up to 2.38.0 they are freed like any chunk; after that never into the tcache or a fastbin."""
    machine = do(fresh("2.36", 64, release, scans), "malloc", 24).after
    found = do(machine, "memalign", 256, 100)
    assert any(" bytes before it" in step.text for step in found.steps)
    freed = [step.function for step in found.steps if step.role == "take" and "tcache bin" in step.text]
    assert ("_int_free" in freed) == goes_to_tcache
    assert any(step.function == "_int_free_create_chunk" for step in found.steps) != goes_to_tcache


def test_what_is_not_known_of_2_38() -> None:
    """Without libc's constants nothing tells whether it is 2.38.0: unknown where that decides, and only there."""
    machine = fresh("2.36", 64, (2, 38), None)
    assert predict(machine, Operation("malloc", (1000,))).end == "chunk"
    assert predict(machine, Operation("memalign", (16, 1000))).end == "chunk"
    found = predict(machine, Operation("memalign", (64, 1000)))
    assert (found.end, found.errno) == ("unknown", "")
    assert "2.38.0 and of 2.38's later fixes differ" in (found.message or "")


def test_a_chunk_that_is_not_aligned() -> None:
    machine = with_free(bare(), [600])
    (chunk,) = (chunk for chunk, _ in bins(machine)[bin_index(machine.abi, 0x260)])
    header = machine.bin_at(machine.main_arena, bin_index(machine.abi, 0x260))
    broken = machine.above()
    broken.words[header + 16] = chunk + 8
    found = predict(broken, Operation("memalign", (32, 400)))
    assert (found.end, found.message) == ("abort", "_int_memalign(): unaligned chunk detected")


@pytest.mark.parametrize("release", [(2, 31), (2, 37), (2, 38), (2, 41)])
def test_alignments_that_are_refused(release: tuple[int, int]) -> None:
    """aligned_alloc is memalign up to 2.37 and wants a power of two after that; posix_memalign always does."""
    version = "2.31" if release == (2, 31) else "2.36"
    machine = do(fresh(version, 64, release, False), "malloc", 1000).after
    for alignment in (0, 24, 48, 3000):
        strict = predict(machine, Operation("aligned_alloc", (alignment, 100)))
        plain = predict(machine, Operation("memalign", (alignment, 100)))
        if release >= (2, 38):
            assert (strict.end, strict.errno) == ("null", "EINVAL")
        else:
            assert (strict.end, strict.result) == ("chunk", plain.result)
        assert plain.end == "chunk"
        power = 1 << (alignment - 1).bit_length() if alignment else 16
        assert (plain.result or 0) % power == 0
    for alignment in (0, 4, 24, 12):
        found = predict(machine, Operation("posix_memalign", (alignment, 100)))
        assert (found.end, found.errno, found.calls) == ("null", "EINVAL", ())
    usual = predict(machine, Operation("memalign", (64, 100)))
    for name in ("memalign", "aligned_alloc", "posix_memalign"):
        assert predict(machine, Operation(name, (64, 100))).result == usual.result
        refused = predict(machine, Operation(name, (64, 1 << 63)))
        assert (refused.end, refused.errno) == ("null", "ENOMEM")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("bits", [64, 32])
def test_whole_programs_on_2_38_0(profile: str, bits: int) -> None:
    """No chunk is given out twice, and all that is given out fits."""
    machine = fresh("2.36", bits, (2, 38), True).above()
    memory: dict[int, int] = {}
    entries = random_operations(38, 1000, profile)
    for entry, got in zip(entries, replay(machine, entries, memory)):
        if entry.name in ("memalign", "aligned_alloc", "posix_memalign") and got:
            assert usable_size(machine, got) >= entry.arguments[1]
            assert bin(entry.arguments[0]).count("1") != 1 or got % entry.arguments[0] == 0
    live = sorted((pointer, pointer + usable_size(machine, pointer)) for pointer in memory.values())
    assert live
    # The last word of a chunk is the first of the next one's header, which is none of its user's.
    assert all(end <= start for (_, end), (start, _) in zip(live, live[1:]))
