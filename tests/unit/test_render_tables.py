"""A table without tabulate is the one that tabulate makes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tabulate import tabulate

from gdbheap.render.tables import plain_table, table

CELL = st.text(alphabet="ab 0x,.-", max_size=9)


@given(st.data(), st.integers(1, 5), st.integers(1, 6))
def test_the_layout_is_that_of_tabulate(data: st.DataObject, columns: int, count: int) -> None:
    titles = [title.strip() for title in data.draw(st.lists(CELL, min_size=columns, max_size=columns))]
    right = data.draw(st.lists(st.booleans(), min_size=columns, max_size=columns))
    rows = data.draw(st.lists(st.lists(CELL, min_size=columns, max_size=columns), min_size=count, max_size=count))
    align = ["right" if is_right else "left" for is_right in right]
    expected = tabulate(rows, titles, tablefmt="simple", colalign=align, disable_numparse=True).split("\n")
    assert plain_table(titles, rows, right) == [line.rstrip() for line in expected]


def test_no_row_is_no_line() -> None:
    assert table(("kind", "events "), []) == []
