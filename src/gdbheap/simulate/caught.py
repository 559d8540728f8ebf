"""Which of glibc's checks a finding makes fail, and in which call: calls are tried on the simulated allocator.

Nothing is foretold but what a trial ended with, and each trial is told as it was made. A check is told of a finding if
the trial has looked at the word that is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS
from gdbheap.ptmalloc.check_lists import ListView
from gdbheap.ptmalloc.culprit import Around
from gdbheap.ptmalloc.finding import Catch, Finding
from gdbheap.ptmalloc.state import HeapState
from gdbheap.simulate.machine import Thread
from gdbheap.simulate.operations import Operation
from gdbheap.simulate.requests import Requests
from gdbheap.simulate.trials import RESULT, Outcome, Trial, Trials

_THIS = "the chunk whose header or data this is"
_BEFORE = "the chunk before that"
_BEHIND = "the chunk behind that"
_ANY = "a chunk in use"
#: Calls after each other that are tried where no next call notices anything: more than most tcache bins have chunks.
MOST_CALLS = 32
#: By how much a chunk is made larger, in bytes: more than malloc keeps behind any chunk that is no large one.
_MORE = 0x1000
#: Sizes in bytes above which a size word is no chunk's, so that a larger request is one that malloc refuses.
_LARGEST = 1 << 40
#: Threads beside the selected one whose calls are tried for one finding.
_MOST_THREADS = 4


#: What the arguments of the calls that are tried are.
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "malloc": ("request",),
    "free": ("pointer",),
    "realloc": ("pointer", "request"),
    "memalign": ("alignment", "request"),
}


@dataclass(frozen=True)
class CatchFacts:
    """What calls can be tried.

    ``trials`` tries them; it is None where what malloc would do cannot be told. ``own`` are chunks that malloc itself
    uses, so that nobody frees them. ``used`` are some chunks in use that the program can free, by their addresses.
    ``first_thread`` is the number of the thread that the process began with: its end is no end of a thread.
    """

    trials: Trials | None = None
    own: frozenset[int] = frozenset()
    used: tuple[int, ...] = ()
    first_thread: int | None = None


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
        self._abi = state.abi
        self._views = views
        self._facts = facts
        self._requests: dict[int, Requests] = {}
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

    def catches(self, finding: Finding, around: Around) -> tuple[Catch, ...]:
        """Return the checks that fail because of ``finding``, those that need the least first."""
        trials = self._facts.trials
        if trials is None:
            return ()
        found: list[Catch] = []
        for part in (self._near, self._any_request, self._inquiries):
            found += part(trials, finding, around)
        found += self._of_used(trials, finding, found)
        found += self._rests(trials, finding)
        if not any(catch.now and catch.call == "malloc" for catch in found):
            found += self._after_several(trials, finding)
        unique: dict[tuple[object, ...], Catch] = {}
        for catch in sorted(found, key=lambda item: not item.now):
            key = (catch.message, catch.call, catch.pointer, catch.low, catch.condition, catch.thread)
            unique.setdefault(key, catch)
        return tuple(unique.values())

    def _looked_at(self, outcome: Outcome, finding: Finding) -> bool:
        return finding.address - finding.address % self._abi.word_size in outcome.looked

    def _made(
        self, trials: Trials, finding: Finding, trial: Trial, when: str, *, low: int | None = None,
        high: int | None = None,
    ) -> Iterator[Catch]:  # fmt: skip
        """Try calls; yield what the last of them fails with because of ``finding``."""
        last = trial.calls[-1]
        parameters = _PARAMETERS.get(last.name, ())
        given = dict(zip(parameters, last.arguments))
        pointer = given.get("pointer")
        before = tuple(operation.text() for operation in trial.calls[:-1])
        thread = trials.threads[trial.thread]
        if len(trials.threads) > 1:
            when = f"{when}, in thread {thread.number}"
        for outcome in trials.fails(trial):
            assert outcome.message is not None
            if self._looked_at(outcome, finding):
                yield Catch(
                    outcome.message, last.name, f"{when}{outcome.condition and ', '}{outcome.condition}.",
                    None if pointer == RESULT else pointer, low, high, not before and trial.full is None,
                    given.get("request"), before, trial.full, thread.number, outcome.condition,
                )  # fmt: skip

    # --- free and realloc -------------------------------------------------------------------------------------------

    def _near(self, trials: Trials, finding: Finding, around: Around) -> Iterator[Catch]:
        """Try to free and to resize the chunks at a finding."""
        names = [(around.here, _THIS), (around.before, _BEFORE), (around.behind, _BEHIND)]
        # "free" is free by the flag behind it alone: perhaps that flag is what is wrong.
        chunks = {chunk.address: name for chunk, name in names if chunk is not None and chunk.state in ("used", "free")}
        if around.here is None and finding.chunk is not None and finding.chunk not in self._on:
            chunks.setdefault(finding.chunk, _THIS)
        if finding.kind == "top-pointer" and finding.chunk is None:
            tops = (arena.top for arena in self._state.ring.arenas if arena.address == finding.arena and arena.top)
            for top in tops:
                chunks.setdefault(top, "the chunk that is taken for top")
        for address, name in chunks.items():
            yield from self._freed(trials, finding, address, name)
        for chunk, name in names:
            if chunk is not None and chunk.state in ("tcache", "fastbin"):
                yield from self._handed_out(trials, finding, chunk.address, chunk.size, name)

    def _of_used(self, trials: Trials, finding: Finding, found: Sequence[Catch]) -> Iterator[Catch]:
        """Try to free and to resize any chunks in use; of those that end alike, the first is told."""
        told = {(catch.message, catch.call) for catch in found}
        for address in self._facts.used:
            for catch in self._freed(trials, finding, address, _ANY):
                if (catch.message, catch.call) not in told:
                    told.add((catch.message, catch.call))
                    yield catch

    def _freed(self, trials: Trials, finding: Finding, chunk: int, name: str) -> Iterator[Catch]:
        if chunk in self._facts.own:
            return
        for call in (Operation("free", (chunk + self._abi.header,)), *self._resized(chunk)):
            yield from self._given_back(trials, finding, call, name)

    def _given_back(self, trials: Trials, finding: Finding, call: Operation, name: str) -> Iterator[Catch]:
        """Try a call that gives a chunk back, as the tcache is, and once it takes no more."""
        text = f"{call.text()}, {name}"
        yield from self._made(trials, finding, Trial((call,)), text)
        (first, *_) = trials.outcomes(Trial((call,)))
        if first.message is None and first.freed is not None and first.freed.kind == "tcache":
            index = first.freed.index
            full = f"{text}, once tcache bin {index} takes no more chunks ({self._limit} at most)"
            yield from self._made(trials, finding, Trial((call,), full=index), full)

    def _rests(self, trials: Trials, finding: Finding) -> Iterator[Catch]:
        """Try to cut a chunk in use so that what is left is as long as the chunks of a list of the finding's."""
        abi = self._abi
        sizes = {self._size_of(chunk): chunk for chunk in reversed(self._facts.used) if chunk not in self._facts.own}
        for size in self._sizes_of(finding):
            whole = next((item for item in sizes if size + abi.min_size <= item < _LARGEST), None)
            if whole is not None:
                call = Operation("realloc", (sizes[whole] + abi.header, whole - size - abi.word_size))
                yield from self._given_back(trials, finding, call, f"{_ANY}, which gives back {size:#x} bytes")

    def _size_of(self, chunk: int) -> int:
        try:
            return self._word(chunk + self._abi.word_size) & ~FLAG_BITS
        except MemoryFault:
            return 0

    @property
    def _limit(self) -> int:
        return self._state.params.get("tcache_count")

    def _resized(self, chunk: int) -> Iterator[Operation]:
        """Yield realloc of a chunk to next to nothing, to a little more than it has, and to much more."""
        pointer = chunk + self._abi.header
        yield Operation("realloc", (pointer, 1))
        size = self._size_of(chunk)
        if size < _LARGEST:
            yield Operation("realloc", (pointer, size + self._abi.header))
            yield Operation("realloc", (pointer, size + _MORE))

    def _handed_out(self, trials: Trials, finding: Finding, chunk: int, size: int, name: str) -> Iterator[Catch]:
        """Try to free a chunk that is free now, once malloc has handed it out."""
        pointer, request = chunk + self._abi.header, size - self._abi.word_size
        if request < 0 or size >= _LARGEST:
            return
        ask = Operation("malloc", (request,))
        for thread in self._threads(trials, finding):
            (got, *_) = trials.outcomes(Trial((ask,) * MOST_CALLS, thread))
            if pointer not in got.results:
                continue
            count = got.results.index(pointer) + 1
            text = f"free({pointer:#x}), {name}, once {count} of malloc({request}) handed it out"
            calls = (*(ask,) * count, Operation("free", (pointer,)))
            (kept, *_) = trials.outcomes(Trial(calls, thread))
            index = None if kept.freed is None or kept.freed.kind != "tcache" else kept.freed.index
            if kept.message is None and index is not None:
                text += f" and tcache bin {index} takes no more chunks ({self._limit} at most)"
            yield from self._made(trials, finding, Trial(calls, thread, index), text)

    def _word(self, address: int) -> int:
        return self._abi.read_word(self._memory, address % (1 << 8 * self._abi.word_size))

    # --- malloc -----------------------------------------------------------------------------------------------------

    def _threads(self, trials: Trials, finding: Finding) -> list[int]:
        """Return the places of the threads whose calls may meet a finding: the selected one, and those concerned."""
        found = [0]
        for place, thread in enumerate(trials.threads[1:], 1):
            if len(found) <= _MOST_THREADS and self._is_concerned(thread, finding):
                found.append(place)
        return found

    def _is_concerned(self, thread: Thread, finding: Finding) -> bool:
        owners = {finding.arena, finding.tcache, *(view.owner for view in self._lists_of(finding))} - {0, None}
        return thread.tcache in owners or thread.arena in owners

    def _any_request(self, trials: Trials, finding: Finding, _around: Around) -> Iterator[Catch]:
        """Try one request of each size."""
        for place in self._threads(trials, finding):
            if place not in self._requests:
                self._requests[place] = Requests(trials, place, self._state, self._views)
            for low, high, trial in self._requests[place].failing(lambda item: self._looked_at(item, finding)):
                when = f"The next malloc of {self._span(low, high)} bytes"
                yield from self._made(trials, finding, trial, when, low=low, high=high)

    def _span(self, low: int, high: int) -> str:
        """Return the requests, in bytes, that lead to chunks of ``low`` to ``high`` bytes."""
        first = max(low - self._abi.word_size - self._abi.alignment + 1, 0) if low > self._abi.min_size else 0
        return f"{first} to {high - self._abi.word_size}"

    def _after_several(self, trials: Trials, finding: Finding) -> Iterator[Catch]:
        """Yield what calls after each other end with, where no single one that was tried notices anything."""
        for size in self._sizes_of(finding):
            request = max(size - self._abi.word_size, 0)
            ask = Operation("malloc", (request,))
            for place in self._threads(trials, finding):
                (end, *_) = trials.outcomes(Trial((ask,) * MOST_CALLS, place))
                if end.message is not None:
                    when = f"The malloc after the next {end.at - 1} of {self._span(size, size)} bytes"
                    trial = Trial((ask,) * end.at, place)
                    yield from self._made(trials, finding, trial, when, low=size, high=size)
                index = self._tcache_index(trials, size)
                if index is not None:
                    text = f"free of what malloc({request}) returns, once tcache bin {index} takes no more chunks"
                    calls = (ask, Operation("free", (RESULT,)))
                    yield from self._made(trials, finding, Trial(calls, place, index), text)

    def _tcache_index(self, trials: Trials, size: int) -> int | None:
        machine = trials.machine
        if not machine.has_tcache or machine.thread.tcache is None or machine.thread.tcache <= 0:
            return None
        index = machine.small_index(size)
        return index if 0 <= index < machine.tcache_bins() else None

    def _sizes_of(self, finding: Finding) -> list[int]:
        """Return the sizes of chunks, in bytes, that the lists are for that a finding is about."""
        found: dict[int, None] = {}
        for view in self._lists_of(finding):
            if view.kind == "fastbin":
                found[(view.index + 2) << (4 if self._abi.word_size == 8 else 3)] = None
            elif view.kind == "tcache":
                found[self._abi.min_size + view.index * self._abi.alignment] = None
            for node in (*view.nodes[:1], *view.nodes[-1:]):
                found[node.word & ~FLAG_BITS] = None
            for place in (place for other, place in self._on.get(finding.chunk or 0, ()) if other is view):
                found[view.nodes[place].word & ~FLAG_BITS] = None
        return [size for size in found if self._abi.min_size <= size < _LARGEST and not size % self._abi.alignment]

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

    # --- the other calls --------------------------------------------------------------------------------------------

    def _inquiries(self, trials: Trials, finding: Finding, _around: Around) -> Iterator[Catch]:
        yield from self._made(trials, finding, Trial((Operation("trim", (0,)),)), "malloc_trim(0)")
        for name, text in (("mallinfo", "mallinfo() or mallinfo2()"), ("malloc_info", "malloc_info()")):
            yield from self._made(trials, finding, Trial((Operation(name, ()),)), text)
        for place in self._threads(trials, finding):
            number = trials.threads[place].number
            if number is not None and number != self._facts.first_thread:
                trial = Trial((Operation("exit", ()),), place)
                yield from self._made(trials, finding, trial, f"The end of thread {number}")
        for size in self._sizes_of(finding) if trials.machine.scans_bins else ():
            align = Operation("memalign", (2 * self._abi.alignment, size - self._abi.word_size))
            yield from self._made(trials, finding, Trial((align,)), align.text())
