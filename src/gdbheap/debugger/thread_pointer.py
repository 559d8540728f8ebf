"""The thread pointer of each thread: from a register, glibc's own list of threads, libthread_db, or memory (i386)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice

import gdb

from gdbheap.debugger.language import word_size
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.target import GdbMemory, each_thread, stack_pointer
from gdbheap.debugger.thread_list import ThreadList
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.scan import Pieces

_PAGE = 0x1000
#: The loader maps a thread control block with the thread-local variables of all libraries: these are larger.
_LARGEST_BLOCK = 1 << 20
#: Where a 32-bit x86 control block has the kernel's number of its thread: behind 24 words, and a list's two.
_BEFORE_TID = 26 * 4


def thread_pointer(machine: str) -> int | None:
    """Return the selected thread's thread pointer, None where it is not known.

    ``machine`` is GDB's name of the architecture.
    """
    register = "tpidr" if machine.startswith("aarch64") else "fs_base" if machine.startswith("i386:x86-64") else ""
    if register:
        try:
            value = int(gdb.parse_and_eval(f"${register}")) % (1 << 64)
        except (gdb.error, ValueError):  # void where there is no such register
            value = 0
        return value or _told_by_glibc(machine)
    if not machine.startswith("i386"):
        return None
    return _pthread_handle() or _told_by_glibc(machine) or _control_block()


def thread_pointers(machine: str, most: int) -> list[int]:
    """Return the thread pointers that are known of the first ``most`` threads."""
    found = [thread_pointer(machine) for _ in islice(each_thread(), most)]
    return [pointer for pointer in found if pointer is not None]


def _told_by_glibc(machine: str) -> int | None:
    """Return the selected thread's thread pointer as glibc's own list of threads tells it."""
    thread = gdb.selected_thread()
    if thread is None:
        return None
    little = "little" in gdb.execute("show endian", to_string=True)
    threads = ThreadList(GdbMemory(), word_size(), little)
    return threads.thread_pointer(thread.ptid[1], machine.startswith("i386"))


def _pthread_handle() -> int | None:
    """Return the pthread_t of the selected thread, as libthread_db tells it; on x86 that is the thread pointer."""
    thread = gdb.selected_thread()
    try:
        data = thread.handle() if thread is not None and hasattr(thread, "handle") else b""
    except (gdb.error, RuntimeError):
        return None
    order = "little" if "little" in gdb.execute("show endian", to_string=True) else "big"
    return int.from_bytes(data, "little" if order == "little" else "big") or None


def _control_block() -> int | None:
    """Return the selected thread's control block in a 32-bit x86 process, None where it is not known.

    It has its own address, twice, and behind that the kernel's number of the thread (struct pthread of nptl/descr.h).
    Where that is another number, as in a container, the only control block of a process is that of its only thread.
    """
    thread = gdb.selected_thread()
    if thread is None:
        return None
    tid = array("I", [thread.ptid[1]]).tobytes()
    found = {address for start, data in _places_of_blocks() for address in _blocks_of(tid, start, data)}
    if len(found) != 1 and len(gdb.selected_inferior().threads()) == 1:
        found = {address for start, data in _places_of_blocks() for address in _all_blocks(start, array("I", data))}
    return found.pop() if len(found) == 1 else None


def _places_of_blocks() -> Iterator[tuple[int, bytes]]:
    """Yield where memory begins that may have thread control blocks of a 32-bit process, and its bytes."""
    stack = stack_pointer()
    for item in mapped_ranges():
        if item.name not in ("", "[heap]") or "w" not in item.permissions:
            continue
        # Of a thread that glibc made it is at the end of its stack; a static program has the first one's in its heap.
        parts = [(item.start, min(item.end, item.start + _LARGEST_BLOCK))]
        if item.size > _LARGEST_BLOCK and stack is not None and item.start <= stack < item.end:
            # From glibc 2.42 on stacks whose guards are inside them may be one mapping.
            page = stack // _PAGE * _PAGE
            parts = [(item.end - _LARGEST_BLOCK, item.end), (page, min(item.end, page + _LARGEST_BLOCK))]
        for start, end in parts:
            pieces = Pieces(GdbMemory(), Abi(4))  # those guards cannot be read
            piece = pieces.next(start, end)
            while piece is not None:
                yield piece
                piece = pieces.next(piece[0] + len(piece[1]), end)


def _blocks_of(tid: bytes, start: int, data: bytes) -> Iterator[int]:
    """Yield the addresses of the control blocks in ``data``, from ``start`` on, that have this thread number."""
    place = data.find(tid, _BEFORE_TID)
    while place >= 0:
        block = place - _BEFORE_TID
        itself = array("I", [start + block]).tobytes()
        if block % 4 == 0 and data[block : block + 4] == data[block + 8 : block + 12] == itself:
            yield start + block
        place = data.find(tid, place + 1)


def _all_blocks(start: int, words: Sequence[int]) -> Iterator[int]:
    """Yield the addresses of what looks like a control block, whoever's, in the ``words`` from ``start`` on."""
    for place in range(len(words) - 2):
        address = start + 4 * place
        if words[place] == address and words[place + 2] == address:
            yield address
