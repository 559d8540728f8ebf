"""heap what-if: a program's allocations under other settings of malloc."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, evaluate
from gdbheap.debugger.options import Parsed, UsageError

#: As gdbheap.simulate.whatif has them, which is not imported before it is needed.
_SETTINGS = ("top_pad", "mmap_threshold", "trim_threshold", "tcache_count", "tcache_max", "mxfast", "arena_max")
_UNITS = {"K": 10, "M": 20, "G": 30}

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from gdbheap.simulate.sequence import Entry


class HeapWhatIf(HeapCommand):
    """Compare settings."""

    word = "what-if"
    group = "explain"
    summary = "Say what a program's allocations would need under other settings of malloc, side by side."
    details = (
        "FILE lists operations, one a line (docs/operations.md); 'gdbheap trace -allocations FILE PROGRAM' writes it\n"
        "from a real program. They are run on the simulated malloc of this process's glibc from an empty heap: once\n"
        "with the process's settings, and once with each SETTINGS: NAME=VALUE, several joined with commas.\n"
        "The names are those of GLIBC_TUNABLES behind glibc.malloc: top_pad, mmap_threshold, trim_threshold,\n"
        "tcache_count, tcache_max, mxfast, arena_max. Values may end in K, M or G."
    )
    operands = "FILE [SETTINGS...]"
    options = (JSON,)
    examples = ("heap what-if run.ops top_pad=1M", "heap what-if run.ops mmap_threshold=64K top_pad=0,tcache_count=0")

    def completions(self, text: str, word: str) -> list[str]:
        """Return the options, or the names of settings behind the file."""
        if len(text.split()) - (not text[-1:].isspace()) < 1 or text.split()[-1].startswith("-"):
            return super().completions(text, word)
        return [f"{name}=" for name in _SETTINGS if name.startswith(word)]

    def answer(self, parsed: Parsed) -> Answer:
        """Return the comparison."""
        import gdb

        from gdbheap.debugger import session
        from gdbheap.debugger.allocating import read_machine
        from gdbheap.debugger.errors import TargetError
        from gdbheap.render.whatif import outcome_object, whatif_lines
        from gdbheap.simulate.calls import Unpredictable
        from gdbheap.simulate.whatif import empty_machine, run_sequence

        if not parsed.words:
            raise UsageError("Name the file with the operations: heap what-if FILE [SETTINGS...].")
        alternatives = [{}, *map(_settings, parsed.words[1:])]
        entries = _read(parsed.words[0])
        session.target()  # refuses where there is no process, or no glibc in it
        thread = gdb.selected_thread()
        if thread is None:
            raise TargetError("There is no process whose glibc could be simulated: use 'start' first.")
        start = empty_machine(read_machine(thread))
        try:
            outcomes = [run_sequence(start, entries, settings) for settings in alternatives]
        except Unpredictable as refusal:
            raise UsageError(refusal.reason) from None
        return Answer(
            lambda: {"operations": len(entries), "outcomes": [outcome_object(item) for item in outcomes]},
            lambda style: whatif_lines(outcomes, len(entries), style),
        )


def _settings(word: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in word.split(","):
        name, equals, text = part.partition("=")
        name = name.removeprefix("glibc.malloc.")
        if name not in _SETTINGS or not equals or not text:
            raise UsageError(f"'{part}' is no setting: write NAME=VALUE, where NAME is {', '.join(_SETTINGS)}.")
        unit = _UNITS.get(text[-1].upper(), 0)
        value = evaluate(text[:-1] if unit else text, name) << unit
        if value < 0:
            raise UsageError(f"{name} is not negative, but {value} was given.")
        found[name] = value
    return found


def _read(path: str) -> list[Entry]:
    import os

    import gdb

    from gdbheap.simulate.sequence import SequenceError, parse_sequence

    path = os.path.expanduser(path)
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            entries = parse_sequence(file)
    except OSError as error:
        raise gdb.GdbError(f"{path} cannot be read: {error.strerror}.") from None
    except SequenceError as error:
        raise gdb.GdbError(f"{path}: {error}") from None
    if not entries:
        raise gdb.GdbError(f"{path} lists no operation.")
    return entries
