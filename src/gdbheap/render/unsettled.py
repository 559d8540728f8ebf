"""Why what is shown of the heap may be between two steps, as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gdbheap.ptmalloc.unsettled import AtLock, Inside, Lock, Unsettled


def unsettled_lines(found: Unsettled) -> Iterator[str]:
    """Yield the sentences that a command says before it shows the heap; none where the heap is at rest."""
    if found.running:
        one = len(found.running) == 1
        yield (
            f"{_threads(found.running)} {'is' if one else 'are'} running: memory changes while it is read. Nothing "
            f"below is certain; what looks wrong may be a step of {'that thread' if one else 'those threads'}."
        )
    for item in found.inside:
        yield _inside_text(item)
    yield from found.unread
    yield from lock_lines([lock for lock in found.locks if lock.is_conspicuous])


def _threads(numbers: Sequence[int]) -> str:
    return f"Thread {numbers[0]}" if len(numbers) == 1 else f"Threads {', '.join(map(str, numbers))}"


def _inside_text(item: Inside) -> str:
    where = "malloc's code"
    if item.function:
        called = item.call and item.call != item.function
        where = f"{item.call} ({item.function})" if called else item.function
    names = list(item.arenas) if len(item.arenas) < 3 else ["any arena"]
    what = " and ".join([*names, *(["its tcache"] if item.tcache else [])]) or "what it works on"
    if item.ended:
        return f"Thread {item.thread} has ended inside {where}: its last step may be half done."
    return f"Thread {item.thread} is inside {where}: {what} may be between two steps."


def lock_lines(locks: Sequence[Lock]) -> Iterator[str]:
    """Yield for each lock that is held who holds it and who waits for it."""
    for lock in locks:
        yield f"The lock of {lock.arena} is {_holder_text(lock)}{_waiting_text(lock)}."


def _holder_text(lock: Lock) -> str:
    holder = lock.holder
    if holder is None:
        if not lock.known:
            return "held; which thread holds it is not known"
        return "held, and no thread of this process holds it: one that is not here took it (before a fork, or it ended)"
    if not holder.sure:
        return f"held, and thread {holder.thread} alone is inside malloc{_frame(holder)}"
    return f"held by thread {holder.thread}{_frame(holder)}"


def _waiting_text(lock: Lock) -> str:
    if not lock.waiting:
        return "; a thread has waited for it" if lock.contended and lock.known else ""
    holder = lock.holder.thread if lock.holder is not None else None
    parts = [
        ("the same thread" if item.thread == holder else f"thread {item.thread}") + _frame(item)
        for item in lock.waiting
    ]
    verb = "waits" if len(parts) == 1 else "wait"
    end = " for ever" if lock.is_dead else ""
    return f"; {' and '.join(parts)} {verb} for it{end}"


def _frame(item: AtLock) -> str:
    return f" (frame #{item.level}, {item.function or '?'})"


def unsettled_object(found: Unsettled | None) -> dict[str, object] | None:
    """Return what may be changing as JSON has it, None where the heap is at rest."""
    if found is None or found.settled:
        return None
    return {
        "running": list(found.running),
        "inside": [
            {
                "thread": item.thread,
                "function": item.function or None,
                "call": item.call or None,
                "arenas": list(item.arenas),
                "tcache": item.tcache,
                "ended": item.ended,
            }
            for item in found.inside
        ],
        "locks": [lock_object(lock) for lock in found.locks],
        "unread": list(found.unread),
    }


def lock_object(lock: Lock) -> dict[str, object]:
    """Return a lock that is held as JSON has it."""
    return {
        "arena": lock.arena,
        "holder": None if lock.holder is None else {**_place(lock.holder), "sure": lock.holder.sure},
        "waiting": [_place(item) for item in lock.waiting],
        "contended": lock.contended,
        "dead": lock.is_dead,
        "known": lock.known,
    }


def _place(item: AtLock) -> dict[str, object]:
    return {"thread": item.thread, "level": item.level, "function": item.function or None}
