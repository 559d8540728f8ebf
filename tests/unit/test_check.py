"""The heap verified, on heaps made by hand: sound ones of each release, each kind of damage, and any damage at all."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import NON_MAIN_ARENA, PREV_INUSE
from gdbheap.ptmalloc.account import FreeFacts, plan_arena
from gdbheap.ptmalloc.check import Checked, CheckFacts, check_heap
from gdbheap.ptmalloc.check_lists import ListView
from gdbheap.ptmalloc.checks import CHECKS
from gdbheap.ptmalloc.culprit import NOTHING_AROUND, chunks_around, culprit
from gdbheap.ptmalloc.finding import KINDS, MOST, Catch, Finding
from gdbheap.ptmalloc.holder import find_holders
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.ptmalloc.totals import totals
from gdbheap.ptmalloc.used_chunks import used_chunks
from gdbheap.ptmalloc.walk import walk_arena
from gdbheap.simulate.caught import Catcher, CatchFacts
from gdbheap.simulate.glibc import Glibc
from gdbheap.simulate.linux import WillingKernel
from gdbheap.simulate.machine import Globals, Machine, Thread
from gdbheap.simulate.state import Release
from gdbheap.simulate.trials import CRASH, Trials
from tests.support.check_table import DOCUMENT, coverage, renewed
from tests.support.corruptions import IMAGES
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image, Row, main_heap
from tests.unit.test_ptmalloc_properties import Counting, pieces

EVERY = sorted(LAYOUTS)
RELEASES = {"2.31": (2, 31), "2.36": (2, 36), "2.43": (2, 43)}
KEY = 0x11223344
#: Chunks of each kind, between used ones. Sizes are right for 32 and 64 bits.
MIXED = (
    (0x20, "used"), (0x90, "unsorted"), (0x20, "used"), (0x30, "tcache"), (0x30, "tcache"), (0x20, "used"),
    (0x120, "small"), (0x20, "used"), (0x120, "small"), (0x20, "used"), (0x410, "large"), (0x20, "used"),
    (0x430, "large"), (0x20, "used"), (0x430, "large"), (0x20, "used"), (0x40, "fastbin"), (0x40, "fastbin"),
    (0x40, "used"), (0x600, "unsorted"), (0x40, "used"),
)  # fmt: skip


class Case:
    """An image of one heap with what a check needs to know of it."""

    def __init__(self, version: str = "2.36", bits: int = 64, made: tuple[tuple[int, str], ...] = MIXED) -> None:
        self.image = Image(version, bits)
        if not self.image.layout.has_fastbins:
            made = tuple((size, "used" if state == "fastbin" else state) for size, state in made)
        self.rows = main_heap(self.image, made, tcache_key=KEY)
        self.version = RELEASES[version]
        count, small = 16 if version == "2.43" else 7, self.image.abi.min_size + 63 * self.image.abi.alignment
        self.image.par(tcache_count=count, trim_threshold=0x20000, mmap_threshold=0x20000)
        if version == "2.43":
            self.image.par(tcache_small_bins=64, tcache_max_bytes=small + 1)
        else:
            self.image.par(tcache_bins=64, tcache_max_bytes=small - self.image.abi.word_size)
        self.layout: Layout = self.image.layout
        self.tcache = self.rows[0].address + self.image.abi.header

    def of(self, state: str) -> list[Row]:
        """Return the chunks in a state, in the order of memory."""
        return [row for row in self.rows[1:] if row.state == state]

    def word(self, row: Row, place: int) -> int:
        """Return the address of a word of a chunk: 0 is prev_size, 1 the size word, 2 fd, 3 bk."""
        return row.address + place * self.image.abi.word_size

    def read(self, address: int) -> int:
        """Return a word."""
        return self.image.abi.read_word(self.image.memory, address)

    @property
    def end(self) -> int:
        """The address behind the top chunk."""
        return self.rows[-1].address + self.rows[-1].size

    def state(self, memory: Memory) -> HeapState:
        """Return malloc's own variables."""
        return read_heap_state(memory, self.image.abi, self.layout, Image.MAIN_ARENA, Image.MP)

    def check(self, memory: Memory | None = None, **facts: object) -> Checked:
        """Return what is wrong."""
        memory = memory or self.image.memory
        known = CheckFacts(self.image.safe_linking, {self.tcache: "the tcache of thread 1"}, KEY, curbrk=self.end)
        return check_heap(memory, self.state(memory), replace(known, **facts))  # type: ignore[arg-type]

    def catches(self, checked: Checked, version: tuple[int, int] | None = None) -> list[tuple[Catch, ...]]:
        """Return what catches each finding."""
        memory, abi = self.image.memory, self.image.abi
        state = self.state(memory)
        release = Release(version or self.version)
        glibc = Glibc(
            abi, self.layout, release, Image.MP, Image.MAIN_ARENA, state.params, self.image.safe_linking, KEY,
            scans_bins=release.version == (2, 38),
        )  # fmt: skip
        variables = Globals(self.end, 16 * abi.word_size, True, numbers={Image.MAIN_ARENA: 0})
        machine = Machine(
            glibc, memory, Thread(1, self.tcache, Image.MAIN_ARENA), variables, WillingKernel(abi.word_size)
        )
        tcache = read_tcache(memory, abi, self.layout, self.tcache, self.image.safe_linking)
        free = FreeFacts((tcache,), self.image.safe_linking)
        facts = CatchFacts(Trials(machine), used=used_chunks(memory, state, free), first_thread=1)
        catcher = Catcher(memory, state, checked.lists, facts, checked.findings)
        around = chunks_around(memory, state, free, checked.findings)
        return [catcher.catches(finding, around.get(finding.address, NOTHING_AROUND)) for finding in checked.findings]

    def only(self, checked: Checked, kind: str, address: int) -> Finding:
        """Check that the first finding is of a kind and at a place, and that nothing else was found; return it."""
        assert [(item.kind, hex(item.address)) for item in checked.findings] == [(kind, hex(address))]
        return checked.findings[0]


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_sound(version: str, bits: int) -> None:
    """Each list with something on it, in each layout: nothing is wrong, and all of it was looked at."""
    case = Case(version, bits)
    checked = case.check()
    assert checked.findings == ()
    assert checked.chunks == len(case.rows) - 1, "all but top"
    free = ("unsorted", "small", "large", "tcache", "fastbin")
    assert checked.listed == sum(row.state in free for row in case.rows)
    assert checked.notes == ()


