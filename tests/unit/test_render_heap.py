"""The heap's own state as tables and rows: the account, chunks, parameters, top chunks, arenas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.account import Account, FreeFacts, read_account
from gdbheap.ptmalloc.chunk import STATES, Chunk, chunk_of
from gdbheap.ptmalloc.params import describe
from gdbheap.ptmalloc.regions import Gap, Region
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.ptmalloc.walk import Block, Columns
from gdbheap.render.account import account_lines, account_object, chunk_count, free_bytes
from gdbheap.render.chunks import HEADER, BlockRows, ShownTotals, chunk_object, chunk_rows, totals_line
from gdbheap.render.state import arenas_lines, kind_text, largest_request, params_lines, top_lines
from gdbheap.render.style import Colour, Plain
from gdbheap.render.tables import table
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image, main_heap

PIECES = [
    (0x40, "used"), (0x200, "unsorted"), (0x40, "tcache"), (0x60, "small"), (0x40, "tcache"), (0x800, "large"),
    (0x50, "used"), (0x30, "fastbin"), (0x20, "used"),
]  # fmt: skip
FREE = 0x200 + 0x60 + 0x800 + 0x30 + 2 * 0x40
THREAD_HEAP = 0x7000_0000


def state_of(image: Image) -> HeapState:
    return read_heap_state(image.memory, image.abi, image.layout, image.MAIN_ARENA, image.MP)


def an_image(*, thread_arena: bool = False, **par: int) -> Image:
    image = Image()
    main_heap(image, PIECES)
    image.par(n_mmaps=2, n_mmaps_max=65536, max_n_mmaps=3, mmapped_mem=0x43000, **par)
    if thread_arena:
        assert image.layout.heap_info is not None
        image.map(THREAD_HEAP, 0x21000)
        address = THREAD_HEAP + image.layout.heap_info.size
        image.heap(THREAD_HEAP, address, 0, 0x21000)
        top = image.abi.first_chunk(address + image.layout.state.size)
        rows = image.chunks(top, [(THREAD_HEAP + 0x21000 - top, "top")], main=False)
        image.arena(
            address, rows, next=image.MAIN_ARENA, flags=2, mutex=1, attached_threads=5, system_mem=0x21000,
            max_system_mem=0x31000,
        )  # fmt: skip
        image.field(image.layout.state, image.MAIN_ARENA, "next", address)
    return image


def account_of(image: Image) -> Account:
    tcache = read_tcache(
        image.memory, image.abi, image.layout, image.abi.first_chunk(MAIN_BASE) + image.abi.header, image.safe_linking
    )
    return read_account(image.memory, state_of(image), FreeFacts([tcache], image.safe_linking))


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_a_tables_columns_align_as_their_headers_say() -> None:
    lines = table(("name", "size "), [("a", "0x10"), ("longer", "0x1")])
    assert cells(lines[0]) == ["name", "size"]
    assert lines[-1].endswith(" 0x1")
    assert lines[-2].startswith("a ")
    assert len({len(line) for line in lines[1:]}) == 1
    assert table(("address",), [("0x10",), ("1e5",)])[-1] == "1e5"  # no number is rewritten


def test_the_account_names_every_byte() -> None:
    account = account_of(an_image())
    ((arena, totals),) = account.arenas
    lines = list(account_lines(account, Plain()))
    row = cells(next(line for line in lines if line.startswith("main_arena")))
    top = totals.sizes["top"]
    assert free_bytes(totals) == FREE
    headers = cells(lines[0])
    assert headers[1:] == ["system_mem", "used", "tcache", "fastbins", "bins", "top", "overhead", "unknown", "chunks"]
    parts = [arena.system_mem - FREE - top, 2 * 0x40, 0x30, 0x200 + 0x60 + 0x800, top, 0]
    assert [int(cell, 16) for cell in row[1:8]] == [arena.system_mem, *parts]
    assert sum(parts) == arena.system_mem
    assert row[8] == "-"
    assert int(row[9]) == chunk_count(totals) == len(PIECES) + 2
    text = "\n".join(lines)
    used = next(line for line in lines if line.startswith("used"))
    assert "4 chunks" in used
    for state, size in (("tcache 2", 0x80), ("fastbin 1", 0x30), ("unsorted 1", 0x200), ("small 1", 0x60)):
        assert f"{state} ({size:#x})" in text
    assert "2 chunks, 0x43000" in text
    assert hex(FREE) in next(line for line in lines if line.startswith("free"))
    assert hex(arena.system_mem + 0x43000) in next(line for line in lines if line.startswith("sum"))
    assert "What the kernel has mapped is not known here." in lines
    assert any("cannot be found" in line and "malloc counts 2 of 0x43000" in line for line in lines)


def test_what_is_not_sound_is_said() -> None:
    account = account_of(an_image())
    ((arena, totals),) = account.arenas
    gaps = (
        Gap(0x7001000, 0x7002000, "From 0x7001000 on: no chunk there.", False),
        Gap(None, 0x7003000, "not read.", False),
    )
    odd = replace(totals, gaps=gaps, problems=("A chunk is wrong.",), system_mem=totals.system_mem + 0x1230)
    wrong = replace(account, arenas=((arena, odd),), problems=("The ring is broken.",))
    text = "\n".join(account_lines(wrong, Plain()))
    facts = (
        "0x7001000",
        "no chunk there.",
        "not read.",
        "A chunk is wrong.",
        "The ring is broken.",
        "0x1230",
    )
    for fact in facts:
        assert fact in text
        assert fact not in "\n".join(account_lines(account, Plain()))
    assert "\033[" in "\n".join(account_lines(wrong, Colour()))


def test_the_account_as_json_adds_up() -> None:
    account = account_of(an_image(thread_arena=True))
    found = account_object(account)
    arenas = found["arenas"]
    assert isinstance(arenas, list)
    assert [item["kind"] for item in arenas] == ["brk", "heaps"]
    for item in arenas:
        assert set(item["states"]) == set(STATES)
        assert item["used"] + item["free"] + item["top"] + item["overhead"] == item["system_mem"]
        assert (item["unaccounted"], item["complete"], item["problems"]) == (0, True, [])
        assert item["chunks"] == sum(state["chunks"] for state in item["states"].values())
    assert found["mmapped"] == {"chunks": 2, "bytes": 0x43000}
    assert found["mallinfo2"] == dict(account.mallinfo)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_parameters_say_whether_they_are_set(layout: tuple[str, int]) -> None:
    image = Image(*layout)
    image.par(
        trim_threshold=0x20000, top_pad=0x1000, mmap_threshold=0x20000, n_mmaps=3, n_mmaps_max=65536, sbrk_base=0x5000,
        no_dyn_threshold=1,
    )  # fmt: skip
    state = state_of(image)
    lines = list(params_lines(state.params, describe(state.params, state.abi, state.layout), None, Plain()))
    assert hex(Image.MP) in lines[0]
    row = {cells(line)[0]: line for line in lines[1:] if line.strip()}
    assert set(state.params.values) <= set(row)
    for fact in ("0x1000", "4 KiB", "0x20000", "M_TOP_PAD", "glibc.malloc.top_pad"):
        assert fact in row["top_pad"]
    assert "set" in cells(row["top_pad"])[2]
    assert cells(row["mmap_threshold"])[2] == "default"
    assert "0x5000" in row["sbrk_base"]
    assert "65536" in row["n_mmaps_max"]
    assert cells(row["n_mmaps"])[1:] == ["3", "counter", "-"]


def test_a_threshold_that_malloc_moved() -> None:
    image = Image()
    image.par(mmap_threshold=0x43000, trim_threshold=0x86000)
    state = state_of(image)
    lines = list(params_lines(state.params, describe(state.params, state.abi, state.layout), None, Plain()))
    row = next(line for line in lines if line.startswith("mmap_threshold "))
    assert "0x43000" in row
    assert "malloc" in cells(row)[2]
    assert "0x20000" in cells(row)[2]
    assert any(line.startswith("mmap_threshold: ") for line in lines)


def test_how_far_top_goes() -> None:
    state = state_of(an_image())
    arena = state.ring.arenas[0]
    assert arena.top_size is not None
    largest = largest_request(state, arena)
    assert largest is not None
    # the chunk for it leaves MINSIZE in top, and one byte more would not
    assert state.abi.request_to_chunk(largest) == arena.top_size - state.abi.min_size
    assert state.abi.request_to_chunk(largest + 1) > arena.top_size - state.abi.min_size
    row = cells(next(line for line in top_lines(state, Plain()) if line.startswith("main_arena")))
    assert row[1] == hex(arena.top)
    assert f"{arena.top_size:#x} " in row[2]
    assert row[3] == hex(arena.top + arena.top_size)
    assert row[4].startswith(f"{largest:,}")


@pytest.mark.parametrize(("top_size", "largest"), [(None, None), (0x20, None), (0x30, 8), (0x40, 0x18)])
def test_a_top_that_serves_little(top_size: int | None, largest: int | None) -> None:
    state = state_of(an_image())
    arena = replace(state.ring.arenas[0], top_size=top_size)
    assert largest_request(state, arena) == largest
    changed = replace(state, ring=replace(state.ring, arenas=(arena,)))
    row = cells(list(top_lines(changed, Plain()))[-1])
    assert row[1] == hex(arena.top)
    if top_size is None:
        assert not any(cell.startswith("0x") for cell in row[2:])
    assert row[4].startswith(str(largest)) == (largest is not None)


def test_no_top_before_the_first_memory() -> None:
    image = Image()
    image.arena(image.MAIN_ARENA, [])
    state = state_of(image)
    assert largest_request(state, state.ring.arenas[0]) is None
    assert cells(list(top_lines(state, Plain()))[-1])[2:] == ["-", "-", "-"]


def test_arenas_and_their_threads() -> None:
    state = state_of(an_image(thread_arena=True))
    second = state.ring.arenas[1]
    lines = list(arenas_lines(state, {second.address: [2, 7]}, (), Plain()))
    main, other = cells(lines[-2]), cells(lines[-1])
    assert main[:3] == ["main_arena", hex(Image.MAIN_ARENA), "brk"]
    assert main[5:] == ["free", "1", "-"]
    assert other[:3] == ["arena 1", hex(second.address), "1 heap"]
    assert other[3].startswith("0x21000 ")
    assert other[4:] == ["0x31000", "held", "5", "2 7"]


def test_what_is_wrong_with_arenas_is_said() -> None:
    image = an_image(thread_arena=True)
    image.heap(THREAD_HEAP, 0x1234, 0, 0x21000)
    state = state_of(image)
    problems = [state.ring.problem, *(chain.problem for chain in state.heaps.values())]
    found = [problem for problem in problems if problem]
    assert found
    text = "\n".join(arenas_lines(state, {}, (), Plain()))
    assert all(problem in text for problem in found)
    if state.ring.problem:
        assert state.ring.problem in "\n".join(top_lines(state, Plain()))


def test_what_an_arena_is_made_of() -> None:
    state = state_of(an_image(thread_arena=True))
    main, other = state.ring.arenas
    assert kind_text(state, main) == "brk"
    assert kind_text(state, replace(main, flags=2)) != "brk"
    chain = state.heaps[other.address]
    several = replace(state, heaps={other.address: replace(chain, heaps=chain.heaps * 3)})
    assert kind_text(several, other) == "3 heaps"
    assert not any(character.isdigit() for character in kind_text(replace(state, heaps={}), other))


def a_chunk(size: int = 0x20, state: str = "used", flags: int = 1, address: int = 0x555555559290) -> Chunk:
    from gdbheap.ptmalloc.abi import Abi

    return chunk_of(Abi(8), address, size | flags, size, STATES.index(state))


def rows_of(chunks: Sequence[Chunk], content: bytes = b"", width: int = 0) -> tuple[list[str], ShownTotals]:
    shown = ShownTotals()
    return list(chunk_rows(chunks, lambda chunk: content, width, shown)), shown


def test_a_row_stands_under_its_header() -> None:
    (row,), _ = rows_of([a_chunk(0x410)], b"He said:\0\x1b[m\xff", 16)
    assert row.split()[:6] == ["0x555555559290", "0x5555555592a0", "0x410", "1032", "P", "used"]
    assert row[HEADER.index("content") :] == "He said:..[m."
    for title in ("address", "pointer", "flags", "state"):
        place = HEADER.index(title)
        assert row[place] != " "
        assert place == 0 or row[place - 1] == " "
    end = HEADER.index("size") + len("size")
    assert row[:end].endswith("0x410")
    (wide,), _ = rows_of([a_chunk(0x7FFFFFF0, address=0x7FFFFFFFFFFFF000)], b"x", 1)
    assert wide.index("used") == row.index("used")


def test_flags_are_letters() -> None:
    (none, prev, all_of_them), _ = rows_of([a_chunk(flags=0), a_chunk(flags=1), a_chunk(flags=7)])
    assert [row.split()[4] for row in (none, prev)] == ["-", "P"]
    assert set(all_of_them.split()[4]) == {"P", "M", "A"}


def test_a_fencepost_holds_nothing() -> None:
    (row,), shown = rows_of([a_chunk(0x10, "fencepost")], b"secret", 8)
    assert row.split()[3:] == ["-", "P", "fencepost"]
    assert shown.sizes == {"fencepost": 0x10}


def test_content_is_cut_at_the_width_or_left_out() -> None:
    assert rows_of([a_chunk()], b"abcdefgh", 4)[0][0].endswith(" abcd")
    assert rows_of([a_chunk()], b"abcdefgh", 0)[0][0].endswith(" used")


def test_what_was_shown_is_summed() -> None:
    _, shown = rows_of([a_chunk(0x20), a_chunk(0x30), a_chunk(0x400, "unsorted"), a_chunk(0x20D70, "top")])
    assert (shown.chunks, shown.sizes) == (4, {"used": 0x50, "unsorted": 0x400, "top": 0x20D70})
    line = totals_line(shown)
    for fact in ("4 chunks", "0x211c0", "used 0x50", "unsorted 0x400", "top 0x20d70"):
        assert fact in line
    assert "0 chunks" in totals_line(ShownTotals())


def test_a_chunk_as_json() -> None:
    found = chunk_object(a_chunk(0x410, flags=5))
    assert found == {
        "address": 0x555555559290,
        "pointer": 0x5555555592A0,
        "size": 0x410,
        "flags": 5,
        "state": "used",
        "request_max": 1032,
        "behind_damage": False,
    }


@pytest.mark.parametrize("base", [MAIN_BASE, 0xFFFFFC0, 0x5555_5555_9000])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("behind", [False, True])
def test_rows_of_many_chunks_are_those_of_each(base: int, sparse: bool, behind: bool) -> None:
    """Also where addresses get longer in between, some are left out, chunks lie far apart, or cannot be read."""
    abi = Abi(8)
    sizes = [0x20, 0x30, 0x410, 0x20, 0x90, 0x10, 0x20D70] if not sparse else [0x9000, 0x20, 0x8000]
    states = bytes([0, 1, 3, 0, 2, 8, 7][: len(sizes)])
    addresses = [base + sum(sizes[:place]) for place in range(len(sizes))]
    words = [size | place % 2 for place, size in enumerate(sizes)]
    region = Region("brk", base, base, base + sum(sizes), 0, None, None, None, True, resumed=behind)
    block = Block(Columns(region, addresses, words, sizes, set(words), None, None), states)
    memory = bytes((place * 7) % 256 for place in range(sum(sizes) + 0x100))

    def read(address: int, size: int) -> bytes:
        return memory[address - base : address - base + size]

    for places in (range(len(sizes)), [0, 2], [1], range(1, len(sizes))):
        for reader in (read, lambda address, size: b""):
            chunks = [chunk_of(abi, addresses[i], words[i], sizes[i], states[i], behind) for i in places]
            many, one = ShownTotals(), ShownTotals()
            made = "\n".join(BlockRows(abi, reader, 32, many).rows([(block, places)]))
            contents = {chunk: reader(chunk.pointer, min(32, chunk.request_max)) for chunk in chunks}
            assert made.splitlines() == list(chunk_rows(chunks, contents.__getitem__, 32, one))
            assert many == one
            marked = [f"{chunk.state}!" in row for chunk, row in zip(chunks, made.splitlines())]
            assert marked == [behind and chunk.state != "top" for chunk in chunks], "top is known from its arena"
            assert many.behind_damage == any(marked)
