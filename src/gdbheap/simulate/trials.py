"""Calls that are tried on the simulated allocator, alone or after each other: how they end, and what they looked at.

Nothing that is tried changes anything: each trial has a layer of its own over the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from gdbheap.memory import MemoryFault
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.inquiries import end_thread, mallinfo, malloc_info
from gdbheap.simulate.machine import Machine, Thread
from gdbheap.simulate.operations import KINDS, Operation
from gdbheap.simulate.trace import Abort, Freed

#: What a program gets where malloc reads or writes through a wrong address.
CRASH = "SIGSEGV"
#: Stands for the result of the call before, as an argument.
RESULT = -1
#: What can be tried beside the operations that 'heap predict' knows.
_OTHERS: Mapping[str, Callable[[Machine], None]] = {
    "mallinfo": mallinfo,
    "malloc_info": malloc_info,
    "exit": end_thread,
}


@dataclass(frozen=True)
class Trial:
    """Calls of one thread after each other, of which the last one is to be watched.

    ``thread`` is the place of the thread in Trials.threads. ``full`` is a bin of its tcache that takes no more chunks
    by the time of the last call, None where the tcache is as it is then.
    """

    calls: tuple[Operation, ...]
    thread: int = 0
    full: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: ``message`` is what glibc prints, CRASH, or None where all goes well.

    ``looked`` are the addresses of the words of the real memory that were looked at, ``freed`` is where a chunk went,
    ``at`` the number of the call that ended like that, from 1 on. ``condition`` is what has to be so and is not known,
    in words; empty where nothing is open. ``followed`` is False where the trial could not be followed to its end.
    ``results`` are what the calls returned.
    """

    message: str | None
    looked: Container[int]
    freed: Freed | None = None
    at: int = 1
    condition: str = ""
    followed: bool = True
    results: tuple[int | None, ...] = ()


class Trials:
    """Tries calls of the ``threads``, the first of which is the one that ``machine`` is for; each is tried once."""

    def __init__(self, machine: Machine, threads: Sequence[Thread] = ()) -> None:
        self.machine = machine
        own = machine.thread
        self.threads = (own, *(thread for thread in threads if thread.number != own.number))
        self._kept: dict[Trial, tuple[Outcome, ...]] = {}

    def outcomes(self, trial: Trial) -> tuple[Outcome, ...]:
        """Return how a trial ends: one outcome, or one for each value of what decides and is not known."""
        if trial not in self._kept:
            self._kept[trial] = self._tried(trial)
        return self._kept[trial]

    def fails(self, trial: Trial) -> tuple[Outcome, ...]:
        """Return the outcomes that are a message or a crash of the last call."""
        return tuple(item for item in self.outcomes(trial) if item.message is not None and item.at == len(trial.calls))

    def _tried(self, trial: Trial) -> tuple[Outcome, ...]:
        own = self.threads[trial.thread]
        machine = self.machine.on(self.machine.words.above(), own)
        first = self._run(machine, trial)
        if first.followed:
            return (first,)
        found = [
            replace(self._run(variant, trial), condition=condition) for condition, variant in self._variants(machine)
        ]
        ends = {item.message for item in found if item.followed}
        if found and all(item.followed for item in found) and len(ends) == 1:
            return (replace(found[0], condition=""),)
        return tuple(item for item in found if item.followed) or (first,)

    def _variants(self, machine: Machine) -> list[tuple[str, Machine]]:
        """Return the machines that there may be where a variable is not known, each with what it takes for true."""
        found: list[tuple[str, Machine]] = []
        variables = machine.variables
        if variables.single is None and machine.asks_single:
            for value, text in ((True, "one thread only"), (False, "several threads")):
                made = machine.above()
                made.variables.single = value
                found.append((f"if glibc counts on {text} (SINGLE_THREAD_P, which is not known here)", made))
        elif variables.max_fast is None and machine.has_fastbins:
            usual = machine.default_max_fast
            for limit, text in ((usual, f"{usual:#x}, the default"), (2 * machine.word_size, "0x10: no fastbins")):
                made = machine.above()
                made.variables.max_fast = limit
                found.append((f"if global_max_fast, which is not known here, is {text}", made))
        return found

    def _run(self, machine: Machine, trial: Trial) -> Outcome:
        base = machine.words
        results: list[int | None] = []
        freed: Freed | None = None
        at, message, followed = 0, None, True
        try:
            for at, call in enumerate(trial.calls, 1):
                machine = machine.above()
                last = at == len(trial.calls)
                if last and trial.full is not None:
                    machine.fill_tcache(trial.full)
                machine.steps = [] if last else None  # where a chunk goes is kept only then
                before = results[-1] if results else None
                arguments = tuple((before or 0) if value == RESULT else value for value in call.arguments)
                if call.name in _OTHERS:
                    _OTHERS[call.name](machine)
                else:
                    results.append(KINDS[call.name].run(machine, *arguments))
                freed = machine.freed
        except Abort as abort:
            message = abort.message
        except MemoryFault as fault:
            if machine.glibc.partial and machine.words.is_possible(fault.address):
                followed = False
            else:
                message = CRASH
        except Unpredictable:
            followed = False
        machine.steps = None
        return Outcome(message, machine.words.looked_at(base), freed, at, "", followed, tuple(results))
