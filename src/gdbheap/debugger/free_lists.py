"""The free lists that a command names, read once and then shown."""

from __future__ import annotations

from collections.abc import Sequence

from gdbheap.debugger import session
from gdbheap.debugger.tcaches import ThreadTcache, read_thread_tcaches
from gdbheap.memory import PageCache
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.lists import (
    ArenaLists,
    ChunkList,
    ListRow,
    TcacheLists,
    arena_list,
    list_rows,
    list_totals,
    tcache_bin_total,
    tcache_lists,
)
from gdbheap.ptmalloc.state import HeapState

#: How much is fetched at once while lists are followed, in bytes: their chunks lie scattered.
_CACHED = 0x4000


class FreeListReader:
    """Reads free lists of the process as it is now."""

    def __init__(self, state: HeapState) -> None:
        self._state = state
        self._target = session.target()
        self._memory = PageCache(self._target.memory, _CACHED)

    def of_arena(self, arena: Arena) -> ArenaLists:
        """Return the lists of an arena."""
        abi, layout = self._state.abi, self._state.layout
        found = read_free_lists(self._memory, abi, layout, arena, self._target.safe_linking)
        return ArenaLists(arena, tuple(arena_list(abi, item) for item in found), list_totals(abi, arena))

    def of_threads(self, threads: Sequence[int]) -> list[TcacheLists]:
        """Return the tcaches of threads, by GDB's numbers."""
        return [self._of_thread(item) for item in read_thread_tcaches(self._target, threads)]

    def _of_thread(self, item: ThreadTcache) -> TcacheLists:
        abi, layout, params = self._state.abi, self._state.layout, self._state.params
        lists: tuple[ChunkList, ...] = ()
        totals = {}
        if item.tcache is not None:
            lists = tcache_lists(params, layout, item.tcache)
            totals["tcache"] = tcache_bin_total(abi, layout, params)
        return TcacheLists(item.thread, item.tcache, item.known, item.why, lists, totals)

    def rows(self, item: ChunkList, limit: int | None) -> tuple[ListRow, ...]:
        """Return the first ``limit`` chunks of a list (None: all) with their links."""
        return list_rows(self._memory, self._state.abi, item, self._target.safe_linking, limit)
