"""Whose memory a system call is about, and what was asked of malloc: from the callers alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from gdbheap.growth.event import Event, Frame, PublicCall, Requested, Requester
from gdbheap.simulate.kernel import MAP_ANONYMOUS, MAP_FIXED, MAP_STACK, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE

#: libc's wrappers of the system calls: they only pass on what someone else wants.
WRAPPERS = frozenset(
    {"brk", "sbrk", "mmap", "mmap64", "munmap", "mprotect", "mremap", "madvise", "syscall", "brk_call"}
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
    | {"malloc_consolidate", "ptmalloc_init", "__ptmalloc_init", "arena_thread_freeres", "malloc_hook_ini"}
    | {"__malloc_arena_thread_freeres", "realloc_hook_ini", "memalign_hook_ini", "__libc_memalign_impl"}
)

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
_STAND_FOR: Mapping[str, str] = {
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
_OTHER_PUBLIC = frozenset(
    {"mallocx", "rallocx", "xallocx", "dallocx", "je_malloc", "je_calloc", "je_realloc", "je_free", "tc_malloc"}
    | {"tc_calloc", "tc_realloc", "tc_free", "tc_new", "mi_malloc", "mi_calloc", "mi_realloc", "mi_free", "mi_new"}
)

_THREAD = frozenset(
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

_SPAWN = frozenset(
    {"__spawnix", "__spawni", "posix_spawn", "__posix_spawn", "posix_spawnp", "__posix_spawnp", "popen", "_IO_popen"}
    | {"_IO_proc_open", "spawn_process", "system", "do_system", "__libc_system"}
)

_MESSAGE = frozenset(
    {"__libc_message", "__libc_message_impl", "__libc_fatal", "__libc_assert_fail", "__assert_fail_base"}
    | {"__assert_fail", "__malloc_assert", "malloc_printerr", "abort", "__fortify_fail", "__stack_chk_fail"}
)

_LOCALE = frozenset(
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

_STDIO = frozenset(
    {"decide_maybe_mmap", "mmap_remap_check", "fopen", "fopen64", "fclose", "fdopen", "freopen", "fgets", "fread"}
    | {"fgetc", "getc", "getline", "getdelim", "__getdelim", "fscanf", "ungetc", "fseek", "fflush"}
)

#: The purpose of a call that is about one mmapped chunk.
OWN_MAPPING = "a chunk that is a mapping of its own"

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
_RUNTIME = re.compile(r"^(libstdc\+\+|libc\+\+|libc\+\+abi|libgcc_s|libdl|librt|libresolv|libanl|libnss_\w+)[-.]")
_OTHER_MALLOC = re.compile(
    r"^lib(jemalloc|tcmalloc|mimalloc|hoard|scudo|snmalloc|rpmalloc|dmalloc|efence|duma|tbbmalloc|umem|ltalloc"
    r"|asan|tsan|lsan|hwasan|c_malloc_debug)"
)


# The same few names and files come with every event, so what they mean is worked out once.


@lru_cache(maxsize=4096)
def _without_suffix(name: str) -> str:
    name = _SUFFIX.sub("", name)
    return name.split("(")[0] if name.startswith("operator ") else name


@lru_cache(maxsize=1024)
def _base(path: str | None) -> str:
    return os.path.basename(path) if path else ""


@lru_cache(maxsize=1024)
def _is_libc_file(path: str | None) -> bool:
    return _LIBC.match(_base(path)) is not None


@lru_cache(maxsize=1024)
def _is_loader_file(path: str | None) -> bool:
    return _LOADER.match(_base(path)) is not None


def _function(frame: Frame) -> str:
    """Return the plain name without the compiler's suffixes and a C++ function's parameters."""
    return _without_suffix(frame.name)


def _in_libc(frame: Frame) -> bool:
    return _is_libc_file(frame.objfile)


def _in_loader(frame: Frame) -> bool:
    return _is_loader_file(frame.objfile)


def _known_to_libc(name: str) -> bool:
    """Whether a function of a static program is libc's own, by its name."""
    tables = (INTERNAL, PUBLIC, _THREAD, _SPAWN, _MESSAGE, _LOCALE, _STDIO)
    return any(name in table for table in tables) or name.startswith(("_dl_", "_nl_", "_IO_", "__libc_", "__gconv"))


