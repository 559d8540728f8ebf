"""Promise: on a corrupt heap `heap predict` names the message that glibc then aborts with, or what it crashes on.

And what glibc refuses: sizes that are negative, huge, or that overflow.
"""

from __future__ import annotations

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version
from tests.support.programs import Programs
from tests.support.symbols import wanted

#: The message that each mode of broken.c aborts with in glibc 2.33 to 2.40; None where it gets a SIGSEGV.
MODES = {
    "tcache-unaligned": "malloc(): unaligned tcache chunk detected",
    "fast-size": "malloc(): memory corruption (fast)",
    "fast-unaligned": "malloc(): unaligned fastbin chunk detected 3",
    "consolidated-size": "malloc_consolidate(): invalid chunk size",
    "small-links": "malloc(): smallbin double linked list corrupted",
    "unsorted-size": "malloc(): invalid size (unsorted)",
    "unsorted-next-size": "malloc(): invalid next size (unsorted)",
    "unsorted-prev-size": "malloc(): mismatching next->prev_size (unsorted)",
    "unsorted-links": "malloc(): unsorted double linked list corrupted",
    "unsorted-in-use": "malloc(): invalid next->prev_inuse (unsorted)",
    "unsorted-unmapped": None,
    "large-sizes": "malloc(): largebin double linked list corrupted (nextsize)",
    "large-links": "malloc(): largebin double linked list corrupted (bk)",
    "unlinked-size": "corrupted size vs. prev_size",
    "top-size": "malloc(): corrupted top size",
    "realloc-pointer": "realloc(): invalid pointer",
    "realloc-old-size": "realloc(): invalid old size",
    "realloc-next-size": "realloc(): invalid next size",
}


#: The releases in which the modes lead to these messages; in others glibc's own words decide alone.
AS_WRITTEN = (2, 33) <= glibc_version() < (2, 41)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_corrupt_heap_leads_to(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """The prediction, and then glibc's own words on the standard error."""
    if mode.startswith("fast") and not wanted():
        pytest.skip("which chunks go into fastbins is decided by a variable without a public name")
    call = "realloc pointer, size" if mode.startswith("realloc") else "malloc size"
    result = gdb(
        "break stop_here",
        "run",
        f"heap predict {call} {answers.into('predicted')}",
        "continue",
        answers.python("after", {"got": "number('(long)kept[31]')"}),
        program=programs["broken"],
        args=[mode],
    )
    result.has_no_internal_error()
    (predicted,) = answers["predicted"]["predictions"]
    if AS_WRITTEN:
        assert predicted["end"] == ("crash" if MODES[mode] is None else "abort"), predicted
        assert predicted["end"] == "crash" or predicted["message"] == MODES[mode], predicted
    if predicted["end"] == "crash":
        assert "SIGSEGV" in result.stdout
    elif predicted["end"] == "abort":
        assert predicted["message"] in result.stderr.splitlines()
    elif predicted["end"] == "unknown":
        assert not AS_WRITTEN
        return
    else:
        assert answers["after"]["got"] == predicted["result"], predicted
        return
    assert predicted["steps"][-1]["role"] == "fail"


def test_requests_that_are_refused(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """NULL where glibc answers NULL (usable.c and glibc's manual: nothing above PTRDIFF_MAX), and nothing moves."""
    asked = {
        "negative": "malloc -1",
        "above": "malloc 0x8000000000000000",
        "product": "calloc 0x100000000 0x100000000",
        "array": "reallocarray 0 0x100000000 0x100000000",
        "aligned": "memalign 0x8000000000000001 24",
        "both": "memalign 64 0x7fffffffffffffff",
        "resized": "malloc 24; realloc $1 0x8000000000000000",
    }
    commands = [f"heap predict {text} {answers.into(name)}" for name, text in asked.items()]
    gdb("break stop_here", "run", *commands, program=programs["totals"]).succeeded()
    if not wanted():  # the first of them may come from a fastbin, for all that is known
        del asked["resized"]
    for name in asked:
        last = answers[name]["predictions"][-1]
        if last["end"] == "unknown" and name == "resized" and not wanted():
            continue  # without debug symbols not even malloc(24) is known everywhere
        assert (last["end"], last["result"], last["calls"]) == ("null", 0, []), name
        assert not last["lists"], name


def test_what_is_no_question(gdb: Gdb, programs: Programs) -> None:
    """A sentence each, and GDB's error status."""
    wrong = {
        "heap predict": "Name an operation",
        "heap predict mallok 1": "'mallok' is no operation",
        "heap predict calloc 1": "'calloc' takes 2 arguments, COUNT SIZE, but 'calloc 1' has 1",
        "heap predict malloc": "'malloc' takes 1 argument, SIZE, but 'malloc' has 0",
        "heap predict malloc(5": "The parentheses in 'malloc(5' do not match",
        "heap predict malloc 5; growth": "'growth' stands alone",
        "heap predict ;": "Name an operation",
        "heap predict mallopt M_TOP_PAD 99999999999": "does not fit an int",
        "heap predict malloc 5; free $1 + $3": "$3 would be the result of operation 3, and 1 come before it",
        "heap predict malloc nothing_of_that_name": "nothing_of_that_name",
        "heap predict malloc 99999999999999999999": "does not fit the 64 bits of a size_t",
        "heap predict free $2": "$2 would be the result of operation 2, and 0 come before it",
        "heap predict free 0; free $1": "$1 is the result of operation 1, which returns nothing",
        "heap predict malloc 1 -thread 9": "There is no thread 9",
        "heap what-if": "Name the file",
        "heap what-if /nowhere": "/nowhere cannot be read",
        "heap what-if /dev/null": "/dev/null lists no operation",
    }
    for command, words in wrong.items():
        result = gdb("break stop_here", "run", command, program=programs["totals"])
        assert words in result.stderr, (command, result.stderr)
        assert result.status == 1, command
        result.has_no_internal_error()
