"""What `heap check` finds wrong: one record for each place, and the kinds of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

#: The kinds of findings, and one sentence that says what each is.
KINDS: Mapping[str, str] = {
    "arena-ring": "The arenas are not linked in a ring through main_arena.",
    "param": "A field of mp_, or global_max_fast, has a value that no sequence of calls gives it.",
    "arena-field": "A field of malloc_state has a value that malloc never gives it.",
    "system-mem": "An arena's memory is not as long as its system_mem says.",
    "top-pointer": "top of an arena points to no place where its top chunk can be.",
    "top-size": "The size of the top chunk cannot be right.",
    "heap-info": "The heap_info at the beginning of a heap of a thread's arena is not sound.",
    "bin-head": "A bin's own pointer, in malloc_state, does not lead to the end of its list.",
    "binmap": "A bin that holds chunks is marked as empty.",
    "chunk-size": "A size word in the middle of the heap cannot be right.",
    "chunk-flags": "IS_MMAPPED or NON_MAIN_ARENA of a chunk is not as it must be where the chunk is.",
    "prev-inuse-clear": "PREV_INUSE is clear, though the chunk before is not free.",
    "prev-inuse-set": "PREV_INUSE is set, though the chunk before is free and on a list of merged chunks.",
    "prev-size": "The size of a free chunk and its copy behind it, prev_size, differ.",
    "list-size": "A chunk is on a list that is not for its size.",
    "list-order": "A large bin is not in descending order of size.",
    "list-link": "A link of a free list leads to memory that does not lead back.",
    "list-pointer": "A link of a free list leads to no place where a chunk can be.",
    "list-loop": "A free list leads back into itself.",
    "nextsize": "The links between the sizes of a large bin (fd_nextsize, bk_nextsize) are broken.",
    "listed-twice": "A chunk is on two free lists, or twice on one.",
    "listed-nowhere": "A free list holds an address at which no chunk begins.",
    "tcache-count": "The tcache's own number of chunks in a bin is wrong.",
    "tcache-key": "The mark of a chunk in a tcache was overwritten.",
    "mmapped-header": "The header of a chunk that has a mapping of its own does not fit its mapping, or another one's.",
}


@dataclass(frozen=True)
class Catch:
    """A check of glibc's that fails because of a finding, as the call was tried on the simulated malloc.

    ``message`` is what glibc prints, or CRASH of simulate.trials. ``call`` is the kind of call that checks: one of
    CALLS; ``pointer`` is what it is called with, None where it takes none. ``low`` and ``high`` are the sizes of the
    chunks, in bytes, that a request may lead to, each as bad as the other; None where the call is no request for
    memory. ``request`` is how many bytes were asked for in the trial. ``when`` is the call in words. ``now`` is whether
    it is the very next call; where it is not, ``before`` are the calls that come first, as C has them, and ``full`` is
    the tcache bin that takes no more chunks by then. ``thread`` is the number of the thread that calls, and
    ``condition`` what has to be so and is not known, empty where nothing is open.
    """

    message: str
    call: str
    when: str
    pointer: int | None = None
    low: int | None = None
    high: int | None = None
    now: bool = True
    request: int | None = None
    before: tuple[str, ...] = ()
    full: int | None = None
    thread: int | None = None
    condition: str = ""


#: The calls that check something, and what each is in words.
CALLS: Mapping[str, str] = {
    "free": "free of one pointer",
    "realloc": "realloc of one pointer",
    "malloc": "malloc, or what asks malloc, of some sizes",
    "exit": "the end of a thread",
    "mallinfo": "mallinfo or mallinfo2",
    "malloc_info": "malloc_info",
    "trim": "malloc_trim",
    "memalign": "memalign, or one of its kind",
}


@dataclass(frozen=True)
class Culprit:
    """Who may have done it.

    ``how`` is overrun (the chunk before was written past its end), after-free (a free chunk was written to) or unknown.
    ``chunk`` and ``pointer`` are its addresses, ``size`` its size in bytes and ``state`` one of STATES.
    ``content_start`` is where ``content`` was read: its last bytes and the first that it ran over, or the free chunk's
    own. ``boundary`` is where its own memory ends. ``holders`` say who holds its pointer, as far as that was asked.
    """

    how: str
    chunk: int
    pointer: int
    size: int
    state: str
    content_start: int
    content: bytes
    boundary: int
    holders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    ``kind`` is one of KINDS. ``address`` is that of the word that is wrong and ``size`` how many bytes it has;
    ``text`` is a full sentence. ``found`` is what is there and ``expected`` what should be. ``arena`` is the address of
    the arena that it belongs to (0: of none), ``chunk`` the address of the chunk, ``listed`` the name of the free list.
    ``tcache`` is the address of a tcache that takes part. ``doubtful`` is None; or why this may be no more than a step
    of an operation under way.
    """

    kind: str
    address: int
    text: str
    found: str
    expected: str
    arena: int = 0
    chunk: int | None = None
    listed: str | None = None
    tcache: int | None = None
    size: int = 8
    doubtful: str | None = None
    catches: tuple[Catch, ...] = ()
    culprit: Culprit | None = None


