"""Running GDB with and without glibc's debug symbols."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.debugger import Gdb

#: GDB commands (-iex) with which no file has separate debug symbols.
WITHOUT = ("set debug-file-directory /nonexistent",)
#: In this environment variable `none` makes every test run without glibc's debug symbols.
VARIABLE = "GDBHEAP_TEST_SYMBOLS"
#: Set where the tests run in a root folder of the matrix.
IN_ROOT = "GDBHEAP_TEST_IN_ROOT"

ORACLE = "the test reads glibc's own variables while gdbheap records, so that GDB would have the symbols by then"
LIMITS = "why an arena is made or shared follows from narenas, narenas_limit and free_list, which have no public names"
HEAPS = "which heap of an arena is made, and for which request, is unknown without the names inside malloc"
BRANCH = "of a call inside an operation that goes on, the branch is unknown without the names inside malloc"
ARENAS = "only debug symbols tell which arenas there are for a new thread"
FASTBINS = "a fastbin of a thread's arena is in use, and only debug symbols tell the limit of fastbins there"
NAMES = "it asserts the names of functions inside glibc, which only debug symbols have"
TYPES = "pretty-printers are for glibc's types, which only debug symbols have"
ALIGNED = "how large a chunk memalign asked for cannot be told from what it returned"
UNDER_WAY = "inside the call malloc has not returned yet: until then there is a range, which other tests are about"
RECOGNISED = "stacks are recognised by the places of variables, which only debug symbols tell"
#: The tests that cannot hold without glibc's debug symbols, by module, each with the reason.
NEEDED: Mapping[str, Mapping[str, str]] = {
    "test_arena_choice": {
        "test_an_arena_of_an_ended_thread": LIMITS,
        "test_arenas_are_shared_beyond_arena_max": LIMITS,
        "test_each_thread_gets_its_own": LIMITS,
        "test_main_arena_fails_and_a_new_one_is_tried": LIMITS,
        "test_the_choice_is_foreseen": ORACLE,
        "test_the_processors_are_counted": LIMITS,
    },
    "test_paths": {
        "test_a_new_top_is_trimmed_before_it_serves": BRANCH,
        "test_a_recording_that_begins_inside_malloc_trim": BRANCH,
        "test_each_name_of_malloc": NAMES,
        "test_heaps_go_whole": HEAPS,
        "test_how_many_arenas": HEAPS,
        "test_huge_pages_are_tried_first": HEAPS,
        "test_remapping_in_place_moved_and_refused": BRANCH,
        "test_the_sum_of_an_aligned_mapping": ALIGNED,
    },
    "test_predict_replay": {
        "test_every_operation_in_an_arena_of_a_thread": ARENAS,
    },
    "test_predict_threads": {
        "test_a_heap_that_malloc_has_found_corrupt": NAMES,
        "test_a_program_that_is_inside_malloc": NAMES,
        "test_a_thread_that_is_inside_malloc": NAMES,
        "test_the_thread_that_alone_runs": FASTBINS,
    },
    "test_printers": {
        "test_a_value_without_an_address_and_one_that_cannot_be_read": TYPES,
        "test_arenas": TYPES,
        "test_before_there_is_a_heap": TYPES,
        "test_chunks": TYPES,
        "test_gdb_switches_them_off_and_on": TYPES,
        "test_params": TYPES,
    },
    "test_services": {
        "test_dlopen": NAMES,
        "test_getaddrinfo": NAMES,
        "test_stacks_of_threads": NAMES,
        "test_streams_and_folders": NAMES,
    },
    "test_stacks": {
        "test_recognised_stacks_are_unwound_stacks": RECOGNISED,
    },
    "test_why_grow": {
        "test_arenas_of_threads": HEAPS,
        "test_at_a_stop_inside_the_call": UNDER_WAY,
        "test_at_the_users_own_catchpoint": UNDER_WAY,
        "test_the_story_in_json": NAMES,
        "test_the_story_is_answered": NAMES,
        "test_the_story_on_a_terminal": NAMES,
    },
}


#: Tests of how gdbheap is installed, which the machine's own run has: a root of the matrix has no network for pip.
INSTALLING: Mapping[str, tuple[str, ...]] = {
    "test_loading": (
        "test_through_the_installed_launcher",
        "test_as_a_single_file_without_the_packages",
        "test_the_single_file_has_what_styles_and_tables_need",
        "test_gdb_never_reads_the_archive_as_commands",
        "test_the_single_file_is_the_same_each_time",
        "test_the_program_gets_its_arguments_and_no_python_variable",
        "test_the_launcher_answers_for_itself",
        "test_a_second_copy_is_left_alone",
        "test_the_packages_of_the_virtual_environment_are_found",
        "test_packages_that_come_later",
    ),
    "test_scripts": ("test_the_story", "test_the_second_set_up_does_nothing"),
}


def reason_to_skip(module: str, test: str) -> str | None:
    """Return why a test is not run in this cell of the matrix, None where it is run."""
    file, name = module.rpartition(".")[2], test.partition("[")[0]
    if os.environ.get(IN_ROOT) and name in INSTALLING.get(file, ()):
        return "it is about installing gdbheap, which the machine's own tests do"
    return None if wanted() else NEEDED.get(file, {}).get(name)


def wanted() -> bool:
    """Return whether the tests are to be run with glibc's debug symbols."""
    return os.environ.get(VARIABLE) != "none"


