"""The account of a heap as a table, as sums, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from gdbheap.ptmalloc.account import Account
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import STATES
from gdbheap.ptmalloc.kernel import OTHERS, Mapped
from gdbheap.ptmalloc.totals import ArenaTotals
from gdbheap.render.style import Plain
from gdbheap.render.tables import table
from gdbheap.render.units import count_of, hex_size

_LISTED = ("tcache", "fastbin", "unsorted", "small", "large", "free")
_BINS = ("unsorted", "small", "large")


def free_bytes(totals: ArenaTotals) -> int:
    """Return the bytes of free chunks, those in a tcache included, the top chunk not."""
    return sum(totals.sizes[state] for state in _LISTED)


def chunk_count(totals: ArenaTotals) -> int:
    """Return the number of chunks, the top chunk included, fenceposts not."""
    return sum(totals.counts.values()) - totals.counts["fencepost"]


def account_lines(account: Account, style: Plain) -> Iterator[str]:
    """Yield the overview: the arenas as a table, the sums, the kernel's map beside them, and what is not sound."""
    yield from _arena_table(account)
    yield ""
    yield from _sums(account)
    yield ""
    yield from _kernel_lines(account)
    for arena, totals in account.arenas:
        for problem in (*totals.problems, *(gap.why for gap in totals.gaps)):
            yield style.paint("bad", f"{arena.name}: {problem}")
    for problem in _problems(account):
        yield style.paint("bad", problem)


def _arena_table(account: Account) -> list[str]:
    """Return a row for each arena, whose columns add up to its system_mem, and the sum of all."""
    unlisted = any(totals.counts["free"] for _, totals in account.arenas)
    parts = ["used ", "tcache ", "fastbins ", "bins ", *(["unlisted "] if unlisted else []), "top ", "overhead "]
    numbers = []
    for arena, totals in account.arenas:
        sizes = totals.sizes
        bins = sum(sizes[state] for state in _BINS)
        row = [sizes["used"], sizes["tcache"], sizes["fastbin"], bins, *([sizes["free"]] if unlisted else [])]
        row += [sizes["top"], totals.overhead]
        numbers.append([arena.system_mem, *row, totals.unaccounted, chunk_count(totals)])
    names = [arena.name for arena, _ in account.arenas]
    if len(names) > 1:
        names.append("all arenas")
        numbers.append([sum(column) for column in zip(*numbers)])
    rows = [
        (name, *(f"{number:#x}" for number in row[:-2]), f"{row[-2]:#x}" if row[-2] else "-", f"{row[-1]:,}")
        for name, row in zip(names, numbers)
    ]
    return table(("arena", "system_mem ", *parts, "unknown ", "chunks "), rows)


def _sums(account: Account) -> Iterator[str]:
    counts = {state: sum(totals.counts[state] for _, totals in account.arenas) for state in STATES}
    sizes = {state: sum(totals.sizes[state] for _, totals in account.arenas) for state in STATES}
    yield f"used      {count_of(counts['used'], 'chunk')}, {_bytes(sizes['used'])}"
    listed = [f"{state} {counts[state]:,} ({sizes[state]:#x})" for state in _LISTED if counts[state]]
    total = sum(sizes[state] for state in _LISTED)
    yield f"free      {_bytes(total)}" + (f": {', '.join(listed)}" if listed else "")
    yield f"top       {_bytes(sizes['top'])}"
    own = {
        "headers of heaps and arenas": sum(totals.headers for _, totals in account.arenas),
        "fenceposts": sizes["fencepost"],
        "alignment": sum(totals.alignment for _, totals in account.arenas),
        "taken from the break by others": sum(totals.foreign for _, totals in account.arenas),
    }
    named = [f"{name} {size:#x}" for name, size in own.items() if size]
    yield f"overhead  {_bytes(sum(own.values()))}" + (f": {', '.join(named)}" if named else "")
    unknown = sum(totals.unaccounted for _, totals in account.arenas)
    if unknown:
        yield f"unknown   {_bytes(unknown)}"
    mmapped = account.mmapped
    how = "found and sound" if mmapped.proven and mmapped.known else f"{len(mmapped.chunks):,} found, see below"
    counted = f"{count_of(mmapped.count, 'chunk')}, {_bytes(mmapped.bytes)} outside the arenas"
    yield f"mmapped   {counted}" + (f", {how}" if mmapped.count or mmapped.chunks else "")
    if account.kept:
        kept = sum(chunk.length for chunk in account.kept)
        yield f"          free of those, in a tcache: {count_of(len(account.kept), 'chunk')}, {_bytes(kept)}"
    yield f"sum       {_bytes(account.counted)}"