@pytest.mark.parametrize("where", EVERY)
@given(data=st.data())
@settings(max_examples=40)
def test_random_sound_heaps(where: tuple[str, int], data: st.DataObject) -> None:
    """Whatever malloc can have left, nothing is wrong with it."""
    version, bits = where
    made = data.draw(pieces(version, bits))
    limits = {"tcache": 7, "fastbin": 10**6}
    left: dict[tuple[int, str], int] = {}
    for item in made:
        left[item] = left.get(item, 0) + 1
    kept = tuple(item for item in made if left[item] <= limits.get(item[1], 10**6))
    for place in range(len(kept) - 1):  # taking some out may have brought two free ones together
        if kept[place][1] in ("unsorted", "small", "large") and kept[place + 1][1] in ("unsorted", "small", "large"):
            return
    checked = Case(version, bits, kept).check()
    assert checked.findings == (), checked.findings[0].text


@pytest.mark.parametrize(("version", "bits"), EVERY)
@pytest.mark.parametrize("state", ["used", "unsorted", "small", "large", "tcache", "fastbin", "top"])
@pytest.mark.parametrize("value", [0, 1, 9, 0x7FFFFFF1, 0x41414141])
def test_a_size_word_that_was_overwritten(version: str, bits: int, state: str, value: int) -> None:
    """It is the first finding, whatever the chunk is."""
    case = Case(version, bits)
    rows = case.of(state)
    if not rows:
        pytest.skip("this release has no fastbins")
    place = case.word(rows[0], 1)
    case.image.word(place, value)
    checked = case.check()
    assert checked.findings[0].address == place
    assert checked.findings[0].kind in ("chunk-size", "list-size", "top-size")
    assert f"{value:#x}" in checked.findings[0].text or value == 0


