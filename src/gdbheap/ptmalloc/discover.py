"""main_arena and mp_ of a glibc that does not describe itself, found from facts and checked against each other.

What only looks right at one place is not believed: it must agree with the ring of the arenas, with the bins, and with
the memory that malloc counts. Where several answers are left, there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from gdbheap.elf import ElfImage, Segment, relative_relocations
from gdbheap.memory import Memory, MemoryFault, PageCache
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import MOST_THREADS, Arena, read_arena, read_arenas
from gdbheap.ptmalloc.generations import GENERATIONS, Generation
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import Params, decode_params

#: HEAP_MAX_SIZE is a multiple of this, so that an arena that is not main_arena lies right behind such an address.
_HEAP_STEP = 1 << 20
#: More than anyone lets malloc make.
_MOST_ARENAS = 0x10000
#: Bytes of initialised data that are looked through at most.
_MOST_DATA = 64 << 20
_DEFAULT_THRESHOLD = 0x20000
_RELOCATED = "its field next, relocated data of {file}, begins a ring that leads back to it; its bins do too"
_TABLE = "its field next is what a relocation of {file} makes lead to its own struct; its bins lead back to it"
_INITIAL = "the only place in {file}'s file with malloc_state's initial values"
_SCANNED = "its field next, in the data of {file}, begins a ring that leads back to it; its bins do too"


class NotFound(Exception):
    """What cannot be found: ``what`` names it as glibc does, and the message is a clause that says why."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(reason)
        self.what = what


@dataclass(frozen=True)
class Found:
    """An address, and how it was found (a phrase)."""

    address: int
    how: str


@dataclass(frozen=True)
class Discovery:
    """Where a glibc's allocator is, and how it is laid out.

    ``fitting`` are the generations whose layout fits; they differ in the tcache alone, and the first is the likeliest.
    ``dummy`` is the address of __tcache_dummy, None where this glibc has none.
    """

    abi: Abi
    main_arena: Found
    mp: Found
    fitting: tuple[Generation, ...]
    dummy: int | None

    @property
    def layout(self) -> Layout:
        """The likeliest of the layouts."""
        return self.fitting[0].layout


@dataclass(frozen=True)
class Given:
    """What is known already, from the user or from a symbol: it is not looked for, but checked all the same."""

    main_arena: Found | None = None
    mp: Found | None = None


@dataclass(frozen=True)
class Source:
    """What is searched: the glibc that ``image`` is, or that is linked into it.

    ``initial`` is what its file has at the same addresses (None: there is no such file). ``name`` is what it is called.
    """

    memory: Memory
    image: ElfImage
    name: str
    page_size: int
    initial: Memory | None = None

    def abi(self, generation: Generation) -> Abi:
        """Return what malloc.c was compiled for, if it is of this generation."""
        return Abi(self.image.word_size, self.image.little_endian, generation.alignment, self.page_size)


def discover(source: Source, version: tuple[int, int] | None = None, given: Given | None = None) -> Discovery:
    """Return where the allocator is; raise NotFound.

    ``version`` only decides where nothing else can: between layouts that fit the memory equally well.
    """
    given = given or Given()
    arena, generations = _find_main_arena(source, given)
    places: dict[int, str] = {}
    fitting: list[tuple[int, Generation]] = []
    initial = [_initial_mp_places(source, generation) for generation in generations]
    for generation, first in zip(generations, initial):
        # It is nowhere else than in the file, whatever looks like it in what the process has now.
        for found in _mp_places(source, generation, arena.address, given, first if any(initial) else None):
            places[found.address] = found.how
            fitting.append((found.address, generation))
    if not fitting and any(initial):
        # What the process has there now is damaged; where the file has it is all the same right.
        for generation, first in zip(generations, initial):
            for found in first:
                if given.mp is None or found.address == given.mp.address:
                    places[found.address] = found.how if given.mp is None else given.mp.how
                    fitting.append((found.address, generation))
        version = None  # that the layout fits cannot be checked: only one may come into question
    if not fitting:
        reason = f"nothing in the data of {source.name} agrees with main_arena at {arena.address:#x}"
        if given.mp is not None:
            reason = f"what is at {given.mp.address:#x} ({given.mp.how}) does not agree with main_arena"
        raise NotFound("mp_", reason)
    if len(places) > 1:
        raise NotFound("mp_", f"{_listed(places)} look like it in the same way")
    address = fitting[0][0]
    chosen = _likeliest([generation for _, generation in fitting], version)
    same = [other for _, other in fitting if _but_for_tcache(other) == _but_for_tcache(chosen)]
    if len(same) < len(fitting) and version is None:
        raise NotFound("mp_", f"several layouts of malloc_par fit what is at {address:#x}, and no release is known")
    ordered = (chosen, *(other for other in same if other is not chosen))
    dummy = _find_dummy(source, chosen)
    return Discovery(source.abi(chosen), arena, Found(address, places[address]), ordered, dummy)


