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


def test_without_the_limit_of_fastbins() -> None:
    """global_max_fast is a variable that only debug symbols have: it is asked for only where it decides."""
    machine = fresh("2.36").above()
    pointers = []
    for _ in range(9):
        made = predict(machine, Operation("malloc", (40,)))
        pointers.append(made.result or 0)
        machine = made.after
    for pointer in pointers[:7]:
        machine = predict(machine, Operation("free", (pointer,))).after
    known = predict(machine, Operation("free", (pointers[7],)))
    assert known.after.freed is not None
    assert known.after.freed.kind == "fastbin"
    unsure = machine.above()
    unsure.variables.max_fast = None
    assert predict(unsure, Operation("malloc", (88,))).result == predict(machine, Operation("malloc", (88,))).result
    found = predict(unsure, Operation("free", (pointers[7],)))
    assert (found.end, found.message) == ("unknown", "global_max_fast, the limit of fastbins, is not known.")
    # What lies in a fastbin was put there under the limit of now, so smaller chunks go to theirs, too.
    later = known.after.above()
    later.variables.max_fast = None
    again = predict(later, Operation("free", (pointers[8],)))
    assert again.after.freed is not None
    assert again.after.freed.kind == "fastbin"