@pytest.mark.parametrize(("version", "bits"), EVERY)
@pytest.mark.parametrize("state", ["unsorted", "small", "large"])
@pytest.mark.parametrize("place", [2, 3])
def test_a_link_that_was_overwritten(version: str, bits: int, state: str, place: int) -> None:
    """It is found and what it should be is known, as the list can be followed from its other end."""
    case = Case(version, bits)
    address = case.word(case.of(state)[0], place)
    expected = case.read(address)
    case.image.word(address, 0x41414140)
    finding = case.only(case.check(), "list-pointer" if place == 2 else "list-link", address)
    assert finding.expected == f"{expected:#x}"
    assert finding.found == "0x41414140"


@pytest.mark.parametrize("state", ["unsorted", "small", "large"])
def test_both_links_that_were_overwritten(state: str) -> None:
    """Both neighbours still lead to the chunk: so it is on the list, and its own words are what is wrong."""
    case = Case()
    row = case.of(state)[0]
    for place in (2, 3):
        case.image.word(case.word(row, place), 0)
    checked = case.check()
    assert [finding.address for finding in checked.findings] == [case.word(row, 2), case.word(row, 3)]


def test_prev_size_and_flags() -> None:
    """The copy of a size, and the flag that says whether it counts."""
    case = Case()
    row = case.of("unsorted")[0]
    behind = row.address + row.size
    case.image.word(behind, 0x80)
    case.only(case.check(), "prev-size", behind)
    case.image.word(behind, row.size)
    case.image.word(behind + 8, 0x21)
    case.only(case.check(), "prev-inuse-set", behind + 8)


def test_one_byte_too_many() -> None:
    """A zero behind a used chunk clears the flag of the next."""
    case = Case(made=((0x100, "used"), (0x200, "used"), (0x20, "used")))
    place = case.word(case.rows[2], 1)
    case.image.word(place, 0x200)
    checked = case.check()
    case.only(checked, "prev-inuse-clear", place)
    (catches,) = case.catches(checked)
    assert "double free or corruption (!prev)" in [catch.message for catch in catches]


def test_a_flag_that_cannot_be() -> None:
    """NON_MAIN_ARENA in main_arena."""
    case = Case()
    place = case.word(case.of("used")[0], 1)
    case.image.word(place, 0x20 | PREV_INUSE | NON_MAIN_ARENA)
    case.only(case.check(), "chunk-flags", place)


@pytest.mark.parametrize(("size", "state"), [(0x90, "unsorted"), (0x500, "large")])
def test_a_free_chunk_of_a_threads_arena(size: int, state: str) -> None:
    """In a bin NON_MAIN_ARENA is clear in that arena too, as malloc asserts of large ones."""
    case = Case()
    image, start = case.image, 0x4000_0000
    assert image.layout.heap_info is not None
    arena = start + image.layout.heap_info.size
    image.map(start, 0x21000)
    first = image.abi.first_chunk(arena + image.layout.state.size)
    made = [(0x40, "used"), (size, state), (0x40, "used")]
    left = start + 0x21000 - first - sum(each for each, _ in made)
    rows = image.chunks(first, [*made, (left, "top")], main=False)
    image.arena(arena, rows, next=Image.MAIN_ARENA, system_mem=0x21000, max_system_mem=0x21000, flags=2)
    image.heap(start, arena, 0, 0x21000)
    image.field(image.layout.state, Image.MAIN_ARENA, "next", arena)
    assert case.check().findings == ()
    place = case.word(rows[1], 1)
    image.word(place, size | PREV_INUSE | NON_MAIN_ARENA)
    case.only(case.check(), "chunk-flags", place)


