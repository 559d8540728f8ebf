"""Promise: the table of the matrix says what passed, what failed and why each test was skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.matrix_table import lines, read_report

REPORT = """<testsuites><testsuite>
<testcase classname="tests.gdb.test_a" name="test_one" time="1.5"/>
<testcase classname="tests.gdb.test_a" name="test_two" time="2"><failure message="no">text</failure></testcase>
<testcase classname="tests.gdb.test_a" name="test_three" time="0"><skipped message="no strace"/></testcase>
<testcase classname="" name="tests.gdb.test_b"><skipped message="collection skipped">('/w', 11, "Skipped: could not \
import 'x': No module named 'x'")</skipped></testcase>
<testcase classname="tests.gdb.test_a" name="test_four"><error message="fixture"/></testcase>
</testsuite></testsuites>"""


def test_a_report(tmp_path: Path) -> None:
    path = tmp_path / "forky.without.xml"
    path.write_text(REPORT)
    cell = read_report(path)
    assert (cell.passed, cell.failed, cell.seconds) == (1, ["test_a::test_two: no", "test_a::test_four: fixture"], 3.5)
    assert dict(cell.skipped) == {"no strace": 1, "could not import 'x': No module named 'x'": 1}
    table = lines([cell])
    assert table[1].split() == ["forky,", "without", "symbols", "1", "2", "2", "4"]
    assert any("failed" in line and "test_a::test_two" in line for line in table)
    assert any("no strace" in line for line in table)


def test_a_run_that_ended_before_its_end(tmp_path: Path) -> None:
    """It is no line of the table, and not left out of it in silence."""
    (tmp_path / "forky.with.txt").write_text("all of it")
    (tmp_path / "forky.with.xml").write_text("<testsuites><testcase classname='a' name='b'/></testsuites>")
    (tmp_path / "gdb-16.3.without.txt").write_text("half of it")
    done = subprocess.run(
        [sys.executable, "scripts/matrix_table.py", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "forky, with symbols" in done.stdout
    assert "gdb-16.3, without symbols: it ended without a report" in done.stdout
