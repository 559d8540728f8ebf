"""Command lines as GDB writes them."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st


def _load() -> ModuleType:
    """Load options.py by its path: its package, gdbheap.debugger, imports gdb, which only GDB's own Python has."""
    path = Path(__file__).resolve().parents[2] / "src" / "gdbheap" / "debugger" / "options.py"
    spec = importlib.util.spec_from_file_location("gdbheap_debugger_options", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from gdbheap.debugger.options import Option, UsageError, complete, parse
else:
    _options = _load()
    Option, UsageError, complete, parse = _options.Option, _options.UsageError, _options.complete, _options.parse

OPTIONS = (
    Option("arena", "N", "One arena."),
    Option("all", "", "Everything."),
    Option("state", "STATE", "In this state.", choices=("used", "tcache", "top")),
    Option("min-size", "BYTES", "At least."),
    Option("max-size", "BYTES", "At most."),
    Option("json", "FILE", "JSON.", optional=True),
    Option("a", "", "A name that begins others."),
)


def values(line: str) -> dict[str, str]:
    return dict(parse(line.split(), OPTIONS).values)


def words(line: str) -> list[str]:
    return list(parse(line.split(), OPTIONS).words)


@pytest.mark.parametrize(
    ("line", "expected_values", "expected_words"),
    [
        ("", {}, []),
        ("-all", {"all": ""}, []),
        ("--all", {"all": ""}, []),
        ("-al 5", {"all": ""}, ["5"]),
        ("-arena 2 p", {"arena": "2"}, ["p"]),
        ("p -arena 2 q", {"arena": "2"}, ["p", "q"]),
        ("-s used -mi 0x20 -ma 64", {"state": "used", "min-size": "0x20", "max-size": "64"}, []),
        ("-a", {"a": ""}, []),  # a whole name is no prefix
        ("-arena -1", {"arena": "-1"}, []),
        ("-arena 1 -arena 2", {"arena": "2"}, []),
        ("-all -- -arena 2", {"all": ""}, ["-arena", "2"]),
        ("-- --", {}, ["--"]),
        ("-", {}, ["-"]),
        ("-5 --7", {}, ["-5", "--7"]),
    ],
)
def test_lines(line: str, expected_values: dict[str, str], expected_words: list[str]) -> None:
    assert values(line) == expected_values
    assert words(line) == expected_words


@pytest.mark.parametrize(
    ("line", "expected_values", "expected_words"),
    [
        ("-json", {"json": ""}, []),
        ("-json out.json", {"json": "out.json"}, []),
        ("-json out.json 7", {"json": "out.json"}, ["7"]),
        ("-json 7", {"json": ""}, ["7"]),
        ("-json -7", {"json": ""}, ["-7"]),
        ("-json ./7", {"json": "./7"}, []),
        ("-json -all", {"json": "", "all": ""}, []),
        ("-json -- out.json", {"json": ""}, ["out.json"]),
    ],
)
def test_a_value_that_may_be_left_out(line: str, expected_values: dict[str, str], expected_words: list[str]) -> None:
    assert values(line) == expected_values
    assert words(line) == expected_words


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("-m 5", ("-m ", "-min-size", "-max-size")),
        ("-bins", ("-bins", "-arena", "-json")),
        ("-allx", ("-allx",)),
        ("-arena", ("-arena", "N")),
        ("-all -min-size", ("-min-size", "BYTES")),
        ("-state free", ("-state", "used", "tcache", "top", "free")),
    ],
)
def test_what_cannot_be_understood(line: str, facts: Sequence[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line.split(), OPTIONS)
    assert all(fact in str(caught.value) for fact in facts)


def test_a_command_without_options() -> None:
    with pytest.raises(UsageError, match="-all"):
        parse(["-all"], ())
    assert parse(["--", "-all"], ()).words == ["-all"]


def test_asking_for_what_was_given() -> None:
    parsed = parse(["-json", "-arena", "2"], OPTIONS)
    assert (parsed.given("json"), parsed.text("json")) == (True, "")
    assert (parsed.given("arena"), parsed.text("arena")) == (True, "2")
    assert (parsed.given("all"), parsed.text("all")) == (False, None)


def test_usage_tells_values_apart() -> None:
    usages = {option.name: option.usage for option in OPTIONS}
    assert (usages["all"], usages["arena"], usages["json"]) == ("-all", "-arena N", "-json [FILE]")


argument = st.text("-ab7 jmsx\u0663", max_size=6) | st.sampled_from([option.usage for option in OPTIONS])


@given(st.lists(argument, max_size=6))
def test_any_line_is_understood_or_refused(arguments: list[str]) -> None:
    before = list(arguments)
    with contextlib.suppress(UsageError):
        parsed = parse(arguments, OPTIONS)
        assert set(parsed.values) <= {option.name for option in OPTIONS}
        assert len(parsed.words) + len(parsed.values) <= len(arguments)
    assert arguments == before


@given(st.lists(argument, max_size=6))
def test_nothing_behind_two_dashes_is_an_option(arguments: list[str]) -> None:
    parsed = parse(["-all", "--", *arguments], OPTIONS)
    assert parsed.words == arguments
    assert set(parsed.values) == {"all"}


@pytest.mark.parametrize(
    ("text", "word", "offered"),
    [
        ("-", "", [option.name for option in OPTIONS]),
        ("-ar", "ar", ["arena"]),
        ("-all -m", "m", ["min-size", "max-size"]),
        ("-x", "x", []),
        ("-state ", "", ["used", "tcache", "top"]),
        ("-state t", "t", ["tcache", "top"]),
        ("-s t", "t", ["tcache", "top"]),
        ("-state x", "x", []),
        ("-arena ", "", []),
        ("-m t", "t", []),
        ("-nothing t", "t", []),
        ("", "", []),
        ("p", "p", []),
        ("-state used t", "t", []),
    ],
)
def test_completion(text: str, word: str, offered: list[str]) -> None:
    assert complete(text, word, OPTIONS) == offered


@pytest.mark.parametrize(("text", "word", "offered"), [("-min-", "", ["size"]), ("-max-si", "si", ["size"])])
def test_completion_behind_a_dash_inside_a_name(text: str, word: str, offered: list[str]) -> None:
    assert complete(text, word, OPTIONS) == offered


def test_no_option_is_offered_inside_an_expression() -> None:
    assert complete("-arena p-", "", OPTIONS) == []