def test_a_size_that_runs_over_a_free_chunk() -> None:
    """The walk goes on over it; the free chunk is known to be one, so the size is what is wrong, and nothing else."""
    case = Case(made=((0x20, "used"), (0x40, "used"), (0x40, "used"), (0x90, "unsorted"), (0x20, "used")))
    place = case.word(case.rows[1], 1)
    case.image.word(place, 0x20 + 0x40 + 0x40 + 0x90 | PREV_INUSE)
    finding = case.only(case.check(), "chunk-size", place)
    assert f"{case.of('unsorted')[0].address:#x}" in finding.text


def test_what_is_behind_a_broken_size_is_checked() -> None:
    """The walk is taken up again at the next chunk that is known."""
    case = Case()
    case.image.word(case.word(case.rows[1], 1), 0)
    row = case.of("unsorted")[-1]
    case.image.word(row.address + row.size, 0x10)
    checked = case.check()
    assert [finding.kind for finding in checked.findings] == ["chunk-size", "prev-size"]


def test_every_walk_goes_on_behind_a_broken_size() -> None:
    """The chunks behind are shown, the hole is a gap that says so, and the sum is not taken for whole."""
    case = Case()
    broken, known = case.rows[1], case.of("unsorted")[0]
    case.image.word(case.word(broken, 1), 0)
    memory, abi = case.image.memory, case.image.abi
    state = case.state(memory)
    arena = state.ring.arenas[0]
    plan, free = plan_arena(memory, state, arena, FreeFacts((), True))
    blocks = list(walk_arena(memory, abi, plan, free))
    met = [address for block in blocks for address in block.columns.addresses]
    assert met == [row.address for row in case.rows if row is not broken]
    (gap,) = [block.gap for block in blocks if block.gap is not None]
    assert (gap.start, gap.end) == (broken.address, known.address)
    assert "which is on a free list" in gap.why
    assert [block.columns.region.resumed for block in blocks if known.address in block.columns.addresses] == [True]
    summed = totals(memory, abi, plan, free)
    assert not summed.complete
    assert summed.unaccounted == broken.size
    holder = find_holders(memory, abi, plan, free, [known.address + 20]).holders[known.address + 20]
    assert holder.chunk.address == known.address
    assert holder.resumed == gap.why


def test_a_chunk_on_two_lists() -> None:
    """In the tcache and on a list of the arena."""
    case = Case(made=((0x40, "tcache"), (0x20, "used"), (0x40, "unsorted"), (0x20, "used")))
    cached, unsorted = case.of("tcache")[0], case.of("unsorted")[0]
    place = cached.address + 16
    case.image.word(place, (unsorted.address + 16) ^ (place >> 12))
    case.image.integer(case.tcache + 2 * 2, 2, 2)
    checked = case.check()
    assert ("listed-twice", unsorted.address) in [(item.kind, item.chunk) for item in checked.findings]


def test_an_address_that_is_no_chunk() -> None:
    """A tcache that was made to hold an address inside a chunk: aligned, so that glibc would hand it out."""
    case = Case(made=((0x40, "tcache"), (0x200, "used"), (0x20, "used")))
    cached, used = case.of("tcache")[0], case.of("used")[0]
    inside = used.address + 0x40
    case.image.word(inside + 8, 0x41)
    case.image.word(inside + 24, 0)
    place = cached.address + 16
    case.image.word(inside + 16, (inside + 16) >> 12)
    case.image.word(place, (inside + 16) ^ (place >> 12))
    case.image.integer(case.tcache + 2 * 2, 2, 2)
    kinds = {finding.kind for finding in case.check().findings}
    assert kinds == {"tcache-key", "listed-nowhere"}


def test_counts_keys_and_loops_of_the_tcache() -> None:
    """What malloc keeps of a tcache besides its links."""
    case = Case()
    place = case.tcache + 2 * 1
    case.image.integer(place, 2, 5)
    assert case.only(case.check(), "tcache-count", place).expected == "2"
    case.image.integer(place, 2, 2)
    front = case.of("tcache")[-1]
    case.image.word(front.address + 24, 0)
    case.only(case.check(), "tcache-key", front.address + 24)
    case.image.word(front.address + 24, KEY)
    case.image.word(front.address + 16, (front.address + 16) ^ (front.address + 16 >> 12))
    assert case.check().findings[0].kind == "list-loop"


