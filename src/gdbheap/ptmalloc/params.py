"""malloc_par: glibc's settings and counters for the whole process (``mp_``), and what each of them means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.layout import Layout

#: The fields that are int in malloc.c; the others are size_t or pointers.
SIGNED = frozenset(("thp_mode", "hp_flags", "n_mmaps", "n_mmaps_max", "max_n_mmaps", "no_dyn_threshold"))
_DEFAULT_THRESHOLD = 0x20000
#: Values of thp_mode, and the DEFAULT_THP_PAGESIZE that 64-bit ARM has from glibc 2.43 on.
_THP_NEVER, _THP_UNSET = 2, 3
_THP_PAGESIZE_OF_AARCH64 = 2 << 20


@dataclass(frozen=True)
class Params:
    """The fields of ``mp_`` by glibc's own names, in the order of memory; a field that this glibc lacks is absent."""

    address: int
    values: Mapping[str, int]

    def get(self, name: str, default: int = 0) -> int:
        """Return the field ``name``, or ``default`` where this glibc has no such field."""
        return self.values.get(name, default)


@dataclass(frozen=True)
class ParamFact:
    """One field of ``mp_``, with all that there is to say about it.

    ``unit`` is bytes, count, flag, mode or address. ``default`` is the value without any setting, None where the
    field is a counter or an address and so has none; ``is_default`` is None there too. ``mallopt``, ``tunable`` and
    ``environment`` name what sets it (None: nothing does). ``meaning`` is one sentence. ``note`` is a sentence about
    the present value, empty where there is nothing to add; ``dynamic`` says that malloc itself moved the value.
    """

    name: str
    value: int
    unit: str
    default: int | None
    is_default: bool | None
    mallopt: str | None
    tunable: str | None
    environment: str | None
    meaning: str
    note: str = ""
    dynamic: bool = False


@dataclass(frozen=True)
class _Field:
    unit: str
    meaning: str
    mallopt: str | None = None
    tunable: str | None = None
    environment: str | None = None


_FIELDS: Mapping[str, _Field] = {
    "trim_threshold": _Field(
        "bytes",
        "free gives memory at the end of the heap back to the kernel once the top chunk is at least this large.",
        "M_TRIM_THRESHOLD",
        "glibc.malloc.trim_threshold",
        "MALLOC_TRIM_THRESHOLD_",
    ),
    "top_pad": _Field(
        "bytes",
        "Each growth of the main heap asks for this much more than is needed, and each trim leaves as much in place.",
        "M_TOP_PAD",
        "glibc.malloc.top_pad",
        "MALLOC_TOP_PAD_",
    ),
    "mmap_threshold": _Field(
        "bytes",
        "A chunk of at least this size that no free chunk can serve gets a mapping of its own.",
        "M_MMAP_THRESHOLD",
        "glibc.malloc.mmap_threshold",
        "MALLOC_MMAP_THRESHOLD_",
    ),
    "arena_test": _Field(
        "count",
        "Up to this many arenas are made before malloc looks at the number of processors to find their limit.",
        "M_ARENA_TEST",
        "glibc.malloc.arena_test",
        "MALLOC_ARENA_TEST",
    ),
    "arena_max": _Field(
        "count",
        "At most this many arenas are made; 0 leaves the limit to the number of processors.",
        "M_ARENA_MAX",
        "glibc.malloc.arena_max",
        "MALLOC_ARENA_MAX",
    ),
    "thp_mode": _Field(
        "mode",
        "How transparent huge pages are used (0 always, 1 madvise, 2 never, 3 not supported).",
        tunable="glibc.malloc.hugetlb",
    ),
    "thp_pagesize": _Field(
        "bytes",
        "The size of a transparent huge page that heaps grow and shrink in; 0 means ordinary pages.",
        tunable="glibc.malloc.hugetlb",
    ),
    "hp_pagesize": _Field(
        "bytes",
        "The size of the huge pages that are asked for with MAP_HUGETLB; 0 means none.",
        tunable="glibc.malloc.hugetlb",
    ),
    "hp_flags": _Field("flag", "The flags for mmap that ask for those huge pages.", tunable="glibc.malloc.hugetlb"),
    "n_mmaps": _Field("count", "The number of chunks that have a mapping of their own now."),
    "n_mmaps_max": _Field(
        "count",
        "At most this many chunks may have a mapping of their own at one time.",
        "M_MMAP_MAX",
        "glibc.malloc.mmap_max",
        "MALLOC_MMAP_MAX_",
    ),
    "max_n_mmaps": _Field("count", "The largest number of chunks with a mapping of their own that there ever was."),
    "no_dyn_threshold": _Field(
        "flag",
        "Whether the thresholds stay as they are when an mmapped chunk is freed, because one of M_TRIM_THRESHOLD, "
        "M_TOP_PAD, M_MMAP_THRESHOLD and M_MMAP_MAX was set.",
    ),
    "mmapped_mem": _Field("bytes", "The bytes in mappings of single chunks now."),
    "max_mmapped_mem": _Field("bytes", "The largest number of bytes in such mappings that there ever was."),
    "max_total_mem": _Field("bytes", "A counter that glibc 2.23 keeps and nothing uses."),
    "sbrk_base": _Field("address", "Where the main heap begins; 0 until it has memory."),
    "tcache_bins": _Field(
        "count", "The number of size classes that a thread's tcache keeps.", tunable="glibc.malloc.tcache_max"
    ),
    "tcache_small_bins": _Field(
        "count", "The number of exact size classes that a thread's tcache keeps.", tunable="glibc.malloc.tcache_max"
    ),
    "tcache_max_bytes": _Field(
        "bytes",
        "The size up to which a thread's tcache keeps chunks: that of the request up to glibc 2.41, that of the chunk, "
        "which must be below it, from 2.42 on.",
        tunable="glibc.malloc.tcache_max",
    ),
    "tcache_count": _Field(
        "count", "At most this many chunks are kept in each tcache bin.", tunable="glibc.malloc.tcache_count"
    ),
    "tcache_unsorted_limit": _Field(
        "count",
        "At most this many unsorted chunks are sorted while one for the tcache was already found; 0 means no limit.",
        tunable="glibc.malloc.tcache_unsorted_limit",
    ),
}