def _likeliest(generations: Sequence[Generation], version: tuple[int, int] | None) -> Generation:
    older = [generation for generation in generations if version is not None and generation.since <= version]
    return older[-1] if older else generations[-1]


def _but_for_tcache(generation: Generation) -> object:
    """Return what differs between generations, but for the tcache: also its setting in malloc_par has two names."""
    found = generation.layout
    return found.state, found.heap_info, found.par.size, list(found.par.fields.values())


def _listed(places: Mapping[int, str]) -> str:
    return ", ".join(f"{address:#x}" for address in sorted(places))


# --- main_arena ------------------------------------------------------------------------------------------------------


def _find_main_arena(source: Source, given: Given) -> tuple[Found, list[Generation]]:
    """Return main_arena, and the generations whose malloc_state it is."""
    generations = GENERATIONS.get(source.image.word_size, ())
    if given.main_arena is not None:
        hits = [_Hit(given.main_arena.address, generation, given.main_arena.how) for generation in generations]
    else:
        hits = list(_self_references(source, generations))
    sound = [hit for hit in hits if _is_main_arena(source, hit)]
    if not sound:  # what the process has there now is damaged; where the file has it is all the same right
        wanted = given.main_arena or Found(0, _INITIAL.format(file=source.name))
        led = _self_references(source, generations)
        hits = [hit._replace(how=wanted.how) for hit in led if wanted.address in (0, hit.address)]
        sound = [hit for hit in hits if _is_initial_arena(source, hit)]
    places = {hit.address: hit.how for hit in sound}
    if not places:
        if given.main_arena is not None:
            where = f"{given.main_arena.address:#x} ({given.main_arena.how})"
            raise NotFound("main_arena", f"what is at {where} is no main_arena of a known layout")
        raise NotFound("main_arena", f"no word in the data of {source.name} leads to an arena around it")
    if len(places) > 1:
        raise NotFound("main_arena", f"{_listed(places)} look like it in the same way")
    ((address, how),) = places.items()
    return Found(address, how), [hit.generation for hit in sound]


class _Hit(NamedTuple):
    """A place that can be main_arena of a generation, and how it was found; the table of relocations may say so."""

    address: int
    generation: Generation
    how: str
    by_relocation: bool = False


def _self_references(source: Source, generations: Sequence[Generation]) -> Iterator[_Hit]:
    """Yield what can be main_arena, by its field next: it is initialised to the struct's own address.

    A library must relocate it, so that few words come into question. Later next leads to the newest other arena.
    """
    by_offset: dict[int, list[Generation]] = {}
    for generation in generations:
        by_offset.setdefault(generation.layout.state.fields["next"].offset, []).append(generation)
    how = _RELOCATED
    try:
        words = list(_relocated_words(source))
    except MemoryFault:
        words = []
    if not words:
        how = _SCANNED
        first = [] if source.initial is None else _data_words(source, source.initial)
        words = [(address, word, False) for address, word in chain(_data_words(source), first)]
    for address, word, by_table in words:
        for generation in by_offset.get(address - word, ()):
            yield _Hit(word, generation, (_TABLE if by_table else how).format(file=source.name), by_table)
        if word > _HEAP_STEP and 0 < word % _HEAP_STEP <= 0x40:
            for offset, possible in by_offset.items():
                for generation in possible:
                    heap_info = generation.layout.heap_info
                    if heap_info is not None and word % _HEAP_STEP == heap_info.size:
                        yield _Hit(address - offset, generation, how.format(file=source.name))