@pytest.mark.parametrize(("field", "value", "kind"), [
    ("top", 0x41414141, "top-pointer"), ("top", MAIN_BASE + 0x18, "top-pointer"), ("system_mem", 0x1000, "system-mem"),
    ("system_mem", 0x7000000, "system-mem"), ("flags", 0x41, "arena-field"), ("next_free", 0x1234560, "arena-field"),
    ("last_remainder", 0x41414141, "arena-field"), ("next", 0x41414141, "arena-ring"), ("mutex", 77, "arena-field"),
])  # fmt: skip
def test_the_arenas_own_fields(field: str, value: int, kind: str) -> None:
    case = Case()
    case.image.field(case.layout.state, Image.MAIN_ARENA, field, value)
    checked = case.check()
    place = Image.MAIN_ARENA + case.layout.state.fields[field].offset
    assert (kind, place) in [(finding.kind, finding.address) for finding in checked.findings]


def test_the_map_of_bins() -> None:
    """A bin with chunks that is marked as empty: malloc would never look into it."""
    case = Case()
    case.image.field(case.layout.state, Image.MAIN_ARENA, "binmap", 0, 2)
    assert case.check().findings[0].kind == "binmap"


def test_what_an_operation_may_be_doing_is_not_counted() -> None:
    """The same damage, while a thread is inside malloc: it is shown, and not certain."""
    case = Case()
    case.image.word(case.word(case.of("unsorted")[0], 3), 0)
    why = "Thread 3 is inside malloc; lists of main_arena may be between two steps."
    checked = case.check(busy={Image.MAIN_ARENA: why})
    assert [finding.doubtful for finding in checked.findings] == [why]
    assert checked.certain == ()
    assert checked.notes == (why,)


def test_while_threads_run_nothing_is_certain() -> None:
    """Two lists are read at two moments: a chunk that went from one tcache to another is seen on both."""
    case = Case(made=((0x40, "tcache"), (0x20, "used"), (0x40, "unsorted"), (0x20, "used")))
    cached, unsorted = case.of("tcache")[0], case.of("unsorted")[0]
    place = cached.address + 16
    case.image.word(place, (unsorted.address + 16) ^ (place >> 12))
    case.image.integer(case.tcache + 2 * 2, 2, 2)
    why = "Thread 2 is running."
    checked = case.check(running=why)
    assert "listed-twice" in [item.kind for item in checked.findings]
    assert {item.doubtful for item in checked.findings} == {why}
    assert checked.certain == ()


def test_so_many_findings_are_kept() -> None:
    """A heap that is wrecked everywhere."""
    case = Case(made=((0x20, "tcache"), (0x20, "used")) * 600)
    for row in case.of("tcache"):
        case.image.word(row.address + 24, 0)
    checked = case.check()
    assert len(checked.findings) == MOST
    assert checked.more >= 600 - MOST


def test_the_suspect_of_an_overrun_is_the_chunk_before() -> None:
    case = Case()
    row = case.of("unsorted")[0]
    before = case.rows[1]
    for place in range(2):
        case.image.word(case.word(row, place), 0x4141414141414141)
    checked = case.check()
    state = case.state(case.image.memory)
    around = chunks_around(case.image.memory, state, FreeFacts((), True), checked.findings)
    first = checked.findings[0]
    found = culprit(case.image.memory, state, first, around[first.address], frozenset({first.address}))
    assert found is not None
    assert (found.how, found.chunk) == ("overrun", before.address)
    assert b"A" * 16 in found.content


# --- messages that this machine's glibc may not have ------------------------------------------------------------------


def messages(case: Case, version: tuple[int, int] | None = None) -> list[str]:
    """Return the messages that are foretold of a damaged heap."""
    return [catch.message for catches in case.catches(case.check(), version) for catch in catches]


