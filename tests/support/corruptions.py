"""The modes of c_fixtures/corrupt.c: what each damages, and what glibc says when it notices."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from gdbheap.ptmalloc.checks import CHECKS


class Mode(NamedTuple):
    """One mode: the ``message`` that glibc prints, the ``kind`` of the first finding before that.

    ``until`` is the last release in which that damage leads to that message, None where it does as long as there is it.
    """

    message: str
    kind: str
    until: tuple[int, int] | None = None


def own_version() -> tuple[int, int]:
    """Return the release of the glibc that this machine's programs run with."""
    found = re.search(r"(\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    assert found is not None
    return int(found[1]), int(found[2])


def has_message(message: str, version: tuple[int, int]) -> bool:
    """Return whether a release of glibc, from 2.31 to 2.43, can print a message of CHECKS."""
    check = CHECKS[message]
    mangled, fast, places = version >= (2, 32), version <= (2, 42), version >= (2, 42)
    has = {
        "": True, "tcache": True, "fastbins": fast, "safe-linking": mangled, "mangled fastbins": mangled and fast,
        "places": places, "fastbins and places": fast and places,
    }  # fmt: skip
    return has[check.needs] and (check.since or version) <= version <= (check.until or version)


def why_not(mode: str) -> str | None:
    """Return why this machine's glibc does not print what a mode of corrupt.c leads to, None where it does."""
    version = own_version()
    message, until = CALLS.get(mode, ""), None
    if mode in MODES:
        message, _, until = MODES[mode]
    if has_message(message, version) and version <= (until or version):
        return None
    return f"glibc {version[0]}.{version[1]} does not print {message!r} for that"


MODES: Mapping[str, Mode] = {
    "free-invalid-pointer": Mode("free(): invalid pointer", "chunk-size", until=(2, 41)),
    "free-invalid-size": Mode("free(): invalid size", "chunk-size"),
    "tcache-too-many": Mode("free(): too many chunks detected in tcache", "list-loop"),
    "tcache-unaligned-free": Mode("free(): unaligned chunk detected in tcache 2", "list-pointer"),
    "next-size-fast": Mode("free(): invalid next size (fast)", "chunk-size"),
    "free-top": Mode("double free or corruption (top)", "top-pointer"),
    "free-out": Mode("double free or corruption (out)", "chunk-size"),
    "free-prev": Mode("double free or corruption (!prev)", "prev-inuse-clear"),
    "next-size-normal": Mode("free(): invalid next size (normal)", "chunk-size"),
    "consolidating": Mode("corrupted size vs. prev_size while consolidating", "prev-size"),
    "size-prev-size": Mode("corrupted size vs. prev_size", "prev-size"),
    "linked-list": Mode("corrupted double-linked list", "list-link"),
    "not-small": Mode("corrupted double-linked list (not small)", "nextsize"),
    "free-unsorted": Mode("free(): corrupted unsorted chunks", "list-link"),
    "munmap-pointer": Mode("munmap_chunk(): invalid pointer", "mmapped-header"),
    "mremap-pointer": Mode("mremap_chunk(): invalid pointer", "mmapped-header"),
    "realloc-pointer": Mode("realloc(): invalid pointer", "chunk-size"),
    "realloc-old-size": Mode("realloc(): invalid old size", "chunk-size"),
    "realloc-next-size": Mode("realloc(): invalid next size", "chunk-size"),
    "tcache-unaligned": Mode("malloc(): unaligned tcache chunk detected", "list-pointer"),
    "tcache-unaligned-second": Mode("malloc(): unaligned tcache chunk detected", "list-pointer"),
    "fastbin-unaligned-2": Mode("malloc(): unaligned fastbin chunk detected 2", "list-pointer"),
    "fastbin-unaligned-3": Mode("malloc(): unaligned fastbin chunk detected 3", "list-pointer"),
    "fastbin-unaligned": Mode("malloc(): unaligned fastbin chunk detected", "list-pointer"),
    "memory-corruption-fast": Mode("malloc(): memory corruption (fast)", "list-size"),
    "fastbin-entry": Mode("invalid fastbin entry (free)", "list-size"),
    "smallbin": Mode("malloc(): smallbin double linked list corrupted", "list-link"),
    "smallbin-front": Mode("free(): chunks in smallbin corrupted", "list-link"),
    "unsorted-size": Mode("malloc(): invalid size (unsorted)", "list-size"),
    "unsorted-overrun": Mode("malloc(): invalid size (unsorted)", "list-size"),
    "unsorted-next-size": Mode("malloc(): invalid next size (unsorted)", "chunk-size"),
    "unsorted-prev-size": Mode("malloc(): mismatching next->prev_size (unsorted)", "prev-size"),
    "unsorted-links": Mode("malloc(): unsorted double linked list corrupted", "list-pointer"),
    "unsorted-prev-inuse": Mode("malloc(): invalid next->prev_inuse (unsorted)", "prev-inuse-set"),
    "largebin-nextsize": Mode("malloc(): largebin double linked list corrupted (nextsize)", "nextsize"),
    "largebin-bk": Mode("malloc(): largebin double linked list corrupted (bk)", "list-link"),
    "unsorted-head": Mode("malloc(): corrupted unsorted chunks", "bin-head"),
    "unsorted-head-2": Mode("malloc(): corrupted unsorted chunks 2", "bin-head"),
    "top-size-huge": Mode("malloc(): corrupted top size", "top-size"),
    "consolidate-size": Mode("malloc_consolidate(): invalid chunk size", "list-size"),
    "consolidate-unaligned": Mode("malloc_consolidate(): unaligned fastbin chunk detected", "list-pointer"),
    "consolidate-prev-size": Mode("corrupted size vs. prev_size in fastbins", "prev-inuse-clear"),
    "break-adjusted": Mode("break adjusted to free malloc space", "top-size"),
    "sysmalloc-assert": Mode("assertion in sysmalloc", "top-size"),
    "thread-shutdown": Mode("tcache_thread_shutdown(): unaligned tcache chunk detected", "list-pointer"),
    "mallinfo-unaligned": Mode("int_mallinfo(): unaligned fastbin chunk detected", "list-pointer"),
    "malloc-info-unaligned": Mode("__malloc_info(): unaligned fastbin chunk detected", "list-pointer"),
}

#: The mode in which malloc checks nothing, and follows a pointer to where no memory is.
CRASH = "crash-link"

#: The modes in which the heap is sound and the call is wrong.
CALLS: Mapping[str, str] = {
    "call-double-free": "free(): double free detected in tcache 2",
    "call-fasttop": "double free or corruption (fasttop)",
    "call-invalid-pointer": "free(): invalid pointer",
    "call-double-free-large": "double free or corruption (!prev)",
}

#: Messages that some of Debian's glibcs do not print: the unit tests on heap images that foretell them.
IMAGES: Mapping[str, str] = {
    "free(): chunks in smallbin corrupted": "test_a_small_bin_whose_front_does_not_lead_back",
    "malloc(): chunk size mismatch in fastbin": "test_a_fastbin_chunk_that_the_tcache_takes_over",
    "_int_memalign(): unaligned chunk detected": "test_a_bin_with_a_chunk_that_is_not_aligned",
}

#: Messages that damage to the heap never leads to, and why.
UNREACHED: Mapping[str, str] = {
    "malloc(): corrupted unsorted chunks 3": "an earlier check of the same words prints another message first",
    "max tcache size too large": "it is about glibc's own constants, not about the heap",
}
