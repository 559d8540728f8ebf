"""What glibc itself says about a heap: the figures that the fixtures took from mallinfo2 and malloc_info."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from tests.support.environment import has_fastbins, mmapped_header

#: What Answers.python is to read of a fixture that called record_totals().
FIGURES = {
    "before": "fields('totals_before')",
    "after": "fields('totals_after')",
    "xml": "text('(char *)info_xml')",
    "ring": "ring()",
}


@dataclass(frozen=True)
class Sizes:
    """A line of malloc_info: ``count`` free chunks whose size word, flags included, is ``low`` to ``high``."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class ArenaFigures:
    """One arena in malloc_info: counts of chunks and sums of bytes; ``rest`` is what is free beside the fastbins.

    ``bins`` are fastbins, small and large bins, ``unsorted`` is the unsorted list. ``heaps`` and their sizes are None
    for main_arena, which has none.
    """

    address: int
    fast_count: int
    fast_size: int
    rest_count: int
    rest_size: int
    system: int
    system_max: int
    bins: tuple[Sizes, ...]
    unsorted: tuple[Sizes, ...]
    heaps: int | None
    heaps_size: int
    mprotect_size: int


def _number(element: ElementTree.Element, name: str) -> int:
    text = element.get(name)
    assert text is not None, f"{element.tag} has no {name}"
    return int(text)


def _of(parent: ElementTree.Element, tag: str, kind: str) -> ElementTree.Element:
    found = [element for element in parent.findall(tag) if element.get("type") == kind]
    assert len(found) == 1, f"{tag} of type {kind}: {len(found)}"
    return found[0]


def _sizes(parent: ElementTree.Element, tag: str) -> tuple[Sizes, ...]:
    found = parent.findall(f"sizes/{tag}")
    return tuple(Sizes(_number(each, "from"), _number(each, "to"), _number(each, "count")) for each in found)


def read_malloc_info(xml: str, ring: list[int]) -> list[ArenaFigures]:
    """Read malloc_info's text; ``ring`` are the arenas' addresses in the order in which glibc visits them."""
    arenas = []
    heaps = ElementTree.fromstring(xml).findall("heap")
    assert len(heaps) == len(ring)
    for address, heap in zip(ring, heaps):
        # Without fastbins (glibc 2.43) nothing is said of them.
        fast = _of(heap, "total", "fast") if has_fastbins() else ElementTree.Element("total", count="0", size="0")
        rest = _of(heap, "total", "rest")
        spaces = {element.get("type"): _number(element, "size") for element in heap.findall("aspace")}
        arenas.append(
            ArenaFigures(
                address=address,
                fast_count=_number(fast, "count"),
                fast_size=_number(fast, "size"),
                rest_count=_number(rest, "count"),
                rest_size=_number(rest, "size"),
                system=_number(_of(heap, "system", "current"), "size"),
                system_max=_number(_of(heap, "system", "max"), "size"),
                bins=_sizes(heap, "size"),
                unsorted=_sizes(heap, "unsorted"),
                heaps=spaces.get("subheaps"),
                heaps_size=spaces["total"],
                mprotect_size=spaces["mprotect"],
            )
        )
    return arenas


def without_drift(problems: list[str]) -> list[str]:
    """Return the problems of an answer but for the one that is glibc's: mmapped_mem is too high in 2.43."""
    return [text for text in problems if not (mmapped_header() and "this glibc adds 0x10 too much" in text)]
