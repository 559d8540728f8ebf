"""Whose memory a system call is about: from its callers, and where they have no names, from its arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gdbheap.growth.decision import (
    Decision,
    decide,
)
from gdbheap.growth.event import Event, Frame, Requester
from gdbheap.growth.nameless import goes_on_after, previous_of
from gdbheap.growth.names import (
    INTERNAL,
    LOCALE,
    MESSAGE,
    OF_OWN_MAPPINGS,
    OTHER_MALLOC_FILE,
    OTHER_MALLOC_FUNCTION,
    OTHER_PUBLIC,
    PASSING,
    PUBLIC,
    SPAWN,
    STDIO,
    THREAD,
    base_name,
    function_of,
    in_libc,
    in_loader,
    in_musl,
)
from gdbheap.simulate.kernel import (
    MADV_DONTNEED,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_STACK,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)

#: The purpose of a call that is about one mmapped chunk.
OWN_MAPPING = "a chunk that is a mapping of its own"
#: The purpose of a mapping that is a chunk's own, or was made where the break could not be moved: nothing tells which.
A_MAPPING = "a mapping"
#: The purpose of a call that is about a heap of an arena other than main_arena.
HEAP_OF_AN_ARENA = "the heap of a thread's arena"
#: The purpose of a call from inside musl, where no unwinding information tells who asked for it.
OF_MUSL = "musl's C library: its malloc, its loader, or what the program asked of it"
#: The purpose of a call of which no stack tells who made it: that may have been malloc.
NO_CALLER = "no caller is known"
#: How the purpose of a call begins that an allocator other than glibc's made; the name of its file follows.
ANOTHER_MALLOC = "another malloc: "
#: The purpose of malloc_trim's calls for the chunks that are free.
FREE_PAGES = "pages inside free chunks"


def requester(event: Event, earlier: Iterable[Event] = (), *, musl_inside: bool = False) -> Requester:
    """Return whose memory ``event`` is about.

    The first frame that is no mere wrapper of the system call decides. ``earlier`` are the events from before it,
    oldest first: they tell which file is mapped at an address, which names what the loader unmaps or protects, and
    who made a mapping that goes without a frame that tells. Other processes' are passed over.
    Without glibc's debug symbols, where libc's own functions have no names, the arguments help to decide.
    ``musl_inside`` says that the program is linked with musl's C library statically: code without a source is taken for
    that library's.
    """
    if event.frames and (in_musl(event.frames[0]) or (musl_inside and event.frames[0].file is None)):
        return Requester("other", OF_MUSL)
    found = decide(event.frames)
    if not found.known:
        return _nobody(event, found, earlier)
    if found.loader:
        return Requester("loader", _loader_purpose(event, found, _Mappings(event.process, earlier)))
    name = function_of(event.frames[found.index])
    if found.unnamed and _Mappings(event.process, earlier).is_reserved(event):
        return Requester("malloc", HEAP_OF_AN_ARENA)
    if found.libc and (name in INTERNAL or name in PUBLIC):
        # Without names, the page that holds the message of a failed check looks like malloc's.
        if found.unnamed and _is_message(event) and not goes_on_after(event, previous_of(event, earlier)):
            return Requester("other", "the text of an error message")
        purpose = _malloc_purpose(event, name)
        freed = purpose == A_MAPPING and _frees_chunk(event, earlier)
        return Requester("malloc", OWN_MAPPING if freed else purpose)
    if _frees_chunk(event, earlier):
        return Requester("malloc", OWN_MAPPING)
    if found.libc:
        return _in_libc_itself(event, name, found.unnamed, earlier)
    if found.unnamed:
        return _nameless(event, earlier)
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
    return maker is not None and maker.requester.kind == "malloc" and maker.requester.purpose != HEAP_OF_AN_ARENA


def _nameless(event: Event, earlier: Iterable[Event]) -> Requester:
    """Judge a call by code of libc that has no name, without debug symbols: by its arguments, or by who made a mapping.

    From glibc 2.42 on the public functions of malloc may be missing among the callers.
    """
    if _is_message(event):
        return Requester("other", "the text of an error message")
    if event.syscall not in ("brk", "mmap"):
        made = _Mappings(event.process, earlier).around(event.args[0])
        if made is None or made.requester.kind != "malloc":
            stack = made is not None and made.requester.kind == "thread-stack"
            return Requester("thread-stack", _stack_purpose(event)) if stack else Requester("other", "libc's own")
    if _like_malloc(event):
        return Requester("malloc", _malloc_purpose(event, ""))
    return Requester("other", "libc's own")


def _nobody(event: Event, found: Decision, earlier: Iterable[Event]) -> Requester:
    # Without unwinding information a stack may end anywhere: where it is known who made a mapping, it is theirs.
    if found.unnamed and _frees_chunk(event, earlier):
        return Requester("malloc", _malloc_purpose(event, "munmap_chunk"))
    if found.unnamed and event.syscall in ("munmap", "madvise", "mprotect"):
        return Requester("thread-stack", "stack of a thread that has ended")
    return Requester("other", NO_CALLER)


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
    if event.syscall == "madvise" and event.args[2] == MADV_HUGEPAGE:
        return "huge pages for new memory"
    if event.syscall == "madvise" and name in ("mtrim", "__malloc_trim", "malloc_trim"):
        return FREE_PAGES
    if event.syscall == "mremap" or name in OF_OWN_MAPPINGS | {"sysmalloc_mmap"}:
        return OWN_MAPPING
    if name == "sysmalloc_mmap_fallback":
        return "main_arena's heap, where the break cannot be moved"
    heap = {"new_heap", "alloc_new_heap", "grow_heap", "shrink_heap", "heap_trim"}
    if name in heap or event.syscall in ("mprotect", "madvise") or (_anonymous(event) and event.args[2] == PROT_NONE):
        return HEAP_OF_AN_ARENA
    return A_MAPPING


def _program(event: Event, found: Decision) -> Requester:
    outwards = event.frames[found.index :]
    # Code that GDB knows nothing of is made by the program: what called it has a name.
    frame = next((frame for frame in outwards if frame.function or frame.objfile), outwards[0])
    where = base_name(frame.objfile) or "unknown code"
    named = OTHER_MALLOC_FILE.match(where) or OTHER_MALLOC_FUNCTION.match(outwards[0].name)
    if named or _calls_itself_malloc(outwards):
        return Requester("other", f"{ANOTHER_MALLOC}{where}")
    if not any(frame.function or in_libc(frame) or in_loader(frame) for frame in event.frames):
        if frame.objfile is None:
            return Requester("other", NO_CALLER)
        return Requester("other", f"code of {where} without a name: perhaps of a C library that is linked into it")
    function = f" in {function_of(frame)}" if function_of(frame) else ""
    library = f" of {where}" if ".so" in where or not function else ""
    wrapper = found.wrapper.lstrip("_").replace("mmap64", "mmap") or event.syscall
    return Requester("program", f"the program's own {wrapper}{function}{library}")


def _calls_itself_malloc(frames: Sequence[Frame]) -> bool:
    """Whether these frames, from one of no library of glibc's outwards, are an allocator of the same object file."""
    for frame in frames:
        if frame.objfile != frames[0].objfile:
            return False
        name = function_of(frame)
        if name in PUBLIC or name in OTHER_PUBLIC or name in PASSING:
            return True
    return False


