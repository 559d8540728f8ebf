"""All that is told of one chunk, gathered before it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.ptmalloc.lists import ChunkList


@dataclass(frozen=True)
class Listed:
    """Where a free chunk is listed: ``position`` (0 is the front) on ``list``, of a thread's tcache or of an arena."""

    list: ChunkList
    position: int
    thread: int | None


@dataclass(frozen=True)
class WordNote:
    """What a word of a chunk's content is: ``offset`` bytes from the user pointer, with the ``value``.

    ``kind`` is link (of a free chunk, malloc's own), chunk (a pointer into one), symbol or stack; ``text`` says what it
    leads to. ``target`` is the address of the chunk, ``type_name`` the C++ class whose vtable it is, else None.
    """

    offset: int
    value: int
    kind: str
    text: str
    target: int | None = None
    type_name: str | None = None


@dataclass(frozen=True)
class Mapping:
    """The mapping of a chunk that has one of its own."""

    start: int
    length: int


@dataclass(frozen=True)
class Inspection:
    """One chunk, asked for by an ``address`` in it.

    ``word`` is its size word and ``usable`` what malloc_usable_size says of it, in bytes. ``before`` and ``after`` are
    its neighbours, None where there are none or they cannot be known. ``arena``, ``threads`` (the debugger's numbers of
    those that use the arena) and ``heap`` are what it belongs to; ``mapping`` is set for a chunk with a mapping of its
    own, which has none of these. ``purpose`` is what it is for where malloc itself uses it. ``content`` is a part of
    its user data, from ``content_start`` on. ``resumed`` says how it is known in a heap that could not be walked to it.
    """

    address: int
    chunk: Chunk
    word: int
    usable: int
    arena: Arena | None
    threads: tuple[int, ...]
    heap: HeapInfo | None
    mapping: Mapping | None
    before: Chunk | None
    after: Chunk | None
    listed: Listed | None
    purpose: str | None
    content_start: int
    content: bytes
    notes: tuple[WordNote, ...]
    resumed: str | None
    problems: tuple[str, ...]
