"""What holds of every growth, whatever the state and the request."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.ptmalloc.params import Params
from gdbheap.simulate.calls import Call, Outcome, Steps, advance
from gdbheap.simulate.paths import PATHS
from gdbheap.simulate.state import GrowthState, Release
from gdbheap.simulate.sysmalloc import sysmalloc
from gdbheap.simulate.trim import systrim

PAGE = 0x1000
BASE = 0x555555559000
MAIN = 0x7FFFF7FA8C60
HEAP = 0x7FFFF0000000
HEAP_MAX = 0x4000000

requests = st.integers(1, 0x2000000).map(Abi(8).request_to_chunk)
versions = st.sampled_from([(2, 23), (2, 31), (2, 34), (2, 35), (2, 37), (2, 38), (2, 42), (2, 43)])
pads = st.sampled_from([0, 0x1000, 0x20000, 0x12345])


def an_arena(number: int, top: int, top_size: int, system_mem: int, flags: int) -> Arena:
    return Arena(
        address=HEAP + 0x30 if number else MAIN,
        number=number,
        mutex=1,
        flags=flags,
        top=top,
        top_size=top_size,
        last_remainder=0,
        fastbins=(),
        bins=(),
        bins_address=0,
        binmap=(),
        next=0,
        next_free=0,
        attached_threads=1,
        system_mem=system_mem,
        max_system_mem=system_mem,
    )


def params(version: tuple[int, int], top_pad: int, threshold: int = 1 << 40, thp: int = 0) -> Params:
    values = {
        "trim_threshold": 0x20000,
        "top_pad": top_pad,
        "mmap_threshold": threshold,
        "n_mmaps": 0,
        "n_mmaps_max": 65536,
        "no_dyn_threshold": 0,
        "mmapped_mem": 0,
        "sbrk_base": BASE,
    }
    if version >= (2, 35):
        values |= {"thp_pagesize": thp, "hp_pagesize": 0, "hp_flags": 0}
    if version >= (2, 43):
        values["thp_mode"] = 1 if thp else 3
    return Params(0, values)


@st.composite
def main_states(draw: st.DrawFn, *, foreign: bool = False) -> tuple[GrowthState, int]:
    """Return main_arena in one piece, with a top chunk that is too small for the request that comes with it."""
    version = draw(versions)
    nb = draw(requests)
    in_use = draw(st.integers(0, 0x10000)) * 0x10
    fits = draw(st.integers(2, (nb + 0x10) // 0x10)) * 0x10
    end = BASE + -(-(in_use + fits) // PAGE) * PAGE
    state = GrowthState(
        abi=Abi(8),
        params=params(version, draw(pads), thp=draw(st.sampled_from([0, 0x200000]))),
        arena=an_arena(0, end - fits, fits, end - BASE, 0),
        curbrk=end + (draw(st.integers(1, 0x8000)) if foreign else 0),
        aligned_heap_area=0,
        release=Release(version),
    )
    return state, nb


def obliging(steps: Steps) -> tuple[list[Call], Outcome]:
    """Answer every call as a kernel does that has memory: brk as asked, mappings at places of their own."""
    calls: list[Call] = []
    place = 0x7F0000000000
    step = advance(steps)
    while isinstance(step, Call):
        assert step.path in PATHS
        assert sum(term.value for term in step.terms) == step.total
        calls.append(step)
        answer = 0
        if step.syscall == "brk":
            answer = step.args[0] or BASE
        elif step.syscall == "mmap":
            place -= -(-step.args[1] // PAGE) * PAGE
            answer = place
        step = advance(steps, answer)
    return calls, step


@given(main_states())
def test_the_break_ends_on_a_page_and_top_suffices(drawn: tuple[GrowthState, int]) -> None:
    state, nb = drawn
    calls, outcome = obliging(sysmalloc(state, nb))
    arena = state.arena
    assert arena is not None
    assert [call.path for call in calls if call.syscall != "madvise"] == ["brk-extend"]
    assert calls[0].args[0] % PAGE == 0
    assert calls[0].rounded >= nb + 0x20 - (arena.top_size or 0)
    assert calls[0].rounded == calls[0].args[0] - (state.curbrk or 0)
    assert outcome.chunk == arena.top
    assert outcome.top == arena.top + nb
    assert outcome.top_size is not None
    assert outcome.top_size >= 0x20 + state.params.get("top_pad")
    # nothing is lost: the arena ends where the break does, and system_mem counts all of it
    assert outcome.state.curbrk == outcome.top + outcome.top_size == BASE + arena.system_mem + outcome.system_mem_delta


@given(main_states(foreign=True))
def test_after_a_foreign_sbrk_the_end_is_on_a_page(drawn: tuple[GrowthState, int]) -> None:
    state, nb = drawn
    calls, outcome = obliging(sysmalloc(state, nb))
    assert calls[0].path == "brk-moved"
    after = outcome.state
    assert after.curbrk is not None
    assert after.curbrk % PAGE == 0
    assert outcome.top is not None
    assert outcome.top_size is not None
    assert outcome.top + outcome.top_size == after.curbrk == BASE + (after.arena.system_mem if after.arena else 0)
    trimmed = any(call.path == "trim" for call in calls)
    assert outcome.chunk is not None or trimmed
    if outcome.chunk is not None:
        assert outcome.chunk % 16 == 0
        assert outcome.top == outcome.chunk + nb
        assert outcome.top_size >= 0x20


@given(main_states(), st.integers(0, 2))
def test_where_the_break_is_refused_a_mapping_takes_its_place(drawn: tuple[GrowthState, int], refusals: int) -> None:
    state, nb = drawn
    steps = sysmalloc(state, nb)
    call = advance(steps)
    assert isinstance(call, Call)
    answers = [state.curbrk or 0] + [-12] * refusals
    step: Call | Outcome = call
    for answer in answers:
        assert isinstance(step, Call)
        step = advance(steps, answer)
        if isinstance(step, Outcome):
            break
    if isinstance(step, Outcome):
        assert refusals
        assert step.error is not None
        assert step.system_mem_delta == 0
        return
    assert step.path == "mmap-fallback"
    assert step.args[1] >= nb + 0x20
    outcome = advance(steps, 0x7F0000000000)
    if isinstance(outcome, Call):
        assert outcome.path == "thp-advice"
        outcome = advance(steps, 0)
    assert isinstance(outcome, Outcome)
    assert outcome.chunk == 0x7F0000000000
    assert outcome.system_mem_delta == step.args[1]
    assert outcome.state.arena is not None
    assert not outcome.state.arena.contiguous


@given(versions, requests.filter(lambda nb: nb >= 0x20000), pads)
def test_a_mapped_chunk_holds_the_request(version: tuple[int, int], nb: int, top_pad: int) -> None:
    for abi in (Abi(8), Abi(4), Abi(4, alignment=8)):
        state = GrowthState(
            abi=abi,
            params=params(version, top_pad, 0x20000),
            arena=an_arena(0, BASE, 0, 0, 0),
            curbrk=BASE,
            release=Release(version),
        )
        calls, outcome = obliging(sysmalloc(state, nb))
        (call,) = calls
        assert call.args[1] % PAGE == 0
        assert outcome.chunk is not None
        assert (outcome.chunk + abi.header) % abi.alignment == 0
        end = 0x7F0000000000
        assert end - (outcome.chunk + abi.header) >= nb - abi.word_size
        assert call.args[1] < nb + 0x20 + PAGE


@given(versions.filter(lambda version: version != (2, 43)), requests, pads, st.integers(1, 0x3F00), st.data())
def test_a_heap_grows_by_no_more_than_it_must(
    version: tuple[int, int], nb: int, top_pad: int, pages: int, data: st.DataObject
) -> None:
    size = pages * PAGE
    top_size = data.draw(st.integers(2, max(2, min(nb + 0x10, size - 0x1000) // 0x10))) * 0x10
    state = GrowthState(
        abi=Abi(8),
        params=params(version, top_pad),
        arena=an_arena(1, HEAP + size - top_size, top_size, size, 2),
        heap=HeapInfo(HEAP, HEAP + 0x30, 0, size, size, PAGE, HEAP_MAX),
        aligned_heap_area=0,
        release=Release(version),
        older_heaps=(),
        heap_info_size=0x30,
        may_shrink_heap=False,
    )
    calls, outcome = obliging(sysmalloc(state, nb))
    needed = -(-(nb + 0x20 - top_size) // PAGE) * PAGE
    if size + needed <= HEAP_MAX:
        (call,) = calls
        assert call.path == "heap-grow"
        assert call.args == (HEAP + size, needed, 3)
        assert outcome.top_size is not None
        assert 0x20 <= outcome.top_size < 0x20 + PAGE
        return
    paths = [call.path for call in calls]
    assert paths[0] == "heap-reserve"
    commit = next(call for call in calls if call.path == "heap-commit")
    assert commit.args[0] % HEAP_MAX == 0
    assert nb + 0x50 <= commit.args[1] <= HEAP_MAX
    removed = sum(call.args[1] for call in calls if call.path == "heap-align")
    assert removed == 0x4000000
    if "heap-unmap" in paths:
        assert outcome.error is not None
    else:
        assert outcome.chunk == commit.args[0] + 0x30


@given(main_states(), st.integers(0, 0x100000))
def test_trimming_leaves_the_pad(drawn: tuple[GrowthState, int], pad: int) -> None:
    state, _ = drawn
    state = replace(state, params=params((2, 36), 0x20000), release=Release((2, 36)))
    arena = state.arena
    assert arena is not None
    top_size = arena.top_size or 0
    calls, outcome = obliging(systrim(state, pad))
    assert outcome.top_size is not None
    if top_size == 0x20 or top_size > pad + 0x20 + PAGE:
        (call,) = calls
        assert call.args[0] % PAGE == 0
        assert pad + 0x20 < outcome.top_size <= pad + 0x20 + PAGE or top_size == 0x20
    assert outcome.top == arena.top
    assert outcome.top_size - top_size == outcome.system_mem_delta
