"""glibc's own names: which functions are whose, what they ask memory for, and the files that they are in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache

from gdbheap.growth.event import Frame

#: libc's wrappers of the system calls: they only pass on what someone else wants.
WRAPPERS = frozenset(
    {"brk", "sbrk", "mmap", "mmap64", "munmap", "mprotect", "mremap", "madvise", "posix_madvise", "syscall"}
    | {"brk_call"}
    | {"__brk", "__sbrk", "__mmap", "__mmap64", "__munmap", "__mprotect", "__mremap", "__madvise", "__brk_call"}
)

#: Where the kernel is entered, below the wrappers: on 32-bit x86 they are functions of their own.
ENTRIES = frozenset({"__kernel_vsyscall", "__libc_do_syscall"})

#: glibc's malloc inside: none of these is called by anyone but malloc.
INTERNAL = frozenset(
    {"__glibc_morecore", "__default_morecore", "sysmalloc", "sysmalloc_mmap", "sysmalloc_mmap_fallback"}
    | {"systrim", "mtrim", "munmap_chunk", "mremap_chunk", "madvise_thp", "new_heap", "alloc_new_heap", "grow_heap"}
    | {"shrink_heap", "heap_trim", "_int_new_arena", "arena_get2", "arena_get_retry", "reused_arena", "_int_malloc"}
    | {"_int_free", "_int_free_chunk", "_int_free_merge_chunk", "_int_free_create_chunk"}
    | {"_int_free_maybe_consolidate", "_int_free_maybe_trim", "_int_realloc", "_int_memalign", "_mid_memalign"}
    | {"tcache_init", "tcache_malloc_init", "tcache_calloc_init", "tcache_free_init", "tcache_thread_shutdown"}
    | {"tcache_try_malloc"}
    | {"malloc_consolidate", "ptmalloc_init", "__ptmalloc_init", "arena_thread_freeres", "malloc_hook_ini"}
    | {"__malloc_arena_thread_freeres", "realloc_hook_ini", "memalign_hook_ini", "__libc_memalign_impl"}
)

#: Those that work on one chunk with a mapping of its own: no arena takes part.
OF_OWN_MAPPINGS = frozenset({"munmap_chunk", "mremap_chunk"})

#: glibc's public functions of malloc, by the names that a frame may have, each with the name that programs use.
PUBLIC: Mapping[str, str] = {
    **{name: name for name in ("malloc", "calloc", "realloc", "free", "cfree", "memalign", "aligned_alloc")},
    **{name: name for name in ("posix_memalign", "valloc", "pvalloc", "reallocarray", "malloc_trim", "mallopt")},
    **{name: name for name in ("free_sized", "free_aligned_sized")},
    "__libc_malloc": "malloc",
    "__libc_malloc2": "malloc",
    "__libc_calloc": "calloc",
    "__libc_calloc2": "calloc",
    "__libc_realloc": "realloc",
    "__libc_free": "free",
    "__libc_memalign": "memalign",
    "__libc_valloc": "valloc",
    "__libc_pvalloc": "pvalloc",
    "__libc_reallocarray": "reallocarray",
    "__posix_memalign": "posix_memalign",
    "__aligned_alloc": "aligned_alloc",
    "__malloc_trim": "malloc_trim",
    "__libc_mallopt": "mallopt",
}

#: Functions that do little more than call malloc: with them the chain from a program's own call goes on.
PASSING = frozenset(
    {"operator new", "operator new[]", "operator delete", "operator delete[]", "strdup", "__strdup", "strndup"}
    | {"__strndup", "wcsdup", "__wcsdup", "xmalloc"}
)

#: From glibc 2.42 on the public function's own frame may be gone (a tail call): what stands for it then.
STAND_FOR: Mapping[str, str] = {
    "_int_free": "free",
    "_int_free_chunk": "free",
    "_int_malloc": "malloc",
    "_int_realloc": "realloc",
    "_int_memalign": "memalign",
    "_mid_memalign": "memalign",
    "tcache_free_init": "free",
    "tcache_malloc_init": "malloc",
    "tcache_calloc_init": "calloc",
}

#: The frame names by which other allocators are known when they are part of a program.
OTHER_PUBLIC = frozenset(
    {"mallocx", "rallocx", "xallocx", "dallocx", "je_malloc", "je_calloc", "je_realloc", "je_free", "tc_malloc"}
    | {"tc_calloc", "tc_realloc", "tc_free", "tc_new", "mi_malloc", "mi_calloc", "mi_realloc", "mi_free", "mi_new"}
)

THREAD = frozenset(
    {
        "allocate_stack",
        "allocate_thread_stack",
        "setup_stack_prot",
        "change_stack_perm",
        "advise_stack_range",
        "queue_stack",
        "free_stacks",
    }
    | {"__free_stacks", "__deallocate_stack", "__free_tcb", "pthread_create", "__pthread_create_2_1", "create_thread"}
    | {"start_thread", "pthread_join", "__pthread_join", "__pthread_clockjoin_ex", "__pthread_timedjoin_ex"}
    | {"pthread_detach", "__pthread_detach", "pthread_exit", "__pthread_exit", "thrd_create", "thrd_join"}
    | {"__make_stacks_executable", "setup_stack", "adjust_stack_prot", "pthread_timedjoin_np"}
)

SPAWN = frozenset(
    {"__spawnix", "__spawni", "posix_spawn", "__posix_spawn", "posix_spawnp", "__posix_spawnp", "popen", "_IO_popen"}
    | {"_IO_proc_open", "spawn_process", "system", "do_system", "__libc_system"}
)

MESSAGE = frozenset(
    {"__libc_message", "__libc_message_impl", "__libc_fatal", "__libc_assert_fail", "__assert_fail_base"}
    | {"__assert_fail", "__malloc_assert", "malloc_printerr", "abort", "__fortify_fail", "__stack_chk_fail"}
)

LOCALE = frozenset(
    {"setlocale", "newlocale", "__newlocale", "freelocale", "duplocale", "gettext", "dgettext", "dcgettext"}
    | {
        "__dcgettext",
        "__dcigettext",
        "dcigettext",
        "ngettext",
        "dngettext",
        "dcngettext",
        "bindtextdomain",
        "textdomain",
    }
)

STDIO = frozenset(
    {"decide_maybe_mmap", "mmap_remap_check", "fopen", "fopen64", "fclose", "fdopen", "freopen", "fgets", "fread"}
    | {"fgetc", "getc", "getline", "getdelim", "__getdelim", "fscanf", "ungetc", "fseek", "fflush"}
)

#: What the memory is for that libc's own callers of malloc ask for, by the caller's plain name.
MEANINGS: Mapping[str, str] = {
    "_IO_file_doallocate": "a stdio stream's buffer",
    "_IO_wfile_doallocate": "a stdio stream's buffer for wide characters",
    "tcache_init": "the thread's tcache",
    "__fopen_internal": "a stdio stream",
    "fopen": "a stdio stream",
    "fopen64": "a stdio stream",
    "_IO_fdopen": "a stdio stream",
    "fdopen": "a stdio stream",
    "_IO_popen": "a stdio stream to another program",
    "popen": "a stdio stream to another program",
    "_IO_getdelim": "getline's buffer",
    "getdelim": "getline's buffer",
    "getline": "getline's buffer",
    "_IO_vasprintf": "asprintf's result",
    "__vasprintf_internal": "asprintf's result",
    "vasprintf": "asprintf's result",
    "asprintf": "asprintf's result",
    "open_memstream": "open_memstream's buffer",
    "__alloc_dir": "opendir's buffer",
    "opendir": "opendir's buffer",
    "allocate_dtv": "a thread's table of thread-local storage (DTV)",
    "_dl_allocate_tls": "a thread's table of thread-local storage (DTV)",
    "__tls_get_addr": "thread-local variables of a library",
    "allocate_dtv_entry": "thread-local variables of a library",
    "_dl_new_object": "the loader's record of a library",
    "_dl_map_object_deps": "the loader's list of libraries",
    "_dl_check_map_versions": "the loader's table of symbol versions",
    "_dl_find_object_update": "the loader's table for exception handling",
    "_dl_load_cache_lookup": "the loader's copy of a library's path",
    "_dl_open": "opening a library (dlopen)",
    "dlopen": "opening a library (dlopen)",
    "_nl_load_locale": "locale data",
    "_nl_load_locale_from_archive": "locale data from the archive",
    "_nl_normalize_codeset": "the name of a locale's character set",
    "_nl_make_l10nflist": "the list of locale files",
    "_nl_intern_locale_data": "locale data",
    "_nl_find_locale": "locale data",
    "_nl_load_domain": "translations",
    "_nl_find_domain": "translations",
    "read_alias_file": "the list of locale names",
    "setlocale": "locale data",
    "newlocale": "locale data",
    "__gconv_load_cache": "iconv's list of modules",
    "__gconv_create_spec": "iconv's description of a conversion",
    "__gconv_lookup_cache": "iconv's steps of a conversion",
    "__gconv_open": "iconv's buffers",
    "iconv_open": "iconv's buffers",
    "__wcsmbs_load_conv": "the conversion of wide characters",
    "__tzfile_read": "the time zone",
    "tzset_internal": "the time zone",
    "tzset": "the time zone",
    "localtime": "the time zone",
    "localtime_r": "the time zone",
    "__add_to_environ": "the environment",
    "setenv": "the environment",
    "putenv": "the environment",
    "nss_database_select_default": "the name service switch",
    "__nss_database_get": "the name service switch",
    "__nss_module_load": "a name service module",
    "getpwnam": "getpwnam's result",
    "getpwuid": "getpwuid's result",
    "getgrnam": "getgrnam's result",
    "getgrgid": "getgrgid's result",
    "qsort": "qsort's working memory",
    "qsort_r": "qsort's working memory",
    "__qsort_r": "qsort's working memory",
    "__new_exitfn": "the list of atexit functions",
    "__cxa_atexit": "the list of atexit functions",
    "__cxa_allocate_exception": "a C++ exception",
    "__register_frame_info": "exception tables",
    "regcomp": "a compiled regular expression",
    "re_compile_internal": "a compiled regular expression",
    "glob": "glob's result",
    "scandir": "scandir's result",
    "getaddrinfo": "getaddrinfo's result",
    "getcwd": "getcwd's result",
    "__getcwd": "getcwd's result",
    "realpath": "realpath's result",
    "perror": "an error message",
    "strerror": "an error message",
    "strsignal": "the name of a signal",
    "hcreate_r": "a hash table",
    "__tsearch": "a search tree",
    "tsearch": "a search tree",
}


_SUFFIX = re.compile(r"(\.(constprop|isra|part|cold|lto_priv|localalias)\b|@).*$")
_LIBC = re.compile(r"^(libc|libpthread)[-.](so|\d)")
_LOADER = re.compile(r"^ld(64)?[-.].*\bso\b")
_MUSL = re.compile(r"^(ld-musl-|libc\.musl-)")
RUNTIME_FILE = re.compile(r"^(libstdc\+\+|libc\+\+|libc\+\+abi|libgcc_s|libdl|librt|libresolv|libanl|libnss_\w+)[-.]")
OTHER_MALLOC_FILE = re.compile(
    r"^lib(jemalloc|tcmalloc|mimalloc|hoard|scudo|snmalloc|rpmalloc|dmalloc|efence|duma|tbbmalloc|umem|ltalloc"
    r"|asan|tsan|lsan|hwasan|c_malloc_debug)"
)

#: The functions of sanitizers and of scudo: where those are linked statically, no file's name tells. The names of
#: templates begin with what they return.
OTHER_MALLOC_FUNCTION = re.compile(
    r"(?:[^(<]* )?(?:__(?:sanitizer|interception|asan|hwasan|lsan|memprof|msan|tsan)(?:::|_)|scudo::)"
)
#: What a sanitizer puts before a function of libc's, or makes of its name.
_INTERCEPTOR = re.compile(r"_*interceptor_(?P<before>\w+)$|(?:[^(<]* )?(?P<behind>\w+)_interceptor(?:<|$)")


# The same few names and files come with every event, so what they mean is worked out once.


@lru_cache(maxsize=4096)
def _without_suffix(name: str) -> str:
    name = _SUFFIX.sub("", name)
    return name.split("(")[0] if name.startswith("operator ") else name


@lru_cache(maxsize=1024)
def base_name(path: str | None) -> str:
    """Return the last part of a path, empty for None."""
    return os.path.basename(path) if path else ""


@lru_cache(maxsize=1024)
def _is_libc_file(path: str | None) -> bool:
    return _LIBC.match(base_name(path)) is not None


@lru_cache(maxsize=1024)
def _is_loader_file(path: str | None) -> bool:
    return _LOADER.match(base_name(path)) is not None


def in_musl(frame: Frame) -> bool:
    """Return whether a frame's code is in musl's C library, which is its own dynamic loader."""
    return _MUSL.match(base_name(frame.objfile)) is not None


def function_of(frame: Frame) -> str:
    """Return the plain name without the compiler's suffixes and a C++ function's parameters."""
    return _without_suffix(frame.name)


@lru_cache(maxsize=4096)
def wrapper_of(name: str) -> str:
    """Return which wrapper of a system call the function ``name`` is, or stands before; empty for none."""
    found = _INTERCEPTOR.match(name)
    plain = name if found is None else found["before"] or found["behind"]
    return plain if plain in WRAPPERS else ""


def in_libc(frame: Frame) -> bool:
    """Return whether a frame's code is in glibc's libc or libpthread."""
    return _is_libc_file(frame.objfile)


def in_loader(frame: Frame) -> bool:
    """Return whether a frame's code is in the dynamic loader."""
    return _is_loader_file(frame.objfile)


def known_to_libc(name: str) -> bool:
    """Whether a function of a static program is libc's own, by its name."""
    tables = (INTERNAL, PUBLIC, THREAD, SPAWN, MESSAGE, LOCALE, STDIO)
    return any(name in table for table in tables) or name.startswith(("_dl_", "_nl_", "_IO_", "__libc_", "__gconv"))


def meaning(name: str) -> str | None:
    """Return in plain words what the memory is for that the function ``name`` of libc asks for, None if unknown."""
    return MEANINGS.get(name)
