"""The tables of docs/checks.md, made from the code and from what the tests cover.

PYTHONPATH=src .venv/bin/python -m tests.support.check_table renews them in the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gdbheap.ptmalloc.checks import CHECKS, Check
from gdbheap.ptmalloc.finding import KINDS
from tests.support.corruptions import CALLS, IMAGES, MODES, UNREACHED
from tests.support.environment import ROOT

DOCUMENT = ROOT / "docs" / "checks.md"
#: The releases that have the facts which Check.needs names, of those from 2.31 to 2.43.
_RELEASES = {
    "": "all",
    "fastbins": "to 2.42",
    "safe-linking": "from 2.32",
    "mangled fastbins": "2.32 to 2.42",
    "tcache": "all",
    "places": "from 2.42",
    "fastbins and places": "2.42",
}


def releases(check: Check) -> str:
    """Return which releases from 2.31 to 2.43 have a check."""
    if check.since is None and check.until is None:
        return _RELEASES[check.needs]
    first, last = ("" if part is None else f"{part[0]}.{part[1]}" for part in (check.since, check.until))
    if check.needs == "places" and not first:
        first = "2.42"
    if first == last:
        return first
    return f"{first} to {last}" if first and last else f"from {first}" if first else f"to {last}"


def coverage(message: str) -> str:
    """Return how the tests cover a message."""
    modes = [mode for mode, expected in MODES.items() if expected.message == message]
    calls = [mode for mode, expected in CALLS.items() if expected == message]
    parts = []
    if modes:
        parts.append("foretold, then printed: " + ", ".join(f"`{mode}`" for mode in modes))
    if calls:
        parts.append("a wrong call, explained at the abort: " + ", ".join(f"`{mode}`" for mode in calls))
    if message in IMAGES:
        parts.append("foretold on a heap image")
    if message in UNREACHED:
        parts.append(f"never: {UNREACHED[message]}")
    return "; ".join(parts)


def message_rows() -> Iterator[str]:
    """Yield the table of messages."""
    yield "| message | releases | made by | what is wrong | covered by |"
    yield "|---|---|---|---|---|"
    for message, check in CHECKS.items():
        yield f"| `{message}` | {releases(check)} | `{check.function}` | {check.condition} | {coverage(message)} |"


def kind_rows() -> Iterator[str]:
    """Yield the table of kinds of findings."""
    yield "| kind | what is wrong |"
    yield "|---|---|"
    for kind, text in KINDS.items():
        yield f"| `{kind}` | {text} |"


def renewed(text: str) -> str:
    """Return the document with its tables made anew."""
    for name, rows in (("messages", message_rows()), ("kinds", kind_rows())):
        marked = re.compile(rf"(<!-- table of {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        pieces = marked.split(text)
        count = len(pieces) // 3
        text = "\n".join(rows).join(("".join(pieces[:2]), "".join(pieces[2:])))
        assert count == 1, f"docs/checks.md has no table of {name}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
