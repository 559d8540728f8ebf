"""The tcache: each thread's own lists of free chunks, and the mangling of their links (safe-linking)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.layout import Layout, LayoutUnknown
from gdbheap.ptmalloc.problems import Problems
from gdbheap.symbols import Symbols

SMALL_BINS = 64
#: Chunks that are visited at most in one bin: the largest glibc.malloc.tcache_count.
MAX_BIN_CHUNKS = 0xFFFF


@dataclass(frozen=True)
class TcacheBin:
    """One bin of a tcache, the chunk that is handed out next first.

    ``pointers`` are what malloc will return and ``sizes`` the chunk sizes in bytes, in parallel (0 where the size
    word cannot be right for this bin). ``low`` and ``high`` are the chunk sizes that belong in the bin. ``counter``
    is the struct's own number for it: of chunks (``counts``), or of places left (``num_slots``, from glibc 2.42 on).
    ``complete`` is False where ``problems`` ended the reading.
    """

    index: int
    low: int
    high: int
    pointers: tuple[int, ...]
    sizes: tuple[int, ...]
    counter: int
    problems: tuple[str, ...]
    complete: bool


@dataclass(frozen=True)
class Tcache:
    """One thread's tcache; ``bins`` are those that hold something or should hold something.

    ``address`` is that of its tcache_perthread_struct, ``header`` the bytes from a chunk to its user pointer.
    """

    address: int
    header: int
    bins: tuple[TcacheBin, ...]

    @property
    def chunk(self) -> int:
        """The address of the chunk that the tcache itself lives in."""
        return self.address - self.header

    @property
    def chunks(self) -> tuple[int, ...]:
        """The addresses of all its free chunks."""
        return tuple(pointer - self.header for item in self.bins for pointer in item.pointers)

    @property
    def total(self) -> int:
        """The bytes of all its free chunks."""
        return sum(sum(item.sizes) for item in self.bins)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with any of its bins."""
        return tuple(text for item in self.bins for text in item.problems)


def bin_total(abi: Abi, layout: Layout) -> int:
    """Return how many bins a tcache has; raise LayoutUnknown where the target does not describe it."""
    if layout.tcache is None:
        raise LayoutUnknown("The target's debug information does not describe struct tcache_perthread_struct.")
    return (layout.tcache.size - layout.tcache.fields["entries"].offset) // abi.word_size


def _largest_small(abi: Abi) -> int:
    return abi.min_size + (SMALL_BINS - 1) * abi.alignment


def tcache_index(abi: Abi, layout: Layout, size: int) -> int | None:
    """Return the tcache bin of a chunk of ``size`` bytes, None where it is too large for any.

    csize2tidx, and from glibc 2.42 on large_csize2tidx, one bin for each power of two. (2.42.0 on i386 counts those
    one higher.) Raises LayoutUnknown where the target does not describe the tcache.
    """
    total = bin_total(abi, layout)
    index = max(size - abi.min_size + abi.alignment - 1, 0) // abi.alignment
    if index < SMALL_BINS:
        return index
    if not layout.tcache_counts_down:
        return None
    index = SMALL_BINS + size.bit_length() - _largest_small(abi).bit_length()
    return index if index < total else None


def tcache_range(abi: Abi, index: int) -> tuple[int, int]:
    """Return the smallest and the largest chunk size, in bytes, of tcache bin ``index``."""
    if index < SMALL_BINS:
        size = abi.min_size + index * abi.alignment
        return size, size
    largest_small = _largest_small(abi)
    bits = index - SMALL_BINS + largest_small.bit_length()
    return max(largest_small + abi.alignment, 1 << (bits - 1)), (1 << bits) - abi.alignment


