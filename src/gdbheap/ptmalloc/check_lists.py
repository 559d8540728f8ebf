"""The free lists of an arena and of a tcache, link by link: what malloc verifies on them and what it does not.

Lists of merged chunks are followed from both ends, so that a link that is broken tells what it should be, and the
chunks on either side of it are known.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import LAST_BIN, UNSORTED_BIN, bin_index, bin_range
from gdbheap.ptmalloc.finding import Finding, Findings
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.tcache import MAX_BIN_CHUNKS, bin_total, fits, tcache_range

#: Chunks that are visited at most on one list: as many as an address space of 2 GiB has, or a heap of 600 MB.
MAX_NODES = 20_000_000


class Node(NamedTuple):
    """A chunk on a list: its ``address``, size ``word`` and links; the last two are set in large bins only."""

    address: int
    word: int
    fd: int
    bk: int
    fd_nextsize: int = 0
    bk_nextsize: int = 0


@dataclass
class ListView:
    """One free list as far as it could be followed.

    ``kind`` is tcache, fastbin, unsorted, small or large, ``index`` glibc's own; ``owner`` is the address of the arena
    or of the tcache. ``nodes`` are front to back; those from ``from_back`` on (None: there are none) were reached from
    the back, as the way from the front broke off. ``complete`` says that these are all. ``findings`` are what is wrong
    with it, and ``unsound`` the addresses of the chunks that any of that is about.
    """

    kind: str
    index: int
    owner: int
    nodes: list[Node] = field(default_factory=list)
    from_back: int | None = None
    complete: bool = True
    findings: Findings = field(default_factory=Findings)
    unsound: set[int | None] = field(default_factory=set)

    def add(self, finding: Finding) -> None:
        """Add something that is wrong."""
        self.findings.add(finding)
        self.unsound.add(finding.chunk)

    @property
    def name(self) -> str:
        """What the list is called: ``unsorted list``, ``small bin 5``, ``tcache bin 3`` ..."""
        if self.kind == "unsorted":
            return "unsorted list"
        return f"fastbin {self.index}" if self.kind == "fastbin" else f"{self.kind} bin {self.index}"


def hexadecimal(value: int) -> str:
    """Return a value as it is shown: ``0`` for 0, else in hexadecimal."""
    return f"{value:#x}" if value else "0"


class ListChecker:
    """Checks the lists of a process; ``safe_linking`` says whether the links of single lists are mangled."""

    def __init__(self, memory: Memory, abi: Abi, layout: Layout, safe_linking: bool) -> None:
        self._memory = memory
        self._abi = abi
        self._layout = layout
        self._safe_linking = safe_linking
        self._node = struct.Struct(f"{abi.order}3{abi.word_code}").unpack
        self._large = struct.Struct(f"{abi.order}5{abi.word_code}").unpack

    def arena(self, arena: Arena) -> list[ListView]:
        """Return the lists of an arena that are not empty."""
        found = [self._fastbin(arena, index) for index, head in enumerate(arena.fastbins) if head]
        if not any(arena.bins) and not arena.has_top(self._abi):
            return found  # malloc_init_state has not run
        for index in range(1, len(arena.bins) // 2 + 1):
            header = arena.bin_header(self._abi, index)
            if (arena.bins[2 * index - 2], arena.bins[2 * index - 1]) != (header, header):
                found.append(self._bin(arena, index, header))
        return found

    # --- lists of merged chunks -------------------------------------------------------------------------------------

    def _bin(self, arena: Arena, index: int, header: int) -> ListView:
        abi = self._abi
        large = bin_index(abi, abi.min_large_size) <= index
        kind = "unsorted" if index == UNSORTED_BIN else "large" if large else "small"
        view = ListView(kind, index, arena.address)
        head = arena.bins_address + (2 * index - 2) * abi.word_size
        wide = kind in ("large", "unsorted")
        if index > LAST_BIN or 0 in arena.bins[2 * index - 2 : 2 * index]:
            self._bad_head(view, arena, head, header)
            return view
        forward, stop = self._chain(arena.bins[2 * index - 2], header, header, wide, forwards=True)
        view.nodes = forward
        last = forward[-1].address if forward else header
        if stop is None:
            self._back_links(view, arena, header, head)
        else:
            view.complete = False
            seen = {node.address for node in forward}
            backward, back_stop = self._chain(
                arena.bins[2 * index - 1], header, header, wide, forwards=False, until=seen
            )
            backward.reverse()
            broken = last + abi.header if forward else head
            if back_stop is None:  # the other way round all of them are there
                view.nodes = backward
                view.complete = True
                self._forward_links(view, arena, header, head, stop)
                self._sizes(view, arena)
                return self._by_kind(view, arena)
            if back_stop is not None and stop[0] == "" and back_stop[:2] == stop[:2]:
                self._overwritten(view, arena, stop[1], last, backward[0].address if backward else header, wide)
                view.nodes += backward
                self._sizes(view, arena)
                return view
            met = back_stop is not None and back_stop[1] in seen
            following = backward[0].address if backward else header
            if met:
                assert back_stop is not None
                leads = back_stop[1] == last
                view.complete = leads
                self._add(
                    view, arena, "list-loop" if stop[0] == "loop" else "list-pointer" if stop[0] else "list-link",
                    broken, self._forward_text(view, arena, forward, stop), hexadecimal(stop[1]), f"{following:#x}",
                    last if forward else None,
                )  # fmt: skip
                if not leads:
                    node = backward[0] if backward else None
                    at = head + abi.word_size if node is None else node.address + abi.header + abi.word_size
                    self._add(
                        view, arena, "list-link", at,
                        f"bk of {'the bin' if node is None else f'the chunk at {node.address:#x}'} on the {view.name} "
                        f"of {arena.name} is {back_stop[1]:#x}; it should be {last:#x}.",
                        f"{back_stop[1]:#x}", f"{last:#x}", None if node is None else node.address,
                    )  # fmt: skip
            else:
                self._add(
                    view, arena, "list-loop" if stop[0] == "loop" else "list-pointer" if stop[0] else "list-link",
                    broken, self._forward_text(view, arena, forward, stop), hexadecimal(stop[1]),
                    "the next chunk of the list", last if forward else None,
                )  # fmt: skip
                if back_stop is not None:
                    node = backward[0] if backward else None
                    at = head + abi.word_size if node is None else node.address + abi.header + abi.word_size
                    where = f"bk of the chunk at {node.address:#x} on" if node else "The back of"
                    self._add(
                        view, arena, "list-loop" if back_stop[0] == "loop" else "list-pointer", at,
                        f"{where} the {view.name} of {arena.name} is {hexadecimal(back_stop[1])}: "
                        f"{self._why(back_stop)}.",
                        hexadecimal(back_stop[1]), "the chunk before it on the list", node.address if node else None,
                    )  # fmt: skip
            if backward:
                view.from_back = len(view.nodes)
                view.nodes = [*view.nodes, *backward]
        self._sizes(view, arena)
        return self._by_kind(view, arena)

    def _by_kind(self, view: ListView, arena: Arena) -> ListView:
        if view.kind == "large":
            self._large_bin(view, arena)
        elif view.kind == "unsorted":
            self._unsorted(view, arena)
        return view

    def _forward_links(
        self, view: ListView, arena: Arena, header: int, head: int, stop: tuple[str, int, object]
    ) -> None:
        """Check fd of each node of a list whose bk links come round, and of the bin itself."""
        before: Node | None = None
        for node in [*view.nodes, None]:
            found = arena.bins[2 * view.index - 2] if before is None else before.fd
            expected = header if node is None else node.address
            if found != expected:
                kind, why = "list-link", ""
                if found == stop[1]:
                    kind = {"": "list-link", "loop": "list-loop"}.get(stop[0], "list-pointer")
                    why = f": {self._why(stop)}"
                if before is None:
                    kind = "bin-head"
                what = f"The front (fd) of the {view.name}" if before is None else (
                    f"fd of the chunk at {before.address:#x} on the {view.name}"
                )  # fmt: skip
                itself = ", the bin itself" if node is None else ""
                self._add(
                    view, arena, kind, head if before is None else before.address + self._abi.header,
                    f"{what} of {arena.name} is {hexadecimal(found)}{why}; it should be {expected:#x}{itself}.",
                    hexadecimal(found), f"{expected:#x}", None if before is None else before.address,
                )  # fmt: skip
            before = node

    def _overwritten(self, view: ListView, arena: Arena, chunk: int, before: int, behind: int, wide: bool) -> None:
        """Enter a chunk to which both neighbours lead, and which itself leads to neither."""
        node = self._read(chunk, wide)
        view.complete = True
        view.nodes.append(node)
        place = chunk + self._abi.header
        for name, value, expected in (("fd", node.fd, behind), ("bk", node.bk, before)):
            self._add(
                view, arena, "list-link", place,
                f"{name} of the chunk at {chunk:#x} on the {view.name} of {arena.name} is {hexadecimal(value)}; it "
                f"should be {expected:#x}, which leads here.",
                hexadecimal(value), f"{expected:#x}", chunk,
            )  # fmt: skip
            place += self._abi.word_size

    def _bad_head(self, view: ListView, arena: Arena, head: int, header: int) -> None:
        index = view.index
        for place, name in enumerate(("fd", "bk")):
            value = arena.bins[2 * index - 2 + place]
            if value != header:
                self._add(
                    view, arena, "bin-head", head + place * self._abi.word_size,
                    f"{name} of bin {index} of {arena.name} is {hexadecimal(value)}; while the bin is empty it should "
                    f"be {header:#x}, the bin itself.",
                    hexadecimal(value), f"{header:#x}", None,
                )  # fmt: skip
        view.complete = False

    def _chain(
        self, chunk: int, header: int, before: int, wide: bool, forwards: bool, until: set[int] | None = None
    ) -> tuple[list[Node], tuple[str, int, object] | None]:
        """Follow one direction; return the nodes, and None at the header or (why, address, reason) where it stops.

        Going forwards, a node whose bk does not lead back is entered where its own links hold on both sides; otherwise
        the way ends before it. ``until`` are nodes at which a walk backwards has met the one forwards.
        """
        abi = self._abi
        nodes: list[Node] = []
        seen: set[int] = set()
        while chunk != header:
            if until is not None and chunk in until:
                return nodes, ("met", chunk, None)
            if chunk in seen or len(nodes) >= MAX_NODES:
                return nodes, ("loop", chunk, None)
            if (chunk + abi.header) % abi.alignment:
                return nodes, ("unaligned", chunk, None)
            try:
                node = self._read(chunk, wide)
            except MemoryFault as fault:
                return nodes, ("unreadable", chunk, fault)
            if forwards and node.bk != before and not self._follows(node, header):
                return nodes, ("", chunk, None)
            if not forwards and node.fd != before and not self._precedes(node, header):
                return nodes, ("", chunk, None)
            seen.add(chunk)
            nodes.append(node)
            before, chunk = chunk, node.fd if forwards else node.bk
        return nodes, None

    def _read(self, chunk: int, wide: bool) -> Node:
        abi = self._abi
        if not wide:
            return Node(chunk, *self._node(self._memory.read(chunk + abi.word_size, 3 * abi.word_size)))
        try:
            return Node(chunk, *self._large(self._memory.read(chunk + abi.word_size, 5 * abi.word_size)))
        except MemoryFault:
            return Node(chunk, *self._node(self._memory.read(chunk + abi.word_size, 3 * abi.word_size)))

    def _word(self, address: int) -> int | None:
        try:
            return self._abi.read_word(self._memory, address % (1 << 8 * self._abi.word_size))
        except MemoryFault:
            return None

    def _follows(self, node: Node, header: int) -> bool:
        """Whether the chunk behind ``node`` says that it is before it: then it is on the list, and its bk is wrong."""
        abi = self._abi
        return self._word(node.fd + abi.header + abi.word_size) == node.address

    def _precedes(self, node: Node, header: int) -> bool:
        return self._word(node.bk + self._abi.header) == node.address

    def _back_links(self, view: ListView, arena: Arena, header: int, head: int) -> None:
        """Check bk of each node of a list whose fd links come round."""
        abi, before = self._abi, header
        for node in view.nodes:
            if node.bk != before:
                shown = f"{before:#x}, whose fd leads here" if before != header else f"{header:#x}, the bin itself"
                self._add(
                    view, arena, "list-link", node.address + abi.header + abi.word_size,
                    f"bk of the chunk at {node.address:#x} on the {view.name} of {arena.name} is "
                    f"{hexadecimal(node.bk)}; it should be {shown}.",
                    hexadecimal(node.bk), f"{before:#x}", node.address,
                )  # fmt: skip
            before = node.address
        back = arena.bins[2 * view.index - 1]
        if back != before:
            self._add(
                view, arena, "bin-head", head + abi.word_size,
                f"bk of the {view.name} of {arena.name} is {hexadecimal(back)}; it should be {before:#x}, the last "
                f"chunk that fd leads to.",
                hexadecimal(back), f"{before:#x}", None,
            )  # fmt: skip

    def _forward_text(self, view: ListView, arena: Arena, forward: list[Node], stop: tuple[str, int, object]) -> str:
        where = f"fd of the chunk at {forward[-1].address:#x} on" if forward else "The front of"
        return f"{where} the {view.name} of {arena.name} is {hexadecimal(stop[1])}: {self._why(stop)}."

    def _why(self, stop: tuple[str, int, object]) -> str:
        kind, address, reason = stop
        if kind == "loop":
            return "a chunk that is on the list already, so the list is a loop"
        if kind == "unaligned":
            return f"no place for a chunk, whose user pointer is a multiple of {self._abi.alignment:#x}"
        if kind == "unreadable":
            return f"GDB {reason}"
        return f"what is at {address:#x} does not lead back here"

    def _range(self, view: ListView, arena: Arena) -> tuple[int, int]:
        if view.kind == "unsorted":
            return self._abi.min_size, arena.system_mem
        try:
            low, high = bin_range(self._abi, view.index)
        except ValueError:
            return 1, 0
        return low, arena.system_mem if high is None else high

    def _sizes(self, view: ListView, arena: Arena) -> None:
        abi = self._abi
        low, high = self._range(view, arena)
        for node in view.nodes:
            size = node.word & ~FLAG_BITS
            if low <= size <= high and size % abi.alignment == 0:
                continue
            expected = f"{low:#x}" if low == high else f"a multiple of {abi.alignment:#x} from {low:#x} to {high:#x}"
            self._add(
                view, arena, "list-size", node.address + abi.word_size,
                f"The chunk at {node.address:#x} on the {view.name} of {arena.name} has the size word "
                f"{hexadecimal(node.word)}; its size should be {expected}.",
                hexadecimal(node.word), expected, node.address,
            )  # fmt: skip

    def _unsorted(self, view: ListView, arena: Arena) -> None:
        """Check that a large chunk has no links between sizes before it is sorted."""
        abi = self._abi
        for node in view.nodes:
            if node.word & ~FLAG_BITS < abi.min_large_size or not (node.fd_nextsize or node.bk_nextsize):
                continue
            place, value = (4, node.fd_nextsize) if node.fd_nextsize else (5, node.bk_nextsize)
            self._add(
                view, arena, "nextsize", node.address + place * abi.word_size,
                f"{'fd' if place == 4 else 'bk'}_nextsize of the chunk at {node.address:#x} on the {view.name} of "
                f"{arena.name} is {value:#x}; it should be 0, as the chunk has not been sorted yet.",
                f"{value:#x}", "0", node.address,
            )  # fmt: skip

    def _large_bin(self, view: ListView, arena: Arena) -> None:
        abi = self._abi
        heads: list[Node] = []
        size_before: int | None = None
        for place, node in enumerate(view.nodes):
            size = node.word & ~FLAG_BITS
            if size_before is not None and size > size_before:
                self._add(
                    view, arena, "list-order", node.address + abi.word_size,
                    f"The chunk at {node.address:#x} on the {view.name} of {arena.name} has {size:#x} bytes; it should "
                    f"have at most {size_before:#x}, the size of the chunk before it.",
                    f"{node.word:#x}", f"at most {size_before:#x}", node.address,
                )  # fmt: skip
            if size != size_before or place == view.from_back:
                heads.append(node)
            else:
                for offset, name, value in ((4, "fd", node.fd_nextsize), (5, "bk", node.bk_nextsize)):
                    if value:
                        self._nextsize(view, arena, node, offset, name, value, 0)
            size_before = size
        if not view.complete or any(f.kind in ("list-size", "list-order") for f in view.findings):
            return  # which chunks begin a size is not certain
        for place, node in enumerate(heads):
            for offset, name, value, other in (
                (4, "fd", node.fd_nextsize, heads[(place + 1) % len(heads)]),
                (5, "bk", node.bk_nextsize, heads[place - 1]),
            ):
                if value != other.address:
                    self._nextsize(view, arena, node, offset, name, value, other.address)

    def _nextsize(
        self, view: ListView, arena: Arena, node: Node, offset: int, name: str, value: int, expected: int
    ) -> None:
        why = "the first chunk of the next size" if name == "fd" else "the first chunk of the size before"
        if not expected:
            why = "as it is not the first of its size"
        self._add(
            view, arena, "nextsize", node.address + offset * self._abi.word_size,
            f"{name}_nextsize of the chunk at {node.address:#x} on the {view.name} of {arena.name} is "
            f"{hexadecimal(value)}; it should be {hexadecimal(expected)}, {why}.",
            hexadecimal(value), hexadecimal(expected), node.address,
        )  # fmt: skip

    def _add(
        self, view: ListView, arena: Arena | None, kind: str, address: int, text: str, found: str, expected: str,
        chunk: int | None,
    ) -> None:  # fmt: skip
        view.add(
            Finding(
                kind, address, text, found, expected, arena.address if arena is not None else 0, chunk, view.name,
                view.owner if view.kind == "tcache" else None, self._abi.word_size,
            )
        )  # fmt: skip

    # --- single lists -----------------------------------------------------------------------------------------------

    def _reveal(self, place: int, stored: int) -> int:
        return stored ^ (place >> 12) if self._safe_linking else stored

    def _fastbin(self, arena: Arena, index: int) -> ListView:
        abi = self._abi
        view = ListView("fastbin", index, arena.address)
        size = (index + 2) << (4 if abi.word_size == 8 else 3)
        address = arena.address + self._layout.state.fields["fastbinsY"].offset + index * abi.word_size
        where, holder = f"The front of fastbin {index} of {arena.name}", None
        chunk = stored = arena.fastbins[index]
        seen: set[int] = set()
        while chunk:
            node = self._single(view, arena, chunk, stored, address, where, holder, seen, chunk + abi.header)
            if node is None:
                return view
            if node.word & ~FLAG_BITS != size:
                self._add(
                    view, arena, "list-size", chunk + abi.word_size,
                    f"The chunk at {chunk:#x} in fastbin {index} of {arena.name} has the size word "
                    f"{hexadecimal(node.word)}; its size should be {size:#x}.",
                    hexadecimal(node.word), f"{size:#x}", chunk,
                )  # fmt: skip
            address, where, holder = chunk + abi.header, f"fd of the chunk at {chunk:#x} in fastbin {index}", chunk
            stored = node.fd
            chunk = self._reveal(address, stored)
        return view

    def _single(
        self, view: ListView, arena: Arena | None, chunk: int, stored: int, address: int, where: str,
        holder: int | None, seen: set[int], pointer: int,
    ) -> Node | None:  # fmt: skip
        """Enter the chunk at ``chunk``, which the word ``stored`` at ``address`` leads to; None where it is none."""
        abi = self._abi
        means = f"{hexadecimal(stored)}, which means {chunk:#x}" if stored != chunk and self._safe_linking else (
            f"{chunk:#x}"
        )  # fmt: skip
        kind, reason = "list-pointer", ""
        node: Node | None = None
        if chunk in seen:
            kind, reason = "list-loop", "a chunk that is on the list already, so the list is a loop"
        elif pointer % abi.alignment:
            reason = f"no place for a chunk, whose user pointer is a multiple of {abi.alignment:#x}"
        else:
            try:
                node = Node(chunk, *self._node(self._memory.read(chunk + abi.word_size, 3 * abi.word_size)))
            except MemoryFault as fault:
                reason = f"GDB {fault}"
        if node is not None and len(view.nodes) < MAX_NODES:
            seen.add(chunk)
            view.nodes.append(node)
            return node
        view.complete = False
        self._add(view, arena, kind, address, f"{where} is {means}: {reason}.", hexadecimal(stored),
                  "the next chunk of the list, or its end", holder)  # fmt: skip
        return None

    def tcache(self, address: int, key: int | None, limit: int | None, owner: str) -> Iterator[ListView]:
        """Yield the bins of the tcache at ``address`` that hold something or should hold something.

        ``limit`` is mp_.tcache_count (None: it is damaged, and nothing is counted down from it), ``key`` the mark of
        its chunks (None: not known), ``owner`` what it is called.
        Raises MemoryFault where the tcache is unreadable.
        """
        abi, layout = self._abi, self._layout
        assert layout.tcache is not None
        fields = layout.tcache.fields
        data = self._memory.read(address, layout.tcache.size)
        total = bin_total(abi, layout)
        start = fields["entries"].offset
        entries = abi.words(data[start : start + total * abi.word_size])
        name = "num_slots" if layout.tcache_counts_down else "counts"
        counters = layout.tcache.decode(data, abi.order)[name]
        width = fields[name].size // fields[name].count
        for index, (head, counter) in enumerate(zip(entries, counters)):
            if not head and (layout.tcache_counts_down or not counter):
                continue
            view = self._tcache_bin(address, index, head, start, key, owner)
            expected = len(view.nodes)
            if layout.tcache_counts_down:
                expected = counter if limit is None else limit - len(view.nodes)
            if view.complete and counter != expected:
                where = address + fields[name].offset + index * width
                view.add(
                    Finding(
                        "tcache-count", where,
                        f"{name}[{index}] of {owner} is {counter}; it should be {expected}, as that bin has "
                        f"{len(view.nodes)} chunks.",
                        f"{counter}", f"{expected}", listed=view.name, tcache=address, size=width,
                    )
                )  # fmt: skip
            yield view

    def _tcache_bin(self, tcache: int, index: int, head: int, entries: int, key: int | None, owner: str) -> ListView:
        abi = self._abi
        view = ListView("tcache", index, tcache)
        low, high = tcache_range(abi, index)
        address, where, holder = tcache + entries + index * abi.word_size, f"entries[{index}] of {owner}", None
        pointer = stored = head
        seen: set[int] = set()
        while pointer:
            chunk = pointer - abi.header
            if len(view.nodes) >= MAX_BIN_CHUNKS:
                view.complete = False
                break
            node = self._single(view, None, chunk, stored, address, where, holder, seen, pointer)
            if node is None:
                break
            if not fits(abi, index, node.word & ~FLAG_BITS):
                expected = f"{low:#x}" if low == high else f"from {low:#x} to {high:#x}"
                self._add(
                    view, None, "list-size", chunk + abi.word_size,
                    f"The chunk at {chunk:#x} in bin {index} of {owner} has the size word {hexadecimal(node.word)}; "
                    f"its size should be {expected}.",
                    hexadecimal(node.word), expected, chunk,
                )  # fmt: skip
            if key is not None and node.bk != key:
                self._add(
                    view, None, "tcache-key", pointer + abi.word_size,
                    f"The second word of the free chunk at {chunk:#x} in bin {index} of {owner} is "
                    f"{hexadecimal(node.bk)}; it should be {key:#x}, the mark of chunks in a tcache.",
                    hexadecimal(node.bk), f"{key:#x}", chunk,
                )  # fmt: skip
            address, where, holder = pointer, f"next of the chunk at {chunk:#x} in bin {index} of {owner}", chunk
            stored = node.fd
            pointer = self._reveal(pointer, stored)
        return view