#: Findings of one check that are kept; a wrecked heap can have one for each chunk.
MOST = 200
#: Words with other findings that are remembered, so that none is counted twice.
_COUNTED = 1 << 17


class _Kept:
    """Findings by address: the MOST with the lowest are kept, and the others are counted."""

    def __init__(self) -> None:
        self.found: dict[int, Finding] = {}
        self.more = 0
        self._left: set[int] = set()

    def add(self, finding: Finding) -> None:
        """Add a finding about a word of which none is kept."""
        if finding.address in self._left:
            return
        self.found[finding.address] = finding
        if len(self.found) > 2 * MOST:
            self.cut()

    def cut(self) -> None:
        """Leave out what is too many."""
        for address in sorted(self.found)[MOST:]:
            del self.found[address]
            self.more += 1
            if len(self._left) < _COUNTED:
                self._left.add(address)

    def forget(self, starts: Sequence[int], ends: Sequence[int]) -> None:
        """Drop the findings about words behind one of ``starts`` and before the end in parallel to it."""

        def gone(address: int) -> bool:
            place = bisect_left(starts, address)
            return place > 0 and address < ends[place - 1]

        for address in list(filter(gone, self.found)):
            del self.found[address]
        left = set(filter(gone, self._left))
        self._left -= left
        self.more -= len(left)


class Findings:
    """Gathers findings: one for each word, and no more than MOST that are certain and MOST that are doubtful.

    ``doubt`` says why a finding may be no more than a step of an operation, None where it cannot be: the two are kept
    apart, so that no number of doubtful ones leaves out a certain one. Those nearest to the cause are kept: the ones
    with the lowest addresses.
    """

    def __init__(self, doubt: Callable[[Finding], str | None] | None = None) -> None:
        self._doubt = doubt
        self._certain, self._doubtful = _Kept(), _Kept()

    @property
    def more(self) -> int:
        """How many certain findings there are besides those that are kept."""
        self._certain.cut()
        return self._certain.more

    @property
    def more_doubtful(self) -> int:
        """How many doubtful ones there are besides."""
        self._doubtful.cut()
        return self._doubtful.more

    def add(self, finding: Finding) -> None:
        """Add a finding; what is known of a word already stands."""
        if finding.address in self:
            return
        if self._doubt is not None:
            finding = replace(finding, doubtful=self._doubt(finding))
        (self._certain if finding.doubtful is None else self._doubtful).add(finding)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add several."""
        for finding in findings:
            self.add(finding)

    def merge(self, other: Findings) -> None:
        """Add all that another one has, which tells certain from doubtful alike, and count what it did not keep."""
        self.extend(other)
        self._certain.more += other.more
        self._doubtful.more += other.more_doubtful

    def forget(self, ranges: Mapping[int, int]) -> None:
        """Drop the findings about words behind a start of ``ranges`` and before its end, which is by the start."""
        starts = sorted(ranges)
        ends = list(accumulate((ranges[start] for start in starts), max))  # a later range may end sooner
        self._certain.forget(starts, ends)
        self._doubtful.forget(starts, ends)

    def __contains__(self, address: int) -> bool:
        return address in self._certain.found or address in self._doubtful.found

    def __iter__(self) -> Iterator[Finding]:
        """Yield the findings that are kept: certain ones first, each kind by address."""
        for kept in (self._certain, self._doubtful):
            kept.cut()
            yield from (kept.found[address] for address in sorted(kept.found))
