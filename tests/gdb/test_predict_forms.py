"""Promise: every function of malloc's family is predicted in the form in which it is called, and does just that.

GDB then lets the program call that function: what it returns, errno and the system calls are the oracle.
"""

from __future__ import annotations

import errno

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs
from tests.support.symbols import wanted as wanted_symbols

_SIZES = "unsigned long, unsigned long"
#: The functions by name, as C declares them.
_TYPES = {
    "malloc": "void *(*)(unsigned long)",
    "calloc": f"void *(*)({_SIZES})",
    "realloc": "void *(*)(void *, unsigned long)",
    "reallocarray": f"void *(*)(void *, {_SIZES})",
    "memalign": f"void *(*)({_SIZES})",
    "aligned_alloc": f"void *(*)({_SIZES})",
    "posix_memalign": f"int (*)(void **, {_SIZES})",
    "valloc": "void *(*)(unsigned long)",
    "pvalloc": "void *(*)(unsigned long)",
    "malloc_trim": "int (*)(unsigned long)",
    "mallopt": "int (*)(int, int)",
}
#: What is asked, and the arguments in C where they are others; used[2] is a chunk of 300 bytes before each.
CALLS = {
    "malloc 100": "",
    "malloc -1": "",
    "malloc 0x200000000000": "",  # 32 TiB: mmap, brk and mmap once more, all of them refused
    "malloc 0x7fffffffffff0000": "",
    "realloc used[2] 0x400000000000": "",
    "aligned_alloc 64 0x200000000000": "",
    "calloc 3 40": "",
    "calloc 0x200000000 0x200000000": "",
    "realloc used[2] 5000": "",
    "realloc used[2] 0": "",
    "realloc used[2] -1": "",
    "reallocarray used[2] 30 100": "",
    "reallocarray used[2] 0 100": "",
    "reallocarray used[2] 0x8000000000000000 4": "",
    "memalign 64 100": "",
    "memalign 48 100": "",
    "memalign 0 10": "",
    "memalign 4096 1": "",
    "memalign 0xf000000000000000 1": "",
    "memalign 64 -100": "",
    "aligned_alloc 64 100": "",
    "aligned_alloc 48 100": "",
    "aligned_alloc 0 10": "",
    "aligned_alloc 1024 70000": "",
    "aligned_alloc -1 10": "",
    "posix_memalign 64 100": "&used[3], 64, 100",
    "posix_memalign(&used[3], 8, 10)": "&used[3], 8, 10",
    "posix_memalign 4 10": "&used[3], 4, 10",
    "posix_memalign 48 10": "&used[3], 48, 10",
    "posix_memalign 0 10": "&used[3], 0, 10",
    "posix_memalign 64 -100": "&used[3], 64, -100",
    "valloc 100": "",
    "pvalloc 2": "",
    "pvalloc 5000": "",
    "pvalloc -1": "",
    "trim": "0",
    "malloc_trim(8192)": "",
    "mallopt M_TOP_PAD 4096": "-2, 4096",
    "mallopt -1 70000": "",
    "mallopt M_MXFAST 1000": "1, 1000",
    "malloc 40": "",
}


def _called(name: str, arguments: str) -> str:
    # Up to glibc 2.31 the loader has functions of these names, too.
    libc = f"__libc_{name}" if name in ("malloc", "calloc", "realloc") else name
    return f"(({_TYPES[name]}) {libc})({arguments})"


@pytest.mark.usefixtures("calling")
def test_each_function_does_what_was_predicted(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    commands = []
    location = "*(int *) ((void *(*)(void)) __errno_location)()"
    for place, (asked, given) in enumerate(CALLS.items()):
        word, _, rest = asked.replace("(", " ").replace(")", "").partition(" ")
        name = "malloc_trim" if word == "trim" else word
        call = _called(name, given or rest.replace(", ", " ").replace(" ", ", "))
        commands += [
            f"set variable used[2] = {_called('malloc', '300')}",
            f"heap predict {asked} {answers.into(f'predicted{place}')}",
            answers.python(
                f"real{place}",
                {
                    "before": f"number('{location} = 0')",
                    "result": f"number('(long) {call}')",
                    "errno": f"number('{location}')",
                    "stored": "number('(long) used[3]')",
                },
            ),
            f"heap events {answers.into(f'events{place}')}",
        ]
    gdb(
        "break stop_here", "heap catch", "run", *commands, program=programs["totals"], before=("set language c",)
    ).succeeded()
    last = 0
    for place, asked in enumerate(CALLS):
        (predicted,) = answers[f"predicted{place}"]["predictions"]
        real = answers[f"real{place}"]
        made = [event for event in answers[f"events{place}"]["events"] if event["id"] > last]
        last = max([last, *(event["id"] for event in made)])
        wanted = [(call["syscall"], call["args"]) for call in predicted["calls"]]
        assert [(event["syscall"], event["args"]) for event in made][-len(wanted) :] == wanted or not wanted, asked
        if predicted["end"] == "unknown" and not wanted_symbols():  # free_list or global_max_fast decides
            continue
        if asked.startswith("posix_memalign"):
            code = 0 if predicted["end"] == "chunk" else getattr(errno, predicted["errno"])
            assert real["result"] == code, asked
            assert predicted["end"] != "chunk" or predicted["result"] == real["stored"], asked
            continue
        assert predicted["result"] == real["result"], asked
        error = "" if predicted["errno"] is None else predicted["errno"]
        assert predicted["end"] in ("done", "chunk") or real["errno"] == getattr(errno, error, 0), asked
        assert (predicted["errno"] is not None) <= (predicted["end"] == "null"), asked