def test_a_small_bin_whose_front_does_not_lead_back() -> None:
    message = "free(): chunks in smallbin corrupted"
    case = Case("2.43", made=(*MIXED, (0x120, "used"), (0x20, "used")))
    front = case.of("small")[-1]  # the newest is in front
    case.image.word(case.word(front, 3), MAIN_BASE)
    assert message in messages(case, (2, 43))
    assert message in messages(case, (2, 41))
    assert message not in messages(case, (2, 40))


def test_a_fastbin_chunk_that_the_tcache_takes_over() -> None:
    """glibc 2.42 has both fastbins and a tcache that counts free places."""
    message = "malloc(): chunk size mismatch in fastbin"
    case = Case()
    behind = case.of("fastbin")[0]
    case.image.word(case.word(behind, 1), 0x51)
    assert message not in messages(case)
    slots = LAYOUTS["2.43", 64].tcache
    par = case.layout.par
    bins = {"tcache_small_bins" if name == "tcache_bins" else name: field for name, field in par.fields.items()}
    case.layout = replace(case.layout, tcache=slots, par=replace(par, fields=bins))
    assert slots is not None
    for place in range(0, case.rows[0].size - 16, 8):
        case.image.word(case.tcache + place, 0)
    for index in range(76):
        case.image.integer(case.tcache + 2 * index, 2, 7)  # as many places are left
    checked = case.check(tcaches={})
    assert message in [catch.message for catches in case.catches(checked, (2, 42)) for catch in catches]


def test_a_bin_with_a_chunk_that_is_not_aligned() -> None:
    message = "_int_memalign(): unaligned chunk detected"
    case = Case()
    case.image.word(case.word(case.of("small")[0], 2), MAIN_BASE + 0x28)
    assert message in messages(case, (2, 38))
    assert message not in messages(case, (2, 36))


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_the_messages_of_each_release(version: str, bits: int) -> None:
    """Damage that every release notices is foretold in its own words."""
    case = Case(version, bits)
    row = case.of("unsorted")[-1]
    case.image.word(row.address + row.size, 0x10)
    assert "malloc(): mismatching next->prev_size (unsorted)" in messages(case)
    case = Case(version, bits)
    case.image.word(case.word(case.rows[-1], 1), 0x7FFFFFF1)
    assert "malloc(): corrupted top size" in messages(case)
    case = Case(version, bits)
    cached = case.of("tcache")[-1]
    place = case.word(cached, 2)
    case.image.word(place, (cached.address + 4) ^ (place >> 12) if case.image.safe_linking else cached.address + 4)
    unaligned = "malloc(): unaligned tcache chunk detected"
    assert (unaligned in messages(case)) == (version != "2.31")


def test_every_message_is_covered() -> None:
    """The table of docs/checks.md says how, and is as the code and the tests are."""
    assert all(coverage(message) for message in CHECKS), [m for m in CHECKS if not coverage(m)]
    assert IMAGES.keys() <= CHECKS.keys()
    assert all(name in globals() for name in IMAGES.values())
    text = DOCUMENT.read_text(encoding="utf-8")
    assert renewed(text) == text, "PYTHONPATH=src .venv/bin/python -m tests.support.check_table renews it"


