"""Which findings are kept where there are too many: never a doubtful one in the place of a certain one."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from gdbheap.ptmalloc.coverage import Coverage
from gdbheap.ptmalloc.finding import MOST, Finding, Findings
from gdbheap.render.check import check_lines, check_object, verdict
from gdbheap.render.style import Plain
from tests.support.heap_image import Image
from tests.unit.test_check import Case

MET = Coverage(0x21000, 0x21000)
WHY = "Thread 3 is inside malloc; lists of main_arena may be between two steps."


def a_finding(address: int, arena: int = 0) -> Finding:
    return Finding("list-size", address, "A sentence.", "0", "1", arena)


def doubt(finding: Finding) -> str | None:
    return WHY if finding.arena else None


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=1500))
def test_certain_ones_are_kept_first(added: list[tuple[int, bool]]) -> None:
    """Of each kind those with the lowest addresses, each word once, and the others are counted."""
    findings = Findings(doubt)
    first: dict[int, bool] = {}
    for address, doubtful in added:
        findings.add(a_finding(address, int(doubtful)))
        first.setdefault(address, doubtful)
    certain = sorted(address for address, doubtful in first.items() if not doubtful)
    kept = list(findings)
    assert [finding.address for finding in kept if finding.doubtful is None] == certain[:MOST]
    assert findings.more == max(len(certain) - MOST, 0)
    assert sum(finding.doubtful is not None for finding in kept) <= MOST
    assert kept == sorted(kept, key=lambda finding: (finding.doubtful is not None, finding.address))


@given(
    st.lists(st.integers(0, 900), max_size=900, unique=True),
    st.dictionaries(st.integers(0, 900), st.integers(0, 900), max_size=5),
)
def test_what_is_forgotten_is_not_counted(addresses: list[int], ranges: dict[int, int]) -> None:
    findings = Findings()
    findings.extend(map(a_finding, addresses))
    left = [a for a in addresses if not any(start < a < end for start, end in ranges.items())]
    kept = sorted(addresses)[:MOST]
    findings.forget(ranges)
    assert [finding.address for finding in findings] == [address for address in kept if address in left]
    assert len(list(findings)) + findings.more == len(left)


def test_merging_keeps_the_count() -> None:
    one, other = Findings(doubt), Findings(doubt)
    one.extend(a_finding(address) for address in range(3 * MOST))
    other.extend(a_finding(address, 1) for address in range(10_000, 10_000 + 3 * MOST))
    one.merge(other)
    assert (one.more, one.more_doubtful) == (2 * MOST, 2 * MOST)
    assert len(list(one)) == 2 * MOST


def test_doubtful_ones_do_not_make_a_heap_look_sound() -> None:
    """A thread is inside malloc and hundreds of words look wrong in its arena; one in a tcache certainly is."""
    case = Case(made=((0x90, "unsorted"), (0x20, "used")) * (2 * MOST) + ((0x30, "tcache"), (0x20, "used")))
    for row in case.of("unsorted"):
        case.image.word(row.address + row.size, 0)  # prev_size behind it
    wrong = case.of("tcache")[0].address + 24
    case.image.word(wrong, 0)
    checked = case.check(busy={Image.MAIN_ARENA: WHY})
    assert [finding.address for finding in checked.certain] == [wrong]
    assert len(checked.findings) == MOST + 1
    assert (checked.more, checked.more_doubtful) == (0, MOST)
    state = case.state(case.image.memory)
    said = verdict(None, checked)
    assert said is not None
    assert "1 finding" in said
    assert not check_object(None, checked, MET)["sound"]
    lines = list(check_lines(state, state.ring.arenas, None, checked, MET, Plain()))
    assert f"{2 * MOST} things that may be such a step, and not counted as wrong:" in lines
    assert f"  {MOST} more things of that kind left out." in lines


def test_the_cause_is_kept_where_much_follows_from_it() -> None:
    """What lists find comes first, by hundreds; the word at the lowest address is still the first finding."""
    case = Case(made=((0x40, "used"), (0x20, "used"), *((0x90, "unsorted"), (0x20, "used")) * (2 * MOST)))
    case.image.word(case.word(case.rows[2], 1), 0x41414141)
    for row in case.of("unsorted"):
        case.image.word(case.word(row, 1), 0x41414141)
    checked = case.check()
    assert checked.findings[0].address == case.word(case.rows[2], 1)
    assert len(checked.findings) == MOST
    assert checked.more > 0


def test_one_size_that_runs_over_all_others() -> None:
    """What the walk found while it was out of step is dropped, however much it was: the size alone is wrong."""
    made = ((0x40, "used"), *((0x90, "unsorted"), (0x20, "used")) * 4000, (0x90, "unsorted"), (0x20, "used"))
    case = Case(made=made)
    place = case.word(case.rows[1], 1)
    size = case.of("unsorted")[-1].address - case.rows[1].address + 0x90
    case.image.word(place, size | 1)
    begun = time.process_time()
    checked = case.check()
    assert time.process_time() - begun < 5, "each of the 4001 chunks inside it is looked at once"
    assert [(finding.kind, finding.address) for finding in checked.findings] == [("chunk-size", place)]
    assert checked.more == 0


def test_what_was_not_checked_is_not_called_sound() -> None:
    """Where a tcache cannot be found or read, nothing found is not the same as a sound heap."""
    case = Case()
    why = "The tcache of thread 2 cannot be found, so it is not checked."
    whole, partial = case.check(), case.check(unchecked=(why,))
    unread = case.check(tcaches={0x77770000: "the tcache of thread 9"})
    state = case.state(case.image.memory)
    said = [list(check_lines(state, state.ring.arenas, None, item, MET, Plain())) for item in (whole, partial, unread)]
    assert [item.complete for item in (whole, partial, unread)] == [True, False, False]
    assert [lines[0].startswith("The heap is sound: ") for lines in said] == [True, False, False]
    assert said[1][0].startswith("Nothing is wrong in what could be checked: ")
    assert why in said[1]
    assert any("The tcache of thread 9 cannot be read" in line for line in said[2])
