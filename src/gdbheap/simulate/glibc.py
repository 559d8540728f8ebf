"""What the simulated allocator must know of one process's glibc: where things are, and what its release does."""

from __future__ import annotations

from dataclasses import dataclass

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import Params
from gdbheap.simulate.facts import since
from gdbheap.simulate.state import GrowthState, Release

#: Stands for tcache_key, a random number, before malloc has chosen it, and while no chunk tells it.
UNKNOWN_KEY = 0x79656B6E776F6E6B


@dataclass(frozen=True)
class Glibc:
    """What stays the same while a process runs.

    ``mp`` and ``main_arena`` are the addresses of the two variables, ``params`` are the fields of mp_ (which ones there
    are; not their values). ``safe_linking`` says whether links are mangled. ``key`` marks chunks in a tcache where
    it is the same for all threads (tcache_key, from glibc 2.34 on); None where the mark is the address of the tcache
    (2.29 to 2.33) or there is none, which ``marks`` tells apart. ``always_fail_morecore`` and ``may_shrink_heap`` are
    as in GrowthState. ``hooks`` are the functions of __malloc_hook and its like that are honoured (up to 2.33).
    ``processors`` is what __get_nprocs answers. ``partial`` says that memory which cannot be read may have been there
    all the same, as with a core file.
    """

    abi: Abi
    layout: Layout
    release: Release
    mp: int
    main_arena: int
    params: Params
    safe_linking: bool
    key: int | None = None
    marks: bool = True
    always_fail_morecore: bool | None = None
    may_shrink_heap: bool | None = None
    hooks: tuple[str, ...] = ()
    processors: int | None = None
    partial: bool = False

    def since(self, major: int, minor: int) -> bool:
        """Whether this is release ``major``.``minor`` or later; raise Unpredictable where that is not known."""
        return since(GrowthState(self.abi, self.params, None, release=self.release), major, minor)
