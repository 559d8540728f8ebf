"""Running GDB with and without glibc's debug symbols."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.debugger import Gdb

#: GDB commands (-iex) with which no file has separate debug symbols.
WITHOUT = ("set debug-file-directory /nonexistent",)
#: In this environment variable `none` makes every test run without glibc's debug symbols.
VARIABLE = "GDBHEAP_TEST_SYMBOLS"
#: Set where the tests run in a root folder of the matrix.
IN_ROOT = "GDBHEAP_TEST_IN_ROOT"

ORACLE = "its oracle is GDB's own reading of glibc's debug symbols"
SUMS = "it asserts every request and sum; without debug symbols some are ranges, or unknown"
NAMES = "it asserts the names of functions inside glibc, which only debug symbols have"
TYPES = "pretty-printers are for glibc's types, which only debug symbols have"
#: The tests that cannot hold without glibc's debug symbols, by module, each with the reason.
NEEDED: Mapping[str, Mapping[str, str]] = {
    "test_arena_choice": {
        "test_an_arena_of_an_ended_thread": ORACLE,
        "test_another_arena_is_tried": ORACLE,
        "test_arenas_are_shared_beyond_arena_max": ORACLE,
        "test_each_thread_gets_its_own": ORACLE,
        "test_fragmentation_and_need": ORACLE,
        "test_free_works_on_the_chunks_arena": ORACLE,
        "test_main_arena_fails_and_a_new_one_is_tried": ORACLE,
        "test_the_choice_is_foreseen": ORACLE,
        "test_the_processors_are_counted": ORACLE,
        "test_what_is_free_is_told_for_calls_that_get_memory": ORACLE,
    },
    "test_catch": {
        "test_stop_stops_at_each": SUMS,
    },
    "test_catch_attach": {
        "test_attached_too_late": ORACLE,
        "test_events_after_attaching": SUMS,
    },
    "test_census": {
        "test_a_core_says_what_it_does_not_know": ORACLE,
        "test_a_core_tells_what_the_process_told": ORACLE,
        "test_every_figure_of_mallinfo_and_malloc_info": ORACLE,
        "test_it_is_the_heap_that_is_meant": ORACLE,
        "test_mmapped_chunks_are_those_that_were_asked_for": ORACLE,
        "test_the_kernels_map": ORACLE,
    },
    "test_chunks": {
        "test_chunks_leave_no_gap": ORACLE,
        "test_one_arena": ORACLE,
        "test_sizes_are_malloc_usable_sizes": ORACLE,
    },
    "test_cores": {
        "test_a_heap_that_is_not_in_the_core": ORACLE,
        "test_mmapped_chunks_that_are_not_in_the_core": ORACLE,
        "test_our_reader_and_gdbs_agree": ORACLE,
    },
    "test_documents": {
        "test_outputs_are_what_the_program_prints": NAMES,
    },
    "test_events_strace": {
        "test_each_event_prints_one_line": SUMS,
    },
    "test_functions": {
        "test_addresses_of_every_form": ORACLE,
        "test_in_conditions_of_a_program_with_threads": ORACLE,
    },
    "test_other_mallocs": {
        "test_an_allocator_beside_glibcs": NAMES,
    },
    "test_paths": {
        "test_a_new_top_is_trimmed_before_it_serves": SUMS,
        "test_a_raised_threshold_and_a_fixed_one": SUMS,
        "test_a_recording_that_begins_inside_malloc_trim": SUMS,
        "test_each_name_of_malloc": NAMES,
        "test_every_call_of_a_mode_is_predicted": SUMS,
        "test_heaps_go_whole": SUMS,
        "test_heaps_of_a_setuid_program": SUMS,
        "test_how_many_arenas": SUMS,
        "test_huge_pages_are_asked_for": SUMS,
        "test_huge_pages_are_tried_first": SUMS,
        "test_narrowed_recordings_are_exact_or_unknown": SUMS,
        "test_pages_go_back_in_every_arena": SUMS,
        "test_predictions_under_tunables": SUMS,
        "test_remapping_in_place_moved_and_refused": SUMS,
        "test_the_sum_of_an_aligned_mapping": SUMS,
        "test_what_a_narrowed_recording_still_predicts": SUMS,
    },
    "test_printers": {
        "test_a_value_without_an_address_and_one_that_cannot_be_read": TYPES,
        "test_arenas": TYPES,
        "test_before_there_is_a_heap": TYPES,
        "test_chunks": TYPES,
        "test_gdb_switches_them_off_and_on": TYPES,
        "test_params": TYPES,
    },
    "test_processes": {
        "test_a_fork_while_another_thread_is_inside_its_call": SUMS,
        "test_a_thread_ends_inside_its_call": SUMS,
        "test_a_thread_that_forks": SUMS,
        "test_each_process_is_recorded": SUMS,
        "test_following": SUMS,
    },
    "test_programs": {
        "test_forked_processes_at_the_same_time": SUMS,
        "test_program_of_one_thread": SUMS,
        "test_program_of_several_threads": SUMS,
        "test_program_with_its_children": SUMS,
    },
    "test_services": {
        "test_copies": NAMES,
        "test_dlopen": NAMES,
        "test_getaddrinfo": NAMES,
        "test_stacks_of_threads": NAMES,
        "test_streams_and_folders": NAMES,
    },
    "test_stacks": {
        "test_events_are_the_same_with_and_without_recognising": NAMES,
        "test_recognised_stacks_are_unwound_stacks": NAMES,
    },
    "test_static_tls": {
        "test_a_trace_knows_the_arenas_of_threads": ORACLE,
        "test_the_addresses_are_gdbs_own": ORACLE,
    },
    "test_timeline": {
        "test_attached": ORACLE,
        "test_it_ends_where_the_program_is": ORACLE,
    },
    "test_totals": {
        "test_arenas_agree_with_malloc_info": ORACLE,
        "test_chunks_add_up_to_mallinfo": ORACLE,
        "test_chunks_add_up_to_malloc_info": ORACLE,
        "test_every_kind_of_chunk_is_there": ORACLE,
        "test_overview_agrees": ORACLE,
        "test_params_are_mp": ORACLE,
        "test_top_agrees_with_mallinfo": ORACLE,
        "test_top_goes_as_far_as_is_said": SUMS,
    },
    "test_why_grow": {
        "test_arenas_of_threads": SUMS,
        "test_at_a_stop_inside_the_call": SUMS,
        "test_at_the_users_own_catchpoint": SUMS,
        "test_each_way_of_one_thread": SUMS,
        "test_every_prediction_is_exact": SUMS,
        "test_ls_as_its_strace_reader_sees_it": NAMES,
        "test_nothing_recorded": ORACLE,
        "test_nothing_recorded_in_a_core": ORACLE,
        "test_the_arenas_address_is_main_arenas": ORACLE,
        "test_the_story_in_json": SUMS,
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
    ),
    "test_scripts": ("test_the_story", "test_the_second_set_up_is_silent_and_quick"),
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
    """Skip the test, with the reason, where GDB has no debug symbols of glibc's: its oracle reads them."""
    if not wanted():
        pytest.skip(ORACLE)
    if not _found_by(gdb.path):
        pytest.skip("GDB finds no debug symbols of glibc's here")
