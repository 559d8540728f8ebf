"""Which of glibc's checks a finding makes fail, and in which call: calls are tried on the simulated allocator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, PREV_INUSE, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import fastbin_index
from gdbheap.ptmalloc.check_lists import ListView
from gdbheap.ptmalloc.checks import CRASH, Rules
from gdbheap.ptmalloc.culprit import Around
from gdbheap.ptmalloc.finding import Catch, Finding
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.tcache import tcache_range
from gdbheap.simulate.trials import Outcome, Trials

_THIS = "the chunk whose header or data this is"
_BEFORE = "the chunk before that"
_BEHIND = "the chunk behind that"
#: Chunks of one list of which it is told what taking them off would print.
_ON_LIST = 64
#: Calls after each other that are tried where no next call notices anything: more than most tcache bins have chunks.
MOST_CALLS = 32


@dataclass(frozen=True)
class CatchFacts:
    """What decides which check fails.

    ``trials`` tries calls; it is None where what malloc would do cannot be told. ``single_thread`` is
    SINGLE_THREAD_P, None where that is not known. ``curbrk`` is libc's __curbrk. ``own`` are chunks that malloc itself
    uses, so that nobody frees them.
    """

    rules: Rules
    trials: Trials | None = None
    single_thread: bool | None = None
    curbrk: int | None = None
    own: frozenset[int] = frozenset()


class Catcher:
    """Says of each of ``findings`` which checks it makes fail."""

    def __init__(
        self,
        memory: Memory,
        state: HeapState,
        views: Sequence[ListView],
        facts: CatchFacts,
        findings: Sequence[Finding],
    ) -> None:
        self._memory = memory
        self._state = state
        self._views = views
        self._facts = facts
        #: By address, for the findings: the lists that have the chunk there, and its place; and those that have the
        #: chunk that ends there.
        self._on: defaultdict[int, list[tuple[ListView, int]]] = defaultdict(list)
        self._ending: defaultdict[int, list[ListView]] = defaultdict(list)
        self._index(findings)

    def _index(self, findings: Sequence[Finding]) -> None:
        """Go through the lists once for all findings: each may be a million chunks long."""
        word = self._abi.word_size
        wanted = {address for item in findings for address in (item.address, item.address - word, item.chunk)}
        for view in self._views:
            for place, node in enumerate(view.nodes):
                if node.address in wanted:
                    self._on[node.address].append((view, place))
                end = node.address + (node.word & ~FLAG_BITS)
                if end in wanted:
                    self._ending[end].append(view)

    @property
    def _abi(self) -> Abi:
        return self._state.abi

    def catches(self, finding: Finding, around: Around) -> tuple[Catch, ...]:
        """Return the checks that fail because of ``finding``, those that need the least first."""
        found: list[Catch] = []
        try:
            found += self._of_lists(finding)
            found += self._of_top(finding)
            found += self._of_chunks(finding, around)
            if not any(catch.now and self._facts.rules.prints(catch.message) for catch in found):
                found += self._after_several(finding)
        except MemoryFault:
            pass  # what cannot be read is told by the findings themselves
        unique: dict[tuple[str, str, int | None], Catch] = {}
        for catch in found:
            if self._facts.rules.prints(catch.message):
                unique.setdefault((catch.message, catch.call, catch.pointer), catch)
        return tuple(sorted(unique.values(), key=lambda catch: not catch.now))

    def _looked_at(self, outcome: Outcome, finding: Finding) -> bool:
        """Whether a trial that failed has looked at the word of a finding."""
        return outcome.message is not None and finding.address - finding.address % self._abi.word_size in outcome.read

    # --- free and realloc -------------------------------------------------------------------------------------------

    def _of_chunks(self, finding: Finding, around: Around) -> Iterator[Catch]:
        names = [(around.here, _THIS), (around.before, _BEFORE), (around.behind, _BEHIND)]
        # "free" is free by the flag behind it alone: perhaps that flag is what is wrong.
        chunks: list[tuple[int, str]] = [
            (chunk.address, name) for chunk, name in names if chunk is not None and chunk.state in ("used", "free")
        ]
        unmet = finding.kind in ("chunk-size", "chunk-flags", "mmapped-header") and around.here is None
        if unmet and finding.chunk is not None and not self._is_listed(finding.chunk):
            chunks.insert(0, (finding.chunk, _THIS))
        if finding.kind == "top-pointer" and finding.chunk is None:
            arena = self._arena(finding)
            if arena is not None and arena.top:
                chunks.append((arena.top, "the chunk that is taken for top"))
        if finding.kind in ("system-mem", "top-size"):
            chunks += self._last_used(around)
        for address, name in chunks:
            if address in self._facts.own:
                continue
            yield from self._free(finding, address, name)
            yield from self._realloc(finding, address, name)
        for chunk, name in names:
            if chunk is not None and chunk.state in ("tcache", "fastbin"):
                yield from self._free(finding, chunk.address, name, handed_out=True)

    def _last_used(self, around: Around) -> list[tuple[int, str]]:
        before = around.before
        return [(before.address, "the chunk before top")] if before is not None and before.state == "used" else []

    def _is_listed(self, chunk: int) -> bool:
        return chunk in self._on

    def _free(self, finding: Finding, chunk: int, name: str, handed_out: bool = False) -> Iterator[Catch]:
        """Yield what free of a chunk prints; one that is free now has to be ``handed_out`` by malloc before."""
        trials = self._facts.trials
        if trials is None:
            return
        pointer = chunk + self._abi.header
        when, now = f"free({pointer:#x}), {name}", True
        end = trials.free(pointer, cached=not handed_out)
        if handed_out:
            when, now = f"{when}, once malloc has handed it out, and no tcache bin takes it", False
        elif end.message is None and end.freed is not None and end.freed.kind in ("tcache", "fastbin"):
            limit = self._state.params.get("tcache_count")
            bin_ = f"{'tcache bin' if end.freed.kind == 'tcache' else 'fastbin'} {end.freed.index}"
            when, now = f"{when}, once {bin_} takes no more ({limit} at most)", False
            end = trials.free(pointer, cached=False)
        if end.message is not None and self._looked_at(end, finding):
            yield Catch(end.message, "free", f"{when}.", pointer, now=now)

    def _realloc(self, finding: Finding, chunk: int, name: str) -> Iterator[Catch]:
        trials = self._facts.trials
        if trials is None:
            return
        pointer = chunk + self._abi.header
        less, more = trials.realloc(pointer, more=False), trials.realloc(pointer, more=True)
        for end, size in ((less, "..."), (more, "more than it has")):
            if end.message is not None and self._looked_at(end, finding):
                yield Catch(end.message, "realloc", f"realloc({pointer:#x}, {size}), {name}.", pointer)

    def _arena(self, finding: Finding) -> Arena | None:
        return next((arena for arena in self._state.ring.arenas if arena.address == finding.arena), None)

    def _word(self, address: int) -> int:
        return self._abi.read_word(self._memory, address % (1 << 8 * self._abi.word_size))

    # --- the top chunk ----------------------------------------------------------------------------------------------

    def _of_top(self, finding: Finding) -> Iterator[Catch]:
        arena = self._arena(finding)
        if finding.kind not in ("top-size", "top-pointer", "system-mem") or arena is None:
            return
        abi = self._abi
        try:
            word = self._word(arena.top + abi.word_size)
        except MemoryFault:
            yield Catch(CRASH, "malloc", "The next malloc that would be cut from the top chunk.")
            return
        size = word & ~FLAG_BITS
        if size > arena.system_mem:
            yield Catch(
                "malloc(): corrupted top size", "malloc", "The next malloc that would be cut from the top chunk.",
                low=abi.min_size,
            )  # fmt: skip
            return
        low = max(size - abi.min_size + abi.alignment, abi.min_size)
        when = f"The next malloc that needs more than the top chunk has, a chunk of {low:#x} bytes or more."
        end = arena.top + size
        if size < abi.min_size or not word & PREV_INUSE or end % abi.page_size:
            yield Catch("assertion in sysmalloc", "malloc", when, low=low)
        elif arena.is_main and arena.contiguous and self._facts.curbrk is not None and end > self._facts.curbrk:
            yield Catch("break adjusted to free malloc space", "malloc", when, low=low)

    # --- free lists -------------------------------------------------------------------------------------------------

    def _of_lists(self, finding: Finding) -> Iterator[Catch]:
        if finding.kind == "bin-head":
            yield from self._of_bin_head(finding)
        for view in self._lists_of(finding):
            arena = next((item for item in self._state.ring.arenas if item.address == view.owner), None)
            if view.kind == "tcache":
                yield from self._of_tcache(finding, view)
            elif arena is None:
                continue
            elif view.kind == "fastbin":
                yield from self._of_fastbin(finding, view, arena)
            elif view.kind == "unsorted":
                yield from self._of_unsorted(finding, arena)
            else:
                yield from self._of_sorted(finding, view, arena)

    def _lists_of(self, finding: Finding) -> Iterable[ListView]:
        """Return the lists that a finding is about.

        They are those that it names, those that have its chunk, and those that have a chunk in whose header its word
        is, or in the header behind which it is.
        """
        word = self._abi.word_size
        found = [
            view
            for view in self._views
            if finding.listed == view.name and view.owner in (finding.arena, finding.tcache)
        ]
        for address in (finding.chunk, finding.address - word, finding.address):
            if address is not None and address in self._on:
                found += [view for view, _ in self._on[address]]
        for address in (finding.address - word, finding.address):
            if address in self._ending:
                found += self._ending[address]
        return {id(view): view for view in found}.values()

    def _place_on(self, view: ListView, chunk: int | None) -> int | None:
        if chunk is None or chunk not in self._on:
            return None
        return next((place for other, place in self._on[chunk] if other is view), None)

    def _of_bin_head(self, finding: Finding) -> Iterator[Catch]:
        arena = self._arena(finding)
        if arena is None:
            return
        index = (finding.address - arena.bins_address) // (2 * self._abi.word_size) + 1
        front, back = arena.bins[2 * index - 2 : 2 * index]
        header = arena.bin_header(self._abi, index)
        is_front = (finding.address - arena.bins_address) % (2 * self._abi.word_size) == 0
        if index == 1:
            if back != header and not any(view.kind == "unsorted" and view.owner == arena.address and view.nodes
                                          for view in self._views):  # fmt: skip
                yield from self._of_unsorted(finding, arena)
            if is_front and front != header:
                if back == header:
                    small = "The next malloc that takes a part of a large chunk and leaves the rest of it."
                    yield Catch("malloc(): corrupted unsorted chunks", "malloc", small, low=self._abi.min_large_size)
                    yield Catch(
                        "malloc(): corrupted unsorted chunks 2", "malloc",
                        "The next malloc that takes a part of a chunk from a larger bin.",
                    )  # fmt: skip
                yield Catch(
                    "free(): corrupted unsorted chunks", "free",
                    "The next free of a chunk that neither a tcache nor a fastbin takes.",
                )  # fmt: skip
            return
        size = (index - (1 if self._abi.alignment > self._abi.header else 0)) * self._abi.alignment
        if size < self._abi.min_large_size:
            if not is_front:
                yield Catch(
                    "malloc(): smallbin double linked list corrupted", "malloc", self._malloc_of(size), low=size,
                    high=size,
                )  # fmt: skip
            else:
                yield Catch(
                    "free(): chunks in smallbin corrupted", "free",
                    f"The next free that leaves a free chunk of {size:#x} bytes.",
                )  # fmt: skip

    def _malloc_of(self, low: int, high: int | None = None) -> str:
        first = max(low - self._abi.word_size - self._abi.alignment + 1, 0)
        last = (high or low) - self._abi.word_size
        return f"malloc of {first} to {last} bytes, once neither the tcache nor a fastbin has a chunk for it."

    def _of_tcache(self, finding: Finding, view: ListView) -> Iterator[Catch]:
        if finding.kind not in ("list-pointer", "list-loop", "list-link"):
            return
        low, high = tcache_range(self._abi, view.index)
        place = len(view.nodes)
        count = "The next malloc" if not place else f"The malloc after the next {place}"
        when = f"{count} of {max(low - self._abi.word_size - self._abi.alignment + 1, 0)} to "
        when += f"{high - self._abi.word_size} bytes."
        marked = "free of a chunk whose second word is the tcache's mark, as on a second free, of that size."
        if finding.kind == "list-pointer":
            unaligned = "multiple of" in finding.text and "place for a chunk" in finding.text
            if unaligned:
                yield Catch("malloc(): unaligned tcache chunk detected", "malloc", when, low=low, high=high,
                            now=not place)  # fmt: skip
                yield Catch("free(): unaligned chunk detected in tcache 2", "free", marked)
                yield Catch("tcache_thread_shutdown(): unaligned tcache chunk detected", "exit", "The thread ends.")
            else:
                yield Catch(CRASH, "malloc", when, low=low, high=high, now=not place)
        if finding.kind == "list-loop":
            yield Catch("free(): too many chunks detected in tcache", "free", marked)

    def _of_fastbin(self, finding: Finding, view: ListView, arena: Arena) -> Iterator[Catch]:
        abi = self._abi
        size = (view.index + 2) << (4 if abi.word_size == 8 else 3)
        place = self._place_on(view, finding.chunk)
        large = "malloc_trim, mallopt, or a malloc or free of a large chunk: fastbins are merged."
        if finding.kind == "list-size" and place is not None:
            if place == 0:
                yield Catch("malloc(): memory corruption (fast)", "malloc", self._malloc_of(size), low=size, high=size)
                yield Catch(
                    "invalid fastbin entry (free)", "realloc",
                    f"realloc or memalign that gives back a rest of {size:#x} bytes, while the tcache takes no more.",
                )  # fmt: skip
            else:
                yield Catch("malloc(): chunk size mismatch in fastbin", "malloc", self._malloc_of(size), low=size,
                            high=size)  # fmt: skip
            if fastbin_index(abi, view.nodes[place].word & ~FLAG_BITS) != view.index:
                yield from self._consolidating("malloc_consolidate(): invalid chunk size", large)
        elif finding.kind in ("list-pointer", "list-loop"):
            if "multiple of" in finding.text and "place for a chunk" in finding.text:
                yield from self._unaligned(view, size)
                yield from self._consolidating("malloc_consolidate(): unaligned fastbin chunk detected", large)
                for name, call in (("int_mallinfo", "mallinfo or mallinfo2"), ("__malloc_info", "malloc_info")):
                    yield Catch(f"{name}(): unaligned fastbin chunk detected", "mallinfo", f"The next {call}.")
            elif finding.kind == "list-pointer":
                yield Catch(CRASH, "malloc", self._malloc_of(size), low=size, high=size)
        else:
            for node in view.nodes:
                before = finding.address == node.address or finding.address == node.address + abi.word_size
                if before and not node.word & PREV_INUSE:
                    previous = node.address - self._word(node.address)
                    if self._word(previous + abi.word_size) & ~FLAG_BITS != self._word(node.address):
                        yield from self._consolidating("corrupted size vs. prev_size in fastbins", large)

    def _consolidating(self, message: str, when: str) -> Iterator[Catch]:
        yield Catch(message, "trim", when)
        yield Catch(message, "malloc", when, low=self._abi.min_large_size)

    def _unaligned(self, view: ListView, size: int) -> Iterator[Catch]:
        when = self._malloc_of(size)
        if not view.nodes:
            yield Catch("malloc(): unaligned fastbin chunk detected 2", "malloc", when, low=size, high=size)
            return
        if self._facts.single_thread is not True:
            yield Catch("malloc(): unaligned fastbin chunk detected", "malloc", when, low=size, high=size)
        if self._facts.single_thread is not False:
            yield Catch("malloc(): unaligned fastbin chunk detected 3", "malloc", when, low=size, high=size)

    def _of_unsorted(self, finding: Finding, arena: Arena) -> Iterator[Catch]:
        abi = self._abi
        if self._facts.trials is not None:
            end = self._facts.trials.sorting(arena.address)
            if end.message is not None and self._looked_at(end, finding):
                yield Catch(
                    end.message, "malloc",
                    "The next malloc that goes through the unsorted list: a request that no tcache bin, fastbin or "
                    "small bin of its size serves.",
                )  # fmt: skip
        header, front = arena.bin_header(abi, 1), arena.bins[0]
        when = "The next free of a chunk that neither a tcache nor a fastbin takes."
        try:
            bad = front != header and self._word(front + abi.header + abi.word_size) != header
        except MemoryFault:
            yield Catch(CRASH, "free", when)
            return
        if bad:
            yield Catch("free(): corrupted unsorted chunks", "free", when)

    def _of_sorted(self, finding: Finding, view: ListView, arena: Arena) -> Iterator[Catch]:
        """Yield what taking chunks out of a small or large bin, and sorting chunks into a large one, prints."""
        abi = self._abi
        if any(finding.kind == "list-pointer" and "place for a chunk" in finding.text for finding in view.findings):
            when = f"The next memalign or its like that looks for a chunk in {view.name}."
            yield Catch("_int_memalign(): unaligned chunk detected", "malloc", when)
        back = arena.bins[2 * view.index - 1]
        if view.kind == "small":
            size = view.index * abi.alignment - (abi.alignment if abi.alignment > abi.header else 0)
            try:
                bad = self._word(self._word(back + abi.header + abi.word_size) + abi.header) != back
            except MemoryFault:
                yield Catch(CRASH, "malloc", self._malloc_of(size), low=size, high=size)
            else:
                if bad:
                    yield Catch(
                        "malloc(): smallbin double linked list corrupted", "malloc", self._malloc_of(size), low=size,
                        high=size,
                    )  # fmt: skip
            front = arena.bins[2 * view.index - 2]
            if self._back_of(front) != arena.bin_header(abi, view.index):
                yield Catch(
                    "free(): chunks in smallbin corrupted", "free",
                    f"The next free that leaves a free chunk of {size:#x} bytes.",
                )  # fmt: skip
        trials = self._facts.trials
        if trials is None:
            return
        # Those that malloc takes first, and those around the finding.
        place = self._place_on(view, finding.chunk) or 0
        nodes = {node.address: node for node in (*view.nodes[-_ON_LIST:], *view.nodes[max(place - 1, 0) : place + 2])}
        for node in nodes.values():
            end = trials.unlinking(node.address)
            if end.message is None or not self._looked_at(end, finding):
                continue
            size = node.word & ~FLAG_BITS
            when = f"The next malloc that takes the chunk at {node.address:#x} off the {view.name}"
            yield Catch(end.message, "malloc", f"{when}: of at most {max(size - abi.word_size, 0)} bytes.",
                        low=abi.min_size, high=size)  # fmt: skip
        if view.kind == "large":
            near = view.nodes[max(place - 1, 0) : place + 2] or view.nodes
            sizes = {node.word & ~FLAG_BITS for node in (*near, *view.nodes[:1], *view.nodes[-1:])}
            for size in sorted({*sizes, *(size + abi.alignment for size in sizes)}):
                end = trials.placing(arena.address, size)
                if end.message is not None and self._looked_at(end, finding):
                    yield Catch(
                        end.message, "malloc",
                        f"The next malloc that sorts a free chunk of about {size:#x} bytes into {view.name}.",
                    )  # fmt: skip

    # --- several calls ----------------------------------------------------------------------------------------------

    def _after_several(self, finding: Finding) -> Iterator[Catch]:
        """Yield what calls after each other print, where no single one that was tried notices anything."""
        trials = self._facts.trials
        if trials is None:
            return
        for view in self._lists_of(finding):
            if view.kind == "unsorted":
                continue
            if view.kind == "tcache":
                low, high = tcache_range(self._abi, view.index)
                end = trials.from_tcache(view.owner, low - self._abi.word_size, MOST_CALLS)
                once = ""
            else:
                sizes = {node.word & ~FLAG_BITS for node in view.nodes[-1:]}
                if view.kind == "fastbin":
                    sizes = {(view.index + 2) << (4 if self._abi.word_size == 8 else 3)}
                low = high = max(sizes, default=self._abi.min_size)
                end = trials.from_arena(view.owner, max(low - self._abi.word_size, 0), MOST_CALLS)
                once = ", once the tcache has no chunk for them"
            if end.message is None or not self._looked_at(end, finding):
                continue
            first = max(low - self._abi.word_size - self._abi.alignment + 1, 0)
            count = "The next malloc" if end.calls == 1 else f"The malloc after the next {end.calls - 1}"
            when = f"{count} of {first} to {high - self._abi.word_size} bytes{once}."
            now = end.calls == 1 and not once
            yield Catch(end.message, "malloc", when, low=low, high=high, now=now)

    def _back_of(self, chunk: int) -> int | None:
        try:
            return self._word(chunk + self._abi.header + self._abi.word_size)
        except MemoryFault:
            return None
