"""Where the members of malloc_state, malloc_par, heap_info and the tcache are, and what their presence tells."""

from __future__ import annotations

from dataclasses import dataclass

from gdbheap.symbols import Struct, Symbols

_STATE_NEEDS = (
    "mutex", "flags", "top", "last_remainder", "bins", "binmap", "next", "next_free", "attached_threads",
    "system_mem", "max_system_mem",
)  # fmt: skip
_PAR_NEEDS = ("trim_threshold", "top_pad", "mmap_threshold", "n_mmaps", "n_mmaps_max", "mmapped_mem", "sbrk_base")
_HEAP_INFO_NEEDS = ("ar_ptr", "prev", "size", "mprotect_size")


class LayoutUnknown(Exception):
    """The target does not describe glibc's allocator; the message is a full sentence that says what is missing."""


@dataclass(frozen=True)
class Layout:
    """The structs of one glibc build.

    ``state`` is malloc_state, ``par`` is malloc_par; ``heap_info`` and ``tcache`` (tcache_perthread_struct) are None
    where the target does not describe them. What a glibc can do is told by the fields that are there, never by a
    release number: distributions carry layouts back to older releases.
    """

    state: Struct
    par: Struct
    heap_info: Struct | None = None
    tcache: Struct | None = None

    @classmethod
    def from_symbols(cls, symbols: Symbols) -> Layout:
        """Return the layout that ``symbols`` describe.

        Raises LayoutUnknown where malloc_state or malloc_par, or a field of them that every release has, is missing.
        """
        state = _required(symbols, "malloc_state", _STATE_NEEDS)
        par = _required(symbols, "malloc_par", _PAR_NEEDS)
        heap_info = symbols.struct("_heap_info") or symbols.struct("heap_info")
        if heap_info is not None and _missing(heap_info, _HEAP_INFO_NEEDS):
            heap_info = None
        tcache = symbols.struct("tcache_perthread_struct")
        if tcache is not None and ("entries" not in tcache.fields or not {"counts", "num_slots"} & set(tcache.fields)):
            tcache = None
        return cls(state, par, heap_info, tcache)

    @property
    def has_fastbins(self) -> bool:
        """Whether arenas have fastbins; they were removed in glibc 2.43."""
        return "fastbinsY" in self.state.fields

    @property
    def asks_single_thread(self) -> bool:
        """Whether malloc takes main_arena at once where glibc knows of one thread only (SINGLE_THREAD_P): since 2.27.

        have_fastchunks came at the same time.
        """
        return "have_fastchunks" in self.state.fields or not self.has_fastbins

    @property
    def tcache_counts_down(self) -> bool:
        """Whether the tcache keeps the number of free places (``num_slots``) and bins for large chunks (2.42 on)."""
        return self.tcache is not None and "num_slots" in self.tcache.fields


def _missing(struct: Struct, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name not in struct.fields]


def _required(symbols: Symbols, name: str, fields: tuple[str, ...]) -> Struct:
    struct = symbols.struct(name)
    if struct is None:
        raise LayoutUnknown(f"The target's debug information does not describe struct {name}.")
    missing = _missing(struct, fields)
    if missing:
        raise LayoutUnknown(f"The target's struct {name} has no field {', '.join(missing)}: it is not glibc's.")
    return struct
