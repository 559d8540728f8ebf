"""Promise: `set heap ...` changes what it says, under both prefixes, and refuses what it cannot mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs
from tests.support.symbols import WITHOUT, needs_symbols
from tests.support.symbols import wanted as symbols_wanted

DEFAULTS = {
    "colour": "auto",
    "limit": "200",
    "preview": "32",
    "units": "binary",
    "main-arena": "looked up (auto)",
    "mp": "looked up (auto)",
    "tcache": "looked up (auto)",
}


def shown(text: str) -> dict[str, str]:
    """Return the settings that `show heap` printed, by name."""
    return dict(re.findall(r"^([\w-]+):  [^:]*: (.*)\.$", text, re.MULTILINE))


def at_stop(gdb: Gdb, programs: Programs, *commands: str, name: str = "totals") -> Result:
    return gdb("break stop_here", "run", "echo ==\\n", *commands, program=programs[name])


def after_stop(done: Result) -> str:
    return done.succeeded().stdout.split("==\n", 1)[1].split("[Inferior 1")[0]


def test_the_defaults(gdb: Gdb) -> None:
    assert shown(gdb("show heap").succeeded().stdout) == DEFAULTS
    assert shown(gdb("show gdbheap").succeeded().stdout) == DEFAULTS


def test_both_prefixes_have_one_value(gdb: Gdb) -> None:
    done = gdb(
        "set heap limit unlimited",
        "set gdbheap preview 8",
        "set heap colour off",
        "set gdbheap units bytes",
        "set heap mp 4096 * 2",
        "show heap",
        "echo ==\\n",
        "show gdbheap",
        "python print(gdb.parameter('gdbheap limit'), gdb.parameter('heap preview'), gdb.parameter('heap units'))",
    ).succeeded()
    changed = {
        **DEFAULTS, "limit": "unlimited", "preview": "8", "colour": "off", "units": "bytes", "mp": "0x2000, as given"
    }  # fmt: skip
    assert [shown(part) for part in done.stdout.split("==\n")] == [changed, changed]
    assert re.search(r"^(None|-1) 8 bytes$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("set heap colours on", "There is no setting 'colours' of the heap; the settings are: colour, limit"),
        ("set heap colour pink", 'Undefined item: "pink"'),
        ("set heap limit -2", "allowed to set as unlimited|integer -2 out of range"),
        ("set heap mp nonsense", "The address for 'set heap mp' is a number or an expression that has one"),
        ("set heap mp -1", "An address is not negative: 'set heap mp' was given -1."),
        ("set heap tcache 16", "There is no thread whose tcache it could be: start the program first."),
    ],
)
def test_what_cannot_be_meant_is_refused(gdb: Gdb, command: str, sentence: str) -> None:
    done = gdb(command, "show heap")
    done.has_no_internal_error()
    assert re.search(sentence, done.stderr)
    assert shown(done.stdout) == DEFAULTS


def test_every_setting_has_a_manual_page_and_completes(gdb: Gdb) -> None:
    for name in DEFAULTS:
        page = gdb(f"help set heap {name}").succeeded().stdout
        assert page.startswith("Set ")
        assert f"Example: set heap {name} " in page
    listed = gdb("complete set heap ", "complete set heap colour ").succeeded().stdout.split("\n")
    assert {f"set heap {name}" for name in DEFAULTS} <= set(listed)
    assert {f"set heap colour {word}" for word in ("auto", "on", "off")} <= set(listed)


def test_limit_of_rows(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    done = at_stop(
        gdb,
        programs,
        "set heap limit 3",
        f"heap chunks {answers.into('all')} -all",
        "echo ==\\n",
        "heap chunks",
        "echo ==\\n",
        "heap chunks -count 5",
        "echo ==\\n",
        "set heap limit unlimited",
        "heap chunks",
        "echo ==\\n",
        "with heap limit 2 -- heap chunks",
        "echo ==\\n",
        f"heap chunks {answers.into('json')}",
    )
    parts = after_stop(done).split("==\n")
    rows = [len(re.findall("^0x", part, re.MULTILINE)) for part in parts]
    count = sum(len(arena["chunks"]) for arena in answers["all"]["arenas"])
    count += len(answers["all"]["mmapped"]["chunks"])
    assert rows == [count, 3, 5, count, 2, count]
    assert f"{count - 3} more chunks left out" in parts[1]
    assert answers["json"] == answers["all"]


def test_limit_of_free_lists_and_words(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """What is set holds for each free list and for chunks close up too; -count and -all come first."""
    commands = ("heap bins", "heap tcache", "heap map -words", "heap map -words -count 2", "heap map -words -all")
    done = gdb(
        "break stop_here",
        "run 8000",
        f"heap bins {answers.into('bins')} -all",
        f"heap chunks {answers.into('chunks')} -all",
        *(command for shown in commands for command in ("echo ==\\n", shown)),
        "set heap limit 3",
        *(command for shown in commands for command in ("echo ==\\n", shown)),
        program=programs["many"],
    ).succeeded()
    parts = done.stdout.split("==\n")[1:]
    rows = [len(re.findall(r"^ +\d+  0x", part, re.MULTILINE)) for part in parts]
    chunks = [len(re.findall("^┌", part, re.MULTILINE)) for part in parts]
    every = len(answers["chunks"]["arenas"][0]["chunks"])
    found = {
        name: [item["count"] for owner in answers["bins"][name] for item in owner["lists"]]
        for name in answers["bins"]
        if name in ("tcaches", "arenas")
    }
    of_bins, of_tcache = found["tcaches"] + found["arenas"], found["tcaches"]
    assert max(of_bins) > 16
    assert rows[:2] == [sum(min(count, 16) for count in counts) for counts in (of_bins, of_tcache)]
    assert chunks[2:5] == [10, 2, every]
    assert rows[5:7] == [sum(min(count, 3) for count in counts) for counts in (of_bins, of_tcache)]
    assert chunks[7:] == [3, 2, every]
    assert f"{every - 3:,} more chunks left out: -count N or -all shows" in parts[7]


def test_limit_of_what_is_found(gdb: Gdb, programs: Programs) -> None:
    """For heap find and heap refs, whose -limit comes first."""
    commands = ("heap find -state used", "heap find -state used -limit 5", "heap find -by size", "heap refs chunks")
    done = gdb(
        "break stop_here",
        "run 300",
        "up",
        "set heap limit 3",
        *(command for shown in commands for command in ("echo ==\\n", shown)),
        "echo ==\\n",
        "heap refs chunks -limit 1",
        program=programs["many"],
    ).succeeded()
    parts = done.stdout.split("==\n")[1:]
    assert [len(re.findall("^ *0x", part, re.MULTILINE)) for part in parts[:3]] == [3, 5, 3]
    assert [" left out" in part for part in parts[:2]] == [True, True]
    assert "other sizes" in parts[2]
    held = [len(re.findall("^(?:register|stack|global|chunk|malloc)  ", part, re.MULTILINE)) for part in parts[3:]]
    assert held[1] == 1 <= held[0] <= 3


def test_limit_of_events(gdb: Gdb, programs: Programs) -> None:
    done = gdb("heap catch -malloc", "run", "echo ==\\n", "set heap limit 4", "heap events", program=programs["growth"])
    listed = done.succeeded().stdout.split("==\n")[1]
    assert len(re.findall(r"^ +\d+ +[\d.]+ +1 ", listed, re.MULTILINE)) == 4
    assert "older events left out" in listed


def test_preview(gdb: Gdb, programs: Programs) -> None:
    done = at_stop(gdb, programs, "set heap preview 0", "heap chunks -count 3", "set heap preview 5", "heap chunks")
    none, five = after_stop(done).split("\nmain_arena at ")
    previews = re.findall(r"^0x\S+ +0x\S+ +0x\S+ +\d+ \S+ +\w+(.*)$", none, re.MULTILINE)
    assert previews == [""] * 3
    previews = re.findall(r"^0x\S+ +0x\S+ +0x\S+ +\d+ \S+ +\w+ (.*)$", five, re.MULTILINE)
    assert max(len(text.strip()) for text in previews) == 5


def test_units(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    done = at_stop(
        gdb, programs, "heap top", "set heap units bytes", f"heap top {answers.into('top')}", "set heap units binary"
    )
    size = answers["top"]["arenas"][0]["size"]
    binary, in_bytes = re.findall(r"\(([\d.,]+ \w+)\)", after_stop(done))
    assert binary == f"{size / 1024:.1f} KiB"
    assert in_bytes == f"{size:,} bytes"


def test_units_of_everything(gdb: Gdb, programs: Programs) -> None:
    commands = ("heap", "heap arenas", "heap top", "heap params", "heap chunks", "heap map", "heap map -words")
    recorded = (
        "heap bins",
        "heap events",
        "heap events -by kind",
        "heap why-grow",
        "heap timeline",
        "heap chunk mapped[0]",
    )
    done = gdb(
        "set heap units bytes", "heap catch", "break stop_here", "run", *commands, *recorded, program=programs["totals"]
    ).succeeded()
    assert done.stdout.count(" bytes") > 100
    assert not re.findall(r".*\d [KMG]iB.*", done.stdout)


def test_colour(gdb: Gdb, programs: Programs) -> None:
    done = at_stop(gdb, programs, "set heap colour on", "heap params", "set heap colour auto", "heap params")
    coloured, plain = after_stop(done).split("malloc_par mp_ at ")[1:]
    assert coloured.startswith("\033[")
    assert "\033[" not in plain


def test_addresses_by_hand(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """libc has no symbols here: two addresses and a tcache that are given count, if they can be right."""
    needs_symbols(gdb)
    known = at_stop(
        gdb,
        programs,
        f"heap {answers.into('heap')}",
        f"heap chunks {answers.into('chunks')}",
        f"heap tcache {answers.into('tcaches')}",
        answers.python("places", {"arena": "number('&main_arena')", "mp": "number('&mp_')"}),
    )
    known.succeeded()
    places = {**answers["places"], "tcache": answers["tcaches"]["tcaches"][0]["address"]}

    def without(*commands: str) -> Result:
        return gdb("break stop_here", "run", *commands, before=WITHOUT, program=programs["totals"])

    wrong = without(f"set heap main-arena {places['arena'] + 8}", "heap", f"set heap mp {places['mp'] + 8}", "heap")
    wrong.has_no_internal_error()
    assert f"{places['arena'] + 8:#x} (given by 'set heap main-arena') is no main_arena" in wrong.stderr
    assert "give its address with 'set heap main-arena ADDRESS'" in wrong.stderr
    given = without(
        f"set heap main-arena {places['arena']}",
        f"set heap mp {places['mp']}",
        "set heap tcache 0",
        f"heap {answers.into('without')}",
        f"set heap tcache {places['tcache']}",
        "show heap",
        f"heap {answers.into('given')}",
        f"heap chunks {answers.into('given_chunks')}",
    ).succeeded()
    assert shown(given.stdout)["main-arena"] == f"{places['arena']:#x}, as given"
    assert shown(given.stdout)["tcache"] == f"{places['tcache']:#x}, as given"
    assert answers["without"]["arenas"][0]["states"]["tcache"]["chunks"] == 0
    assert answers["given"]["arenas"] == answers["heap"]["arenas"]
    assert answers["given_chunks"] == answers["chunks"]


def test_an_address_that_is_no_arena(gdb: Gdb, programs: Programs) -> None:
    done = at_stop(
        gdb,
        programs,
        "set heap main-arena 0x10",
        "heap",
        "set heap main-arena &environ",
        "heap",
        "set heap main-arena auto",
        "heap",
    )
    done.has_no_internal_error()
    if symbols_wanted():
        assert "There is no main_arena at the address given, 0x10: GDB cannot read" in done.stderr
        assert re.search("There is no main_arena at the address given, 0x[0-9a-f]+: none of its bins", done.stderr)
    else:
        assert re.search(r"what is at 0x10 \(given by 'set heap main-arena'\) is no main_arena", done.stderr)
    assert re.search(r"^main_arena +0x", done.stdout, re.MULTILINE)


def test_a_prefix_that_another_extension_has_is_left_alone(gdb: Gdb) -> None:
    other = (
        "python exec(\"class Other(gdb.Command):\\n '''Other.'''\\n"
        " def __init__(self): super().__init__('set heap', gdb.COMMAND_DATA, prefix=True)\\nOther()\")"
    )
    done = gdb("help set heap", "set gdbheap limit 7", "show gdbheap limit", before=(other,)).succeeded()
    assert "The command 'set heap' belongs to another extension" in done.stdout
    assert "\nOther." in done.stdout
    assert "at most: 7." in done.stdout


def test_a_longer_name_of_another_extension_is_no_collision(gdb: Gdb) -> None:
    done = gdb("show heap limit", "heap top", before=("define heapinfo\nend", "define set_heap\nend"))
    assert "belongs to another extension" not in done.stdout
    assert "at most: 200." in done.stdout


def test_settings_in_a_start_up_file(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("set heap limit 2\nset heap colour off\n")
    done = at_stop(gdb, programs, f"source {file}", "heap chunks")
    assert "2 chunks shown" in after_stop(done)
