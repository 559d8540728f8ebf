"""The pure core under a fuzzer that is led by coverage (atheris), where that is installed; hypothesis does the rest.

Memory images are mutated byte by byte. Nothing but the documented errors may come out, and the work stays bounded.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.account import FreeFacts, read_account
from gdbheap.ptmalloc.check import CheckFacts, check_heap
from gdbheap.ptmalloc.finding import MOST
from gdbheap.ptmalloc.layout import LayoutUnknown
from gdbheap.ptmalloc.state import read_heap_state
from tests.support.environment import ROOT
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image
from tests.unit.test_check import KEY, Case
from tests.unit.test_ptmalloc_properties import Counting

CASES = [Case(version, bits) for version, bits in sorted(LAYOUTS)]


def mutate(case: Case, data: bytes) -> Counting:
    """Return the memory of a case, words overwritten as ``data`` says: four bytes of place, eight of value, each."""
    image = case.image
    word = image.abi.word_size
    size, state, par = case.end - MAIN_BASE, case.layout.state.size, case.layout.par.size
    before = [(start, bytearray(segment)) for start, segment in image._segments]
    try:
        for start in range(0, len(data) - 11, 12):
            place, value = struct.unpack_from("<IQ", data, start)
            place %= size + state + par - 3 * word
            if place < size:
                address = MAIN_BASE + place
            elif place < size + state - word:
                address = Image.MAIN_ARENA + place - size
            else:
                address = Image.MP + (place - size - state + word) % (par - word)
            address -= address % word
            if data[start] & 1:  # near the heap, where wrong pointers do most harm
                value = MAIN_BASE + value % (2 * size)
            image.word(address, value)
        return Counting(image.memory)
    finally:
        image._segments[:] = before


def one(data: bytes) -> None:
    """Read, check and add up one mutated image."""
    if len(data) < 13:
        return
    case = CASES[data[0] % len(CASES)]
    memory = mutate(case, data[1:])
    try:
        state = read_heap_state(memory, case.image.abi, case.layout, Image.MAIN_ARENA, Image.MP)
        facts = CheckFacts(case.image.safe_linking, {case.tcache: "the tcache"}, KEY, curbrk=case.end)
        checked = check_heap(memory, state, facts)
        assert len(checked.findings) <= MOST
        read_account(memory, state, FreeFacts((), case.image.safe_linking))
    except (MemoryFault, LayoutUnknown):
        pass  # what is documented
    assert memory.size < 256 << 20, "a bound of work"
    assert memory.reads < 1_000_000


def test_the_fuzzer_s_own_step() -> None:
    """A few inputs by hand: none, a harmless one, many."""
    for data in (b"", bytes(13), bytes(range(1, 200)), b"\xff" * 400, bytes(200)):
        one(data)


#: Run by a Python of its own, as only what is imported in it is measured: the core, not the tests' own tools.
FUZZER = """
import sys
import atheris
with atheris.instrument_imports(include=["gdbheap"]):
    from tests.unit.test_check_fuzz import one
atheris.Setup([sys.argv[0], *sys.argv[1:]], one)
atheris.Fuzz()
"""


@pytest.mark.slow
def test_atheris(tmp_path: Path) -> None:
    """Half a million inputs that coverage leads to, or what two minutes take of them."""
    pytest.importorskip("atheris")
    done = subprocess.run(
        [sys.executable, "-c", FUZZER, "-runs=500000", "-max_total_time=120", "-max_len=400", f"{tmp_path}/"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    count = re.search(r"Done (\d+) runs", done.stderr)
    assert count is not None, done.stderr[-3000:]
    print(f"{count[1]} inputs")
    assert int(count[1]) > 1000
