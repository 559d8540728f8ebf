"""heap params: glibc's settings and counters."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand
from gdbheap.debugger.options import Option, Parsed


class HeapParams(HeapCommand):
    """Show mp_."""

    word = "params"
    summary = "Show malloc's settings and counters (mp_): each value, whether it is the default, and what sets it."
    options = (
        Option("how", "", "Also how each of glibc's variables was found, as main_arena and every thread's tcache."),
        JSON,
    )
    examples = ("heap params", "heap params -how")

    def answer(self, parsed: Parsed) -> Answer:
        """Return each field of mp_, and where asked for how things were found."""
        from gdbheap.debugger import session
        from gdbheap.debugger.target import architecture_name
        from gdbheap.ptmalloc.params import describe, read_params
        from gdbheap.render.json_state import params_object
        from gdbheap.render.state import params_lines

        target = session.target()
        params = read_params(target.memory, target.abi, target.layout, target.mp)
        facts = describe(params, target.abi, target.layout, architecture_name())
        how = None
        if parsed.given("how"):
            from gdbheap.debugger.provenance import how_found

            how = how_found(target)
        return Answer(
            lambda: params_object(params, facts, how),
            lambda style: params_lines(params, facts, how, style),
        )
