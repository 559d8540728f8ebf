"""Promise: core files, remote and attached processes, other roots and other builds answer as the live process does."""

from __future__ import annotations

import re
import shutil
import signal
import struct
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.gdb.test_without_symbols import READING, name_of, without_resident
from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import PATIENCE, ROOT, needs, plain_environment
from tests.support.gdb_server import served
from tests.support.programs import FOR_32_BIT, Programs
from tests.support.symbols import WITHOUT, needs_symbols

SYMBOLS = pytest.mark.parametrize("before", [(), WITHOUT], ids=["with", "without"])
#: What is the same however the process is looked at.
ARENAS = ("heap arenas", "heap top", "heap params")

CRASHING = """
#include <stdio.h>
#include <stdlib.h>
void *kept[60];
int main(void) {
    for (int i = 0; i < 60; i++) kept[i] = malloc(24 + 56 * i);
    for (int i = 0; i < 60; i += 4) free(kept[i]);
    kept[0] = malloc(400000);
    abort();
}
"""


def ask(
    gdb: Gdb, folder: Path, *setup: str, program: Path | None = None, before: tuple[str, ...] = (), also: str = ""
) -> tuple[dict[str, Any], Result]:
    """Return what each command answers after ``setup``, by the command, and the run of GDB."""
    folder.mkdir()
    answers = Answers(folder)
    commands = [f"{command} {answers.into(name_of(command))}" for command in READING]
    done = gdb(*setup, *commands, *([also] if also else []), program=program, before=before)
    done.has_no_internal_error()
    found = {
        command: without_resident(answers[name_of(command)])
        for command in READING
        if answers.path(name_of(command)).exists()
    }
    return found, done


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Check that two sets of answers tell of the same heap."""
    for command in ARENAS:
        # Whose stacks can be followed depends on the files that there are.
        mine, theirs = ({**answers[command], "unsettled": None} for answers in (one, other))
        assert mine == theirs, command
    assert one["heap"]["arenas"] == other["heap"]["arenas"]
    assert one["heap"]["mmapped"] == other["heap"]["mmapped"]
    mine, theirs = one["heap chunks -all"], other["heap chunks -all"]
    assert mine["arenas"] == theirs["arenas"]
    # A core file may not tell which mappings are whose.
    assert mine["mmapped"] == theirs["mmapped"] or theirs["mmapped"]["problems"]


def crash(
    folder: Path, coredump_filter: int | None = None, linking: tuple[str, ...] = (), source: str = CRASHING
) -> tuple[Path, Path]:
    """Return a program that has aborted, and the core file that the kernel wrote."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|"):
        pytest.skip(f"the kernel hands core files to {pattern!r}")
    file = folder / "crash.c"
    file.write_text(source)
    program = folder / "crash"
    subprocess.run([needs("gcc"), "-g", "-O0", "-w", *linking, "-o", str(program), str(file)], check=True)
    choose = "" if coredump_filter is None else f"echo {coredump_filter:#x} > /proc/self/coredump_filter; "
    subprocess.run(
        ["sh", "-c", f"ulimit -c unlimited; {choose}exec ./crash"],
        cwd=folder, env=plain_environment(), stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    cores = sorted(folder.glob("core*"))
    if not cores:
        pytest.skip("the kernel writes no core files here")
    return program, cores[0]


@SYMBOLS
@pytest.mark.quick
@pytest.mark.parametrize("program", ["totals", "threads"])
def test_a_core_by_gcore(gdb: Gdb, programs: Programs, tmp_path: Path, program: str, before: tuple[str, ...]) -> None:
    core = tmp_path / "core"
    stop = ("break stop_here", "run")
    live, _ = ask(
        gdb, tmp_path / "live", *stop, program=programs[program], before=before, also=f"generate-core-file {core}"
    )
    read, _ = ask(gdb, tmp_path / "core-file", f"core-file {core}", program=programs[program], before=before)
    same(live, read)


@pytest.mark.quick
@pytest.mark.parametrize("dumped", [None, 0x33, 0x23, 0x1])
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_a_core_by_the_kernel(gdb: Gdb, tmp_path: Path, dumped: int | None, static: bool) -> None:
    """Whatever the kernel left out: the same as with symbols, or a sentence that says what is missing."""
    program, core = crash(tmp_path, dumped, ("-static",) if static else ())
    with_symbols, known = ask(gdb, tmp_path / "with", f"core-file {core}", program=program)
    found, bare = ask(gdb, tmp_path / "without", f"core-file {core}", program=program, before=WITHOUT)
    if dumped is None and not static:
        assert found.keys() == set(READING), bare.describe()
        assert found["heap"]["arenas"][0]["states"]["used"]["chunks"] >= 45
    for command, answer in found.items():
        if command in with_symbols:
            assert answer == with_symbols[command]
    for done, answers in ((known, with_symbols), (bare, found)):
        assert len(answers) == len(READING) or done.status == 1, done.describe()


@pytest.mark.quick
def test_a_core_of_a_static_pie_program(gdb: Gdb, tmp_path: Path) -> None:
    """Its heap lies below it, and so what the core has of that is not what comes first of the program."""
    program, core = crash(tmp_path, linking=("-static-pie",))
    known, _ = ask(gdb, tmp_path / "known", f"core-file {core}", program=program)
    subprocess.run([needs("strip"), str(program)], check=True)
    found, done = ask(gdb, tmp_path / "found", f"core-file {core}", program=program)
    assert found.keys() == set(READING), done.describe()
    assert known["heap"]["arenas"][0]["states"]["used"]["chunks"] >= 45
    same(known, found)


@SYMBOLS
def test_a_core_without_its_program(gdb: Gdb, tmp_path: Path, before: tuple[str, ...]) -> None:
    program, core = crash(tmp_path)
    whole, _ = ask(gdb, tmp_path / "whole", f"core-file {core}", program=program, before=before)
    program.unlink()
    found, done = ask(gdb, tmp_path / "missing", f"core-file {core}", before=before)
    if found:
        same(whole, found)
    else:
        assert re.search(r"^(There is|Where|No|The)\b.*\.$", done.stderr, re.MULTILINE), done.describe()


@pytest.mark.quick
@pytest.mark.parametrize("linking", [("-static",), ("-static-pie",)])
def test_a_core_of_another_program(gdb: Gdb, tmp_path: Path, linking: tuple[str, ...]) -> None:
    """Nothing is where that program has its data: the wrong file is named, and what to give instead."""
    _, core = crash(tmp_path, linking=linking)
    wrong = tmp_path / "wrong"
    other = ["-static-pie"] if linking == ("-static",) else ["-static"]
    subprocess.run([needs("gcc"), *other, "-s", "-w", "-o", str(wrong), str(tmp_path / "crash.c")], check=True)
    found, done = ask(gdb, tmp_path / "found", f"core-file {core}", program=wrong)
    assert not found
    assert f"{wrong} is not the program that wrote the core file" in done.stderr
    assert "'file PROGRAM'" in done.stderr


@pytest.mark.quick
@pytest.mark.parametrize("with_program", [True, False], ids=["program", "nothing"])
def test_a_core_without_the_file_of_libc(gdb: Gdb, tmp_path: Path, with_program: bool) -> None:
    """As from another machine: what the core itself holds is enough, tcaches included, and nothing else is believed."""
    program, core = crash(tmp_path)
    known, _ = ask(gdb, tmp_path / "known", f"core-file {core}", program=program)
    missing = ("set sysroot /nonexistent",)
    given = program if with_program else None
    found, done = ask(
        gdb, tmp_path / "found", f"core-file {core}", program=given, before=missing, also="heap params -how"
    )
    assert found.keys() == set(READING), done.describe()
    same(known, found)
    assert "GDB has not read the file of /" in done.stdout
    # GDB 18 finds the program by itself.
    assert "'set sysroot FOLDER'" in done.stdout or (not with_program and "'file PROGRAM'" in done.stdout)
    assert "This program's malloc is that of" not in done.stdout


@pytest.mark.quick
def test_a_corrupt_heap_in_a_core_without_the_file_of_libc(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """malloc has aborted the program: no step is under way, and nothing is said of calls that could not be tried."""
    source = (
        "#include <stdlib.h>\n#include <string.h>\nvoid *kept[40];\nint main(void) {\n"
        "  for (int i = 0; i < 40; i++) kept[i] = malloc(2000);\n  for (int i = 0; i < 40; i += 2) free(kept[i]);\n"
        "  memset((char *)kept[1] + 2000, 0x41, 16);\n  free(kept[1]);\n  return 0;\n}\n"
    )
    program, core = crash(tmp_path, source=source)
    answers = Answers(tmp_path)
    for name, before in (("known", ()), ("found", ("set sysroot /nonexistent",))):
        done = gdb(
            f"core-file {core}",
            "heap predict malloc 1",
            f"heap check {answers.into(name)}",
            "heap check",
            program=program,
            before=before,
        )
        done.has_no_internal_error()
        assert done.status == 1
    known, found = (
        [(finding["kind"], finding["address"]) for finding in answers[name]["findings"]] for name in ("known", "found")
    )
    assert known
    assert found == known
    if "What malloc would do cannot be told" in done.stdout:
        assert "caught by   not known" in done.stdout
        assert "nothing that was tried" not in done.stdout


@pytest.mark.quick
def test_a_core_with_a_libc_of_another_build(gdb: Gdb, tmp_path: Path) -> None:
    """GDB takes the file that has the name, and believes that it was loaded elsewhere than it was."""
    program, core = crash(tmp_path)
    known, _ = ask(gdb, tmp_path / "known", f"core-file {core}", program=program)
    libc, loader = own_libc()
    root = tmp_path / "root"
    for path in (libc, loader):
        to = root / str(path).lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    other = patched(libc, root / str(libc).lstrip("/"))
    displace(root / str(libc).lstrip("/"))
    found, done = ask(
        gdb, tmp_path / "found", f"core-file {core}", program=program, before=(f"set sysroot {root}",),
        also="heap params -how",
    )  # fmt: skip
    assert found.keys() == set(READING), done.describe()
    same(known, found)
    # GDB 18 sees it as well, and does not read the file.
    assert f"(build-id {other})" in done.stdout or "GDB has not read the file of" in done.stdout


@SYMBOLS
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_core(gdb: Gdb, tmp_path: Path, kept: float, before: tuple[str, ...]) -> None:
    """What is cut off is missing, not zero: no answer differs from the whole core's."""
    program, core = crash(tmp_path)
    whole, _ = ask(gdb, tmp_path / "whole", f"core-file {core}", program=program, before=before)
    data = core.read_bytes()
    core.write_bytes(data[: int(len(data) * kept)])
    found, done = ask(gdb, tmp_path / "cut", f"core-file {core}", program=program, before=before)
    assert done.status == 1 or len(found) == len(READING)
    for command in ("heap arenas", "heap params"):
        if command in found:
            assert found[command] == whole[command], command
    if not found:
        assert re.search(r"\.$", done.stderr.strip()), done.describe()
        assert "libc6-dbg" not in done.stderr, "debug symbols do not bring back what was cut off"


def server(*arguments: str) -> AbstractContextManager[str]:
    """Run gdbserver on a free port of this machine; give where it listens."""
    return served([needs("gdbserver"), "--once", "127.0.0.1:{port}", *arguments], plain_environment())


@SYMBOLS
@pytest.mark.quick
def test_gdbserver(gdb: Gdb, programs: Programs, tmp_path: Path, before: tuple[str, ...]) -> None:
    """All that is recorded and read over gdbserver is what is recorded and read without it."""
    answers = Answers(tmp_path)
    with server(str(programs["growth"])) as address:
        gdb(
            f"target remote {address}",
            "heap catch",
            "tbreak stop_here",
            "continue",
            *(f"{command} {answers.into('remote_' + name_of(command))}" for command in READING),
            "continue",
            f"heap events {answers.into('remote')}",
            program=programs["growth"],
            before=(*before, "set sysroot /"),
        ).succeeded()
    gdb(
        "heap catch", "tbreak stop_here", "run",
        *(f"{command} {answers.into('local_' + name_of(command))}" for command in READING),
        "continue", f"heap events {answers.into('local')}",
        program=programs["growth"], before=before,
    ).succeeded()  # fmt: skip
    for command in ("heap top", "heap params"):
        remote, local = answers[f"remote_{name_of(command)}"], answers[f"local_{name_of(command)}"]
        if command == "heap params":  # the break is where the kernel put it: without GDB it may be anywhere
            assert [item["name"] for item in remote["params"]] == [item["name"] for item in local["params"]]
    keys = ("syscall", "kind", "chunk_size", "path", "exact", "delta")
    remote_made, local_made = (
        [tuple(event[key] for key in keys) for event in answers.events(name) if event["kind"] == "malloc"]
        for name in ("remote", "local")
    )
    assert len(local_made) > 10
    assert remote_made == local_made


@SYMBOLS
@pytest.mark.quick
def test_attach_and_detach(gdb: Gdb, tmp_path: Path, before: tuple[str, ...]) -> None:
    """The process goes on as it was: it ends by itself, with its own exit status."""
    source = tmp_path / "wait.c"
    source.write_text(
        "#include <stdlib.h>\n#include <stdio.h>\n#include <unistd.h>\n"
        'int main(void) { char line[8]; void *kept = malloc(5000); free(malloc(100)); puts("ready"); fflush(stdout);\n'
        "  fflush(stdout); if (read(0, line, sizeof line) != 3) return 3; free(kept); return 42; }\n"
    )
    program = tmp_path / "wait"
    subprocess.run([needs("gcc"), "-g", "-O0", "-o", str(program), str(source)], check=True)
    process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        found, done = ask(gdb, tmp_path / "attached", f"attach {process.pid}", before=before, also="detach")
        if "ptrace" in done.stderr:
            pytest.skip("attaching is not allowed here")
        assert found.keys() == set(READING), done.describe()
        states = found["heap"]["arenas"][0]["states"]
        assert states["tcache"]["chunks"] >= 1, states
        deadline = time.monotonic() + PATIENCE
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "SR":
            assert time.monotonic() < deadline, "it is still stopped"
            time.sleep(0.05)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^TracerPid:\t0$", status, re.MULTILINE)
        output, _ = process.communicate("go\n", timeout=PATIENCE)
        assert process.returncode == 42
        assert output == ""
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()


@pytest.mark.quick
def test_the_program_was_deleted(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """As by an upgrade while it runs: GDB knows no program then, and from that no library."""
    program = tmp_path / "gone"
    shutil.copy(programs["late"], program)
    process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        program.unlink()
        way = f"file /proc/{process.pid}/exe"
        known, done = ask(gdb, tmp_path / "known", f"attach {process.pid}", way, also="detach")
        if "ptrace" in done.stderr:
            pytest.skip("attaching is not allowed here")
        shown = "python print('program:', gdb.current_progspace().filename)"
        found, done = ask(gdb, tmp_path / "found", f"attach {process.pid}", shown, also="heap catch")
        assert found.keys() == set(READING), done.describe()
        same(known, found)
        if "program: None" in done.stdout:  # GDB 18 looks there by itself
            assert f"'{way}' tells it" in done.stdout
    finally:
        process.kill()
        process.communicate()


def own_libc() -> tuple[Path, Path]:
    """Return this machine's libc and dynamic loader."""
    text = subprocess.run(["ldd", shutil.which("true") or "/bin/true"], capture_output=True, text=True).stdout
    libc = re.search(r"libc\.so\.6 => (\S+)", text)
    loader = re.search(r"^\s*(/\S*ld[-\w.]*so\S*)", text, re.MULTILINE)
    if libc is None or loader is None:
        pytest.skip("this machine's programs do not use glibc")
    return Path(libc[1]), Path(loader[1])


def patched(path: Path, to: Path) -> str:
    """Copy an ELF file, with another build-id; return that."""
    data = bytearray(path.read_bytes())
    place = data.index(b"\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00") + 16
    data[place : place + 20] = bytes(byte ^ 0x55 for byte in data[place : place + 20])
    to.write_bytes(data)
    return data[place : place + 20].hex()


def displace(path: Path) -> None:
    """Let an ELF file say that its dynamic section lies a page further up than it does, as in another build."""
    data = bytearray(path.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    sections = range(table, table + size * count, size)
    (texts,) = struct.unpack_from("<Q", data, sections[names] + 24)
    changed = 0
    for section in sections:
        (name,) = struct.unpack_from("<I", data, section)
        if data[texts + name : texts + name + 9] == b".dynamic\0":
            (address,) = struct.unpack_from("<Q", data, section + 16)
            struct.pack_into("<Q", data, section + 16, address + 0x1000)
            changed += 1
    assert changed == 1
    path.write_bytes(data)


@pytest.mark.quick
def test_the_file_of_libc_was_replaced(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """As by an upgrade while the program runs: what is loaded has another build-id than the file, whose symbols lie."""
    libc, loader = own_libc()
    folder = tmp_path / "lib"
    folder.mkdir()
    shutil.copy(libc, folder / "libc.so.6")
    source = tmp_path / "wait.c"
    source.write_text(
        "#include <stdlib.h>\n#include <stdio.h>\n#include <unistd.h>\n"
        "int main(void) { char line[8]; void *kept[9]; for (int i = 0; i < 9; i++) kept[i] = malloc(300 * i);\n"
        "  for (int i = 0; i < 9; i += 2) free(kept[i]);\n"
        '  puts("ready"); fflush(stdout); return read(0, line, sizeof line) != 3; }\n'
    )
    program = tmp_path / "wait"
    subprocess.run([needs("gcc"), "-g", "-O0", "-o", str(program), str(source)], check=True)
    line = [str(loader), "--library-path", str(folder), str(program)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before, same_file = ask(gdb, tmp_path / "before", f"attach {process.pid}", also="detach")
        if "ptrace" in same_file.stderr:
            pytest.skip("attaching is not allowed here")
        assert before.keys() == set(READING), same_file.describe()
        (folder / "libc.so.6").unlink()
        other = patched(libc, folder / "libc.so.6")
        after, done = ask(gdb, tmp_path / "after", f"attach {process.pid}", also="heap params -how")
        same(before, after)
        assert other in done.stdout
        assert "another build" in done.stdout
        assert "not used" in done.stdout
    finally:
        process.kill()
        process.communicate()


@pytest.mark.quick
def test_recording_with_a_libc_of_another_build(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """Neither the names nor the unwinding information of that file are those of the code that runs."""
    libc, _ = own_libc()
    shutil.copy(libc, tmp_path / "libc.so.6")
    environment = {**plain_environment(), "LD_LIBRARY_PATH": str(tmp_path)}
    process = subprocess.Popen(
        [str(programs["late"])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )  # fmt: skip
    answers = Answers(tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (tmp_path / "libc.so.6").unlink()
        patched(libc, tmp_path / "libc.so.6")
        done = gdb(
            f"attach {process.pid}", "heap catch", "break stop_here", "set variable go = 1", "continue",
            f"heap events {answers.into('events')}", "heap events", "heap events -by arena", "heap why-grow", "detach",
            program=programs["late"],
        )  # fmt: skip
        if "ptrace" in done.stderr:
            pytest.skip("attaching is not allowed here")
        done.succeeded()
    finally:
        process.kill()
        process.communicate()
    assert done.stdout.count("So callers may be missing or wrong") == 5, "by each command that speaks of callers"
    events = answers.events("events")
    assert [event["syscall"] for event in events].count("mmap") == 1
    assert {event["kind"] for event in events} == {"other"}
    assert all(event["purpose"] == "no caller is known" for event in events)
    assert "not malloc's" not in done.stdout
    assert "it may be malloc's" in done.stdout
    assert "as far as callers are known" in done.stdout


@pytest.mark.quick
@pytest.mark.parametrize("loader", [False, True], ids=["none", "loader"])
def test_libraries_are_not_read(gdb: Gdb, programs: Programs, tmp_path: Path, loader: bool) -> None:
    """As where GDB is told not to, or gets no word of what the loader does: libc is mapped, and that is enough."""
    stop = ("break stop_here", "run")
    known, _ = ask(gdb, tmp_path / "known", *stop, program=programs["totals"])
    found, done = ask(
        gdb, tmp_path / "found", *stop, "nosharedlibrary", *(["sharedlibrary ld-"] if loader else []),
        program=programs["totals"], also="heap params -how",
    )  # fmt: skip
    assert found.keys() == set(READING), done.describe()
    same(known, found)
    assert "'sharedlibrary' has it read" in done.stdout


@pytest.mark.quick
def test_recording_with_libraries_of_another_build(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """Over gdbserver, GDB takes what is on its own machine: no name and no caller comes from there."""
    root = tmp_path / "root"
    for path in own_libc():
        to = root / str(path).lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        patched(path, to)
    answers = Answers(tmp_path)
    with server(str(programs["growth"])) as address:
        done = gdb(
            f"target remote {address}", "heap catch", "tbreak stop_here", "continue", "heap top",
            f"heap events {answers.into('events')}",
            program=programs["growth"], before=(f"set sysroot {root}",),
        ).succeeded()  # fmt: skip
    events = answers.events("events")
    assert {event["kind"] for event in events} == {"loader", "other"}
    assert not {frame["function"] for event in events if event["kind"] == "loader" for frame in event["frames"]} - {
        None
    }
    others = [event for event in events if event["kind"] == "other"]
    assert {event["purpose"] for event in others} == {"no caller is known"}
    assert len([event for event in others if event["syscall"] == "brk"]) > 10
    assert "main_arena" in done.stdout


@pytest.mark.quick
def test_debug_symbols_of_another_build(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """GDB is given them by hand, for the very libc that is loaded: its own answer would come from wrong addresses."""
    needs_symbols(gdb)
    stop = ("break stop_here", "run")
    known, _ = ask(gdb, tmp_path / "known", *stop, program=programs["totals"])
    done = gdb(
        *stop,
        "python print('file:', [o.filename for o in gdb.objfiles() if o.owner and 'libc.so' in o.owner.filename][0])",
        program=programs["totals"],
    )
    found = re.search("file: (.*)", done.stdout)
    assert found is not None
    other = patched(Path(found[1]), tmp_path / "libc.debug")
    answers, done = ask(
        gdb, tmp_path / "other", *stop, f"add-symbol-file {tmp_path}/libc.debug -o 0x1000", program=programs["totals"],
        before=WITHOUT, also="heap params -how",
    )  # fmt: skip
    same(known, answers)
    assert other not in answers["heap params"]


@SYMBOLS
@pytest.mark.quick
def test_an_explicit_loader(gdb: Gdb, programs: Programs, tmp_path: Path, before: tuple[str, ...]) -> None:
    """GDB is started with the loader, which loads the program: that file's symbols are given by hand or not at all."""
    _, loader = own_libc()
    known, _ = ask(gdb, tmp_path / "known", "break stop_here", "run", program=programs["usable"], before=before)
    answers = Answers(tmp_path)
    gdb(
        "set args " + str(programs["usable"]),
        "catch syscall exit_group",
        "run",
        *(f"{command} {answers.into(name_of(command))}" for command in READING),
        program=loader,
        before=before,
    ).succeeded()
    assert answers["heap"]["arenas"][0]["system_mem"] > 0
    assert answers["heap_params"]["params"][0] == known["heap params"]["params"][0]


@SYMBOLS
@pytest.mark.quick
def test_a_sysroot(gdb: Gdb, programs: Programs, tmp_path: Path, before: tuple[str, ...]) -> None:
    """As for a container: the libraries' files are in a folder that stands for the root."""
    libc, loader = own_libc()
    root = tmp_path / "root"
    for path in {libc, libc.resolve(), loader, loader.resolve()}:
        place = root / str(path).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    stop = ("break stop_here", "run")
    known, _ = ask(gdb, tmp_path / "known", *stop, program=programs["totals"], before=before)
    found, _ = ask(gdb, tmp_path / "found", *stop, program=programs["totals"], before=(*before, f"set sysroot {root}"))
    same(known, found)


@SYMBOLS
@pytest.mark.quick
def test_i386(gdb: Gdb, tmp_path: Path, before: tuple[str, ...]) -> None:
    """A 32-bit program: its alignment is 16 from 2.26 on, and its first chunk is 8 bytes into its memory."""
    source = tmp_path / "small.c"
    source.write_text(
        "#include <malloc.h>\n#include <stdio.h>\n#include <stdlib.h>\nvoid *kept[60];\n"
        "int main(void) {\n"
        "  setvbuf(stdout, 0, _IONBF, 0);\n"
        "  for (int i = 0; i < 60; i++) kept[i] = malloc(24 + 56 * i);\n"
        "  for (int i = 0; i < 60; i += 4) free(kept[i]);\n"
        "  kept[0] = malloc(400000);\n"
        "  struct mallinfo m = mallinfo();\n"
        '  printf("mallinfo %d %d %d %d\\n", m.arena, m.fordblks, m.keepcost, m.hblks);\n'
        "  abort();\n}\n"
    )
    program = tmp_path / "small"
    built = subprocess.run(
        [needs("gcc"), *FOR_32_BIT, "-w", "-g", "-O0", "-o", str(program), str(source)],
        capture_output=True,
        check=False,
    )
    if built.returncode:
        pytest.skip("gcc cannot build 32-bit programs here")
    found, done = ask(gdb, tmp_path / "found", "run", program=program, before=before)
    arena, free, keepcost, mmapped = map(
        int, re.findall(r"^mallinfo (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)[0]
    )
    assert found.keys() == set(READING), done.describe()
    main = found["heap"]["arenas"][0]
    states = main["states"]
    assert main["system_mem"] == arena
    assert states["top"]["bytes"] == keepcost
    assert sum(states[name]["bytes"] for name in ("fastbin", "unsorted", "small", "large", "top")) == free
    assert found["heap"]["mmapped"]["chunks"] == mmapped == 1
    # Of the 15 that were freed, those up to 1024 bytes are in the tcache.
    assert states["tcache"]["chunks"] == 5
    chunks = found["heap chunks -all"]["arenas"][0]["chunks"]
    assert all(chunk["address"] % 16 == 8 for chunk in chunks)
    params = {item["name"]: item["value"] for item in found["heap params"]["params"]}
    assert chunks[0]["address"] == params["sbrk_base"] + 8


@SYMBOLS
@pytest.mark.quick
def test_recording_i386(gdb: Gdb, tmp_path: Path, before: tuple[str, ...]) -> None:
    """A 32-bit program's growths are explained to the byte."""
    source = ROOT / "c_fixtures" / "growth.c"
    program = tmp_path / "growth"
    built = subprocess.run(
        [needs("gcc"), *FOR_32_BIT, "-w", "-g", "-O0", "-pthread", "-o", str(program), str(source)],
        capture_output=True, check=False,
    )  # fmt: skip
    if built.returncode:
        pytest.skip("gcc cannot build 32-bit programs here")
    answers = Answers(tmp_path)
    gdb("heap catch", "run", f"heap events {answers.into('events')}", program=program, before=before).succeeded()
    made = [event for event in answers.events("events") if event["kind"] == "malloc"]
    grown = [event for event in made if event["syscall"] == "brk" and event["delta"] > 0]
    assert len(grown) > 10
    assert all(event["exact"] is True for event in grown)
    assert {event["chunk_size"] for event in grown} >= {0x186B0}  # malloc(100000)
    assert all(event["exact"] is not False for event in made)
    mapped = [event for event in made if event["syscall"] == "mmap"]
    assert [event["args"][1] for event in mapped] == [0x101000] * 3
    assert all(0 < event["result"] < 1 << 32 for event in mapped)


@SYMBOLS
@pytest.mark.quick
def test_aarch64_under_qemu(gdb: Gdb, tmp_path: Path, before: tuple[str, ...]) -> None:
    """The model of a 64-bit ARM program, through qemu's own GDB server; what that does not tell is unknown."""
    root = Path("/usr/aarch64-linux-gnu")
    compiler, qemu, debugger = needs("aarch64-linux-gnu-gcc"), needs("qemu-aarch64"), needs("gdb-multiarch")
    source = tmp_path / "arm.c"
    source.write_text(CRASHING)
    program = tmp_path / "arm"
    subprocess.run([compiler, "-g", "-O0", "-no-pie", "-o", str(program), str(source)], check=True)
    with served([qemu, "-L", str(root), "-g", "{port}", str(program)]) as address:
        answers = Answers(tmp_path)
        done = Gdb(debugger)(
            f"target remote {address}",
            "continue",
            *(f"{command} {answers.into(name_of(command))}" for command in READING),
            answers.python("kept", {"kept": "[int(value('kept')[i]) for i in range(1, 60) if i % 4]"}),
            "heap catch",
            "heap why-grow",
            "kill",
            program=program,
            before=(*before, f"set sysroot {root}"),
        )
        done.has_no_internal_error()
        assert "heap catch cannot read system calls on aarch64" in done.stderr
        main = answers["heap"]["arenas"][0]
        assert main["states"]["top"]["chunks"] == 1
        used = {
            chunk["pointer"] for chunk in answers["heap_chunks_all"]["arenas"][0]["chunks"] if chunk["state"] == "used"
        }
        assert set(answers["kept"]["kept"]) <= used
        assert sum(state["bytes"] for state in main["states"].values()) == main["system_mem"]
        tcache = main["states"]["tcache"]["chunks"]
        assert tcache >= 5 or "The tcache of thread 1 cannot be found" in " ".join(answers["heap"]["problems"])
