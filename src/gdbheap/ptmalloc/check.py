"""The whole heap, verified: all that glibc's malloc checks, and what it cannot afford to check.

Nothing here is raised for a heap that is corrupt, whatever its words say: all that is read is bounded by what the
process has mapped, each list by the chunks that there can be.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gdbheap.mappings import MappedRange
from gdbheap.memory import Memory, MemoryFault, PageCache
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import bin_range
from gdbheap.ptmalloc.check_arena import ArenaChecker
from gdbheap.ptmalloc.check_chunks import ChunkChecker
from gdbheap.ptmalloc.check_lists import ListChecker, ListView, Node, hexadecimal
from gdbheap.ptmalloc.check_mmapped import MmappedChecker
from gdbheap.ptmalloc.check_params import ParamChecker, ParamFacts, real_base, with_base, wrong_base
from gdbheap.ptmalloc.chunk import FASTBIN, LARGE, SMALL, TCACHE, UNSORTED
from gdbheap.ptmalloc.finding import Finding, Findings
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.regions import regions
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.tcache import MAX_BIN_CHUNKS
from gdbheap.ptmalloc.walk import Membership

#: How much is fetched at once while free lists are followed, in bytes.
_CACHED = 0x4000
_STATES = {"tcache": TCACHE, "fastbin": FASTBIN, "unsorted": UNSORTED, "small": SMALL, "large": LARGE}


@dataclass(frozen=True)
class CheckFacts:
    """What a check needs beside malloc's own variables.

    ``tcaches`` are the addresses of the tcaches of all threads, each with what it is called. ``key`` marks the chunks
    in them: tcache_key (glibc 2.34), or None and ``key_is_address`` where it is the tcache's own address (2.29).
    ``curbrk`` is libc's __curbrk, None where it is not known. ``ranges`` are what the process has mapped, empty where
    that is not known. ``known_starts`` are starts of main_arena's regions that recorded events told. ``busy`` are the
    arenas and ``busy_tcaches`` the tcaches, by address, that an operation may be changing, each with the sentence that
    says so. ``variables`` are what the check of malloc's variables needs, and ``occupied`` addresses at which something
    is that is no chunk. ``running`` is the sentence on threads that run meanwhile: nothing found is certain then, as
    two lists are read at two moments. ``unchecked`` are sentences on what could not be looked at, ``notes`` other ones
    that matter.
    """

    safe_linking: bool
    tcaches: Mapping[int, str] = field(default_factory=dict)
    key: int | None = None
    key_is_address: bool = False
    curbrk: int | None = None
    ranges: Sequence[MappedRange] = ()
    known_starts: Iterable[int] = ()
    busy: Mapping[int, str] = field(default_factory=dict)
    busy_tcaches: Mapping[int, str] = field(default_factory=dict)
    variables: ParamFacts = field(default_factory=ParamFacts)
    occupied: Sequence[int] = ()
    running: str | None = None
    unchecked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What a check found: ``findings``, the one nearest to the cause first.

    ``more`` is how many others there were that are certain too, ``more_doubtful`` how many that are not; they are not
    kept. ``complete`` is whether all could be checked that was to be. ``notes`` are sentences on what could not, and on
    operations under way. ``chunks`` is how many chunks were met, ``listed`` how many are on free lists, ``mmapped`` how
    many have a mapping of their own. ``lists`` are all free lists. ``tried`` is whether calls were tried, to see which
    of them notice what is wrong.
    """

    findings: tuple[Finding, ...]
    more: int
    more_doubtful: int
    complete: bool
    notes: tuple[str, ...]
    chunks: int
    listed: int
    mmapped: int
    lists: tuple[ListView, ...] = ()
    tried: bool = True

    @property
    def certain(self) -> tuple[Finding, ...]:
        """The findings that cannot be a step of an operation under way."""
        return tuple(finding for finding in self.findings if finding.doubtful is None)


def check_heap(memory: Memory, state: HeapState, facts: CheckFacts, arenas: Sequence[Arena] = ()) -> Checked:
    """Verify ``arenas`` (none named: all, and what belongs to none) and return what is wrong."""
    return _Check(memory, state, facts, arenas).run()


