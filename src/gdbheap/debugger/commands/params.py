"""heap params: glibc's settings and counters."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, HeapCommand
from gdbheap.debugger.options import Parsed


class HeapParams(HeapCommand):
    """Show mp_."""

    word = "params"
    summary = "Show malloc's settings and counters (mp_): each value, whether it is the default, and what sets it."
    options = (JSON,)
    examples = ("heap params",)

    def run(self, parsed: Parsed) -> None:
        """Show each field of mp_."""
        from gdbheap.debugger import session
        from gdbheap.debugger.output import style, write_json, write_lines
        from gdbheap.ptmalloc.params import describe, read_params
        from gdbheap.render.json_state import params_object
        from gdbheap.render.state import params_lines

        target = session.target()
        params = read_params(target.memory, target.abi, target.layout, target.mp)
        facts = describe(params, target.abi, target.layout)
        path = parsed.text("json")
        if path is not None:
            write_json("heap params", params_object(params, facts), path)
            if not path:
                return
        write_lines(params_lines(params, facts, style()))
