"""heap find: the chunks that are like what someone looks for, or all of them in groups."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, number, row_limit
from gdbheap.debugger.options import Option, Parsed, UsageError

_GROUPS = 20
# As gdbheap.ptmalloc has them; those modules are not imported before they are needed.
_STATES = ("used", "tcache", "fastbin", "unsorted", "small", "large", "free", "top", "fencepost")
_ROW_ORDERS = ("address", "size", "state")
_GROUP_ORDERS = ("bytes", "count", "size")
_NARROWING = (
    *("size", "min-size", "max-size", "request", "state", "start", "end"),
    *("bytes", "text", "points-to", "type"),
)

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.debugger.heap_search import Heap
    from gdbheap.ptmalloc.counts import Counts
    from gdbheap.ptmalloc.search import Content, FoundRows, Group, Groups, Search, Sought
    from gdbheap.ptmalloc.whole import WholeWalk
    from gdbheap.render.style import Plain


class HeapFind(HeapCommand):
    """Look for chunks."""

    word = "find"
    shows_heap = True
    summary = "Find chunks by size, state, place, content or C++ class, or count what there is of each size or class."
    details = (
        "Without options that narrow it, it groups the heap by size: where to look first for a leak. All that is\n"
        "given must hold. The top chunk and fenceposts are left out unless -state names them. The class is that of\n"
        "the vtable that the first word of a used chunk points into; in free chunks, malloc has written over that word."
    )
    options = (
        Option("size", "BYTES", "Only chunks of this size, their header included."),
        Option("min-size", "BYTES", "Only chunks of at least this size."),
        Option("max-size", "BYTES", "Only chunks of at most this size."),
        Option("request", "BYTES", "Only chunks of the size that a request for so many bytes gets."),
        Option("state", "STATE", f"Only chunks in this state: {', '.join(_STATES)}.", choices=_STATES),
        Option("arena", "N", "Only this arena: its number (0 is main_arena) or address."),
        Option("start", "ADDRESS", "Only chunks that end behind this address."),
        Option("end", "ADDRESS", "Only chunks that begin before this address."),
        Option("bytes", "HEX", 'Only chunks whose user data holds these bytes, as in -bytes "de ad be ef".'),
        Option("text", "TEXT", "Only chunks whose user data holds this text (as UTF-8)."),
        Option("points-to", "EXPRESSION", "Only chunks that hold a pointer to this address, object or function."),
        Option("into", "", "With -points-to: a pointer anywhere into the chunk or object that is there."),
        Option("type", "CLASS", "Only objects of this C++ class; * ? [...] stand for any text, as in a shell."),
        Option(
            "by",
            "size|type",
            "Count the chunks of each size or class instead of listing them.",
            choices=("size", "type"),
        ),
        Option("count", "", "Only say how many chunks and bytes there are."),
        Option(
            "sort",
            "ORDER",
            "Order of the rows: address (default), size (largest first), state; of the groups: bytes (default), count, "
            "size.",
            choices=tuple(dict.fromkeys((*_ROW_ORDERS, *_GROUP_ORDERS))),
        ),
        Option("limit", "N", f"At most N rows, or groups of each kind ('set heap limit', or else {_GROUPS} groups)."),
        Option("all", "", "Every row or group."),
        JSON,
    )
    examples = (
        "heap find",
        "heap find -by type",
        "heap find -type 'std::*' -count",
        "heap find -state used -min-size 0x1000 -sort size -limit 10",
        "heap find -points-to &config -into",
    )

    def answer(self, parsed: Parsed) -> Answer:
        """Return the chunks, groups or sums that are asked for."""
        from gdbheap.debugger.heap_search import Heap
        from gdbheap.debugger.progress import Progress
        from gdbheap.debugger.vtables import Vtables
        from gdbheap.memory import MemoryFault, PageCache
        from gdbheap.ptmalloc.search import FoundRows, Groups, Search
        from gdbheap.render.find import (
            Wholeness,
            find_object,
            found_line,
            group_lines,
            row_lines,
            unresolved_line,
            wholeness_lines,
        )

        counting, by, order = _form(parsed)
        heap = Heap(parsed.text("arena"))
        abi = heap.state.abi
        sought = _sought(parsed, heap)
        classes = Vtables(abi.word_size, parsed.text("type")) if parsed.given("type") or by == "type" else None
        limit = _limit(parsed, _GROUPS if by else None)

        groups = Groups() if by else None
        rows = FoundRows(abi, order, limit) if not by and not counting else None
        with Progress(heap.memory) as heap.memory:
            walk, search = heap.walk(), Search(heap.memory, abi, sought, classes)
            # Where the sums tell, no chunk has to be looked at.
            if counting and sought.by_state_alone:
                totals = walk.counts().only(sought.states)
            elif sought.by_size_alone and rows is None and classes is None:
                sizes = walk.by_size().only(sought.states, sought.min_size, sought.max_size)
                totals, groups = sizes.counts(), Groups(sizes) if by else None
            else:
                totals = _look(walk, search, groups, rows)
        whole = Wholeness(walk.missing, search.unreadable, walk.problems, self.changing)
        found = rows.rows() if rows is not None else []
        grouped = _ordered(groups.groups(), order) if groups is not None else []

        def lines(style: Plain) -> Iterator[str]:
            contents = PageCache(heap.memory)

            def content(address: int, size: int) -> bytes:
                try:
                    return contents.read(address, size)
                except MemoryFault:
                    return b""

            if grouped:
                yield from group_lines(grouped, totals, abi, limit)
            if found:
                yield from row_lines(found, content, bool(sought.contents))
            yield found_line(totals, whole)
            if classes is not None and classes.unresolved:
                yield unresolved_line(classes.unresolved)
            if found and len(found) < totals.chunks:
                shown = sum(row.chunk.size for row in found)
                left = totals.chunks - len(found)
                yield (f"{left:,} of them, {totals.bytes - shown:#x} bytes, left out: -limit N or -all shows them.")
            yield from wholeness_lines(whole, style)

        unresolved = 0 if classes is None else classes.unresolved
        return Answer(lambda: find_object(totals, whole, by, grouped, found, limit, unresolved), lines)


def _look(walk: WholeWalk, search: Search, groups: Groups | None, rows: FoundRows | None) -> Counts:
    """Go through the heap, and give what is found to the groups and the rows; return the sums."""
    from gdbheap.ptmalloc.search import FoundTotals

    totals = FoundTotals()
    for arena, block in walk.blocks():
        matches = search.matches(block)
        if matches is None:
            continue
        totals.see(matches)
        if groups is not None:
            groups.see(matches)
        if rows is not None:
            rows.see(matches, None if arena is None else arena.name)
    return totals


def _form(parsed: Parsed) -> tuple[bool, str | None, str]:
    """Return whether only sums are asked for, what to group by if anything, and the order of rows or groups."""
    counting, by, order = parsed.given("count"), parsed.text("by"), parsed.text("sort")
    if counting and by is not None:
        raise UsageError("-count says one sum only: leave it out to have the groups of -by.")
    if by is None and not counting and order not in _ROW_ORDERS and not any(map(parsed.given, _NARROWING)):
        by = "size"
    if by is not None:
        if order is not None and order not in _GROUP_ORDERS:
            raise UsageError(f"-sort {order} orders single chunks; groups can be in order of bytes, count or size.")
        return False, by, order or _GROUP_ORDERS[0]
    if order is not None and order not in _ROW_ORDERS:
        raise UsageError(f"-sort {order} orders groups; single chunks can be in order of address, size or state.")
    return counting, None, order or _ROW_ORDERS[0]


def _limit(parsed: Parsed, usual: int | None) -> int | None:
    return None if parsed.given("json") and not parsed.given("limit") else row_limit(parsed, usual, "limit")


def _ordered(groups: list[Group], order: str) -> list[Group]:
    """Return the groups, which are in order of their bytes, in the order that is asked for."""
    if order == "count":
        groups.sort(key=lambda group: -group.chunks)
    elif order == "size":
        groups.sort(key=lambda group: -group.bytes / group.chunks)
    return groups


def _sought(parsed: Parsed, heap: Heap) -> Sought:
    """Return what the command line looks for; raise UsageError where it cannot be meant."""
    from gdbheap.ptmalloc.abi import RequestTooLarge
    from gdbheap.ptmalloc.search import USUAL_STATES, Sought

    low = number(parsed, "min-size", 0)
    high = number(parsed, "max-size", 0) if parsed.given("max-size") else None
    exact = number(parsed, "size", 0) if parsed.given("size") else None
    if parsed.given("request"):
        try:
            size = heap.state.abi.request_to_chunk(number(parsed, "request", 0))
        except RequestTooLarge as error:
            raise UsageError(f"-request: {error}.") from None
        if exact is not None and exact != size:
            raise UsageError(f"-request {parsed.text('request')} gets {size:#x} bytes, not those of -size.")
        exact = size
    if exact is not None:
        if parsed.given("min-size") or parsed.given("max-size"):
            raise UsageError("An exact size leaves nothing to -min-size and -max-size: give either.")
        low = high = exact
    if high is not None and high < low:
        raise UsageError("-max-size is less than -min-size, so no chunk can be meant.")
    start = number(parsed, "start", 0)
    end = number(parsed, "end", 0) if parsed.given("end") else None
    if end is not None and end <= start:
        raise UsageError("-end is not behind -start, so no chunk can be meant.")
    state = parsed.text("state")
    states = frozenset(USUAL_STATES if state is None else (state,))
    return Sought(low, high, states, start, end, tuple(_contents(parsed, heap)), parsed.given("type"))


def _contents(parsed: Parsed, heap: Heap) -> Iterator[Content]:
    """Yield what the chunks must hold."""
    from gdbheap.debugger.heap_search import place_of
    from gdbheap.ptmalloc.scan import BytesSought, WordSought

    typed = parsed.text("bytes")
    if typed is not None:
        try:
            pattern = bytes.fromhex(typed.removeprefix("0x"))
        except ValueError:
            raise UsageError(f"-bytes is hexadecimal digits in pairs, as \"de ad be ef\", not '{typed}'.") from None
        if not pattern:
            raise UsageError("-bytes needs one byte at least.")
        yield BytesSought(pattern)
    text = parsed.text("text")
    if text is not None:
        if not text:
            raise UsageError("-text needs one character at least.")
        yield BytesSought(text.encode("utf-8", "surrogateescape"))
    pointed = parsed.text("points-to")
    if pointed is None:
        if parsed.given("into"):
            raise UsageError("-into belongs to -points-to EXPRESSION.")
        return
    address, size = place_of(pointed)
    if parsed.given("into"):
        holder = heap.chunk_at(address)
        if holder is not None:
            chunk = holder[1]
            address, size = chunk.pointer, chunk.size - heap.state.abi.header
        elif size is None:
            raise UsageError(
                f"{address:#x} is in no chunk, and '{pointed}' does not tell how large the object there is: "
                f"cast it to a pointer to its type."
            )
    else:
        size = 1
    word_size = heap.state.abi.word_size
    yield WordSought(address, min(address + size, 1 << 8 * word_size), word_size)
