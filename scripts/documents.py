"""Keep the outputs that the documents show true:  .venv/bin/python scripts/documents.py [--check] [FILE...]

Runs the command of each marked block in README.md and docs/*.md again and rewrites what differs; with --check it only
says what differs, and ends with status 1 where anything does. A block is marked by a comment right above it:

    <!-- output of: sh scripts/demo.sh
         as: $
         show: ^event
         show: ^the sum to exact -->

`as:` is what stands before the output: `$` is the command itself, `(gdb) COMMAND` one of its -ex commands. Each `show:`
chooses, one after another, the next line that matches a regular expression, or the lines from one match `to` another
(`to END`: all that follow). What is left out between them is shown as a line `...`. Without any, all is shown.

Commands run from the root of the checkout with a small environment, standard output and error a pipe. What varies
from one run or machine to another is not compared: see VARYING.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 240  # seconds
LEFT_OUT = "..."
ENVIRONMENT = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "HOME": os.environ.get("HOME", "/"),
    "LC_ALL": "C.UTF-8",
    "TERM": "dumb",
}

#: What is different in each run, with what stands for it in a comparison. A name that ends in # is counted, so that
#: two addresses that are the same in one output must be the same in the other.
VARYING: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"\b(process|LWP) \d+\b"), "process ID"),
    (re.compile(r'(?<="process": )\d+|(?<="tid": )\d+'), "ID"),
    # Libraries, mappings and stacks; in JSON they are decimal.
    (re.compile(r"\b0x7f[0-9a-f]{10}\b|\b140[67]\d{11}\b"), "ADDRESS#"),
    # The same among bytes: which page libc is mapped to follows from how long /etc/ld.so.cache is.
    (re.compile(r"(?:[0-9a-f]{2} ){3}f7 ff 7f 00 00.*$", re.MULTILINE), "BYTES OF AN ADDRESS"),
    # What the loader got and gave back: that cache as well.
    (re.compile(r"^((?:the loader, before the program|loader|all) +\d+) .*$", re.MULTILINE), r"\1 SIZES"),
    # tcache_key, which a process makes anew each time.
    (re.compile(r"\b0x[0-9a-f]{12,16}(?=, the mark of chunks in a tcache)"), "KEY"),
    # How deep in libc a thread waits depends on how far it has come.
    (re.compile(r"(?<=thread 2, frame )#\d+(?=,? hold\b)"), "FRAME"),
    # When something happened, as 'heap timeline' shows it.
    (re.compile(r"\b\d\.\d{3} s\b|\b\d+\.\d\d s(?= under GDB)"), "TIME"),
    (re.compile(r"(?<=^) +\d+ +\d+\.\d{3}(?= )", re.MULTILINE), "NUMBER AND TIME"),
    (re.compile(r'(?<="time": )\d[\d.e-]*'), "TIME"),
    # Code of a program without symbols, and the sizes of libraries: they differ from one build to the next.
    (re.compile(r"\b0x5{6}[0-9a-f]{6}(?= in \w)"), "CODE#"),
    (re.compile(r"([+-]|replaces )0x[0-9a-f]+(?: \([^)]*\))?(?=\)?\s+(?:loader|locale|other): )"), "SIZE"),
)

_MARK = re.compile(r"^<!-- output of: (.*?)\s*-->\n```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r"^\s*(as|show): (.*)$")


class DocumentError(Exception):
    """A block that cannot be made: the message says which and why."""


@dataclass(frozen=True)
class Block:
    """One marked block of a document: its comment taken apart, its text, and where the text is in the document."""

    document: Path
    line: int
    command: str
    head: str
    choices: tuple[str, ...]
    text: str
    start: int
    end: int

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """Yield the marked blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    for found in _MARK.finditer(text):
        command, *settings = found.group(1).split("\n")
        line = text.count("\n", 0, found.start()) + 1
        head, choices = "", []
        for setting in settings:
            read = _SETTING.match(setting)
            if read is None:
                raise DocumentError(f"{document.name}:{line}: the comment has a line that is no setting: {setting}")
            if read.group(1) == "as":
                head = read.group(2)
            else:
                choices.append(read.group(2))
        yield Block(document, line, command, head, tuple(choices), found.group(3), found.start(3), found.end(3))


