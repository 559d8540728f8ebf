"""The simulated allocator of a program that has not called malloc yet, of releases that need no binary."""

from __future__ import annotations

from gdbheap.ptmalloc.params import read_params
from gdbheap.simulate.glibc import Glibc
from gdbheap.simulate.linux import WillingKernel
from gdbheap.simulate.machine import Globals, Machine, Thread
from gdbheap.simulate.state import Release
from gdbheap.simulate.whatif import empty_machine
from tests.support.heap_image import Image

#: By the name of a layout of heap_image: the release that is simulated with it.
RELEASES = {"2.31": (2, 31), "2.36": (2, 36), "2.43": (2, 43)}


def fresh(
    version: str = "2.36", bits: int = 64, release: tuple[int, int] | None = None, scans_bins: bool | None = None
) -> Machine:
    """Return an allocator whose structs are those of ``version``; ``release`` is another one with the same layout."""
    image = Image(version, bits)
    abi = image.abi
    largest = abi.min_size + 63 * abi.alignment
    values = {"trim_threshold": 0x20000, "mmap_threshold": 0x20000, "top_pad": 0x20000, "n_mmaps_max": 65536}
    if version == "2.43":
        values.update(tcache_small_bins=64, tcache_max_bytes=largest + 1, tcache_count=16)
    else:
        values.update(tcache_bins=64, tcache_max_bytes=largest - abi.word_size, tcache_count=7)
    image.par(**values)
    glibc = Glibc(
        abi=abi,
        layout=image.layout,
        release=Release(release or RELEASES[version]),
        mp=image.MP,
        main_arena=image.MAIN_ARENA,
        params=read_params(image.memory, abi, image.layout, image.MP),
        safe_linking=image.safe_linking,
        key=0x1234567,
        may_shrink_heap=False,
        scans_bins=scans_bins,
    )
    variables = Globals(curbrk=0, max_fast=16 * abi.word_size, single=True, numbers={image.MAIN_ARENA: 0})
    thread = Thread(1, 0, image.MAIN_ARENA)
    return empty_machine(Machine(glibc, image.memory, thread, variables, WillingKernel(abi.word_size)))
