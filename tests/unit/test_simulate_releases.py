"""What differs between releases of glibc that no binary here has, beside memalign (test_memalign.py)."""

from __future__ import annotations

import pytest

from gdbheap.simulate.operations import Operation, predict
from tests.support.fresh_machine import fresh


@pytest.mark.parametrize(
    ("release", "wanted", "end", "in_place"),
    [
        ((2, 36), 985, "chunk", True),
        ((2, 37), 1000, "chunk", True),  # both of 2.37's rules say that it stays
        ((2, 37), 200, "unknown", None),  # 2.37.0 leaves it, the later fixes cut it
        ((2, 37), 2000, "chunk", False),
        ((2, 38), 200, "chunk", True),
    ],
)
def test_when_realloc_leaves_a_chunk(release: tuple[int, int], wanted: int, end: str, in_place: bool | None) -> None:
    machine = fresh("2.36", 64, release, False)
    made = predict(machine, Operation("malloc", (1000,)))
    after = predict(made.after, Operation("malloc", (24,))).after
    found = predict(after, Operation("realloc", (made.result or 0, wanted)))
    assert found.end == end
    assert in_place is None or (found.result == made.result) == in_place
    assert end == "chunk" or "2.37.0" in (found.message or "")