def _in_libc_itself(event: Event, name: str, unnamed: bool, earlier: Iterable[Event]) -> Requester:
    """Judge a call by a named function of libc that is none of malloc's.

    ``unnamed`` says that functions without a name lie between: those may be malloc's.
    """
    file = event.file or ""
    if name in THREAD or name.startswith("__nptl_"):
        return Requester("thread-stack", _stack_purpose(event))
    if name in SPAWN:
        return Requester("other", "stack of the child that posix_spawn makes")
    if name in MESSAGE:
        return Requester("other", "the text of an error message")
    if "getrandom" in name or name.startswith("arc4random"):
        return Requester("other", "the state of getrandom in the vDSO")
    # Nothing else in libc makes these calls: from glibc 2.42 on malloc's own frame may be gone.
    if unnamed and (_anonymous(event) or event.syscall in ("brk", "mprotect", "mremap")):
        return _nameless(event, earlier)
    if name.startswith(("__gconv", "gconv_", "iconv_open")) or base_name(file) == "gconv-modules.cache":
        return Requester("other", "iconv's list of modules" if file else "iconv")
    if name.startswith("_nl_") or name in LOCALE or "/locale/" in file:
        return Requester("locale", _locale_purpose(event))
    if name.startswith("_IO_") or name in STDIO:
        return Requester("stdio", f"a stream that reads {file}" if file else "a stream that reads a mapped file")
    if name in ("sem_open", "__sem_open", "__new_sem_open"):
        return Requester("other", "a named semaphore")
    if "nscd" in name:
        return Requester("other", "nscd's cache")
    if unnamed:
        return _nameless(event, earlier)
    return Requester("other", f"libc's own, in {name}")