# --- any damage at all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", EVERY)
@given(data=st.data())
@settings(max_examples=60)
def test_any_damage(where: tuple[str, int], data: st.DataObject) -> None:
    """Words anywhere in the heap and in malloc's variables: no error, findings with all that they promise, bounded."""
    version, bits = where
    case = Case(version, bits)
    abi, layout = case.image.abi, case.layout
    places = st.one_of(
        st.integers(0, (case.end - MAIN_BASE) // abi.word_size - 1).map(lambda n: MAIN_BASE + n * abi.word_size),
        st.integers(0, layout.state.size // abi.word_size - 1).map(lambda n: Image.MAIN_ARENA + n * abi.word_size),
        st.integers(0, layout.par.size // abi.word_size - 1).map(lambda n: Image.MP + n * abi.word_size),
    )
    values = st.one_of(
        st.integers(0, 0x700), st.integers(MAIN_BASE - 64, case.end + 64), st.integers(0, (1 << bits) - 1),
        st.integers(Image.MAIN_ARENA, Image.MAIN_ARENA + layout.state.size), st.sampled_from((0, (1 << bits) - 1)),
    )  # fmt: skip
    for place, value in data.draw(st.lists(st.tuples(places, values), min_size=1, max_size=6)):
        case.image.word(place, value)
    memory = Counting(case.image.memory)
    checked = case.check(memory)
    assert memory.size < 64 << 20
    assert memory.reads < 300_000
    assert len(checked.findings) <= MOST
    for finding in checked.findings:
        assert finding.kind in KINDS
        assert finding.text.endswith(".")
    for catches in case.catches(checked):
        for catch in catches:
            assert catch.message in {*CHECKS, CRASH} or catch.message.startswith("assertion in ")
    assert all(isinstance(view, ListView) for view in checked.lists)


def test_more_bins_than_a_tcache_has() -> None:
    """mp_ is damaged: what malloc does with a chunk of a bin that is not there cannot be told."""
    case = Case()
    case.image.par(tcache_bins=0x20000180)
    used = next(row for row in case.rows if row.state == "used")
    case.image.word(used.address + 8, 0x5D1)
    assert all(catch.message in {*CHECKS, CRASH} for catches in case.catches(case.check()) for catch in catches)


# --- catches: calls that are tried ------------------------------------------------------------------------------------


def test_a_count_that_is_too_high_is_a_crash_after_the_chunks() -> None:
    """malloc believes the counter, and takes the front of an empty bin: no single next call notices anything."""
    case = Case(made=((0x30, "tcache"), (0x30, "tcache"), (0x20, "used")))
    place = case.tcache + 2 * 1
    case.image.integer(place, 2, 5)
    (catches,) = case.catches(case.check())
    assert [(catch.message, catch.call, catch.low, catch.now) for catch in catches] == [
        ("SIGSEGV", "malloc", 0x30, False)
    ]
    assert catches[0].when.startswith("The malloc after the next 2 of 25 to 40 bytes")


@pytest.mark.parametrize("good", range(3))
def test_a_link_that_is_reached_after_some_calls(good: int) -> None:
    """The number of mallocs before the one that prints is that of the chunks before the link."""
    case = Case(made=((0x30, "tcache"),) * 4 + ((0x20, "used"),))
    holder = case.of("tcache")[3 - good]  # the last that was freed is the front
    place = case.word(holder, 2)
    case.image.word(place, (holder.address + 0x18) ^ (place >> 12))
    (catches, *_) = case.catches(case.check())
    found = [catch for catch in catches if catch.message == "malloc(): unaligned tcache chunk detected"]
    assert found
    assert found[0].when.startswith("The malloc after the next " + f"{good + 1}")
    assert not found[0].now


def test_a_catch_is_told_of_the_word_that_it_looks_at() -> None:
    """Of two things that are wrong, each has the check that fails because of it."""
    case = Case(made=((0x20, "used"), (0x90, "unsorted"), (0x20, "used"), (0x410, "large"), (0x20, "used")))
    unsorted, large = case.of("unsorted")[0], case.of("large")[0]
    case.image.word(unsorted.address + unsorted.size, 0x10)
    case.image.word(case.word(large, 3), MAIN_BASE)
    checked = case.check()
    by_address = dict(zip((finding.address for finding in checked.findings), case.catches(checked)))
    first = {catch.message for catch in by_address[unsorted.address + unsorted.size]}
    second = {catch.message for catch in by_address[case.word(large, 3)]}
    assert "malloc(): mismatching next->prev_size (unsorted)" in first
    assert "corrupted double-linked list" in second
    assert not first & second


def test_all_findings_are_explained_in_bounded_time() -> None:
    """Hundreds of them, on lists of thousands of chunks."""
    case = Case(made=((0x420, "large"), (0x20, "used"), (0x430, "large"), (0x20, "used")) * 500)
    for row in case.of("large"):
        case.image.word(case.word(row, 4), row.address)
    checked = case.check()
    assert len(checked.findings) == MOST
    begun = time.process_time()
    assert all(case.catches(checked))
    assert time.process_time() - begun < 10
