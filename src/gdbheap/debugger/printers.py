"""Pretty-printers of malloc's own structs, which `disable pretty-printer global gdbheap` switches off."""

from __future__ import annotations

from collections.abc import Sequence

import gdb
import gdb.printing

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from gdbheap.ptmalloc.params import ParamFact

NAME = "gdbheap"


class _Printer:
    """Prints one value as one line; `print/r` shows its fields. ``needs`` are fields that the struct must have."""

    needs: Sequence[str] = ()

    @classmethod
    def of(cls, value: gdb.Value) -> _Printer | None:
        """Return a printer for the value, None where its struct only has the name of glibc's, as another malloc's."""
        names = [field.name for field in value.type.strip_typedefs().fields()]
        return cls(value) if all(name in names for name in cls.needs) else None

    def __init__(self, value: gdb.Value) -> None:
        self._value = value

    def to_string(self) -> str:
        """Return the line; GDB calls this. A value that cannot be read is GDB's own to report."""
        from gdbheap.debugger.errors import Told

        with Told():
            return self.line()

    def line(self) -> str:
        """Return what there is to say."""
        raise NotImplementedError

    def number(self, field: str, default: int = 0) -> int:
        """Return a field that is an integer or a pointer, ``default`` where this glibc has no such field."""
        return int(self._value[field]) if field in self._names else default

    @property
    def _names(self) -> Sequence[str]:
        return [field.name or "" for field in self._value.type.strip_typedefs().fields()]


class StatePrinter(_Printer):
    """An arena."""

    needs = ("top", "bins", "system_mem", "attached_threads")

    def line(self) -> str:
        """Return its name, its memory, its top chunk and how many of its lists hold chunks."""
        from gdbheap.render.units import count_of, hex_size

        at = None if self._value.address is None else int(self._value.address)
        name = "an arena" if at is None else _arena_name(at)
        top = self._value["top"]
        bins = self._value["bins"]
        words = [int(bins[place]) for place in range(bins.type.sizeof // bins[0].type.sizeof)]
        if not any(words):
            return f"{name}, not initialized"
        parts = [name, f"system_mem {hex_size(self.number('system_mem'))}"]
        try:
            # Before the first memory top is bin 1's header, in the struct itself (initial_top).
            inside = at is not None and at <= int(top) < at + self._value.type.sizeof
            size = int(top.dereference()["mchunk_size"]) & ~7
            parts.append("no top chunk yet" if inside else f"top {int(top):#x} of {hex_size(size)}")
        except gdb.MemoryError:
            parts.append(f"top {int(top):#x}, unreadable")
        if at is not None:
            # fd of an empty bin is the bin's own header (bin_at).
            first = at + _offset(self._value.type, "bins") - 2 * bins[0].type.sizeof
            step = 2 * bins[0].type.sizeof
            used = sum(word != first + place * step for place, word in enumerate(words[::2]))
            parts.append(f"{count_of(used, 'bin')} of {len(words) // 2} not empty")
        if "fastbinsY" in self._names:
            fast = self._value["fastbinsY"]
            held = sum(int(fast[place]) != 0 for place in range(fast.type.sizeof // fast[0].type.sizeof))
            parts.append(f"{count_of(held, 'fastbin')} not empty")
        return ", ".join(parts)


class ChunkPrinter(_Printer):
    """A chunk's header."""

    needs = ("fd", "bk", "fd_nextsize", "bk_nextsize")

    def line(self) -> str:
        """Return its size and flags, and what malloc returns for it."""
        from gdbheap.ptmalloc.chunk import flag_names
        from gdbheap.render.units import hex_size

        field = "mchunk_size" if "mchunk_size" in self._names else "size"  # up to glibc 2.24
        word = int(self._value[field])
        parts = [f"size {hex_size(word & ~7)}", " ".join(flag_names(word & 7)) or "no flags"]
        if self._value.address is not None:
            pointer = int(self._value.address) + 2 * self._value[field].type.sizeof
            parts.append(f"pointer {pointer:#x}")
        return ", ".join(parts)


class ParamsPrinter(_Printer):
    """malloc's settings and counters."""

    needs = ("trim_threshold", "top_pad", "mmap_threshold", "sbrk_base")

    def line(self) -> str:
        """Return the settings that are not the defaults, and the counters that are not 0."""
        from gdbheap.debugger import session
        from gdbheap.debugger.target import architecture_name
        from gdbheap.ptmalloc.params import Params, describe

        target = session.target()
        values = {name: self.number(name) for name in target.layout.par.fields if name in self._names}
        facts = describe(Params(target.mp, values), target.abi, target.layout, architecture_name())
        settings = [_setting(fact) for fact in facts if fact.is_default is False]
        counters = [_fact(fact) for fact in facts if fact.is_default is None and fact.value]
        return "; ".join([", ".join(settings) or "all settings are the defaults", *filter(None, [", ".join(counters)])])


def _fact(fact: ParamFact) -> str:
    from gdbheap.render.units import hex_size

    plain = f"{fact.value:#x}" if fact.unit == "address" else str(fact.value)
    return f"{fact.name} {hex_size(fact.value) if fact.unit == 'bytes' else plain}"


def _setting(fact: ParamFact) -> str:
    default = f"{fact.default:#x}" if fact.unit == "bytes" and fact.default is not None else fact.default
    return f"{_fact(fact)} (default {default})"


def _arena_name(address: int) -> str:
    """Return what the arena at an address is called."""
    from gdbheap.debugger import session
    from gdbheap.debugger.errors import TargetError
    from gdbheap.memory import MemoryFault

    try:
        number = session.arena_number(session.target(), address)
    except TargetError:
        return "an arena"
    except MemoryFault:
        return f"no arena of the ring ({address:#x})"
    return f"arena {number}" if number else "main_arena"


def _offset(described: gdb.Type, name: str) -> int:
    (bits,) = [field.bitpos for field in described.strip_typedefs().fields() if field.name == name]
    assert bits is not None  # only a static member of a C++ class has none
    return bits // 8


def define() -> None:
    """Register the printers, for every file: behind those of others, which go first."""
    printers = gdb.printing.RegexpCollectionPrettyPrinter(NAME)
    printers.add_printer("malloc_state", "^malloc_state$", StatePrinter.of)
    printers.add_printer("malloc_chunk", "^malloc_chunk$", ChunkPrinter.of)
    printers.add_printer("malloc_par", "^malloc_par$", ParamsPrinter.of)
    gdb.printing.register_pretty_printer(None, printers, replace=True)