def _kernel_lines(account: Account) -> Iterator[str]:
    """Yield what malloc counts beside what the kernel has mapped and what is resident, and all else by name."""
    kernel = account.kernel
    if kernel is None:
        yield "What the kernel has mapped is not known here."
        return
    whole = kernel.whole
    missing = whole.missing > 0
    resident = any(item.resident is not None for item in kernel.others.values())

    def row(name: str, counted: int | None, mapped: Mapped) -> tuple[str, ...]:
        cells = [name, "" if counted is None else f"{counted:#x}", f"{mapped.mapped:#x}"]
        if resident:
            cells.append("unknown" if mapped.resident is None else f"{mapped.resident:#x}")
        if missing:
            cells.append(f"{mapped.missing:#x}")
        return tuple(cells)

    rows = []
    for name, arenas in (("main_arena", account.arenas[:1]), ("other arenas", account.arenas[1:])):
        if arenas:
            mapped = sum((kernel.arenas[arena.address] for arena, _ in arenas), Mapped())
            rows.append(row(name, sum(arena.system_mem for arena, _ in arenas), mapped))
    rows.append(row("mmapped chunks", account.mmapped.bytes, kernel.mmapped))
    rows.append(row("malloc's, in all", account.counted, kernel.malloc))
    rows += [row(text, None, kernel.others[kind]) for kind, text in OTHERS.items() if kind in kernel.others]
    rows.append(row("the whole process", None, whole))
    headers = ["", "malloc counts ", "mapped ", *(["resident "] if resident else [])]
    yield from table((*headers, *(["not in the core file "] if missing else [])), rows)
    if kernel.why_not_resident:
        yield f"Resident memory is not {'all ' if resident else ''}known: {kernel.why_not_resident}."


def _problems(account: Account) -> Iterator[str]:
    yield from account.problems
    if account.mmapped.problem is not None:
        yield account.mmapped.problem
    kernel = account.kernel
    if kernel is None:
        return
    if kernel.problem is not None:
        yield kernel.problem
    for arena, _ in account.arenas:
        difference = arena.system_mem - kernel.arenas[arena.address].mapped
        if difference and kernel.problem is None:
            yield (
                f"{arena.name}: system_mem is {arena.system_mem:#x}, {abs(difference):#x} "
                f"{'more' if difference > 0 else 'less'} than what is known of its memory."
            )


def _bytes(size: int) -> str:
    return f"{hex_size(size)} bytes" if not size else hex_size(size)


def account_object(account: Account) -> dict[str, object]:
    """Return the account as JSON has it."""
    params = account.state.params
    mmapped, kernel = account.mmapped, account.kernel
    return {
        "arenas": [_arena_object(account, arena, totals) for arena, totals in account.arenas],
        "mmapped": {"chunks": params.get("n_mmaps"), "bytes": params.get("mmapped_mem")},
        "mmapped_found": {
            "chunks": len(mmapped.chunks),
            "bytes": mmapped.found_bytes,
            "proven": mmapped.proven and mmapped.known,
            "problem": mmapped.problem,
            "tcache_chunks": len(account.kept),
            "tcache_bytes": sum(chunk.length for chunk in account.kept),
        },
        "sum": account.counted,
        "kernel": None
        if kernel is None
        else {
            "arenas": _mapped_object(sum(kernel.arenas.values(), Mapped())),
            "mmapped": _mapped_object(kernel.mmapped),
            "others": [{"kind": kind, **_mapped_object(mapped)} for kind, mapped in kernel.others.items()],
            "whole": _mapped_object(kernel.whole),
            "why_not_resident": kernel.why_not_resident or None,
        },
        "mallinfo2": dict(account.mallinfo),
        "problems": list(_problems(account)),
    }


def _mapped_object(mapped: Mapped) -> dict[str, object]:
    return {"mapped": mapped.mapped, "resident": mapped.resident, "missing": mapped.missing}


def _arena_object(account: Account, arena: Arena, totals: ArenaTotals) -> dict[str, object]:
    kernel = account.kernel
    return {
        "name": arena.name,
        "address": arena.address,
        "kind": "brk" if arena.is_main else "heaps",
        "system_mem": arena.system_mem,
        "max_system_mem": arena.max_system_mem,
        "used": totals.sizes["used"],
        "free": free_bytes(totals),
        "top": totals.sizes["top"],
        "overhead": totals.overhead,
        "headers": totals.headers,
        "alignment": totals.alignment,
        "foreign": totals.foreign,
        "unaccounted": totals.unaccounted,
        "chunks": chunk_count(totals),
        "states": {state: {"chunks": totals.counts[state], "bytes": totals.sizes[state]} for state in STATES},
        "kernel": None if kernel is None else _mapped_object(kernel.arenas[arena.address]),
        "gaps": [{"start": gap.start, "end": gap.end, "why": gap.why} for gap in totals.gaps],
        "complete": totals.complete,
        "problems": list(totals.problems),
    }