def _stack_purpose(event: Event) -> str:
    if event.syscall == "madvise" and event.args[2] == MADV_GUARD_INSTALL:
        return "guard of a new thread's stack"
    if event.syscall == "madvise" and event.args[2] == MADV_GUARD_REMOVE:
        return "guard of a thread's stack, taken away"
    if event.syscall == "munmap" or (event.syscall == "madvise" and event.args[2] == MADV_DONTNEED):
        return "stack of a thread that has ended"
    if event.syscall == "mprotect" and event.args[2] == PROT_NONE:
        return "guard of a thread's stack"
    if event.syscall == "mprotect" and event.args[2] & PROT_EXEC:
        return "stack of a thread, made executable"
    return "stack of a new thread"


def _locale_purpose(event: Event) -> str:
    base = base_name(event.file)
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

    def is_reserved(self, event: Event) -> bool:
        """Whether ``event`` unmaps a part of what malloc has reserved for a heap of an arena."""
        made = self.around(event.args[0]) if event.syscall == "munmap" else None
        return made is not None and made.requester.purpose == HEAP_OF_AN_ARENA

    def around(self, address: int) -> Event | None:
        """Return the event that last mapped what ``address`` is in, None where none did."""
        found = (made for start, size, made in self._newest_first() if start <= address < start + size)
        return next(found, None)

    def name_at(self, address: int) -> str | None:
        """Return the base name of the file that was mapped at ``address`` last, None where none was."""
        for start, size, event in self._newest_first():
            if event.file is not None and start <= address < start + size:
                return base_name(event.file)
        return None

    def name_before(self, address: int) -> str | None:
        """Return the base name of the file whose mapping ``address`` lies in or right behind."""
        return self.name_at(address - 1)


def _loader_purpose(event: Event, found: Decision, mappings: _Mappings) -> str:
    names = {function_of(frame) for frame in event.frames[: found.index + 6]}
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
    if event.syscall == "madvise":
        return f"advice about {name or 'the program or a library'}"
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
        base = base_name(event.file) or "a file"
        if "_dl_sysdep_read_whole_file" in names or base == "ld.so.cache":
            return f"reads {event.file or base}"
        return f"maps {base}: {_SEGMENTS.get(protection, 'a segment')}"
    if flags & MAP_FIXED:
        return f"zero-filled data of {mappings.name_before(address) or 'a library'} (.bss)"
    if names & _TLS:
        return "static TLS and thread control block"
    if not names - PUBLIC.keys() - {""}:  # without debug symbols; up to 2.34 the loader's own malloc has a name
        return "the loader's own memory: link maps, search paths, or static TLS"
    return "link maps and search paths (the loader's own malloc)"