@dataclass(frozen=True)
class _Decision:
    """The first frame that is no wrapper, and what stands before it.

    ``index`` is its place, and ``known`` is False where there is none. ``unnamed`` says that frames of libc without a
    name came first; ``wrapper`` is the outermost wrapper. ``libc`` and ``loader`` say whose frame it is.
    """

    index: int
    known: bool
    unnamed: bool
    wrapper: str
    libc: bool
    loader: bool


def _is_static(frames: Sequence[Frame]) -> bool:
    """Whether libc is part of the program: its functions are in an object file that is no libc."""
    return any(
        frame.objfile is not None
        and not _in_libc(frame)
        and not _in_loader(frame)
        and (_function(frame) in WRAPPERS or _function(frame).startswith("__libc_start_"))
        for frame in frames
    )


#: What the code of a stack tells, by its functions and files: events come from the same few places again and again.
_decisions: dict[tuple[object, ...], _Decision] = {}
_user_places: dict[tuple[object, ...], int | None] = {}
_MOST_STACKS = 4096


_newest_code: tuple[Sequence[Frame], tuple[object, ...]] = ((), ())


def _code_of(frames: Sequence[Frame]) -> tuple[object, ...]:
    """Return what is the same for all stacks of the same code; asked several times for one stack, one after another."""
    global _newest_code
    if _newest_code[0] is not frames:
        _newest_code = frames, tuple([(frame.function, frame.objfile, frame.file, frame.line) for frame in frames])
    return _newest_code[1]


def _decide(frames: Sequence[Frame]) -> _Decision:
    code = _code_of(frames)
    found = _decisions.get(code)
    if found is None:
        if len(_decisions) >= _MOST_STACKS:
            _decisions.clear()
        found = _decisions[code] = _first_decisive(frames)
    return found


def _first_decisive(frames: Sequence[Frame]) -> _Decision:
    unnamed, wrapper = False, ""
    static = _is_static(frames)
    for index, frame in enumerate(frames):
        name = _function(frame)
        loader, libc = _in_loader(frame), _in_libc(frame)
        if name in ENTRIES:
            continue
        if name in WRAPPERS:
            wrapper = name
        elif name:
            inside = libc or (static and _known_to_libc(name))
            if not name.startswith("_dl_catch_") or loader:
                loaders_own = loader or (inside and (name.startswith("_dl_") or name == "__libc_setup_tls"))
                return _Decision(index, True, unnamed, wrapper, inside, loaders_own)
        elif libc:
            unnamed = True
        else:
            return _Decision(index, True, unnamed, wrapper, False, loader)
    return _Decision(len(frames), False, unnamed, wrapper, False, False)


def requester(event: Event, earlier: Iterable[Event] = ()) -> Requester:
    """Return whose memory ``event`` is about.

    The first frame that is no mere wrapper of the system call decides. ``earlier`` are the events from before it,
    oldest first: they tell which file is mapped at an address, which names what the loader unmaps or protects, and
    who made a mapping that goes without a frame that tells. Other processes' are passed over.
    Without glibc's debug symbols, where libc's own functions have no names, the arguments help to decide.
    """
    found = _decide(event.frames)
    if not found.known:
        return _nobody(event, found)
    if found.loader:
        return Requester("loader", _loader_purpose(event, found, _Mappings(event.process, earlier)))
    name = _function(event.frames[found.index])
    if found.libc and (name in INTERNAL or name in PUBLIC):
        # Without names, the page that holds the message of a failed check looks like malloc's.
        if found.unnamed and _is_message(event):
            return Requester("other", "the text of an error message")
        return Requester("malloc", _malloc_purpose(event, name))
    if _frees_chunk(event, earlier):
        return Requester("malloc", _malloc_purpose(event, "munmap_chunk"))
    if found.libc:
        return _in_libc_itself(event, name, found.unnamed)
    if found.unnamed:
        return _nameless(event)
    return _program(event, found)