def fits(abi: Abi, index: int, size: int) -> bool:
    """Return whether a chunk of ``size`` bytes may be in tcache bin ``index``."""
    low, high = tcache_range(abi, index)
    if size % abi.alignment:
        return False
    if low <= size <= high:
        return True
    if index < SMALL_BINS:
        return False
    # 2.42.0 calls the largest small size large already, and on i386 its large bins are one higher.
    return size == _largest_small(abi) or (abi.word_size == 4 and low // 2 <= size <= high // 2)


class _Following:
    """One list as it is followed: what was found, and how it ended."""

    def __init__(self) -> None:
        self.found: dict[int, int] = {}
        self.problems = Problems()
        self.complete = True

    def stop(self, text: str) -> None:
        self.problems.add(text)
        self.complete = False


def _follow(memory: Memory, abi: Abi, index: int, head: int, safe_linking: bool, key: int | None) -> _Following:
    result = _Following()
    low, high = tcache_range(abi, index)
    pointer, where = head, f"The front of tcache bin {index}"
    while pointer:
        if pointer in result.found:
            result.stop(f"{where} is {pointer:#x}, which is in the bin already: the list is a loop.")
        elif pointer % abi.alignment:
            result.stop(f"{where} is {pointer:#x}, which is no multiple of {abi.alignment:#x}.")
        elif len(result.found) >= MAX_BIN_CHUNKS:
            result.stop(f"Tcache bin {index} has more than {MAX_BIN_CHUNKS} chunks, which malloc does not allow.")
        if not result.complete:
            break
        try:
            word, link, mark = abi.words(memory.read(pointer - abi.word_size, 3 * abi.word_size))
        except MemoryFault as fault:
            result.stop(f"{where} is {pointer:#x}: {fault}.")
            break
        size = result.found[pointer] = word & ~FLAG_BITS
        if not fits(abi, index, size):
            result.found[pointer] = 0
            expected = f"{low:#x}" if low == high else f"from {low:#x} to {high:#x}"
            result.problems.add(
                f"The chunk at {pointer - abi.header:#x} in tcache bin {index} has the size word {word:#x}; its size "
                f"should be {expected}."
            )
        elif key is not None and mark != key:
            result.problems.add(
                f"key of the free chunk at {pointer - abi.header:#x} in tcache bin {index} is {mark:#x}; it should "
                f"be {key:#x}."
            )
        where = f"next of the chunk at {pointer - abi.header:#x} in tcache bin {index}"
        pointer = link ^ (pointer >> 12) if safe_linking else link
    return result


def read_tcache(
    memory: Memory, abi: Abi, layout: Layout, address: int, safe_linking: bool, key: int | None = None
) -> Tcache:
    """Return the tcache whose tcache_perthread_struct is at ``address``.

    ``safe_linking`` says whether the links are mangled (from glibc 2.32 on). ``key`` is what each free chunk's key
    should be: the value of tcache_key (from 2.34 on) or ``address`` itself (2.29 to 2.33); None leaves that
    unchecked. Broken lists are given up to where they break, with their problems.

    Raises MemoryFault where the struct is unreadable and LayoutUnknown where the target does not describe it.
    """
    total = bin_total(abi, layout)
    assert layout.tcache is not None  # bin_total has refused that
    fields = layout.tcache.fields
    data = memory.read(address, layout.tcache.size)
    start = fields["entries"].offset
    entries = abi.words(data[start : start + total * abi.word_size])
    counters = layout.tcache.decode(data, abi.order)["num_slots" if layout.tcache_counts_down else "counts"]
    bins = []
    for index, (head, counter) in enumerate(zip(entries, counters)):
        claimed = 0 if layout.tcache_counts_down else counter
        if not head and not claimed:
            continue
        result = _follow(memory, abi, index, head, safe_linking, key)
        if not layout.tcache_counts_down and claimed != len(result.found):
            found = f"that bin has {len(result.found)} chunks" if result.complete else "they were not all found"
            result.problems.add(f"counts[{index}] of the tcache at {address:#x} is {claimed}, but {found}.")
        low, high = tcache_range(abi, index)
        pointers, sizes = tuple(result.found), tuple(result.found.values())
        bins.append(TcacheBin(index, low, high, pointers, sizes, counter, result.problems.texts(), result.complete))
    return Tcache(address, abi.header, tuple(bins))


def tcache_count(memory: Memory, abi: Abi, layout: Layout, address: int, size: int) -> int | None:
    """Return how many chunks the tcache at ``address`` (0: there is none) has in the bin of chunks of ``size`` bytes.

    None where that cannot be read. A tcache that counts free places is walked instead: how many there were at first
    is not in it.
    """
    if address == 0:
        return 0
    try:
        index = tcache_index(abi, layout, size)
        if index is None:
            return 0
        assert layout.tcache is not None  # tcache_index has refused that
        fields = layout.tcache.fields
        if not layout.tcache_counts_down:
            counts = fields["counts"]
            width = counts.size // counts.count
            return int.from_bytes(memory.read(address + counts.offset + index * width, width), abi.byte_order)
        head = abi.read_word(memory, address + fields["entries"].offset + index * abi.word_size)
        # A tcache that counts places is of 2.42 or later, so its links are mangled.
        return len(_follow(memory, abi, index, head, True, None).found)
    except (MemoryFault, LayoutUnknown):
        return None


def count_in(abi: Abi, layout: Layout, data: bytes, size: int) -> int | None:
    """Return how many chunks a tcache with these bytes (none: there is no tcache) has for chunks of ``size`` bytes.

    None where it has no bin for them, or does not count them.
    """
    index = tcache_index(abi, layout, size)
    if index is None or layout.tcache is None or layout.tcache_counts_down:
        return None
    return int(layout.tcache.decode(data, abi.order)["counts"][index]) if data else 0


def tcache_is_dummy(symbols: Symbols, layout: Layout, address: int) -> bool:
    """Return whether the thread has no tcache: its pointer is 0 or leads into ``__tcache_dummy`` (glibc 2.43)."""
    if address == 0:
        return True
    dummy = symbols.address("__tcache_dummy")
    if dummy is None or layout.tcache is None:
        return False
    return dummy <= address < dummy + layout.tcache.size


def detect_safe_linking(symbols: Symbols, layout: Layout, version: tuple[int, int] | None = None) -> bool | None:
    """Return whether the links of tcache and fastbins are mangled, None where nothing known tells.

    What came with glibc 2.34 or later settles it: tcache_key, huge pages in malloc_par, a tcache that counts free
    places, arenas without fastbins. So does what was gone before 2.32: an arena without have_fastchunks, a tcache
    with counts of one byte. Between those, ``version`` does: mangling came with 2.32.
    """
    later = (
        layout.tcache_counts_down
        or not layout.has_fastbins
        or "hp_pagesize" in layout.par.fields
        or symbols.address("tcache_key") is not None
    )
    if later:
        return True
    counts = layout.tcache.fields["counts"] if layout.tcache is not None else None
    if "have_fastchunks" not in layout.state.fields or (counts is not None and counts.size == counts.count):
        return False
    return None if version is None else version >= (2, 32)


def observe_safe_linking(memory: Memory, abi: Abi, pointers: Iterable[int]) -> bool | None:
    """Return whether links are mangled, from the links themselves; None where no list tells.

    ``pointers`` are user pointers of free chunks, as the fronts of tcache bins. The last link of a plain list is 0;
    the last of a mangled one is its own address >> 12. A link in the middle makes an aligned, readable address one
    way only, most of the time.
    """
    for pointer in pointers:
        try:
            link = abi.read_word(memory, pointer)
        except MemoryFault:
            continue
        mangled = link ^ (pointer >> 12)
        if link == 0 or mangled == 0:
            return mangled == 0
        plain_fits, mangled_fits = (_readable(memory, abi, target) for target in (link, mangled))
        if plain_fits != mangled_fits:
            return mangled_fits
    return None


def _readable(memory: Memory, abi: Abi, pointer: int) -> bool:
    if pointer % abi.alignment:
        return False
    try:
        memory.read(pointer - abi.header, 2 * abi.header)
    except MemoryFault:
        return False
    return True
