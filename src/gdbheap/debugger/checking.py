"""`heap check` on the process as it is now: the facts gathered, the heap verified, the first findings explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import gdb

from gdbheap.debugger import model, session
from gdbheap.debugger.abort import read_abort
from gdbheap.debugger.allocating import max_fast_variable, read_machine
from gdbheap.debugger.busy import Busy, read_busy
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.holding import holders_of
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.progress import Progress
from gdbheap.debugger.target import Target, each_thread
from gdbheap.debugger.tcaches import why_unknown
from gdbheap.debugger.thread_pointer import thread_pointer
from gdbheap.growth.abort import Abort
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.abi import FLAG_BITS
from gdbheap.ptmalloc.account import FreeFacts
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.check import Checked, CheckFacts, check_heap
from gdbheap.ptmalloc.check_params import ParamFacts
from gdbheap.ptmalloc.coverage import Coverage, coverage
from gdbheap.ptmalloc.culprit import NOTHING_AROUND, chunks_around, culprit
from gdbheap.ptmalloc.finding import Finding
from gdbheap.ptmalloc.own_step import without_own_step
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import tcache_is_dummy
from gdbheap.ptmalloc.unsettled import Unsettled
from gdbheap.ptmalloc.used_chunks import used_chunks
from gdbheap.simulate.caught import Catcher, CatchFacts
from gdbheap.simulate.machine import Thread
from gdbheap.simulate.trials import Trials

#: Suspects for whose holders all memory is searched: each search takes a moment.
SEARCHED = 20


@dataclass(frozen=True)
class Report:
    """What `heap check` has to say: the check of malloc's own that failed (``abort``), and what was found."""

    state: HeapState
    arenas: Sequence[Arena]
    abort: Abort | None
    checked: Checked
    unsettled: Unsettled
    coverage: Coverage


def check_now(named: str | None) -> Report:
    """Verify the arenas that a command line names (None: the whole heap).

    Raises TargetError where there is no heap or no such arena.
    """
    target = session.target()
    try:
        state = model.read_state()
    except TargetError:
        return _without_heap(target)
    arenas = model.chosen_arenas(state, named)
    busy = read_busy(target, state)
    lists = model.free_facts()
    facts = _facts(target, lists, busy)
    with Progress(model.heap_memory()) as memory:
        checked = check_heap(memory, state, facts, () if named is None else arenas)
        met = coverage(memory, state, lists, facts.ranges, arenas, named is None)
    checked = replace(checked, complete=checked.complete and met.whole and busy.running is None)
    abort = read_abort(target, state, busy, ())
    if abort is not None:
        checked = _without_own_step(target, state, abort, checked)
    if checked.findings:
        checked = _explained(target, state, lists, facts, checked)
        if abort is not None and abort.pointer is None:
            abort = read_abort(target, state, busy, checked.findings)
    return Report(state, arenas, abort, checked, busy.unsettled, met)


def _without_own_step(target: Target, state: HeapState, abort: Abort, checked: Checked) -> Checked:
    """Return what was found, with what is no more than the call that ended in doubt."""
    findings = without_own_step(target.memory, state.abi, abort, checked.findings)
    new = [item.doubtful for item, old in zip(findings, checked.findings) if item is not old]
    notes = dict.fromkeys(text for text in new if text is not None)
    return replace(checked, findings=findings, notes=(*checked.notes, *notes))


def _without_heap(target: Target) -> Report:
    """Return what is known of an abort in a program that has no heap: what it freed is none of malloc's.

    Raises TargetError where there was none: then there is nothing to check.
    """
    state = read_heap_state(target.memory, target.abi, target.layout, target.main_arena, target.mp)
    busy = read_busy(target, state)
    abort = read_abort(target, state, busy, ())
    if abort is None:
        model.read_state()  # which says why there is no heap
    note = "malloc has not taken any memory from the kernel yet: there is no heap to check."
    return Report(state, (), abort, Checked((), 0, 0, False, (note,), 0, 0, 0), busy.unsettled, Coverage(0, 0))