def _relocated_words(source: Source) -> Iterator[tuple[int, int, bool]]:
    """Yield (address, word, True) of the relocated words in writable segments as the loader made them.

    Where neither the table of relocations nor the file has them (False), the word is what is there now: malloc may
    have changed it.
    """
    image, now = source.image, _Words(source.memory, source.image)
    first = None if source.initial is None else _Words(source.initial, source.image)
    for relocation in relative_relocations(source.memory, image):
        if any(segment.writable and segment.start <= relocation.address < segment.end for segment in image.segments):
            word = relocation.value
            if word is None and first is not None:
                in_place = first.word(relocation.address)
                word = None if in_place is None else image.bias + in_place
            made = word is not None
            word = word if made else now.word(relocation.address)
            if word is not None:
                yield relocation.address, word, made


class _Words:
    """Words of the initialised, writable data of an object, read as a whole."""

    def __init__(self, memory: Memory, image: ElfImage) -> None:
        self._blocks: list[tuple[int, bytes]] = []
        self._size = image.word_size
        self._order: str = "little" if image.little_endian else "big"
        for segment in _initialised(image):
            try:
                self._blocks.append((segment.start, memory.read(segment.start, min(segment.held, _MOST_DATA))))
            except MemoryFault:
                continue

    def word(self, address: int) -> int | None:
        for start, data in self._blocks:
            if start <= address <= start + len(data) - self._size:
                part = data[address - start : address - start + self._size]
                return int.from_bytes(part, "little" if self._order == "little" else "big")
        return None


def _initialised(image: ElfImage) -> Iterator[Segment]:
    return (segment for segment in image.segments if segment.writable and segment.held)


def _data_words(source: Source, memory: Memory | None = None) -> Iterator[tuple[int, int]]:
    """Yield (address, word) of the initialised, writable data, as it is now or in another ``memory``."""
    abi = Abi(source.image.word_size, source.image.little_endian)
    for segment in _initialised(source.image):
        try:
            data = (memory or source.memory).read(segment.start, min(segment.held, _MOST_DATA))
        except MemoryFault:
            continue
        skipped = -segment.start % abi.word_size
        yield from zip(range(segment.start + skipped, segment.end, abi.word_size), abi.words(data[skipped:]))


def _is_main_arena(source: Source, hit: _Hit) -> bool:
    """Return whether a malloc_state of the generation is there that heads a ring of arenas.

    The ring need not be whole where a relocation has led there: then what it begins with is damaged.
    """
    abi, layout = source.abi(hit.generation), hit.generation.layout
    memory = PageCache(source.memory)
    try:
        if hit.address % abi.word_size:
            return False
        ring = read_arenas(memory, abi, layout, hit.address)
    except MemoryFault:
        return False
    if ring.problem is not None and not hit.by_relocation:
        return False
    return all(_is_arena(memory, abi, layout, arena) for arena in ring.arenas[:2])


def _is_initial_arena(source: Source, hit: _Hit) -> bool:
    """Return whether the file has what main_arena is before the program runs, whatever the process has there now.

    That is zeros, but for next, which is its own address, and the one thread (malloc.c: main_arena, since 2.23).
    Whatever it has there, it must have something there, or the file is that of another program.
    """
    if source.initial is None:
        return False
    abi, state = source.abi(hit.generation), hit.generation.layout.state
    try:
        source.memory.read(hit.address, state.size)
        arena = bytearray(source.initial.read(hit.address, state.size))
    except MemoryFault:
        return False
    words = {
        name: slice(state.fields[name].offset, state.fields[name].offset + abi.word_size)
        for name in ("next", "attached_threads")
    }
    following, attached = (int.from_bytes(arena[word], abi.byte_order) for word in words.values())
    for word in words.values():
        arena[word] = bytes(abi.word_size)
    leads_back = hit.by_relocation or following + source.image.bias == hit.address
    return leads_back and attached == 1 and not any(arena)