def _frees_chunk(event: Event, earlier: Iterable[Event]) -> bool:
    """Whether this gives back an mmapped chunk, though no frame says so: up to glibc 2.33 free leaves none here.

    There free ends with a jump to munmap_chunk, which ends with one to munmap, so its caller seems to call munmap.
    """
    if event.syscall != "munmap":
        return False
    if event.chunk is not None:
        return True
    maker = _Mappings(event.process, earlier).made(event.args[0], event.args[1])
    return maker is not None and maker.requester.kind == "malloc"


def _nameless(event: Event) -> Requester:
    """Judge a call by code of libc that has no name, without debug symbols, by its arguments."""
    if _is_message(event):
        return Requester("other", "the text of an error message")
    if _like_malloc(event):
        return Requester("malloc", _malloc_purpose(event, ""))
    return Requester("other", "libc's own")


def _nobody(event: Event, found: _Decision) -> Requester:
    if found.unnamed and event.syscall in ("munmap", "madvise", "mprotect"):
        return Requester("thread-stack", "stack of a thread that has ended")
    return Requester("other", "no caller is known")


def _anonymous(event: Event) -> bool:
    return event.syscall == "mmap" and bool(event.args[3] & MAP_ANONYMOUS)


def _like_malloc(event: Event) -> bool:
    """Whether nameless code of libc makes a call that is like malloc's: its own frame is gone, from glibc 2.42 on."""
    if event.syscall != "mmap":
        return True
    if not _anonymous(event) or event.args[3] & MAP_STACK or _is_message(event):
        return False
    return event.args[2] in (PROT_NONE, PROT_READ | PROT_WRITE)


def _is_message(event: Event) -> bool:
    """Whether this is one page, which malloc never maps with its usual settings, but __libc_message does."""
    return _anonymous(event) and event.args[2] == PROT_READ | PROT_WRITE and event.args[1] <= 0x1000


def _malloc_purpose(event: Event, name: str) -> str:
    if event.syscall == "brk":
        return "main_arena's heap"
    if event.syscall == "mremap" or name in ("sysmalloc_mmap", "munmap_chunk", "mremap_chunk"):
        return OWN_MAPPING
    if name == "sysmalloc_mmap_fallback":
        return "main_arena's heap, where the break cannot be moved"
    heap = {"new_heap", "alloc_new_heap", "grow_heap", "shrink_heap", "heap_trim"}
    if name in heap or event.syscall in ("mprotect", "madvise") or (_anonymous(event) and event.args[2] == PROT_NONE):
        return "the heap of a thread's arena"
    return "a mapping"


def _program(event: Event, found: _Decision) -> Requester:
    outwards = event.frames[found.index :]
    # Code that GDB knows nothing of is made by the program: what called it has a name.
    frame = next((frame for frame in outwards if frame.function or frame.objfile), outwards[0])
    where = _base(frame.objfile) or "unknown code"
    if _OTHER_MALLOC.match(where) or _calls_itself_malloc(outwards):
        return Requester("other", f"another malloc: {where}")
    function = f" in {_function(frame)}" if _function(frame) else ""
    library = f" of {where}" if ".so" in where or not function else ""
    wrapper = found.wrapper.lstrip("_").replace("mmap64", "mmap") or event.syscall
    return Requester("program", f"the program's own {wrapper}{function}{library}")


