"""Prints one table of the reports that pytest wrote for the cells of the matrix: see scripts/matrix.sh."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

#: Characters of a failure's first line that are shown.
_LONGEST = 120


@dataclass
class Cell:
    """What came of the tests in one cell: how many passed, which failed, and how many were skipped for which reason."""

    name: str
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def read_report(path: Path) -> Cell:
    """Return what the JUnit report at ``path`` says."""
    name, _, symbols = path.stem.rpartition(".")
    cell = Cell(f"{name}, {symbols} symbols")
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        cell.seconds += float(case.get("time", "0"))
        skipped = case.find("skipped")
        if skipped is not None:
            cell.skipped[_reason(skipped)] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            cell.failed.append(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}: {_failure(case)}")
        else:
            cell.passed += 1
    return cell


def _failure(case: ElementTree.Element) -> str:
    """Return the first line of why a test failed."""
    for kind in ("failure", "error"):
        found = case.find(kind)
        if found is not None:
            line = (found.get("message") or "").strip().partition("\n")[0]
            return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
    return ""


def _reason(skipped: ElementTree.Element) -> str:
    """Return why a test was skipped; for a whole module pytest has that in the text alone."""
    message = skipped.get("message", "no reason given")
    if message != "collection skipped":
        return message
    # It is written as a Python tuple: (file, line, "Skipped: ...").
    return (skipped.text or "").strip().rpartition("Skipped: ")[2][:-2] or message


def lines(cells: list[Cell]) -> list[str]:
    """Return the table, then every failure and every reason for skipping, with the cells it is of."""
    width = max([len(cell.name) for cell in cells] + [4])
    found = [f"{'cell':<{width}}  passed  failed  skipped  seconds"]
    found += [
        f"{cell.name:<{width}}  {cell.passed:>6}  {len(cell.failed):>6}  {sum(cell.skipped.values()):>7}"
        f"  {cell.seconds:>7.0f}"
        for cell in cells
    ]
    for cell in cells:
        if cell.failed or cell.skipped:
            found += ["", f"{cell.name}:"]
        found += [f"  failed   {name}" for name in cell.failed]
        found += [f"  skipped  {count:>3}  {reason}" for reason, count in cell.skipped.most_common()]
    return found


def main() -> int:
    """Print the table of a folder of reports; fail where there is none, or where a test failed."""
    cells = [read_report(path) for path in sorted(Path(sys.argv[1]).glob("*.xml"))]
    # A run that ended before its end has left what it printed, and no report.
    ended = sorted(path for path in Path(sys.argv[1]).glob("*.txt") if not path.with_suffix(".xml").exists())
    if cells:
        print("\n".join(lines(cells)))
    for path in ended:
        name, _, symbols = path.stem.rpartition(".")
        print(f"{name}, {symbols} symbols: it ended without a report; what it printed is in {path}")
    if not cells:
        print("No cell has written a report.")
    return 1 if not cells or ended or any(cell.failed for cell in cells) else 0


if __name__ == "__main__":
    raise SystemExit(main())
