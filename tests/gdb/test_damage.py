"""Promise: damage to a live heap is found, or glibc itself gets along with it; a sound heap gives no finding."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.live import LibcFacts, LiveHeap, Patched, Word, libc_facts
from tests.support.programs import Programs

WORD = 1 << 64


@pytest.fixture(scope="module")
def facts(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> LibcFacts:
    """Return the facts about this machine's glibc; skip where the tcache is not in the first chunk."""
    found = libc_facts(gdb, Answers(tmp_path_factory.mktemp("facts")), programs["churn"])
    if found.layout.tcache_counts_down or found.version is None or found.version < (2, 34):
        pytest.skip("the fixture needs a glibc from 2.34 to 2.41")
    return found


def changed(word: Word, words: list[Word], chance: random.Random) -> int:
    """Return another value for a word: what stray writes leave there."""
    kinds = ("bit", "low bit", "zero", "small", "byte", "letters", "pointer", "random", "other")
    value = word.value
    kind = chance.choice(kinds)
    if kind == "bit":
        value ^= 1 << chance.randrange(64)
    elif kind == "low bit":
        value ^= 1 << chance.randrange(6)
    elif kind == "zero":
        value = 0
    elif kind == "small":
        value += chance.choice((-1, 1)) * chance.choice((8, 16, 32, 0x100, 0x1000))
    elif kind == "byte":
        value &= ~0xFF
    elif kind == "letters":
        length = chance.randrange(1, 9)
        value = int.from_bytes(b"A" * length + value.to_bytes(8, "little")[length:], "little")
    elif kind == "pointer":
        value = chance.choice(words).address & ~7
    elif kind == "random":
        value = chance.getrandbits(64)
    else:
        value = chance.choice(words).value
    return value % WORD


def damages(heap: LiveHeap, chance: random.Random, count: int) -> Iterator[tuple[Word, int]]:
    """Yield words with another value each; each kind of word as often as any other."""
    words = list(heap.words())
    by_name: dict[str, list[Word]] = {}
    for word in words:
        by_name.setdefault(word.name, []).append(word)
    while count:
        word = chance.choice(by_name[chance.choice(sorted(by_name))])
        value = changed(word, words, chance)
        if value != word.value:
            count -= 1
            yield word, value


def run(program: Path, facts: LibcFacts, folder: Path, seed: int, threads: int, count: int) -> Counter[str]:
    """Damage one heap ``count`` times; return how often what happened."""
    chance = random.Random(seed)
    heap = LiveHeap(program, facts, folder, seed, threads)
    tally: Counter[str] = Counter()
    try:
        sound = heap.check(heap.memory)
        assert sound.findings == (), f"seed {seed}: a sound heap: {sound.findings[0]}"
        assert sound.chunks > 100
        for word, value in damages(heap, chance, count):
            memory = Patched(heap.memory, word.address, value.to_bytes(8, "little"))
            checked = heap.check(memory)
            ended = heap.hit(word.address, value)
            case = (
                f"seed {seed}, {threads} threads: {word.name} at {word.address:#x} from {word.value:#x} to {value:#x}: "
                f"glibc: {ended}"
            )
            assert checked.findings or ended == "fine", f"{case}, and nothing was found"
            if not checked.findings:
                tally["harmless"] += 1
                continue
            tally["found"] += 1
            if not ended.startswith("message "):
                continue
            tally["messages"] += 1
            message = ended[len("message ") :]
            if "assert" in message and "sysmalloc" in message:
                message = "assertion in sysmalloc"
            foretold = {catch.message for _, catches in heap.catches(memory, checked) for catch in catches}
            tally["foretold" if message in foretold else f"not foretold: {word.name}: {message}"] += 1
    finally:
        heap.close()
    return tally


@pytest.mark.parametrize("threads", [1, 3])
def test_damage_is_found_or_harmless(facts: LibcFacts, programs: Programs, tmp_path: Path, threads: int) -> None:
    """A few hundred single words; the seed is in the message of a failure."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    tally = run(programs["damage"], facts, tmp_path, seed, threads, 150)
    assert tally["found"] > 50, tally
    assert tally["messages"] > 10, tally


@pytest.mark.slow
def test_much_damage(facts: LibcFacts, programs: Programs, tmp_path: Path) -> None:
    """Thousands of them, on many heaps."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    tally: Counter[str] = Counter()
    for number in range(20):
        tally += run(programs["damage"], facts, tmp_path, seed + number, 1 + number % 4, 200)
    print(tally)
    assert tally["found"] > 1500, tally