def _calls_itself_malloc(frames: Sequence[Frame]) -> bool:
    """Whether these frames, from one of no library of glibc's outwards, are an allocator of the same object file."""
    for frame in frames:
        if frame.objfile != frames[0].objfile:
            return False
        name = _function(frame)
        if name in PUBLIC or name in _OTHER_PUBLIC or name in PASSING:
            return True
    return False


def _in_libc_itself(event: Event, name: str, unnamed: bool) -> Requester:
    """Judge a call by a named function of libc that is none of malloc's.

    ``unnamed`` says that functions without a name lie between: those may be malloc's.
    """
    file = event.file or ""
    if name in _THREAD or name.startswith("__nptl_"):
        return Requester("thread-stack", _stack_purpose(event))
    if name in _SPAWN:
        return Requester("other", "stack of the child that posix_spawn makes")
    if name in _MESSAGE:
        return Requester("other", "the text of an error message")
    if "getrandom" in name or name.startswith("arc4random"):
        return Requester("other", "the state of getrandom in the vDSO")
    if unnamed and _anonymous(event):
        return _nameless(event)
    if name.startswith(("__gconv", "gconv_", "iconv_open")) or _base(file) == "gconv-modules.cache":
        return Requester("other", "iconv's list of modules" if file else "iconv")
    if name.startswith("_nl_") or name in _LOCALE or "/locale/" in file:
        return Requester("locale", _locale_purpose(event))
    if name.startswith("_IO_") or name in _STDIO:
        return Requester("stdio", f"a stream that reads {file}" if file else "a stream that reads a mapped file")
    if name in ("sem_open", "__sem_open", "__new_sem_open"):
        return Requester("other", "a named semaphore")
    if "nscd" in name:
        return Requester("other", "nscd's cache")
    if unnamed:
        return _nameless(event)
    return Requester("other", f"libc's own, in {name}")


def _stack_purpose(event: Event) -> str:
    if event.syscall in ("munmap", "madvise"):
        return "stack of a thread that has ended" if event.args[-1] != 0x66 else "guard of a new thread's stack"
    if event.syscall == "mprotect" and event.args[2] == PROT_NONE:
        return "guard of a thread's stack"
    if event.syscall == "mprotect" and event.args[2] & PROT_EXEC:
        return "stack of a thread, made executable"
    return "stack of a new thread"


def _locale_purpose(event: Event) -> str:
    base = _base(event.file)
    if event.syscall == "munmap":
        return "locale data, given back"
    if base == "locale-archive":
        return "locale archive"
    if base.endswith(".mo"):
        return f"translations, {base}"
    return f"locale data, {base}" if base else "locale data"


class _Mappings:
    """What earlier events of a process mapped where; they are read from the newest on, as far as it takes."""

    def __init__(self, process: int, events: Iterable[Event]) -> None:
        self._process = process
        self._events = events if isinstance(events, Sequence) else tuple(events)

    def _newest_first(self) -> Iterator[tuple[int, int, Event]]:
        """Yield start, length and event of each mapping that was made."""
        for event in reversed(self._events):
            if event.syscall in ("mmap", "mremap") and event.process == self._process and (event.result or 0) > 0:
                yield event.result or 0, event.args[1 if event.syscall == "mmap" else 2], event

    def made(self, address: int, length: int) -> Event | None:
        """Return the event that mapped exactly these bytes last, None where none did."""
        for start, size, event in self._newest_first():
            if start == address:
                return event if size == length else None
        return None

    def name_at(self, address: int) -> str | None:
        """Return the base name of the file that was mapped at ``address`` last, None where none was."""
        for start, size, event in self._newest_first():
            if event.file is not None and start <= address < start + size:
                return _base(event.file)
        return None

    def name_before(self, address: int) -> str | None:
        """Return the base name of the file whose mapping ``address`` lies in or right behind."""
        return self.name_at(address - 1)


