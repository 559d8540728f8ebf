"""The errors of the debugger's side that a user sees; light, since every session loads it."""

from __future__ import annotations

import gdb

from gdbheap.debugger.neutral import Neutral
from gdbheap.debugger.options import UsageError

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from types import TracebackType


class TargetError(Exception):
    """Why there is nothing to look at in the target; the message is one full sentence that says what to do next."""


class Told:
    """A ``with`` block whose expected failures leave it as gdb.GdbError: a sentence that GDB shows as it is.

    GDB's settings that change what it reads are neutral inside.
    """

    def __init__(self) -> None:
        self._neutral = Neutral()

    def __enter__(self) -> None:
        self._neutral.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._neutral.__exit__()
        if error is None:
            return
        from gdbheap.memory import MemoryFault  # with typing, too slow to import for a session that never gets here

        if isinstance(error, (UsageError, TargetError, gdb.GdbError)):
            from gdbheap.render.escape import printable

            raise gdb.GdbError(printable(str(error))) from None
        if isinstance(error, MemoryFault):
            raise gdb.GdbError(f"GDB {error}.") from None
        if isinstance(error, UnicodeDecodeError):  # out of one of GDB's own functions, as for a damaged core file
            raise gdb.GdbError(
                f"A name that GDB has here, as of a file, is no text in {error.encoding}, so that it cannot hand on "
                "what it knows: 'info files' and 'info sharedlibrary' show such names."
            ) from None