@cache
def output(command: str) -> tuple[str, ...]:
    """Return the lines that a command prints, this checkout's own path left out; it must end with status 0 or 1."""
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )
    text = done.stdout.decode("utf-8", "replace").replace(str(ROOT), "/path/to/gdbheap")
    if done.returncode not in (0, 1):
        raise DocumentError(f"status {done.returncode} of {command}\n{text}")
    lines = [line.rstrip() for line in text.splitlines()]
    return tuple(line for line in lines if not line.startswith("set-up: "))


def _find(lines: Sequence[str], pattern: str, start: int, what: str) -> int:
    for index in range(start, len(lines)):
        if re.search(pattern, lines[index]):
            return index
    shown = "\n".join(f"  {line[:160]}" for line in lines[start : start + 40])
    raise DocumentError(f"{what}: no line matches {pattern!r} in what is left of the output:\n{shown}")


def chosen(lines: Sequence[str], choices: Sequence[str], what: str) -> list[str]:
    """Return the lines that are chosen, with LEFT_OUT where some are passed over."""
    if not choices:
        return list(lines)
    shown: list[str] = []
    position = 0
    for choice in choices:
        first, _, last = choice.partition(" to ")
        start = _find(lines, first, position, what)
        end = start
        if last == "END":
            end = len(lines) - 1
        elif last:
            end = _find(lines, last, start, what)
        if start > position:
            shown.append(LEFT_OUT)
        shown += lines[start : end + 1]
        position = end + 1
    if position < len(lines):
        shown.append(LEFT_OUT)
    return shown


def fresh(block: Block) -> str:
    """Return what the block should hold."""
    lines = chosen(output(block.command), block.choices, block.place)
    if block.head == "$":
        lines.insert(0, f"$ {block.command}")
    elif block.head:
        typed = block.head.partition(" ")[2]
        if f"-ex '{typed}'" not in block.command and f"-ex {typed} " not in f"{block.command} ":
            raise DocumentError(f"{block.place}: '{typed}' is none of the command's own -ex commands")
        lines.insert(0, block.head)
    return "".join(f"{line}\n" for line in lines)


def comparable(text: str) -> str:
    """Return a text with all that varies replaced."""
    for pattern, name in VARYING:
        if not name.endswith("#"):
            text = pattern.sub(name, text)
            continue
        seen: dict[str, str] = {}
        for found in pattern.findall(text):
            seen.setdefault(found, f"{name}{len(seen) + 1}")
        text = pattern.sub(lambda found, seen=seen: seen[found.group()], text)  # type: ignore[misc]
    return text


def difference(block: Block, wanted: str) -> str:
    """Return how a block differs from what it should hold, as a diff; empty where it does not matter or not differ."""
    before, after = comparable(block.text), comparable(wanted)
    if before == after:
        return ""
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), "document", "output", lineterm="", n=1)
    return f"{block.place}: {block.command}\n" + "\n".join(diff)


def documents() -> list[Path]:
    """Return the documents that can hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def build() -> None:
    """Build the fixtures that commands name."""
    subprocess.run(["make", "-s", "-C", str(ROOT / "c_fixtures")], check=True, stdin=subprocess.DEVNULL)


def rewrite(document: Path) -> list[str]:
    """Bring a document up to date; return the differences that it had."""
    text = document.read_text(encoding="utf-8")
    found = []
    for block in reversed(list(blocks(document))):
        wanted = fresh(block)
        differs = difference(block, wanted)
        if differs:
            found.append(differs)
            text = text[: block.start] + wanted + text[block.end :]
    if found:
        document.write_text(text, encoding="utf-8")
    return found[::-1]


def main() -> int:
    """Check or rewrite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="instead of all documents")
    options = parser.parse_args()
    build()
    found: list[str] = []
    try:
        for document in [path.resolve() for path in options.files] or documents():
            if options.check:
                found += filter(None, (difference(block, fresh(block)) for block in blocks(document)))
            else:
                found += rewrite(document)
    except DocumentError as error:
        print(f"documents: {error}", file=sys.stderr)
        return 2
    for differs in found:
        print(differs)
    print(f"documents: {len(found)} blocks " + ("differ" if options.check else "rewritten"), file=sys.stderr)
    return 1 if options.check and found else 0


if __name__ == "__main__":
    sys.exit(main())