class _Check:
    def __init__(self, memory: Memory, state: HeapState, facts: CheckFacts, arenas: Sequence[Arena]) -> None:
        self._memory = memory
        self._cache = PageCache(memory, _CACHED)
        self._facts = facts
        self._whole = not arenas
        self._arenas = arenas or state.ring.arenas
        self._findings = Findings(self._doubt)
        base = real_base(self._cache, state, facts.curbrk)
        if base is not None:
            self._findings.add(wrong_base(state, base))
            state = with_base(state, base)
        self._state = state
        self._asked = {arena.address for arena in self._arenas}
        self._unchecked = [*facts.unchecked]
        self._notes = [*facts.notes, *facts.busy.values()]
        self._chunks = 0
        self._mmapped = 0
        self._views: list[ListView] = []
        self._owner: dict[int, ListView] = {}  # the list that each listed chunk is on

    def run(self) -> Checked:
        checker = ListChecker(self._cache, self._state.abi, self._state.layout, self._facts.safe_linking)
        for arena in self._state.ring.arenas:
            self._views += checker.arena(arena)
        for address, name in self._facts.tcaches.items():
            key = address if self._facts.key_is_address else self._facts.key
            try:
                count = self._state.params.get("tcache_count")
                limit = count if count <= MAX_BIN_CHUNKS else None
                self._views += checker.tcache(address, key, limit, name)
            except MemoryFault as fault:
                self._unchecked.append(
                    f"{name[:1].upper()}{name[1:]} cannot be read, so it is not checked: GDB {fault}."
                )
        self._twice()
        self._variables()
        for view in self._views:
            if self._concerns(view.owner):
                self._findings.merge(view.findings)
        self._ring()
        checkers = [self._arena(arena) for arena in self._arenas]
        self._elsewhere(checkers)
        if self._whole:
            self._find_mmapped(checkers)
        notes = tuple(dict.fromkeys([*self._unchecked, *self._notes]))
        listed = sum(len(view.nodes) for view in self._views)
        findings = self._findings
        return Checked(
            tuple(findings), findings.more, findings.more_doubtful, not self._unchecked, notes, self._chunks, listed,
            self._mmapped, tuple(self._views),
        )  # fmt: skip

    def _concerns(self, owner: int) -> bool:
        """Whether a finding is asked for: those of other arenas are not, where arenas were named."""
        return self._whole or not owner or owner in self._asked or owner in self._facts.tcaches

    def _add(self, finding: Finding) -> None:
        if self._concerns(finding.arena):
            self._findings.add(finding)

    def _ring(self) -> None:
        problem = self._state.ring.problem
        if problem is None:
            return
        last = self._state.ring.arenas[-1]
        place = last.address + self._state.layout.state.fields["next"].offset
        self._add(
            Finding(
                "arena-ring", place, problem, hexadecimal(last.next), "the next arena, at last main_arena",
                last.address, size=self._state.abi.word_size,
            )
        )  # fmt: skip

    def _twice(self) -> None:
        """Enter the chunks that are on two lists."""
        abi = self._state.abi
        for view in self._views:
            for place, node in enumerate(view.nodes):
                other = self._owner.get(node.address)
                if other is None:
                    self._owner[node.address] = view
                    continue
                if other is view:
                    continue
                link = self._link_to(view, place)
                owners = {item.owner for item in (view, other)}
                self._add(
                    Finding(
                        "listed-twice", link,
                        f"The chunk at {node.address:#x} is on the {other.name} and also on the {view.name}; it should "
                        f"be on one list.",
                        view.name, "one list",
                        next((o for o in owners if o not in self._facts.tcaches), 0), node.address, view.name,
                        next((o for o in owners if o in self._facts.tcaches), None), abi.word_size,
                    )
                )  # fmt: skip

    def _link_to(self, view: ListView, place: int) -> int:
        """Return the address of the word that leads to a chunk of a list."""
        abi, layout = self._state.abi, self._state.layout
        if place:
            return view.nodes[place - 1].address + abi.header
        if view.kind == "tcache":
            assert layout.tcache is not None
            return view.owner + layout.tcache.fields["entries"].offset + view.index * abi.word_size
        fields = layout.state.fields
        if view.kind == "fastbin":
            return view.owner + fields["fastbinsY"].offset + view.index * abi.word_size
        return view.owner + fields["bins"].offset + (2 * view.index - 2) * abi.word_size

    def _membership(self, arena: Arena) -> Membership:
        """Return which chunks are on lists of ``arena`` or in a tcache."""
        states: dict[int, int] = {}
        for view in self._views:
            if view.kind == "tcache" or view.owner == arena.address:
                kind = _STATES[view.kind]
                for node in view.nodes:
                    states.setdefault(node.address, kind)
        ordered = sorted(states)
        return Membership(ordered, bytes(map(states.__getitem__, ordered)))

    def _arena(self, arena: Arena) -> ChunkChecker:
        state, facts = self._state, self._facts
        self._findings.extend(ArenaChecker(self._memory, state, arena, facts.curbrk).findings())
        chain = state.heaps.get(arena.address, HeapChain(()))
        plan = regions(state.abi, state.layout, state.params, arena, chain, facts.known_starts)
        known = [address - state.abi.header for address in facts.tcaches]
        checker = ChunkChecker(
            self._memory, state.abi, plan, self._membership(arena), self._owner, known, Findings(self._doubt)
        )  # fmt: skip
        checker.lost_sizes = [self._sizes_of(view) for view in self._views if not view.complete]
        checker.run()
        self._chunks += checker.walked.chunks
        self._overlaps(arena, checker)
        self._findings.merge(checker.findings)
        return checker

    def _sizes_of(self, view: ListView) -> tuple[int, int]:
        """Return the sizes of chunks that may be on a list."""
        if view.kind in ("unsorted", "tcache", "fastbin"):
            return 0, 1 << 64
        try:
            low, high = bin_range(self._state.abi, view.index)
        except ValueError:
            return 1, 0
        return low, 1 << 64 if high is None else high

    # --- listed chunks that are no chunks ---------------------------------------------------------------------------

    def _overlaps(self, arena: Arena, checker: ChunkChecker) -> None:
        """Decide, where a listed chunk lies inside another one, which of the two is wrong."""
        found, inside = checker.findings, checker.walked.inside
        if not inside:
            return
        abi = self._state.abi
        nodes = self._nodes(inside)
        # Where the walk was in step again behind a chunk that ran over listed ones: at the next one that it met.
        met = sorted(address for address in self._owner if address not in inside and checker.met(address))
        sound = {address for address in inside if self._is_chunk(self._owner[address], nodes[address][1])}
        out_of_step: dict[int, int] = {}
        for address in sound:
            following = bisect_right(met, address)
            place = inside[address][0] + abi.word_size
            out_of_step[place] = met[following] if following < len(met) else 1 << 64
        found.forget(out_of_step)
        for address, (holder, size) in sorted(inside.items()):
            view = self._owner[address]
            place = holder + abi.word_size
            if address in sound:
                word = self._word(place)
                found.add(
                    Finding(
                        "chunk-size", place,
                        f"The chunk at {holder:#x} has the size {size:#x}, so that it runs over the chunk at "
                        f"{address:#x}, which is free and on the {view.name}; it should end there at the latest.",
                        hexadecimal(word or 0), f"at most {address - holder:#x}", arena.address, holder,
                        size=abi.word_size,
                    )
                )  # fmt: skip
            else:
                where = f"inside the chunk at {holder:#x} of {size:#x} bytes"
                self._nowhere(view, nodes[address][0], address, where)

    def _nodes(self, wanted: Container[int]) -> dict[int, tuple[int, Node]]:
        """Return the place on its list, and the node, of each of the listed chunks ``wanted``."""
        return {
            node.address: (place, node)
            for view in self._views
            for place, node in enumerate(view.nodes)
            if node.address in wanted and self._owner[node.address] is view
        }

    def _is_chunk(self, view: ListView, node: Node) -> bool:
        """Whether all that the list says of a chunk fits: its size, its links, and its size behind it."""
        if node.address in view.unsound:
            return False
        if view.kind == "tcache":
            return self._facts.key is not None or self._facts.key_is_address
        if view.kind == "fastbin":
            return True
        return self._word(node.address + (node.word & ~FLAG_BITS)) == node.word & ~FLAG_BITS

    def _nowhere(self, view: ListView, place: int, address: int, where: str) -> None:
        link = self._link_to(view, place)
        if view.kind != "tcache" and view.from_back is not None and place >= view.from_back:
            link = address
        self._add(
            Finding(
                "listed-nowhere", link,
                f"{address:#x} is on the {view.name}, but no chunk begins there: it is {where}.",
                f"{address:#x}", "a chunk", view.owner if view.kind != "tcache" else 0,
                view.nodes[place - 1].address if place else None, view.name,
                view.owner if view.kind == "tcache" else None, self._state.abi.word_size,
            )
        )  # fmt: skip

    def _elsewhere(self, checkers: Sequence[ChunkChecker]) -> None:
        """Enter the listed chunks that are in no memory of the arena whose list they are on, or of any."""
        state = self._state
        by_arena = dict(zip((arena.address for arena in self._arenas), checkers))
        if not self._whole or state.ring.problem is not None:
            return
        complete = all(checker.walked.complete for checker in checkers)
        main = state.ring.arenas[0]
        if not main.contiguous and main.has_top(state.abi) and not complete:
            return
        for view in self._views:
            for place, node in enumerate(view.nodes):
                if self._owner[node.address] is not view:
                    continue
                if view.kind == "tcache":
                    if not any(self._covers(checker, node.address) for checker in checkers):
                        self._outside(view, place, node, "any arena", complete)
                elif not self._covers(by_arena[view.owner], node.address):
                    name = next(a.name for a in state.ring.arenas if a.address == view.owner)
                    self._outside(view, place, node, name, by_arena[view.owner].walked.complete)

    @staticmethod
    def _covers(checker: ChunkChecker, address: int) -> bool:
        return checker.met(address) or address in checker.walked.inside or any(
            region.address <= address < max(region.limit, region.end or 0) for region in checker.plan.regions
        )  # fmt: skip

    def _outside(self, view: ListView, place: int, node: Node, name: str, complete: bool) -> None:
        if node.word & IS_MMAPPED and view.kind == "tcache" and not self._state.layout.has_fastbins:
            return  # 2.43 keeps mmapped chunks in a tcache as well
        if complete:
            self._nowhere(view, place, node.address, f"outside the memory of {name}")

    # --- what belongs to no arena -----------------------------------------------------------------------------------

    def _find_mmapped(self, checkers: Sequence[ChunkChecker]) -> None:
        facts = self._facts
        spans = checkers[0].walked.spans
        result = MmappedChecker(self._memory, self._state, facts.ranges, spans, facts.occupied).run()
        self._mmapped = result.count
        self._findings.extend(result.findings)
        if result.problem is not None:
            self._unchecked.append(result.problem)

    def _variables(self) -> None:
        checker = ParamChecker(self._state, self._facts.variables)
        for arena in self._arenas:
            self._findings.extend(checker.of_arena(arena))
        if self._whole:
            self._findings.extend(checker.findings())

    def _word(self, address: int) -> int | None:
        try:
            return self._state.abi.read_word(self._cache, address)
        except MemoryFault:
            return None

    # --- what may be a step of an operation ------------------------------------------------------------------------

    def _doubt(self, finding: Finding) -> str | None:
        facts = self._facts
        if facts.running is not None:
            return facts.running
        if finding.arena in facts.busy:
            return facts.busy[finding.arena]
        if finding.tcache is not None and finding.tcache in facts.busy_tcaches:
            return facts.busy_tcaches[finding.tcache]
        if finding.kind in ("mmapped-header", "arena-ring", "param") and facts.busy:
            return next(iter(facts.busy.values()))
        return None
