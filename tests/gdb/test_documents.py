"""Promise: what the documents show is what the program prints, and they name all that there is to name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gdbheap.growth.event import KINDS
from gdbheap.growth.gap import GapKind
from gdbheap.simulate.paths import PATHS
from scripts import documents
from tests.support.environment import ROOT, glibc_version, needs

DOCUMENTS = documents.documents()


def rows(heading: str) -> dict[str, str]:
    """Return the table below a heading of docs/json.md: what the first column holds in backticks, and the second."""
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    return dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", section, re.MULTILINE))


@pytest.mark.skipif(
    glibc_version() != (2, 36), reason="the documents show the addresses and sizes of Debian 12, with glibc 2.36"
)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_outputs_are_what_the_program_prints(document: Path) -> None:
    for tool in ("gdb", "make", "gcc", "g++"):
        needs(tool)
    documents.build()
    differences = [documents.difference(block, documents.fresh(block)) for block in documents.blocks(document)]
    assert not any(differences), "\n".join(filter(None, differences)) + "\nto rewrite: scripts/documents.py"


def test_there_is_something_to_check() -> None:
    marks = {document.name: len(list(documents.blocks(document))) for document in DOCUMENTS}
    assert marks["README.md"] >= 2
    assert marks["explanations.md"] >= 8
    for document in DOCUMENTS:  # each mark was understood
        assert document.read_text(encoding="utf-8").count("<!-- output of:") == marks[document.name]


def block(text: str, head: str = "", *choices: str, command: str = "printf 'one\\ntwo\\nthree\\nprocess 7\\n'") -> str:
    """Return how a block with this text differs from what its command prints."""
    made = documents.Block(ROOT / "README.md", 1, command, head, choices, text, 0, 0)
    return documents.difference(made, documents.fresh(made))


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("one\ntwo\nthree\nprocess 7\n", ()),
        ("one\ntwo\nthree\nprocess 8\n", ()),
        ("...\ntwo\n...\n", ("tw",)),
        ("one\n...\nthree\nprocess 1\n", ("^one", "^th to END")),
        ("...\ntwo\nthree\n...\n", ("two to three",)),
    ],
)
def test_a_true_block_passes(text: str, choices: tuple[str, ...]) -> None:
    assert not block(text, "", *choices)


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("one\ntwo\nthree\n", ()),
        ("one\nTWO\nthree\nprocess 7\n", ()),
        ("two\n", ("tw",)),
        ("...\nthree\n...\n", ("tw",)),
        ("one\n...\ntwo\nthree\nprocess 7\n", ()),
    ],
)
def test_an_untrue_block_is_found(text: str, choices: tuple[str, ...]) -> None:
    assert block(text, "", *choices)


def test_a_choice_that_chooses_nothing_is_an_error() -> None:
    with pytest.raises(documents.DocumentError, match="no line matches"):
        block("", "", "four")


def test_a_prompt_must_be_one_of_the_commands() -> None:
    assert not block("(gdb) a b\n", "(gdb) a b", command="true -ex 'a b' -ex c")
    with pytest.raises(documents.DocumentError, match="none of the command's own"):
        block("(gdb) a b\n", "(gdb) a c", command="true -ex 'a b' -ex c")


def test_the_same_address_twice_must_be_the_same_twice() -> None:
    one, other = "0x7ffff7fa8c60", "0x7ffff7fa8340"
    assert documents.comparable(f"{one} {other} {one}") == documents.comparable(f"{other} {one} {other}")
    assert documents.comparable(f"{one} {other} {one}") != documents.comparable(f"{one} {other} {other}")


def test_every_path_is_described_as_the_code_does() -> None:
    assert rows("path") == dict(PATHS)


def test_every_kind_is_described() -> None:
    assert list(rows("kind")) == list(KINDS)


def test_every_reason_of_a_gap_is_described() -> None:
    assert list(rows("gap")) == [kind.value for kind in GapKind]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        found = (document.parent / path) if path else document
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_no_path_of_the_machine_that_wrote_them(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert not re.search(r"(?<![\w.])/(home|work|root|tmp|Users)/", text)