def to_the_byte(event: Mapping[str, Any]) -> bool:
    """Return whether an event is explained to the byte; without debug symbols it may be unknown, with the reason."""
    if wanted() or event["exact"] is not None:
        return event["exact"] is True
    return bool(event["unpredicted_because"]) and event["predicted"] is None


def known_to_be(event: Mapping[str, Any], key: str, value: object) -> bool:
    """Return whether a field of an event has this value; without debug symbols it may be unknown, or in the range."""
    if wanted() or event[key] is not None:
        return bool(event[key] == value)
    low, high = event["chunk_size_range"] or (0, 1 << 64)
    return key != "chunk_size" or (isinstance(value, int) and low <= value <= high)


@lru_cache(maxsize=1)
def debug_file() -> Path | None:
    """Return the file with the debug symbols of this machine's own libc, wherever GDB is told to look for them."""
    listed = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=False).stdout
    libc = re.search(r"libc\.so\.6 => (\S+)", listed)
    if libc is None or shutil.which("readelf") is None:
        return None
    notes = subprocess.run(["readelf", "-n", libc[1]], capture_output=True, text=True, check=False).stdout
    build_id = re.search(r"Build ID: (\w\w)(\w+)", notes)
    if build_id is None:
        return None
    found = Path(f"/usr/lib/debug/.build-id/{build_id[1]}/{build_id[2]}.debug")
    return found if found.exists() else None


#: What an oracle's expressions need debug symbols of glibc's for.
OF_GLIBC = re.compile(r"\b(main_arena|mp_|tcache\w*|malloc_\w+|global_max_fast|narenas|free_list)\b|\bring\(")
#: Inside GDB: read the libraries again, with the separate debug symbols of a folder; the selected frame stays.
RELOADING = """
import gdb

def reload(folder):
    level, frame = 0, gdb.selected_frame().newer() if gdb.selected_thread() is not None else None
    while frame is not None:
        level, frame = level + 1, frame.newer()
    gdb.execute('set debug-file-directory ' + folder, to_string=True)
    gdb.execute('nosharedlibrary', to_string=True)
    gdb.execute('sharedlibrary', to_string=True)
    if level:
        gdb.execute('frame %d' % level, to_string=True)
"""


def with_symbols(code: str) -> str:
    """Return Python code for GDB that runs ``code``, an oracle's, with glibc's debug symbols.

    Where the tests run without, GDB has them for that moment only: gdbheap has looked, and will look, without.
    """
    if wanted():
        return code
    return (
        f"{RELOADING}\nreload('/usr/lib/debug')\ntry:\n    exec({code!r}, {{}})\n"
        f"finally:\n    reload({WITHOUT[0].split()[-1]!r})"
    )


def remember(**expressions: str) -> str:
    """Return a GDB command that keeps what C ``expressions`` of glibc's variables are, as ``$name`` of each name."""
    code = (
        f"import gdb\nfor name, text in {expressions!r}.items():\n"
        "    gdb.set_convenience_variable(name, int(gdb.parse_and_eval(text)))"
    )
    return f"python exec({with_symbols(code)!r}, {{}})"


@lru_cache(maxsize=4)
def _found_by(path: str) -> bool:
    from tests.support.debugger import Gdb

    done = Gdb(path)("catch syscall exit_group", "run", "ptype struct malloc_state", program="/bin/true", load=None)
    return "attached_threads" in done.stdout


def needs_symbols(gdb: Gdb) -> None:
    """Skip the test, with the reason, where GDB has no debug symbols of glibc's: it compares with what they tell."""
    if not wanted():
        pytest.skip("the test compares what is answered with and without glibc's debug symbols")
    if not _found_by(gdb.path):
        pytest.skip("GDB finds no debug symbols of glibc's here")