def _loader_purpose(event: Event, found: _Decision, mappings: _Mappings) -> str:
    names = {_function(frame) for frame in event.frames[: found.index + 6]}
    if event.syscall == "brk":
        return "asks where the break is" if event.args[0] == 0 else "static TLS and thread control block"
    if event.syscall == "mmap":
        return _loader_mapping(event, names, mappings)
    address = event.args[0]
    if event.syscall == "mprotect":
        name = mappings.name_at(address)
        if event.args[2] == PROT_NONE:
            return f"closes the gap between the segments of {name or 'a library'}"
        if event.args[2] == PROT_READ:
            return f"makes relocated data of {name or 'the program or a library'} read-only (RELRO)"
        if "_dl_make_stack_executable" in names:
            return "makes the stack executable"
        return f"changes the protection of {name or 'the program or a library'}"
    name = mappings.name_at(address)
    if "_dl_unload_cache" in names or name == "ld.so.cache":
        return "unmaps /etc/ld.so.cache"
    if "_dl_map_segments" in names:
        return f"gives back what it reserved around {name or 'a library'}"
    return f"unmaps {name or ('a library' if '_dl_unmap' in names else 'a library or a file')}"


_SEGMENTS: Mapping[int, str] = {
    PROT_NONE: "space for it",
    PROT_READ: "headers and constants",
    PROT_READ | PROT_EXEC: "code",
    PROT_READ | PROT_WRITE: "data",
    PROT_READ | PROT_WRITE | PROT_EXEC: "code that can be written",
}

_TLS = frozenset(
    {
        "_dl_allocate_tls_storage",
        "_dl_allocate_tls",
        "init_tls",
        "__libc_setup_tls",
        "_dl_early_allocate",
        "_dl_tls_setup",
    }
)


def _loader_mapping(event: Event, names: set[str], mappings: _Mappings) -> str:
    address, _, protection, flags = event.args[:4]
    if not flags & MAP_ANONYMOUS:
        base = _base(event.file) or "a file"
        if "_dl_sysdep_read_whole_file" in names or base == "ld.so.cache":
            return f"reads {event.file or base}"
        return f"maps {base}: {_SEGMENTS.get(protection, 'a segment')}"
    if flags & MAP_FIXED:
        return f"zero-filled data of {mappings.name_before(address) or 'a library'} (.bss)"
    if names & _TLS:
        return "static TLS and thread control block"
    return "link maps and search paths (the loader's own malloc)"


class _Source(NamedTuple):
    """Where a number of a request is: the place of a frame, and its variable (two: their product)."""

    place: int
    variables: tuple[str, ...]

    def read(self, frames: Sequence[Frame]) -> int:
        """Return the number."""
        value = 1
        for name in self.variables:
            value *= frames[self.place].variables[name]
        return value


class _PlannedCall(NamedTuple):
    """A PublicCall but for the numbers: where its own frame and its caller's are, and where its request is."""

    name: str
    place: int
    request: _Source | None
    caller: int | None


class _Plan(NamedTuple):
    """What the functions of a stack, and which of their variables can be read, tell of a call that malloc made."""

    function: str | None
    request: _Source | None
    nb: _Source | None
    arenas: tuple[_Source, ...]
    calls: tuple[_PlannedCall, ...]
    inner: tuple[str, ...]


_plans: dict[tuple[object, ...], _Plan] = {}


def malloc_call(frames: Sequence[Frame]) -> Requested:
    """Return what was asked of malloc in a call that malloc made.

    Where the frames name no function of malloc's, which happens without debug symbols, the fields are None.
    """
    key = (_code_of(frames), tuple([tuple(frame.variables) for frame in frames if frame.variables]))
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MOST_STACKS:
            _plans.clear()
        plan = _plans[key] = _plan(frames)
    calls = tuple(
        [
            PublicCall(
                call.name,
                frames[call.place].name,
                frames[call.place].pc,
                None if call.request is None else call.request.read(frames),
                None if call.caller is None else frames[call.caller],
            )
            for call in plan.calls
        ]
    )
    return Requested(
        plan.function,
        None if plan.request is None else plan.request.read(frames),
        None if plan.nb is None else plan.nb.read(frames),
        next((arena for arena in (source.read(frames) for source in plan.arenas) if arena), None),
        calls[0] if calls else None,
        calls,
        plan.inner,
    )