def _is_arena(memory: Memory, abi: Abi, layout: Layout, arena: Arena) -> bool:
    if arena.flags & ~(7 if "have_fastchunks" not in layout.state.fields and layout.has_fastbins else 2):
        return False
    # max_system_mem follows system_mem only when sysmalloc has laid out the new memory.
    if arena.attached_threads > MOST_THREADS or (arena.system_mem and not arena.max_system_mem):
        return False
    if not any(arena.bins):  # malloc_init_state comes with the first request
        return arena.top == 0 and arena.system_mem == 0 and arena.attached_threads == 1
    if arena.top % abi.word_size or not arena.top:
        return False
    # One corrupt list does not make it another struct.
    ends = [_leads_back(memory, abi, arena, index) for index in range(1, len(arena.bins) // 2 + 1)]
    return 2 * sum(ends) > len(ends)


def _leads_back(memory: Memory, abi: Abi, arena: Arena, index: int) -> bool:
    """Return whether a bin is empty, so that it leads to itself, or has a first chunk that leads back to it."""
    front, header = arena.bins[2 * index - 2], arena.bin_header(abi, index)
    if front == header:
        return arena.bins[2 * index - 1] == header
    try:
        return abi.read_word(memory, front + 3 * abi.word_size) == header
    except MemoryFault:
        return False


# --- mp_ -------------------------------------------------------------------------------------------------------------


def _mp_places(
    source: Source, generation: Generation, main_arena: int, given: Given, first: Sequence[Found] | None
) -> Iterator[Found]:
    """Yield where a malloc_par of this generation is that agrees with main_arena.

    ``first`` is where the file has such a struct; None where it tells of no generation's.
    """
    abi, layout = source.abi(generation), generation.layout
    arena = read_arena(source.memory, abi, layout, main_arena, 0)

    def agrees(address: int, strictly: bool) -> bool:
        now = _params(source, source.memory, generation, address)
        return now is not None and _is_plausible(now) and _agrees(now, abi, arena, strictly)

    if given.mp is not None:
        if agrees(given.mp.address, strictly=False):
            yield given.mp
        return
    if first is not None:
        yield from (place for place in first if agrees(place.address, strictly=False))
        return
    base = arena.top + (arena.top_size or 0) - arena.system_mem
    if arena.has_top(abi) and arena.contiguous and _top_fits(abi, arena):
        how = "the only struct whose sbrk_base is where main_arena's memory begins, and whose counters agree"
        offset = layout.par.fields["sbrk_base"].offset
        candidates = [address - offset for address, word in _data_words(source) if word == base]
    else:
        how = "the only place with malloc_par's default thresholds, whose counters agree"
        candidates = list(_thresholds(source, source.memory))
    for address in candidates:
        now = _params(source, source.memory, generation, address)
        if now is not None and now.get("n_mmaps_max") == 0x10000 and agrees(address, strictly=True):
            yield Found(address, how)


def _initial_mp_places(source: Source, generation: Generation) -> list[Found]:
    """Return where the file, if there is one, has what malloc_par of this generation is before the program runs."""
    if source.initial is None:
        return []
    how = f"the only place in {source.name}'s file with malloc_par's initial values"
    places = []
    for address in _thresholds(source, source.initial):
        first = _params(source, source.initial, generation, address)
        if first is not None and _is_initial(first):
            places.append(Found(address, how))
    return places


def _params(source: Source, memory: Memory, generation: Generation, address: int) -> Params | None:
    abi, layout = source.abi(generation), generation.layout
    try:
        return decode_params(abi, layout, address, memory.read(address, layout.par.size))
    except MemoryFault:
        return None


def _thresholds(source: Source, memory: Memory) -> Iterator[int]:
    """Yield where three words in a row have the default of trim_threshold, top_pad and mmap_threshold."""
    row = 0
    for address, word in _data_words(source, memory):
        row = row + 1 if word == _DEFAULT_THRESHOLD else 0
        if row >= 3:
            yield address - 2 * source.image.word_size


def _is_initial(params: Params) -> bool:
    """Return whether these are the values that malloc_par has in a file."""
    expected = {
        "trim_threshold": (_DEFAULT_THRESHOLD,),
        "top_pad": (_DEFAULT_THRESHOLD,),
        "mmap_threshold": (_DEFAULT_THRESHOLD,),
        "arena_test": (2, 8),
        "n_mmaps_max": (0x10000,),
        "thp_mode": (0, 1, 2, 3),
        "hp_flags": tuple(range(1 << 6)),
        "tcache_bins": (64,),
        "tcache_small_bins": (64,),
        "tcache_max_bytes": range(1, 0x1000),
        "tcache_count": range(1, 0x80),
        # Debian's glibc for 64-bit ARM has huge pages on from 2.43 on.
        "thp_pagesize": (0, 0x200000),
        "hp_pagesize": (0, 0x200000),
    }
    return all(value in expected.get(name, (0,)) for name, value in params.values.items())


def _is_plausible(params: Params) -> bool:
    """Return whether these can be the values of malloc_par at any time."""
    values = params.values
    sizes = [values[name] for name in ("thp_pagesize", "hp_pagesize") if name in values]
    return (
        0 <= values["n_mmaps"] <= values["max_n_mmaps"]
        and values["n_mmaps_max"] >= 0
        and values["no_dyn_threshold"] in (0, 1)
        and values["mmapped_mem"] <= values["max_mmapped_mem"]
        and (values["max_n_mmaps"] == 0) == (values["max_mmapped_mem"] == 0)
        and 0 < values["arena_test"] <= _MOST_ARENAS
        and values["arena_max"] <= _MOST_ARENAS
        and values.get("thp_mode", 0) in (0, 1, 2, 3)
        and not any(size & (size - 1) for size in sizes)
        and values.get("max_total_mem", 0) == 0
        and values.get("tcache_bins", values.get("tcache_small_bins", 0)) <= 64
        and values.get("tcache_count", 0) <= 0xFFFF
    )


def _agrees(params: Params, abi: Abi, arena: Arena, strictly: bool) -> bool:
    """Return whether malloc_par tells of the same heap as main_arena does.

    A top chunk whose size cannot be right tells only that it is in that memory. Where its size may be right all the
    same, only ``strictly`` asks for the very address.
    """
    base = params.get("sbrk_base")
    if not arena.has_top(abi):
        return base == 0 or arena.max_system_mem > 0
    if arena.contiguous and arena.system_mem:
        if not _top_fits(abi, arena):
            return 0 < base <= arena.top < base + arena.system_mem
        exact = base + arena.system_mem == arena.top + (arena.top_size or 0)
        return exact or (not strictly and 0 < base <= arena.top)
    return base == 0 or not strictly or base % abi.word_size == 0


def _top_fits(abi: Abi, arena: Arena) -> bool:
    """Return whether the size of main_arena's top chunk can be right: it ends with a page (asserted by sysmalloc)."""
    size = arena.top_size
    return size is not None and 0 < size <= arena.system_mem and (arena.top + size) % abi.page_size == 0


# --- __tcache_dummy --------------------------------------------------------------------------------------------------


def _find_dummy(source: Source, generation: Generation) -> int | None:
    """Return the address of __tcache_dummy (glibc 2.43): where the thread-local variable tcache leads at first.

    It is the only initialised one that leads to as many zeros as a tcache has, which nobody can write.
    """
    locals_, tcache = source.image.thread_locals, generation.layout.tcache
    if generation.layout.has_fastbins or locals_ is None or tcache is None:
        return None
    abi = source.abi(generation)
    try:
        words = abi.words(source.memory.read(locals_.start, locals_.held))
    except MemoryFault:
        return None
    for word in words:
        inside = next((segment for segment in source.image.segments if segment.start <= word < segment.end), None)
        if inside is None or inside.writable:
            continue
        try:
            if not any(source.memory.read(word, tcache.size)):
                return word
        except MemoryFault:
            return None  # it may be this one, as in a core file without constants
    return None
