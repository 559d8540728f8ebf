"""What `heap check` foretells of a damaged heap, and what the calls then do: each in a copy of the process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import ROOT

SCRIPT = ROOT / "tests" / "support" / "foretold_calls.py"


class Case(NamedTuple):
    """One foretold call: the ``calls`` that were made, the message that was ``foretold``, and how it ``ended``."""

    calls: str
    foretold: str
    ended: str

    @property
    def came(self) -> bool:
        """Whether it ended as it was foretold."""
        if self.foretold == "SIGSEGV":
            return self.ended in ("signal 11", "signal 7")
        function = self.foretold.removeprefix("assertion in ")
        if function != self.foretold:
            return "ssert" in self.ended and function in self.ended
        return self.ended == f"message {self.foretold}"


def run(
    gdb: Gdb, answers: Answers, caller: Path, program: Path, args: Sequence[str], stops: int = 1,
    damage: Sequence[str] = (),
) -> tuple[list[Case], Result]:  # fmt: skip
    """Stop a program at stop_here for the ``stops``-th time, check its heap, and make each call that is foretold.

    ``damage`` are GDB commands before the check.
    """
    folder = answers.folder
    calls, ends, cases = (folder / name for name in ("calls", "ends", "cases"))
    names = {"CHECK": answers.path("check"), "PREDICT": answers.path("predict"), "CALLS": calls, "CASES": cases}
    given = {name: str(path) for name, path in names.items()}
    result = gdb(
        f"set environment LD_PRELOAD {caller}",
        f"set environment CALLS {calls}",
        f"set environment ENDS {ends}",
        "break stop_here",
        "run",
        *["continue"] * (stops - 1),
        *damage,
        f"heap check {answers.into('check')}",
        f"heap predict malloc 1 {answers.into('predict')}",
        f"python exec(open({str(SCRIPT)!r}).read(), {given!r})",
        "jump make_calls",
        program=program,
        args=args,
    )
    if not cases.exists():
        return [], result
    foretold = json.loads(cases.read_text())
    ended = ends.read_text().splitlines() if ends.exists() else []
    ended += ["nothing was made"] * (len(foretold) - len(ended))
    return [Case(line, message, end) for (line, message), end in zip(foretold, ended)], result
