"""Whose memory a system call is about, on stacks that GDB recorded of real programs.

Unless they say otherwise they are of GDB 13.1 and glibc 2.36 (Debian 12) with glibc's debug symbols. A stack is
written newest first: the object file in brackets where it changes, ``~`` before an inlined function, ``?`` for code
without a name, the source line, and in braces the variables that GDB could read.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from gdbheap.growth.decision import user_frame
from gdbheap.growth.event import ChunkHeader, Event, Frame, Requested, Requester
from gdbheap.growth.names import meaning
from gdbheap.growth.request import malloc_call, stream_of
from gdbheap.growth.requester import requester


@dataclass(frozen=True)
class Stack:
    syscall: str
    args: tuple[int, ...]
    result: int
    kind: str
    purpose: str
    frames: str
    file: str | None = None

    @property
    def event(self) -> Event:
        event = Event(
            id=1,
            process=1,
            thread=1,
            tid=1,
            syscall=self.syscall,
            args=self.args,
            frames=frames_of(self.frames),
            result=self.result,
            file=self.file,
        )
        return changed(event, requester=requester(event))


def changed(event: Event, **changes: Any) -> Event:
    """Return ``event`` with some fields changed."""
    return Event(**{name: changes.get(name, getattr(event, name)) for name in inspect.signature(Event).parameters})


_FRAME = re.compile(
    r"(?:\[(?P<objfile>[^]]+)\] )?(?P<inlined>~)?(?P<function>.+?)"
    r"(?: at (?P<file>\S+):(?P<line>\d+))?(?:\{(?P<variables>[^}]*)\})?$"
)


def frames_of(text: str) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    objfile: str | None = None
    pc = 0x1000
    for part in " ".join(text.split()).split(" <- "):
        found = _FRAME.match(part)
        assert found is not None, part
        if found["objfile"] is not None:
            objfile = None if found["objfile"] == "?" else f"/usr/lib/{found['objfile']}"
        variables = dict(item.split("=") for item in (found["variables"] or "").split())
        frames.append(
            Frame(
                function=None if found["function"] == "?" else found["function"],
                file=found["file"],
                line=int(found["line"]) if found["line"] else None,
                objfile=objfile,
                pc=pc,
                variables={name: int(value, 16) for name, value in variables.items()},
            )
        )
        if not found["inlined"]:
            pc += 0x10
    return tuple(frames)


STACKS: Mapping[str, Stack] = {
    "loader break": Stack(
        "brk",
        (0,),
        0x555555559000,
        "loader",
        "asks where the break is",
        """
        [ld-linux-x86-64.so.2] __brk <- _dl_sysdep_start <- ~_dl_start_final <- _dl_start <- _start
        """,
    ),
    "loader malloc": Stack(
        "mmap",
        (0, 0x2000, 3, 0x22, -1, 0),
        0x7FFFF7FC0000,
        "loader",
        "link maps and search paths (the loader's own malloc)",
        """
        [ld-linux-x86-64.so.2] ~__mmap64 <- __mmap64 <- __minimal_malloc <- ~malloc <- _dl_init_paths <-
        ~call_init_paths <- dl_main
        """,
    ),
    "loader cache": Stack(
        "mmap",
        (0, 0x86F3, 1, 2, 3, 0),
        0x7FFFF7FB7000,
        "loader",
        "reads /etc/ld.so.cache",
        """
        [ld-linux-x86-64.so.2] ~__mmap64 <- __mmap64 <- _dl_sysdep_read_whole_file <- _dl_load_cache_lookup <-
        _dl_map_object <- openaux
        """,
        file="/etc/ld.so.cache",
    ),
    "loader headers": Stack(
        "mmap",
        (0, 0x1E1F50, 1, 0x802, 3, 0),
        0x7FFFF7DD5000,
        "loader",
        "maps libc.so.6: headers and constants",
        """
        [ld-linux-x86-64.so.2] ~__mmap64 <- __mmap64 <- ~_dl_map_segment <- ~_dl_map_segments <-
        _dl_map_object_from_fd <- _dl_map_object <- openaux
        """,
        file="/usr/lib/x86_64-linux-gnu/libc.so.6",
    ),
    "loader code": Stack(
        "mmap",
        (0x7FFFF7DFB000, 0x156000, 5, 0x812, 3, 0x26000),
        0x7FFFF7DFB000,
        "loader",
        "maps libc.so.6: code",
        """
        [ld-linux-x86-64.so.2] ~__mmap64 <- __mmap64 <- ~_dl_map_segments <- _dl_map_object_from_fd <-
        _dl_map_object <- openaux
        """,
        file="/usr/lib/x86_64-linux-gnu/libc.so.6",
    ),
    "loader data": Stack(
        "mmap",
        (0x7FFFF7FA4000, 0x6000, 3, 0x812, 3, 0x1CF000),
        0x7FFFF7FA4000,
        "loader",
        "maps libc.so.6: data",
        """
        [ld-linux-x86-64.so.2] ~__mmap64 <- __mmap64 <- ~_dl_map_segments <- _dl_map_object_from_fd <-
        _dl_map_object <- openaux
        """,
        file="/usr/lib/x86_64-linux-gnu/libc.so.6",
    ),
    "loader bss": Stack(
        "mmap",
        (0x7FFFF7FAA000, 0xCF50, 3, 0x32, -1, 0),
        0x7FFFF7FAA000,
        "loader",
        "zero-filled data of a library (.bss)",
        """
        [ld-linux-x86-64.so.2] ~__mmap64 <- __mmap64 <- ~_dl_map_segments <- _dl_map_object_from_fd <-
        _dl_map_object <- openaux
        """,
    ),
    "loader tls": Stack(
        "mmap",
        (0, 0x3000, 3, 0x22, -1, 0),
        0x7FFFF7DD2000,
        "loader",
        "static TLS and thread control block",
        """
        [ld-linux-x86-64.so.2] ~__mmap64 <- __mmap64 <- __minimal_malloc <- ~malloc <- _dl_allocate_tls_storage
        <- init_tls <- dl_main
        """,
    ),
    "loader relro": Stack(
        "mprotect",
        (0x7FFFF7FA4000, 0x4000, 1),
        0,
        "loader",
        "makes relocated data of the program or a library read-only (RELRO)",
        """
        [ld-linux-x86-64.so.2] __GI_mprotect <- _dl_protect_relro <- _dl_relocate_object <- dl_main <-
        _dl_sysdep_start
        """,
    ),
    "loader unmaps cache": Stack(
        "munmap",
        (0x7FFFF7FB7000, 0x86F3),
        0,
        "loader",
        "unmaps /etc/ld.so.cache",
        """
        [ld-linux-x86-64.so.2] __GI_munmap <- _dl_unload_cache <- dl_main <- _dl_sysdep_start
        """,
    ),
    "own sbrk": Stack(
        "brk",
        (0,),
        0x555555559000,
        "program",
        "the program's own sbrk in main",
        """
        [libc.so.6] __brk <- __GI___sbrk <- [seed] main at seed.c:7
        """,
    ),
    "stdout's buffer": Stack(
        "brk",
        (0x55555557A000,),
        0x55555557A000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x290 av=0x7ffff7fa8c60} <-
        _int_malloc{av=0x7ffff7fa8c60 bytes=0x280} <- tcache_init <- ~tcache_init <-
        __GI___libc_malloc{bytes=0x1000} <- __GI__IO_file_doallocate{fp=0x7ffff7fa9760} <- ~__GI__IO_doallocbuf
        <- __GI__IO_doallocbuf <- _IO_new_file_overflow <- ~_IO_new_file_xsputn <- _IO_new_file_xsputn <-
        ~outstring_func <- __vfprintf_internal <- __printf <- [seed] main at seed.c:7
        """,
    ),
    "stdout's buffer, no symbols": Stack(
        "brk",
        (0x55555557A000,),
        0x55555557A000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] brk <- sbrk <- __default_morecore <- ? <- ? <- ? <- malloc <- _IO_file_doallocate <-
        _IO_doallocbuf <- _IO_file_overflow <- _IO_file_xsputn <- ?
        """,
    ),
    "loader cache, no symbols": Stack(
        "mmap",
        (0, 0x86F3, 1, 2, 3, 0),
        0x7FFFF7FB7000,
        "loader",
        "reads /etc/ld.so.cache",
        """
        [ld-linux-x86-64.so.2] ? <- ? <- ? <- ? <- ? <- [libc.so.6] _dl_catch_exception <-
        [ld-linux-x86-64.so.2] ? <- [libc.so.6] _dl_catch_exception <- [ld-linux-x86-64.so.2] ? <- [libc.so.6] ?
        <- _dl_catch_exception <- _dl_catch_error
        """,
        file="/etc/ld.so.cache",
    ),
    "loader's library, no symbols": Stack(
        "mmap",
        (0x7FFFF7D02000, 0x74000, 5, 0x812, 3, 0x10000),
        0x7FFFF7D02000,
        "loader",
        "maps libm.so.6: code",
        """
        [ld-linux-x86-64.so.2] ? <- ? <- ? <- ? <- [libc.so.6] _dl_catch_exception <- [ld-linux-x86-64.so.2] ?
        <- [libc.so.6] _dl_catch_exception <- [ld-linux-x86-64.so.2] ? <- [libc.so.6] ? <- _dl_catch_exception
        <- _dl_catch_error <- ?
        """,
        file="/usr/lib/x86_64-linux-gnu/libm.so.6",
    ),
    "loader unmaps, no symbols": Stack(
        "munmap",
        (0x7FFFF7CD3000, 0x1E190),
        0,
        "loader",
        "unmaps a library or a file",
        """
        [ld-linux-x86-64.so.2] ? <- ? <- ? <- ? <- [libc.so.6] _dl_catch_exception <- _dl_catch_error <- ? <-
        dlclose <- [misc] main at misc.c:21
        """,
    ),
    "strdup in the loader": Stack(
        "brk",
        (0,),
        0x5555555BB000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x290 av=0x7ffff7fa8c60} <-
        _int_malloc{av=0x7ffff7fa8c60 bytes=0x280} <- tcache_init <- ~tcache_init{bytes=0x280} <-
        __GI___libc_malloc{bytes=0x20} <- [ld-linux-x86-64.so.2] ~malloc <- __strdup <- _dl_load_cache_lookup <-
        _dl_map_object <- dl_open_worker_begin <- [libc.so.6] __GI__dl_catch_exception <- [ld-linux-x86-64.so.2]
        dl_open_worker <- [libc.so.6] __GI__dl_catch_exception <- [ld-linux-x86-64.so.2] _dl_open <- [libc.so.6]
        dlopen_doit <- __GI__dl_catch_exception <- __GI__dl_catch_error <- _dlerror_run <-
        ~dlopen_implementation
        """,
    ),
    "strdup in the loader, no symbols": Stack(
        "brk",
        (0,),
        0x5555555BB000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] brk <- sbrk <- __default_morecore <- ? <- ? <- ? <- malloc <- [ld-linux-x86-64.so.2] ? <- ?
        <- ? <- ? <- [libc.so.6] _dl_catch_exception <- [ld-linux-x86-64.so.2] ? <- [libc.so.6]
        _dl_catch_exception <- [ld-linux-x86-64.so.2] ? <- [libc.so.6] ? <- _dl_catch_exception <-
        _dl_catch_error <- ? <- dlopen <- [misc] main at misc.c:21
        """,
    ),
    "thread stack": Stack(
        "mmap",
        (0, 0x1401000, 0, 0x20022, -1, 0),
        0x7FFFF69D1000,
        "thread-stack",
        "stack of a new thread",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- ~allocate_stack <- __pthread_create_2_1 <- [misc] main at
        misc.c:26
        """,
    ),
    "thread stack protection": Stack(
        "mprotect",
        (0x7FFFF69D2000, 0x1400000, 3),
        0,
        "thread-stack",
        "stack of a new thread",
        """
        [libc.so.6] __GI_mprotect <- ~setup_stack_prot <- ~allocate_stack <- __pthread_create_2_1 <- [misc] main
        at misc.c:26
        """,
    ),
    "thread stack, no symbols": Stack(
        "mmap",
        (0, 0x1401000, 0, 0x20022, -1, 0),
        0x7FFFF69D1000,
        "thread-stack",
        "stack of a new thread",
        """
        [libc.so.6] mmap64 <- pthread_create <- [misc] main at misc.c:26
        """,
    ),
    "thread stack 2.31": Stack(
        "mmap",
        (0, 0x1401000, 0, 0x20022, -1, 0),
        0x7FFFF69C5000,
        "thread-stack",
        "stack of a new thread",
        """
        [libc.so.6] mmap64 <- [libpthread.so.0] pthread_create@@GLIBC_2.2.5 <- [misc-31] main at misc.c:26
        """,
    ),
    "thread stack 2.43": Stack(
        "mmap",
        (0, 0x1401000, 3, 0x20022, -1, 0),
        0x7FFFF69BF000,
        "thread-stack",
        "stack of a new thread",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- ~allocate_thread_stack <- ~allocate_stack <-
        __pthread_create_2_1 <- [misc-43] main at misc.c:26
        """,
    ),
    "thread guard 2.43": Stack(
        "madvise",
        (0x7FFFF69BF000, 0x1000, 0x66),
        0,
        "thread-stack",
        "guard of a new thread's stack",
        """
        [libc.so.6] __GI_madvise <- ~setup_stack_prot <- ~allocate_stack <- __pthread_create_2_1 <- [misc-43]
        main at misc.c:26
        """,
    ),
    "thread guard 2.43, taken away": Stack(
        "madvise",
        (0x7FFFF69BF000, 0x1000, 0x67),
        0,
        "thread-stack",
        "guard of a thread's stack, taken away",
        "[libc.so.6] __GI_madvise <- ~adjust_stack_prot <- ~allocate_stack <- __pthread_create_2_1 <- [a.out] main",
    ),
    "malloc_trim": Stack(
        "madvise",
        (0x5555555C1000, 0x18000, 4),
        0,
        "malloc",
        "pages inside free chunks",
        "[libc.so.6] __GI_madvise <- ~mtrim <- __malloc_trim <- [paths] trims at paths.c:506 <- main",
    ),
    "malloc_trim, no symbols": Stack(
        "madvise",
        (0x5555555C1000, 0x18000, 4),
        0,
        "malloc",
        "pages inside free chunks",
        "[libc.so.6] madvise <- malloc_trim <- [paths] trims at paths.c:506 <- main",
    ),
    "the end of a heap": Stack(
        "madvise",
        (0x7FFFF000E000, 0x4B000, 4),
        0,
        "malloc",
        "the heap of a thread's arena",
        "[libc.so.6] __GI_madvise <- ~shrink_heap <- heap_trim <- _int_free <- __GI___libc_free <- [paths] free_all",
    ),
    "huge pages": Stack(
        "madvise",
        (0x555555559000, 0x200000, 14),
        0,
        "malloc",
        "huge pages for new memory",
        "[libc.so.6] __GI_madvise <- ~madvise_thp <- sysmalloc <- _int_malloc <- __GI___libc_malloc <- [a.out] main",
    ),
    "huge pages, no symbols": Stack(
        "madvise",
        (0x555555559000, 0x200000, 14),
        0,
        "malloc",
        "huge pages for new memory",
        "[libc.so.6] madvise <- ? <- ? <- malloc <- [a.out] main",
    ),
    "advice of the program's own": Stack(
        "madvise",
        (0x7FFFF7A00000, 0x10000, 4),
        0,
        "program",
        "the program's own posix_madvise in main",
        "[libc.so.6] posix_madvise <- [a.out] main",
    ),
    "advice of another malloc": Stack(
        "madvise",
        (0x7FFFF7A00000, 0x10000, 8),
        0,
        "other",
        "another malloc: libjemalloc.so.2",
        "[libc.so.6] __GI_madvise <- [libjemalloc.so.2] os_pages_purge <- free <- [a.out] main",
    ),
    "advice of the loader": Stack(
        "madvise",
        (0x7FFFF7A00000, 0x10000, 14),
        0,
        "loader",
        "advice about the program or a library",
        "[ld-linux-x86-64.so.2] __madvise <- _dl_map_segments <- _dl_map_object_from_fd <- _dl_map_object",
    ),
    "thread's end": Stack(
        "madvise",
        (0x7FFFF75D1000, 0x7FB000, 4),
        0,
        "thread-stack",
        "stack of a thread that has ended",
        """
        [libc.so.6] __GI_madvise <- ~advise_stack_range <- start_thread <- clone3
        """,
    ),
    "thread's end, no symbols": Stack(
        "madvise",
        (0x7FFFF719C000, 0x7FB000, 4),
        0,
        "thread-stack",
        "stack of a thread that has ended",
        """
        [libc.so.6] madvise <- ? <- ?
        """,
    ),
    "thread joined": Stack(
        "munmap",
        (0x7FFFF69D1000, 0x1401000),
        0,
        "thread-stack",
        "stack of a thread that has ended",
        """
        [libc.so.6] __GI_munmap <- __nptl_free_stacks <- ~queue_stack <- __GI___nptl_deallocate_stack <-
        __GI___nptl_free_tcb <- __pthread_clockjoin_ex <- [misc] main at misc.c:26
        """,
    ),
    "DTV": Stack(
        "brk",
        (0,),
        0x5555555BB000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x290 av=0x7ffff7fa8c60} <-
        _int_malloc{av=0x7ffff7fa8c60 bytes=0x280} <- tcache_init <- ~tcache_init{bytes=0x280} <- __libc_calloc
        <- [ld-linux-x86-64.so.2] ~calloc <- allocate_dtv <- __GI__dl_allocate_tls <- [libc.so.6]
        ~allocate_stack
        """,
    ),
    "new arena": Stack(
        "mmap",
        (0, 0x8000000, 0, 0x4022, -1, 0),
        0x7FFFEF400000,
        "malloc",
        "the heap of a thread's arena",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- alloc_new_heap{size=0x21000} <- new_heap{size=0xb58} <-
        ~_int_new_arena{size=0x280} <- ~arena_get2 <- arena_get2 <- tcache_init <- ~tcache_init{bytes=0x280} <-
        __GI___libc_malloc{bytes=0xa} <- [misc] thr at misc.c:17
        """,
    ),
    "new arena, no symbols": Stack(
        "mmap",
        (0, 0x8000000, 0, 0x4022, -1, 0),
        0x7FFFED400000,
        "malloc",
        "the heap of a thread's arena",
        """
        [libc.so.6] mmap64 <- ? <- ? <- ? <- malloc <- [misc] thr at misc.c:17
        """,
    ),
    "heap grows": Stack(
        "mprotect",
        (0x7FFFF0021000, 0xD4000, 3),
        0,
        "malloc",
        "the heap of a thread's arena",
        """
        [libc.so.6] __GI_mprotect <- ~grow_heap{h=0x7ffff0000000} <- sysmalloc{nb=0xf4250 av=0x7ffff0000030} <-
        _int_malloc{av=0x7ffff0000030 bytes=0xf4240} <- __GI___libc_malloc{bytes=0xf4240} <- [probe] thr2 at
        probe.c:20
        """,
    ),
    "heap trimmed": Stack(
        "munmap",
        (0x7FFFEC000000, 0x4000000),
        0,
        "malloc",
        "the heap of a thread's arena",
        """
        [libc.so.6] __GI_munmap <- ~heap_trim{pad=0x20000} <- _int_free{av=0x7ffff0000030} <- __GI___libc_free
        <- [probe] thr2 at probe.c:21
        """,
    ),
    "iconv cache": Stack(
        "mmap",
        (0, 0x6994, 1, 1, 3, 0),
        0x7FFFF7FB9000,
        "other",
        "iconv's list of modules",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- __gconv_load_cache <- __gconv_read_conf <-
        __pthread_once_slow <- ___pthread_once <- __gconv_load_conf <- __gconv_find_transform <-
        __GI___gconv_open <- iconv_open <- [misc] main at misc.c:22
        """,
        file="/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
    ),
    "iconv cache, no symbols": Stack(
        "mmap",
        (0, 0x6994, 1, 1, 3, 0),
        0x7FFFF7FB9000,
        "other",
        "iconv's list of modules",
        """
        [libc.so.6] mmap64 <- ? <- ? <- ? <- ? <- __gconv_open <- iconv_open <- [misc] main at misc.c:22
        """,
        file="/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
    ),
    "locale": Stack(
        "mmap",
        (0, 0x7F, 1, 2, 3, 0),
        0x7FFFF7DD0000,
        "locale",
        "locale data, LC_ADDRESS",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- _nl_load_locale <- _nl_find_locale <- __GI_setlocale <-
        [misc] main at misc.c:24
        """,
        file="/usr/lib/locale/C.utf8/LC_ADDRESS",
    ),
    "spawn": Stack(
        "mmap",
        (0, 0x9000, 3, 0x20022, -1, 0),
        0x7FFFF7FB7000,
        "other",
        "stack of the child that posix_spawn makes",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- __spawnix <- __spawni <- __GI___posix_spawn <-
        ~spawn_process <- _IO_new_proc_open <- _IO_new_popen <- [misc] main at misc.c:28
        """,
    ),
    "spawn, no symbols": Stack(
        "mmap",
        (0, 0x9000, 3, 0x20022, -1, 0),
        0x7FFFF7FB7000,
        "other",
        "stack of the child that posix_spawn makes",
        """
        [libc.so.6] mmap64 <- ? <- ? <- posix_spawn <- [misc] main at misc.c:27
        """,
    ),
    "stdio": Stack(
        "mmap",
        (0, 0x4C5, 1, 1, 3, 0),
        0x7FFFF7FBF000,
        "stdio",
        "a stream that reads /etc/passwd",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- decide_maybe_mmap <- _IO_file_underflow_maybe_mmap <-
        __GI__IO_default_uflow <- __GI__IO_getline_info <- __GI__IO_getline <- _IO_fgets <- [misc] main at
        misc.c:31
        """,
        file="/etc/passwd",
    ),
    "stdio, no symbols": Stack(
        "mmap",
        (0, 0x4C5, 1, 1, 3, 0),
        0x7FFFF7FBF000,
        "stdio",
        "a stream that reads /etc/passwd",
        """
        [libc.so.6] mmap64 <- ? <- ? <- _IO_default_uflow <- _IO_getline_info <- fgets <- [misc] main at
        misc.c:31
        """,
        file="/etc/passwd",
    ),
    "abort": Stack(
        "mmap",
        (0, 0x1000, 3, 0x22, -1, 0),
        0x7FFFF7FBF000,
        "other",
        "the text of an error message",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- __libc_message <- malloc_printerr <-
        _int_free{av=0x7ffff7fa8c60 p=0x5555555bb290} <- __GI___libc_free <- [misc] main at misc.c:34
        """,
    ),
    "abort, no symbols": Stack(
        "mmap",
        (0, 0x1000, 3, 0x22, -1, 0),
        0x7FFFF7FBF000,
        "other",
        "the text of an error message",
        """
        [libc.so.6] mmap64 <- ? <- ? <- ? <- free <- [misc] main at misc.c:34
        """,
    ),
    "abort, no symbols, 2.43": Stack(
        "mmap",
        (0, 0x1000, 3, 0x22, -1, 0),
        0x7FFFF7FBB000,
        "other",
        "the text of an error message",
        """
        [libc.so.6] mmap64 <- ? <- ? <- ? <- [misc-43] main at misc.c:34
        """,
    ),
    "opendir": Stack(
        "brk",
        (0xB5C000,),
        0xB5C000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x8040 av=0x7ffff7e7ec60} <-
        _int_malloc{av=0x7ffff7e7ec60 bytes=0x8030} <- __GI___libc_malloc{bytes=0x8030} <- __alloc_dir <-
        opendir_tail <- [?] ? <- ?
        """,
    ),
    "python's arena": Stack(
        "mmap",
        (0, 0x100000, 3, 0x22, -1, 0),
        0x7FFFF7B52000,
        "program",
        "the program's own mmap in _PyObject_GC_New",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- [?] ? <- ? <- [python3.11] _PyObject_GC_New <- PyList_New
        """,
    ),
    "sort's first": Stack(
        "brk",
        (0,),
        0x555555571000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x290 av=0x7ffff7fa8c60} <-
        _int_malloc{av=0x7ffff7fa8c60 bytes=0x280} <- tcache_init <- ~tcache_init{bytes=0x280} <-
        __GI___libc_malloc{bytes=0x5} <- _nl_normalize_codeset <- _nl_load_locale_from_archive <-
        _nl_find_locale <- __GI_setlocale
        """,
    ),
    "ls's first": Stack(
        "brk",
        (0,),
        0x55555557A000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x290 av=0x7ffff7f7ac60} <-
        _int_malloc{av=0x7ffff7f7ac60 bytes=0x280} <- tcache_init <- ~tcache_init{bytes=0x280} <-
        __GI___libc_malloc{bytes=0x1d8} <- __fopen_internal <- [libselinux.so.1] selinuxfs_exists <- ? <-
        [ld-linux-x86-64.so.2] ~call_init
        """,
    ),
    "operator new": Stack(
        "mmap",
        (0, 0x21000, 3, 0x22, -1, 0),
        0x7FFFF7E92000,
        "malloc",
        "a chunk that is a mapping of its own",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- sysmalloc_mmap{nb=0x20010} <- sysmalloc{nb=0x20010
        av=0x7ffff7bf1c60} <- _int_malloc{av=0x7ffff7bf1c60 bytes=0x20000} <- __GI___libc_malloc <-
        [libstdc++.so.6] operator new(unsigned long) <- [cxx] std::__new_allocator<int>::allocate at
        new_allocator.h:137 <- std::allocator_traits<std::allocator<int> >::allocate at alloc_traits.h:464 <-
        std::_Vector_base<int, std::allocator<int> >::_M_allocate at stl_vector.h:378 <- std::vector<int,
        std::allocator<int> >::_M_realloc_insert<int const&> at vector.tcc:453 <- std::vector<int,
        std::allocator<int> >::push_back at stl_vector.h:1287 <- main at cxx.cc:5
        """,
    ),
    "free 2.31": Stack(
        "munmap",
        (0x7FFFF7DAB000, 0x21000),
        0,
        "program",
        "the program's own munmap in main",
        """
        [libc.so.6] munmap <- [probe-31] main at probe.c:35
        """,
    ),
    "chunk 2.31": Stack(
        "mmap",
        (0, 0x21000, 3, 0x22, -1, 0),
        0x7FFFF7DAB000,
        "malloc",
        "a mapping",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- sysmalloc{nb=0x20000 av=0x7ffff7f9db80} <-
        _int_malloc{av=0x7ffff7f9db80 bytes=0x1ffe9} <- __GI___libc_malloc{bytes=0x1ffe9} <- [probe-31] main at
        probe.c:35
        """,
    ),
    "malloc 2.43": Stack(
        "brk",
        (0x55555557A000,),
        0x55555557A000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x20 av=0x7ffff7faaac0} <-
        _int_malloc{av=0x7ffff7faaac0 bytes=0x18} <- __libc_malloc2{bytes=0x18} <- [tf] main
        """,
    ),
    "free makes tcache 2.43": Stack(
        "brk",
        (0x55555559B000,),
        0x55555559B000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x300 av=0x7ffff7faaac0} <-
        _int_malloc{av=0x7ffff7faaac0 bytes=0x2f8} <- __libc_malloc2{bytes=0x2f8} <- tcache_init{bytes=0x2f8} <-
        tcache_free_init <- [tf] main
        """,
    ),
    "free 2.43": Stack(
        "munmap",
        (0x7FFFF7CCB000, 0xF5000),
        0,
        "malloc",
        "a chunk that is a mapping of its own",
        """
        [libc.so.6] __GI_munmap <- munmap_chunk <- _int_free_chunk <- [probe-43] main at probe.c:35
        """,
    ),
    "malloc 2.43, no symbols": Stack(
        "mmap",
        (0, 0x7B000, 3, 0x22, -1, 0),
        0x7FFFF7D45000,
        "malloc",
        "a mapping",
        """
        [libc.so.6] mmap64 <- ? <- ? <- ? <- ? <- [wrap-43] my_malloc at wrap.c:3
        """,
    ),
    "qsort 2.43, no symbols": Stack(
        "mmap",
        (0, 0x62000, 3, 0x22, -1, 0),
        0x7FFFF7D5E000,
        "malloc",
        "a mapping",
        """
        [libc.so.6] mmap64 <- ? <- ? <- ? <- ? <- qsort_r <- [misc-43] main at misc.c:36
        """,
    ),
    "a stream's buffer 2.43, no symbols": Stack(
        "brk",
        (0x55555559B000,),
        0x55555559B000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] brk <- sbrk <- ? <- ? <- ? <- ? <- _IO_file_doallocate <- ? <- puts <- [tf] main at tf.c:5
        """,
    ),
    "memalign": Stack(
        "mmap",
        (0, 0x4A000, 3, 0x22, -1, 0),
        0x7FFFF7D88000,
        "malloc",
        "a chunk that is a mapping of its own",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- sysmalloc_mmap{nb=0x49460} <- sysmalloc{nb=0x49460
        av=0x7ffff7fa8c60} <- _int_malloc{av=0x7ffff7fa8c60 bytes=0x49450} <- _int_memalign{av=0x7ffff7fa8c60
        alignment=0x40 bytes=0x493e0} <- _mid_memalign{bytes=0x493e0} <- [misc] main at misc.c:41
        """,
    ),
    "posix_memalign": Stack(
        "brk",
        (0,),
        0x5555555BB000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- sysmalloc{nb=0x23c0 av=0x7ffff7fa8c60} <-
        _int_malloc{av=0x7ffff7fa8c60 bytes=0x23b0} <- _int_memalign{av=0x7ffff7fa8c60 alignment=0x1000
        bytes=0x1388} <- _mid_memalign{bytes=0x1388} <- ~__posix_memalign <- __posix_memalign <- [misc] main at
        misc.c:41
        """,
    ),
    "realloc maps": Stack(
        "mmap",
        (0, 0x62000, 3, 0x22, -1, 0),
        0x7FFFF7CF5000,
        "malloc",
        "a chunk that is a mapping of its own",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- sysmalloc_mmap{nb=0x61a90} <- sysmalloc{nb=0x61a90
        av=0x7ffff7fa8c60} <- _int_malloc{av=0x7ffff7fa8c60 bytes=0x61a81} <- _int_realloc{av=0x7ffff7fa8c60
        oldp=0x555555559290 nb=0x61a90} <- __GI___libc_realloc{oldmem=0x5555555592a0 bytes=0x61a80} <- [wrap]
        main at wrap.c:4
        """,
    ),
    "realloc remaps": Stack(
        "mremap",
        (0x7FFFF7CF5000, 0x62000, 0xDC000, 1),
        0x7FFFF7C19000,
        "malloc",
        "a chunk that is a mapping of its own",
        """
        [libc.so.6] __GI___mremap <- ~mremap_chunk{p=0x7ffff7cf5000 new_size=0xdc000} <-
        __GI___libc_realloc{oldmem=0x7ffff7cf5010 bytes=0xdbba0} <- [wrap] main at wrap.c:4
        """,
    ),
    "trim in sysmalloc": Stack(
        "brk",
        (0x5555555CD000,),
        0x5555555CD000,
        "malloc",
        "main_arena's heap",
        """
        [libc.so.6] __brk <- __GI___sbrk <- __glibc_morecore <- systrim{av=0x7ffff7fa8c60} <-
        _int_free{av=0x7ffff7fa8c60 p=0x555555559290} <- sysmalloc{nb=0x100010 av=0x7ffff7fa8c60} <-
        _int_malloc{av=0x7ffff7fa8c60 bytes=0x100000} <- __GI___libc_malloc <- [probe] main at probe.c:37
        """,
    ),
    "another malloc": Stack(
        "mmap",
        (0, 0x100000, 3, 0x22, -1, 0),
        0x7FFFF7CCD000,
        "other",
        "another malloc: libmym.so",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- [libmym.so] grow at mym.c:6 <- malloc at mym.c:7 <-
        [wrap] my_malloc at wrap.c:3
        """,
    ),
    "a malloc of its own": Stack(
        "mmap",
        (0, 0x100000, 3, 0x22, -1, 0),
        0x7FFFF7CD2000,
        "other",
        "another malloc: wrapown",
        """
        [libc.so.6] ~__GI___mmap64 <- __GI___mmap64 <- [wrapown] grow at mym.c:6 <- malloc at mym.c:7 <-
        my_malloc at wrap.c:3 <- main at wrap.c:4
        """,
    ),
    "static TLS": Stack(
        "brk",
        (0x4ACD00,),
        0x4ACD00,
        "loader",
        "static TLS and thread control block",
        """
        [wrapst] _dl_early_allocate <- __libc_setup_tls <- __libc_start_main_impl <- _start
        """,
    ),
    "static malloc": Stack(
        "brk",
        (0x4CDD00,),
        0x4CDD00,
        "malloc",
        "main_arena's heap",
        """
        [wrapst] brk <- sbrk <- sysmalloc <- _int_malloc <- tcache_init.part <- malloc <- _dl_get_origin <-
        _dl_non_dynamic_init <- __libc_init_first <- __libc_start_main_impl <- _start
        """,
    ),
    "static malloc of the program": Stack(
        "mmap",
        (0, 0x7B000, 3, 0x22, -1, 0),
        0x7FFFF7F7C000,
        "malloc",
        "a chunk that is a mapping of its own",
        """
        [wrapst] mmap64 <- sysmalloc_mmap.constprop <- sysmalloc <- _int_malloc <- malloc <- my_malloc at
        wrap.c:3 <- main at wrap.c:4
        """,
    ),
    "i386": Stack(
        "brk",
        (0x5657B000,),
        0x5657B000,
        "malloc",
        "main_arena's heap",
        """
        [probe-32] __kernel_vsyscall <- [libc.so.6] ~__brk_call <- __brk <- __GI___sbrk <- __glibc_morecore <-
        sysmalloc{nb=0x190 av=0xf7fb07c0} <- _int_malloc{av=0xf7fb07c0 bytes=0x180} <- tcache_init <-
        ~tcache_init{bytes=0x180} <- __GI___libc_malloc{bytes=0x18} <- [probe-32] main at probe.c:33
        """,
    ),
}


def requested(name: str) -> Requested:
    return malloc_call(STACKS[name].event.frames)


@pytest.mark.parametrize("name", list(STACKS))
def test_whose_memory(name: str) -> None:
    stack = STACKS[name]
    assert requester(stack.event) == Requester(stack.kind, stack.purpose)


def test_the_loader_names_what_it_unmaps_and_protects() -> None:
    earlier = [STACKS[name].event for name in ("loader cache", "loader headers", "loader code", "loader data")]
    for name, purpose in {
        "loader bss": "zero-filled data of libc.so.6 (.bss)",
        "loader relro": "makes relocated data of libc.so.6 read-only (RELRO)",
        "loader unmaps cache": "unmaps /etc/ld.so.cache",
    }.items():
        assert requester(STACKS[name].event, earlier) == Requester("loader", purpose)
    unmaps = changed(STACKS["loader unmaps, no symbols"].event, args=(0x7FFFF7DD5000, 0x1E1F50))
    assert requester(unmaps, earlier).purpose == "unmaps libc.so.6"


@pytest.mark.parametrize(
    ("frames", "syscall", "args", "purpose"),
    [
        ("_dl_protect_relro", "mprotect", (0x1000, 0x1000, 5), "changes the protection of the program or a library"),
        ("_dl_make_stack_executable", "mprotect", (0x1000, 0x1000, 7), "makes the stack executable"),
        ("_dl_map_segments", "mprotect", (0x1000, 0x1000, 0), "closes the gap between the segments of a library"),
        ("_dl_map_segments", "munmap", (0x1000, 0x1000), "gives back what it reserved around a library"),
        ("_dl_unmap", "munmap", (0x1000, 0x1000), "unmaps a library"),
    ],
)
def test_what_else_the_loader_does(frames: str, syscall: str, args: tuple[int, ...], purpose: str) -> None:
    stack = Stack(syscall, args, 0, "loader", purpose, f"[ld-2.31.so] __{syscall} <- {frames} <- dl_main")
    assert requester(stack.event) == Requester("loader", purpose)


def test_free_that_leaves_no_frame() -> None:
    # up to glibc 2.33 free jumps to munmap_chunk, and that to munmap
    event, maker = STACKS["free 2.31"].event, STACKS["chunk 2.31"].event
    assert requester(event).kind == "program"
    for known in (requester(event, [maker]), requester(changed(event, chunk=ChunkHeader(event.args[0], 0, 0x21002)))):
        assert known == Requester("malloc", "a chunk that is a mapping of its own")
    assert malloc_call(event.frames) == Requested(None, None, None, None, None, (), ())
    own = changed(maker, requester=Requester("program", ""))
    assert requester(event, [own]).kind == "program"
    assert requester(event, [changed(maker, args=(0, 0x22000, *maker.args[2:]))]).kind == "program"
    assert requester(event, [changed(maker, process=2)]).kind == "program"
    assert requester(event, iter([maker])).kind == "malloc"


def test_a_heap_that_goes_is_no_chunk() -> None:
    # from 2.42 on free leaves no frame without debug symbols; the kernel gave just one heap, which needed no cutting
    maker = STACKS["new arena"].event
    reserved = changed(maker, args=(0, 64 << 20, 0, 0x4022, -1, 0), result=0x7FFFEC000000, requester=HEAP)
    gone = Stack(
        "munmap", (0x7FFFEC000000, 64 << 20), 0, "malloc", "the heap of a thread's arena",
        "[libc.so.6] munmap <- ? <- [a.out] main at a.c:1",
    )  # fmt: skip
    assert requester(gone.event, [reserved]) == HEAP
    chunk = changed(reserved, requester=Requester("malloc", "a mapping"))
    assert requester(gone.event, [chunk]).purpose == "a chunk that is a mapping of its own"


HEAP = Requester("malloc", "the heap of a thread's arena")


@pytest.mark.parametrize(
    "library", ["libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2.0", "libasan.so.8"]
)
def test_another_malloc_by_its_library(library: str) -> None:
    frames = f"[libc.so.6] mmap64 <- [{library}] os_pages_map <- ? <- [a.out] main at a.c:1"
    stack = Stack("mmap", (0, 0x200000, 3, 0x22, -1, 0), 0x7F0000000000, "other", f"another malloc: {library}", frames)
    assert requester(stack.event) == Requester(stack.kind, stack.purpose)
    assert user_frame(stack.event.frames) == stack.event.frames[-1]


def test_another_malloc_in_the_program() -> None:
    for name in ("je_malloc", "mallocx", "tc_new", "operator new(unsigned long)"):
        frames = f"[libc.so.6] mmap64 <- [a.out] pages_map <- {name} <- main at a.c:1"
        stack = Stack("mmap", (0, 0x200000, 3, 0x22, -1, 0), 0x7F0000000000, "", "", frames)
        assert requester(stack.event) == Requester("other", "another malloc: a.out")


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        ("[?] ? <- ? <- [libc.so.6] start_thread <- clone3", "program"),
        ("[libc.so.6] syscall <- [libfoo.so.1] foo_alloc <- [a.out] main at a.c:1", "program"),
        ("[libc.so.6] mmap64 <- [a.out] ? <- main at a.c:1", "program"),
        ("[libc.so.6] mmap64 <- ? <- getrandom <- [a.out] main at a.c:1", "other"),
        ("[libc.so.6] mmap64 <- ? <- ?", "other"),
        ("[libc.so.6] __mmap64 <- __new_sem_open <- [a.out] main at a.c:1", "other"),
        ("[libc.so.6] __mmap64 <- __nscd_get_mapping <- [a.out] main at a.c:1", "other"),
        ("[libc.so.6] __mmap64 <- somewhere_else <- [a.out] main at a.c:1", "other"),
    ],
)
def test_who_else_maps(frames: str, kind: str) -> None:
    stack = Stack("mmap", (0, 0x3000, 3, 0x22, -1, 0), 0x7F0000000000, kind, "", frames)
    assert requester(stack.event).kind == kind


def test_the_programs_own_calls_are_named() -> None:
    frames = "[libc.so.6] __brk <- __sbrk <- [libfoo.so.1] foo_grow <- [a.out] main at a.c:1"
    stack = Stack("brk", (0x1000,), 0x1000, "", "", frames)
    assert requester(stack.event) == Requester("program", "the program's own sbrk in foo_grow of libfoo.so.1")


def test_the_request_behind_the_first_growth() -> None:
    found = requested("stdout's buffer")
    assert (found.function, found.request, found.nb, found.arena) == ("tcache_init", 640, 0x290, 0x7FFFF7FA8C60)
    assert found.outer is not None
    assert (found.outer.name, found.outer.request) == ("malloc", 4096)
    assert found.outer.caller is not None
    assert found.outer.caller.name == "_IO_file_doallocate"
    assert found.inner == ("__libc_malloc", "tcache_init", "_int_malloc", "sysmalloc", "__glibc_morecore")
    event = STACKS["stdout's buffer"].event
    assert stream_of(event.frames) == 0x7FFFF7FA9760
    assert meaning("_IO_file_doallocate") == "a stdio stream's buffer"
    user = user_frame(event.frames)
    assert user is not None
    assert (user.name, user.line) == ("main", 7)
    assert stream_of(STACKS["DTV"].event.frames) is None


@pytest.mark.parametrize(
    ("name", "function", "request_", "nb", "calls"),
    [
        ("strdup in the loader", "tcache_init", 640, 0x290, [("strdup", 32), ("malloc", 32), ("malloc", 32)]),
        ("DTV", "tcache_init", 640, 0x290, [("calloc", None), ("calloc", None)]),
        ("new arena", "tcache_init", 640, None, [("malloc", 10)]),
        ("heap grows", "malloc", 1000000, 0xF4250, [("malloc", 1000000)]),
        ("heap trimmed", "free", None, None, [("free", None)]),
        ("opendir", "malloc", 32816, 0x8040, [("malloc", 32816)]),
        ("operator new", "malloc", 131072, 0x20010, [("operator new", 131072), ("malloc", 131072)]),
        ("malloc 2.43", "malloc", 24, 0x20, [("malloc", 24)]),
        ("free makes tcache 2.43", "tcache_init", 760, 0x300, [("free", None), ("malloc", 760)]),
        ("free 2.43", "free", None, None, [("free", None)]),
        ("memalign", "memalign", 300112, 0x49460, [("memalign", 300000)]),
        ("posix_memalign", "posix_memalign", 9136, 0x23C0, [("posix_memalign", 5000)]),
        ("realloc maps", "realloc", 400001, 0x61A90, [("realloc", 400000)]),
        ("realloc remaps", "realloc", 900000, None, [("realloc", 900000)]),
        ("trim in sysmalloc", "malloc", 1048576, 0x100010, [("malloc", 1048576)]),
        ("stdout's buffer, no symbols", "malloc", None, None, [("malloc", None)]),
        ("static malloc of the program", "malloc", None, None, [("malloc", None)]),
        ("malloc 2.43, no symbols", None, None, None, []),
        ("i386", "tcache_init", 384, 0x190, [("malloc", 24)]),
    ],
)
def test_what_was_asked_of_malloc(
    name: str, function: str | None, request_: int | None, nb: int | None, calls: list[tuple[str, int | None]]
) -> None:
    found = requested(name)
    assert (found.function, found.request, found.nb) == (function, request_, nb)
    assert [(call.name, call.request) for call in found.calls] == calls
    assert found.outer == (found.calls[0] if calls else None)


@pytest.mark.parametrize(
    ("name", "function", "line"),
    [
        ("own sbrk", "main", 7),
        ("new arena", "thr", 17),
        ("operator new", "main", 5),
        ("strdup in the loader, no symbols", "main", 21),
        ("ls's first", "selinuxfs_exists", None),
        ("static malloc of the program", "my_malloc", 3),
        ("i386", "main", 33),
    ],
)
def test_the_users_own_frame(name: str, function: str, line: int | None) -> None:
    event = STACKS[name].event
    found = user_frame(event.frames)
    assert found is not None
    assert (found.name, found.line) == (function, line)
    assert user_frame(event.frames) == found


def test_the_c_plus_plus_library_asks_for_itself_before_main() -> None:
    constructors = "[ld-linux-x86-64.so.2] call_init <- _dl_init <- _dl_start_user"
    for asks in ("__libc_malloc", "__libc_malloc <- [libstdc++.so.6] operator new(unsigned long)"):
        frames = f"[libc.so.6] __brk <- __sbrk <- sysmalloc <- {asks} <- [libstdc++.so.6] pool <- {constructors}"
        found = user_frame(Stack("brk", (0,), 0x1000, "", "", frames).event.frames)
        assert found is not None
        assert found.name == "pool"
    frames = "[libc.so.6] __brk <- __libc_malloc <- [libstdc++.so.6] pool <- [a.out] main at a.c:1"
    found = user_frame(Stack("brk", (0,), 0x1000, "", "", frames).event.frames)
    assert found is not None
    assert found.name == "main"


def test_no_frame_of_the_users() -> None:
    for name in ("loader break", "thread's end", "static malloc", "static TLS"):
        assert user_frame(STACKS[name].event.frames) is None