def read_params(memory: Memory, abi: Abi, layout: Layout, address: int) -> Params:
    """Return ``mp_``, which is at ``address``; raise MemoryFault where it is unreadable."""
    return decode_params(abi, layout, address, memory.read(address, layout.par.size))


def decode_params(abi: Abi, layout: Layout, address: int, data: bytes) -> Params:
    """Return ``mp_`` from its bytes."""
    return Params(address, layout.par.decode(data, abi.order, SIGNED))


def _defaults(params: Params, abi: Abi, layout: Layout, machine: str) -> Mapping[str, tuple[int, ...]]:
    """Return what each setting is without any tuning: several values where builds of one layout differ."""
    # "not supported" is the initial value; "never" is what a setting of hugetlb=0, the default's meaning, gives.
    modes: tuple[int, ...] = (_THP_UNSET, _THP_NEVER)
    huge: tuple[int, ...] = (0,)
    if machine.startswith("aarch64") and "thp_mode" in params.values:  # malloc-hugepages.h of 2.43
        # hugetlb is 1 (madvise) by default, or the kernel's mode is taken; hugetlb=0 leaves no size of huge pages.
        modes = (1, 0, _THP_UNSET, *((_THP_NEVER,) if params.get("thp_pagesize") else ()))
        huge = (_THP_PAGESIZE_OF_AARCH64, *((0,) if params.get("thp_mode") == _THP_UNSET else ()))
    largest_small = 63 * abi.alignment + abi.min_size  # the chunk size of the last exact tcache bin
    max_bytes = [largest_small - abi.word_size]
    if "tcache_small_bins" in layout.par.fields:
        # 2.42.0 has the old value, 2.42.1 on have this one.
        max_bytes.insert(0, largest_small + 1)
    return {
        "trim_threshold": (_DEFAULT_THRESHOLD,),
        "top_pad": (_DEFAULT_THRESHOLD,),
        "mmap_threshold": (_DEFAULT_THRESHOLD,),
        "arena_test": (8 if abi.word_size == 8 else 2,),
        "arena_max": (0,),
        "thp_mode": modes,
        "thp_pagesize": huge,
        "hp_pagesize": (0,),
        "hp_flags": (0,),
        "n_mmaps_max": (0x10000,),
        "no_dyn_threshold": (0,),
        "tcache_bins": (64,),
        "tcache_small_bins": (64,),
        "tcache_max_bytes": tuple(max_bytes),
        "tcache_count": (7 if layout.has_fastbins else 16,),
        "tcache_unsorted_limit": (0,),
    }


def _note(name: str, params: Params, is_default: bool | None) -> tuple[str, bool]:
    """Return the note on the present value of ``name``, and whether malloc itself moved it."""
    fixed = bool(params.get("no_dyn_threshold"))
    if name == "no_dyn_threshold":
        how = "by mallopt, a tunable or the environment"
        if params.get("hp_pagesize"):
            how = "or glibc.malloc.hugetlb, which sets mmap_threshold"
        return (f"One of those four was set, {how}." if fixed else ""), False
    if name not in ("mmap_threshold", "trim_threshold"):
        return "", False
    if is_default:
        return ("" if fixed else "It rises when an mmapped chunk larger than mmap_threshold is freed."), False
    if fixed:
        huge = params.get("hp_pagesize")
        if name == "mmap_threshold" and huge and params.get(name) == huge:
            return "It is the size of a huge page, which glibc.malloc.hugetlb set.", False
        return "", False
    if name == "mmap_threshold" and params.get(name) > _DEFAULT_THRESHOLD:
        return "Raised by free of an mmapped chunk of this size (dynamic threshold, no_dyn_threshold is 0).", True
    if name == "trim_threshold" and params.get(name) == 2 * params.get("mmap_threshold"):
        return "Raised by free of an mmapped chunk to twice mmap_threshold (dynamic threshold).", True
    return (
        "It is not the default, but no setting was noted (no_dyn_threshold is 0), and free does not set it so.",
        False,
    )


def describe(params: Params, abi: Abi, layout: Layout, machine: str = "") -> tuple[ParamFact, ...]:
    """Return what there is to say about each field of ``mp_``, in the order of memory.

    ``machine`` is GDB's name of the architecture: what the kernel's huge pages are for by default depends on it.

    The defaults are those of malloc.c (struct malloc_par mp_) and of malloc-machine.h (DEFAULT_TOP_PAD, 128 KiB). A
    field that is not in the table, which a later glibc may have, is left out.
    """
    facts = []
    defaults = _defaults(params, abi, layout, machine)
    for name, value in params.values.items():
        field = _FIELDS.get(name)
        if field is None:
            continue
        usual = defaults.get(name)
        is_default = None if usual is None else value in usual
        note, dynamic = _note(name, params, is_default)
        facts.append(
            ParamFact(
                name=name,
                value=value,
                unit=field.unit,
                default=None if usual is None else value if is_default else usual[0],
                is_default=is_default,
                mallopt=field.mallopt,
                tunable=field.tunable,
                environment=field.environment,
                meaning=field.meaning,
                note=note,
                dynamic=dynamic,
            )
        )
    return tuple(facts)