class Sources(NamedTuple):
    """Which variables of a stack tell what a recorder must know at once: each (place of the frame, name).

    ``nb`` is the chunk's size, or ``request`` the bytes that it follows from; ``pointer`` is what free or realloc was
    called with.
    """

    arena: tuple[int, str] | None
    nb: tuple[int, str] | None
    request: tuple[int, str] | None
    pointer: tuple[int, str] | None


def malloc_sources(frames: Sequence[Frame]) -> Sources | None:
    """Return where malloc_call finds its numbers in stacks of the same code, None where that is not so simple."""
    plan = _plan(frames)
    if not all(frame.function for frame in frames) or (len(plan.arenas) > 1 and len(_arenas(plan, frames)) > 1):
        return None
    if any(len(source.variables) != 1 for source in (plan.nb, plan.request) if source is not None):
        return None
    pointers = [(place, name) for place, frame in enumerate(frames) for name in POINTERS if name in frame.variables]
    return Sources(
        (plan.arenas[0].place, "av") if plan.arenas else None,
        None if plan.nb is None else (plan.nb.place, plan.nb.variables[0]),
        None if plan.request is None else (plan.request.place, plan.request.variables[0]),
        pointers[0] if pointers else None,
    )


def _arenas(plan: _Plan, frames: Sequence[Frame]) -> set[int]:
    return {source.read(frames) for source in plan.arenas}


#: The variables that hold what the user gave to free and realloc.
POINTERS = ("mem", "oldmem")


def _plan(frames: Sequence[Frame]) -> _Plan:
    found = _decide(frames)
    if not found.libc:
        return _Plan(None, None, None, (), (), ())
    run = range(found.index, found.index + len(list(_allocating(frames[found.index :]))))
    calls = _public_calls(frames, run)
    function, request = _innermost(frames, run, calls)
    inner: list[str] = []
    for place in reversed(run):
        name = _function(frames[place])
        if name and inner[-1:] != [name]:  # an inlined part has the name of the function around it
            inner.append(name)
    return _Plan(
        function,
        request,
        _variable(frames, run, ("sysmalloc", "sysmalloc_mmap", "sysmalloc_mmap_fallback"), "nb"),
        tuple(_Source(place, ("av",)) for place in run if "av" in frames[place].variables),
        calls,
        tuple(inner),
    )


def _allocating(frames: Sequence[Frame]) -> Iterable[Frame]:
    """Yield the frames, from malloc's innermost one outwards, for as long as they are of the same allocation."""
    for frame in frames:
        name = _function(frame)
        nameless = not name and _in_libc(frame)
        if not (nameless or name in INTERNAL or name in PUBLIC or name in PASSING):
            return
        yield frame


def _own_request(frames: Sequence[Frame], place: int) -> _Source | None:
    """Return where the bytes are that a frame of malloc was asked for, None where its variables do not tell."""
    variables = frames[place].variables
    if "n" in variables and "elem_size" in variables:
        return _Source(place, ("n", "elem_size"))
    return next((_Source(place, (name,)) for name in ("bytes", "sz") if name in variables), None)


