"""Heaps made by hand: the bytes that malloc would have left, for the layouts of three glibc releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.abi import NON_MAIN_ARENA, PREV_INUSE, Abi, round_up
from gdbheap.ptmalloc.bins import bin_index, fastbin_index
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.tcache import tcache_index
from gdbheap.symbols import Field, Struct

MERGED = ("unsorted", "small", "large")
_INTS = (
    "mutex", "flags", "have_fastchunks", "thp_mode", "hp_flags", "n_mmaps", "n_mmaps_max", "max_n_mmaps",
    "no_dyn_threshold",
)  # fmt: skip

_OLD_STATE = (
    "mutex flags have_fastchunks fastbinsY top last_remainder bins binmap next next_free attached_threads system_mem "
    "max_system_mem"
)
_NEW_STATE = _OLD_STATE.replace("have_fastchunks fastbinsY ", "")
_COMMON_PAR = "trim_threshold top_pad mmap_threshold arena_test arena_max"
_MMAP_PAR = "n_mmaps n_mmaps_max max_n_mmaps no_dyn_threshold mmapped_mem max_mmapped_mem sbrk_base"
_TCACHE_PAR = "tcache_max_bytes tcache_count tcache_unsorted_limit"


def _struct(name: str, size: int, names: str, offsets: Sequence[int], word: int, counts: Mapping[str, int]) -> Struct:
    fields = {}
    for member, offset in zip(names.split(), offsets):
        element = 4 if member in _INTS or member == "binmap" else 2 if member in ("counts", "num_slots") else word
        count = counts.get(member, 1)
        fields[member] = Field(offset, element * count, count)
    return Struct(name, size, fields)


def _layout(
    word: int, state: tuple[int, Sequence[int]], par: tuple[int, str, Sequence[int]], heap: tuple[int, str], slots: bool
) -> Layout:
    counts = {"bins": 254, "binmap": 4, "fastbinsY": 10 if word == 8 else 11, "counts": 64, "num_slots": 76}
    bins = 76 if slots else 64
    counter = "num_slots" if slots else "counts"
    return Layout(
        _struct("malloc_state", state[0], _NEW_STATE if slots else _OLD_STATE, state[1], word, counts),
        _struct("malloc_par", par[0], par[1], par[2], word, counts),
        _struct("_heap_info", heap[0], heap[1], [word * place for place in range(5)], word, counts),
        _struct(
            "tcache_perthread_struct",
            bins * (2 + word),
            f"{counter} entries",
            [0, bins * 2],
            word,
            {**counts, "entries": bins},
        ),
    )


_PAR_231 = f"{_COMMON_PAR} {_MMAP_PAR} tcache_bins {_TCACHE_PAR}"
_PAR_236 = f"{_COMMON_PAR} thp_pagesize hp_pagesize hp_flags {_MMAP_PAR} tcache_bins {_TCACHE_PAR}"
_PAR_243 = f"{_COMMON_PAR} thp_mode thp_pagesize hp_pagesize hp_flags {_MMAP_PAR} tcache_small_bins {_TCACHE_PAR}"
_OLD_HEAP = "ar_ptr prev size mprotect_size"
_NEW_HEAP = f"{_OLD_HEAP} pagesize"
_STATE_64 = (2200, (0, 4, 8, 16, 96, 104, 112, 2144, 2160, 2168, 2176, 2184, 2192))
_STATE_32 = (1116, (0, 4, 8, 12, 56, 60, 64, 1080, 1096, 1100, 1104, 1108, 1112))
_STATE_64_243 = (2112, (0, 4, 8, 16, 24, 2056, 2072, 2080, 2088, 2096, 2104))
_STATE_32_243 = (1068, (0, 4, 8, 12, 16, 1032, 1048, 1052, 1056, 1060, 1064))

#: By release and bits, as the debug information of Debian's packages has them.
LAYOUTS: Mapping[tuple[str, int], Layout] = {
    ("2.31", 64): _layout(
        8, _STATE_64,
        (112, _PAR_231, (0, 8, 16, 24, 32, 40, 44, 48, 52, 56, 64, 72, 80, 88, 96, 104)),
        (32, _OLD_HEAP), False,
    ),
    ("2.31", 32): _layout(
        4, _STATE_32,
        (64, _PAR_231, (0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60)),
        (24, _OLD_HEAP), False,
    ),
    ("2.36", 64): _layout(
        8, _STATE_64,
        (136, _PAR_236, (0, 8, 16, 24, 32, 40, 48, 56, 60, 64, 68, 72, 80, 88, 96, 104, 112, 120, 128)),
        (48, _NEW_HEAP), False,
    ),
    ("2.36", 32): _layout(
        4, _STATE_32,
        (76, _PAR_236, (0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72)),
        (24, _NEW_HEAP), False,
    ),
    ("2.43", 64): _layout(
        8, _STATE_64_243,
        (144, _PAR_243, (0, 8, 16, 24, 32, 40, 48, 56, 64, 68, 72, 76, 80, 88, 96, 104, 112, 120, 128, 136)),
        (48, _NEW_HEAP), True,
    ),
    ("2.43", 32): _layout(
        4, _STATE_32_243,
        (80, _PAR_243, (0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76)),
        (24, _NEW_HEAP), True,
    ),
}  # fmt: skip


@dataclass
class FakeSymbols:
    """Symbols out of two tables."""

    structs: Mapping[str, Struct] = field(default_factory=dict)
    addresses: Mapping[str, int] = field(default_factory=dict)

    def address(self, name: str) -> int | None:
        return self.addresses.get(name)

    def struct(self, name: str) -> Struct | None:
        return self.structs.get(name)

    def thread_local(self, name: str) -> int | None:
        return None


def symbols_of(layout: Layout, **addresses: int) -> FakeSymbols:
    """Return symbols that describe ``layout``."""
    structs = (layout.state, layout.par, layout.heap_info, layout.tcache)
    return FakeSymbols({item.name: item for item in structs if item is not None}, addresses)


@dataclass(frozen=True)
class Row:
    """One chunk that was laid out."""

    address: int
    size: int
    state: str


class Image:
    """Memory that is being made: map ranges, write into them, lay out chunks and lists, then take a snapshot."""

    MAIN_ARENA = 0x1000_0100
    MP = 0x1000_2000
    LIBC = (0x1000_0000, 0x4000)

    def __init__(self, version: str = "2.36", bits: int = 64, *, little: bool = True) -> None:
        self.layout = LAYOUTS[version, bits]
        self.abi = Abi(bits // 8, little)
        self.safe_linking = version != "2.31"
        self._segments: list[tuple[int, bytearray]] = []
        self.map(*self.LIBC)
        self.par(top_pad=0x20000, trim_threshold=0x20000, mmap_threshold=0x20000, n_mmaps_max=0x10000)
        self.par(arena_test=8 if bits == 64 else 2)

    def map(self, start: int, size: int, fill: int = 0) -> None:
        """Make ``size`` bytes at ``start`` readable."""
        self._segments.append((start, bytearray([fill]) * size))

    def write(self, address: int, data: bytes) -> None:
        """Write bytes into what was mapped."""
        for start, segment in self._segments:
            if start <= address and address + len(data) <= start + len(segment):
                segment[address - start : address - start + len(data)] = data
                return
        raise ValueError(f"{address:#x} is not mapped")

    def integer(self, address: int, size: int, value: int) -> None:
        """Write an integer of ``size`` bytes."""
        self.write(address, (value % (1 << 8 * size)).to_bytes(size, "little" if self.abi.little_endian else "big"))

    def word(self, address: int, value: int) -> None:
        """Write a word."""
        self.integer(address, self.abi.word_size, value)

    def field(self, struct: Struct, address: int, name: str, value: int, index: int = 0) -> None:
        """Write one element of a member of the struct at ``address``."""
        member = struct.fields[name]
        size = member.size // member.count
        self.integer(address + member.offset + index * size, size, value)

    @property
    def memory(self) -> Snapshot:
        """What was written so far."""
        return Snapshot((start, bytes(data)) for start, data in self._segments)

    def par(self, **values: int) -> None:
        """Write fields of mp_."""
        for name, value in values.items():
            self.field(self.layout.par, self.MP, name, value)

    def chunks(
        self, start: int, pieces: Iterable[tuple[int, str]], *, main: bool = True, before_is_free: bool = False
    ) -> list[Row]:
        """Write the size words (and feet) of chunks that follow each other from ``start`` on."""
        rows: list[Row] = []
        address = start
        for size, state in pieces:
            flags = 0 if before_is_free else PREV_INUSE
            if not main and state not in (*MERGED, "top"):
                flags |= NON_MAIN_ARENA
            self.word(address + self.abi.word_size, size | flags)
            rows.append(Row(address, size, state))
            address += size
            before_is_free = state in MERGED
            if before_is_free:
                self.word(address, size)
        return rows

    def arena(self, address: int, rows: Sequence[Row], **values: int) -> None:
        """Write the malloc_state at ``address`` with its free lists out of ``rows``; the others are fields of it."""
        state = self.layout.state
        values.setdefault("next", address)
        values.setdefault("attached_threads", 1)
        tops = [row for row in rows if row.state == "top"]
        values.setdefault("top", tops[0].address if tops else 0)
        for name, value in values.items():
            self.field(state, address, name, value)
        fastbins: dict[int, list[Row]] = {}
        bins: dict[int, list[Row]] = {index: [] for index in range(1, 128)}
        for row in rows:
            if row.state == "fastbin":
                fastbins.setdefault(fastbin_index(self.abi, row.size), []).insert(0, row)
            elif row.state == "unsorted":
                bins[1].insert(0, row)
            elif row.state in MERGED:
                bins[bin_index(self.abi, row.size)].insert(0, row)
        for index, members in fastbins.items():
            self.field(state, address, "fastbinsY", members[0].address, index)
            self.single([row.address for row in members], shown=0)
        marked: dict[int, int] = {}
        for index, members in bins.items():
            if index >= bin_index(self.abi, self.abi.min_large_size):
                members.sort(key=lambda row: -row.size)
            self.bin(address, index, [row.address for row in members])
            if index > 1 and members:
                marked[index >> 5] = marked.get(index >> 5, 0) | 1 << (index & 31)
            if index >= bin_index(self.abi, self.abi.min_large_size):
                self.sizes(members)
        for place, bits in marked.items():
            self.field(state, address, "binmap", bits, place)

    def bin(self, arena: int, index: int, members: Sequence[int]) -> None:
        """Link ``members`` into bin ``index``, front to back."""
        abi, state = self.abi, self.layout.state
        header = arena + state.fields["bins"].offset + (2 * index - 2) * abi.word_size - abi.header
        circle = [header, *members, header]
        self.field(state, arena, "bins", circle[1], 2 * index - 2)
        self.field(state, arena, "bins", circle[-2], 2 * index - 1)
        for place, chunk in enumerate(members, 1):
            self.word(chunk + abi.header, circle[place + 1])
            self.word(chunk + abi.header + abi.word_size, circle[place - 1])

    def sizes(self, members: Sequence[Row]) -> None:
        """Link the first chunk of each size of a large bin, whose ``members`` are front to back."""
        word = self.abi.word_size
        heads = [row for place, row in enumerate(members) if not place or members[place - 1].size != row.size]
        for row in members:
            self.word(row.address + 4 * word, 0)
            self.word(row.address + 5 * word, 0)
        for place, row in enumerate(heads):
            self.word(row.address + 4 * word, heads[(place + 1) % len(heads)].address)
            self.word(row.address + 5 * word, heads[place - 1].address)

    def single(self, chunks: Sequence[int], shown: int) -> None:
        """Link ``chunks`` in a single list; a link says the next chunk's address plus ``shown``."""
        for chunk, following in zip(chunks, [*chunks[1:], None]):
            link = 0 if following is None else following + shown
            place = chunk + self.abi.header
            self.word(place, link ^ (place >> 12) if self.safe_linking else link)

    def tcache(self, address: int, rows: Iterable[Row], key: int = 0, places: int = 16) -> None:
        """Write the tcache at ``address`` with those of ``rows`` that are in it."""
        struct = self.layout.tcache
        assert struct is not None
        members: dict[int, list[int]] = {}
        for row in rows:
            if row.state == "tcache":
                index = tcache_index(self.abi, self.layout, row.size)
                assert index is not None
                members.setdefault(index, []).insert(0, row.address)
        down = self.layout.tcache_counts_down
        if down:
            for index in range(76):
                self.field(struct, address, "num_slots", places, index)
        for index, chunks in members.items():
            self.field(struct, address, "entries", chunks[0] + self.abi.header, index)
            if down:
                self.field(struct, address, "num_slots", places - len(chunks), index)
            else:
                self.field(struct, address, "counts", len(chunks), index)
            self.single(chunks, shown=self.abi.header)
            for chunk in chunks:
                self.word(chunk + self.abi.header + self.abi.word_size, key)

    @property
    def tcache_piece(self) -> tuple[int, str]:
        """The chunk that a tcache lives in."""
        assert self.layout.tcache is not None
        return self.abi.request_to_chunk(self.layout.tcache.size), "used"

    def heap(self, address: int, arena: int, prev: int, size: int) -> None:
        """Write the heap_info at ``address``."""
        struct = self.layout.heap_info
        assert struct is not None
        values = {"ar_ptr": arena, "prev": prev, "size": size, "mprotect_size": size, "pagesize": 0x1000}
        for name in struct.fields:
            self.field(struct, address, name, values[name])


MAIN_BASE = 0x2000_0000


def main_heap(
    image: Image,
    pieces: Sequence[tuple[int, str]],
    *,
    base: int = MAIN_BASE,
    top_size: int | None = None,
    tcache_key: int = 0,
) -> list[Row]:
    """Write a main_arena with ``pieces`` behind the chunk of a tcache, and a top chunk up to the end of a page.

    Returns the rows in order, the tcache's chunk first and top last.
    """
    abi = image.abi
    start = abi.first_chunk(base)
    used = [image.tcache_piece, *pieces]
    top = start + sum(size for size, _ in used)
    if top_size is None:
        top_size = round_up(top + abi.min_size, abi.page_size) - top
    image.map(base, top + top_size - base)
    rows = image.chunks(start, [*used, (top_size, "top")])
    image.par(sbrk_base=base)
    system_mem = top + top_size - base
    image.arena(image.MAIN_ARENA, rows, system_mem=system_mem, max_system_mem=system_mem)
    image.tcache(start + abi.header, rows, tcache_key)
    return rows
