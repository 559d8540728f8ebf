"""Tables as lines: laid out by tabulate, or in the same way where it is not installed."""

from __future__ import annotations

from collections.abc import Sequence

#: What tabulate adds to a header's width, at the least, to get that of its column.
_PADDING = 2


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines; columns whose header ends in a space are aligned to the right.

    A table without rows has no lines.
    """
    if not rows:
        return []
    right = [header.endswith(" ") for header in headers]
    titles = [header.strip() for header in headers]
    try:
        from tabulate import tabulate  # what shows no table needs none
    except ModuleNotFoundError:  # that it is missing was said when gdbheap was loaded
        return plain_table(titles, rows, right)
    align = ["right" if is_right else "left" for is_right in right]
    text = tabulate(rows, titles, tablefmt="simple", colalign=align, disable_numparse=True)
    return [line.rstrip() for line in text.splitlines()]


def plain_table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Return a table as tabulate's format ``simple`` lays it out; ``right`` says which columns are aligned so."""
    cells = [[cell.strip() for cell in row] for row in rows]
    widths = [max(len(title) + _PADDING, *(len(row[column]) for row in cells)) for column, title in enumerate(titles)]
    lines = [titles, ["-" * width for width in widths], *cells]
    return [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in zip(line, widths, right)
        ).rstrip()
        for line in lines
    ]