def _public_calls(frames: Sequence[Frame], run: range) -> tuple[_PlannedCall, ...]:
    """Return the public calls of a run of frames, the outermost first."""
    calls: list[_PlannedCall] = []
    passed: _Source | None = None  # what a function that does not tell its own request was asked for
    for place in run:
        frame = frames[place]
        name = _function(frame)
        own = _own_request(frames, place)
        public = PUBLIC.get(name) or (name.lstrip("_") if name in PASSING else None)
        if public is None and place + 1 == run.stop:
            public = _STAND_FOR.get(name)
        if own is not None and name != "tcache_init":
            passed = own
        elif name in ("tcache_init", "_int_memalign", "_int_realloc"):
            passed = None  # what it asks for inside is not what it was asked for
        before = frames[calls[-1].place] if calls else None
        if public is None or (before is not None and before.name == name and before.pc == frame.pc):
            continue
        outwards = range(place + 1, min(run.stop + 1, len(frames)))
        caller = next((at for at in outwards if frames[at].pc != frame.pc or _function(frames[at]) != name), None)
        asks = not public.startswith(("free", "cfree", "operator delete", "malloc_trim"))
        calls.append(_PlannedCall(public, place, passed if asks else None, caller))
    return tuple(reversed(calls))


def _innermost(frames: Sequence[Frame], run: range, calls: Sequence[_PlannedCall]) -> tuple[str | None, _Source | None]:
    """Return the function whose request needed memory, and where the bytes are that it asked for."""
    inside: _Source | None = None
    for place in run:
        name = _function(frames[place])
        if name == "_int_malloc":
            inside = _Source(place, ("bytes",)) if "bytes" in frames[place].variables else None
        elif name == "tcache_init":
            return name, inside or _variable(frames, run, ("tcache_init",), "bytes")
        elif name in PUBLIC and name != "__libc_malloc2":  # from glibc 2.42 on tcache_init calls that one
            break
    if not calls:
        return None, inside
    return calls[-1].name, inside or calls[-1].request


def _variable(frames: Sequence[Frame], run: range, functions: tuple[str, ...], variable: str) -> _Source | None:
    for place in run:
        if _function(frames[place]) in functions and variable in frames[place].variables:
            return _Source(place, (variable,))
    return None


def _is_runtime(frame: Frame) -> bool:
    """Whether a frame is of glibc, of the loader, of a C++ library or its headers, or of another malloc."""
    base = _base(frame.objfile)
    return (
        _in_libc(frame)
        or _in_loader(frame)
        or _RUNTIME.match(base) is not None
        or _OTHER_MALLOC.match(base) is not None
        or base.startswith(("linux-vdso", "system-supplied DSO"))
        or frame.name in ENTRIES
        or frame.name.startswith(("std::", "__gnu_cxx::", "operator new", "operator delete"))
        or "/include/c++/" in (frame.file or "")
    )


def user_frame(where: Event | Sequence[Frame]) -> Frame | None:
    """Return the newest frame of the user's own code that has a source line, of an event or a stack (newest first).

    The user's own is what is neither in libc, ld.so, libpthread or libstdc++ nor in C++'s headers. Where none of it
    has a line, it is the newest such frame; None where there is none.
    """
    frames = where.frames if isinstance(where, Event) else where
    code = _code_of(frames)
    if code not in _user_places:
        if len(_user_places) >= _MOST_STACKS:
            _user_places.clear()
        _user_places[code] = _user_place(frames)
    place = _user_places[code]
    return None if place is None else frames[place]


def _user_place(frames: Sequence[Frame]) -> int | None:
    own = [place for place, frame in enumerate(frames) if (frame.function or frame.objfile) and not _is_runtime(frame)]
    for place in own:
        if frames[place].line is not None:
            return place
    static = _is_static(frames)
    for place in own:
        name = _function(frames[place])
        if name != "_start" and not (static and (name in WRAPPERS or _known_to_libc(name))):
            return place
    return None


def stream_of(frames: Iterable[Frame]) -> int | None:
    """Return the address of the stdio stream whose buffer is asked for, None where that is not known."""
    for frame in frames:
        if _function(frame) == "_IO_file_doallocate":
            return frame.variables.get("fp")
    return None


def meaning(name: str) -> str | None:
    """Return in plain words what the memory is for that the function ``name`` of libc asks for, None if unknown."""
    return MEANINGS.get(name)