def _facts(target: Target, lists: FreeFacts, busy: Busy) -> CheckFacts:
    tcaches: dict[int, str] = {}
    unchecked = []
    if target.layout.tcache is not None:
        for thread in each_thread():
            address = target.tcache_address(thread)
            if address is None:
                unchecked.append(
                    f"The tcache of thread {thread.num} cannot be found ({why_unknown(target)}), so it is not checked."
                )
            elif not tcache_is_dummy(target.symbols, target.layout, address):
                tcaches.setdefault(address, f"the tcache of thread {thread.num}")
        for number, address in busy.ending_tcaches.items():
            tcaches.setdefault(address, f"the tcache of thread {number}")
    key = target.word("tcache_key")  # 2.34
    entry = target.symbols.struct("tcache_entry")
    return CheckFacts(
        safe_linking=target.safe_linking,
        tcaches=tcaches,
        key=key,
        key_is_address=key is None and entry is not None and "key" in entry.fields,
        curbrk=target.word("__curbrk") or None,
        ranges=mapped_ranges(),
        known_starts=lists.known_starts,
        busy=busy.arenas,
        busy_tcaches=busy.tcaches,
        variables=ParamFacts(max_fast_variable(target), _arenas_of_threads(target)),
        occupied=tuple(_occupied()),
        running=busy.running,
        unchecked=tuple(unchecked),
        notes=tuple(busy.notes),
    )


def _arenas_of_threads(target: Target) -> Counter[int]:
    """Return how many threads have each arena as theirs, by its address."""
    found = (target.thread_word("thread_arena", thread) for thread in each_thread())
    return Counter(arena for arena in found if arena)


def _occupied() -> Iterator[int]:
    """Yield addresses that are in use by something else than malloc: of each thread, its control block and its stack.

    Raises nothing: what cannot be read is left out.
    """
    machine = gdb.selected_inferior().architecture().name()
    for _ in each_thread():
        try:
            block = thread_pointer(machine)
            stack = int(gdb.parse_and_eval("(unsigned long) $sp"))
        except (gdb.error, MemoryFault):
            continue
        yield from (stack, *(() if block is None else (block,)))


def _explained(target: Target, state: HeapState, lists: FreeFacts, facts: CheckFacts, checked: Checked) -> Checked:
    """Return the findings, the certain ones with what catches them and who may have done it."""
    memory = PageCache(model.heap_memory())
    certain = checked.certain
    known = [address - state.abi.header for address in facts.tcaches]
    around = chunks_around(model.heap_memory(), state, lists, certain, known)
    own = {address - state.abi.header: name for address, name in facts.tcaches.items()}
    trials = _trials(target)
    used = used_chunks(model.heap_memory(), state, lists, _listed_sizes(checked)) if trials is not None else ()
    catcher = Catcher(memory, state, checked.lists, CatchFacts(trials, frozenset(own), used, _first_thread()), certain)
    damaged = frozenset(finding.address for finding in checked.findings)
    holders: dict[int, tuple[str, ...]] = {}  # by the suspect's chunk
    explained: list[Finding] = []
    for finding in certain:
        near = around.get(finding.address, NOTHING_AROUND)
        suspect = culprit(memory, state, finding, near, damaged)
        if suspect is not None:
            if suspect.chunk in own:
                holders[suspect.chunk] = (f"malloc itself: it is {own[suspect.chunk]}",)
            elif suspect.chunk not in holders and len(holders) < SEARCHED:
                holders[suspect.chunk] = holders_of(target, suspect)
            who = f"not looked for, after so many others: 'heap refs {suspect.pointer:#x}' does"
            suspect = replace(suspect, holders=holders.get(suspect.chunk, (who,)))
        explained.append(replace(finding, catches=catcher.catches(finding, near), culprit=suspect))
    doubtful = checked.findings[len(certain) :]
    notes = checked.notes
    if certain and trials is None:
        notes += (
            "Which calls of free, realloc and malloc would notice cannot be told in full: what malloc would do is not "
            "known here ('heap predict malloc 1' says why).",
        )
    return replace(checked, findings=(*explained, *doubtful), notes=notes, tried=trials is not None)


def _listed_sizes(checked: Checked) -> set[int]:
    """Return the sizes in bytes of chunks on the lists with which something is wrong."""
    found = set()
    for view in checked.lists:
        if view.unsound:
            found |= {node.word & ~FLAG_BITS for node in (*view.nodes[:2], *view.nodes[-2:])}
    return found


def _first_thread() -> int | None:
    """Return GDB's number of the thread that the process began with, None where that is not known."""
    pid = gdb.selected_inferior().pid
    return next((thread.num for thread in each_thread() if thread.ptid[1] == pid), None)


def _trials(target: Target) -> Trials | None:
    """Return what tries calls of the selected thread, and of the others; None where that cannot be told."""
    selected = gdb.selected_thread()
    try:
        if selected is None:
            return None
        machine = read_machine(selected)
        others = [
            Thread(thread.num, target.tcache_address(thread), target.thread_word("thread_arena", thread))
            for thread in each_thread()
        ]
        return Trials(machine, others)
    except (MemoryFault, TargetError, gdb.error):
        return None
