"""Transparent huge pages: the advice that follows new memory (glibc.malloc.hugetlb=1)."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import round_down, round_up
from gdbheap.simulate.calls import Call, Calling, Term
from gdbheap.simulate.facts import since
from gdbheap.simulate.kernel import MADV_HUGEPAGE
from gdbheap.simulate.state import GrowthState

#: The value of mp_.thp_mode that stands for [madvise] in /sys/kernel/mm/transparent_hugepage/enabled (glibc 2.43).
THP_MODE_MADVISE = 1


def madvise_thp(state: GrowthState, address: int, size: int) -> Calling[None]:
    """Ask for transparent huge pages for ``size`` bytes at ``address``, where the settings want that.

    madvise_thp (malloc/malloc.c), from glibc 2.35 on. The kernel's answer is ignored.
    """
    thp_pagesize = state.params.get("thp_pagesize")
    page = state.abi.page_size
    if size < thp_pagesize:
        return
    if "thp_mode" in state.params.values:
        if state.params.values["thp_mode"] != THP_MODE_MADVISE:
            return
    elif not thp_pagesize:
        return
    if address % page:
        start = round_up(address, page) if since(state, 2, 43) else round_down(address, page)
        address, size = start, size + address - start
    yield Call(
        syscall="madvise",
        args=(address, size, MADV_HUGEPAGE),
        path="thp-advice",
        terms=(Term("new memory", size),),
        total=size,
        rounded=size,
        multiple=1,
        why=(
            f"Transparent huge pages are wanted (glibc.malloc.hugetlb=1), and the new memory, {size:#x} bytes, is at "
            f"least one of them (thp_pagesize {thp_pagesize:#x}).",
        ),
        source="madvise_thp (malloc/malloc.c)",
    )
