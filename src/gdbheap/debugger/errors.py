"""The errors of the debugger's side that a user sees; light, since every session loads it."""

from __future__ import annotations


class TargetError(Exception):
    """Why there is nothing to look at in the target; the message is one full sentence that says what to do next."""
