"""mallopt (malloc/malloc.c), the tunables that do the same, and malloc_trim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gdbheap.ptmalloc.bins import LAST_BIN, bin_index
from gdbheap.simulate.arena_get import start_malloc
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.circle import Circle
from gdbheap.simulate.consolidate import malloc_consolidate
from gdbheap.simulate.kernel_calls import run, state_of
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.state import TrimWalk
from gdbheap.simulate.trim import mtrim, pages_inside

#: mallopt's parameters by number.
PARAMETERS: Mapping[int, str] = {
    1: "mxfast",
    -1: "trim_threshold",
    -2: "top_pad",
    -3: "mmap_threshold",
    -4: "mmap_max",
    -6: "perturb",
    -7: "arena_test",
    -8: "arena_max",
}
#: The settings that can be set, and what mallopt calls them; None for those that are tunables only.
SETTINGS: Mapping[str, int | None] = {
    **{name: number for number, name in PARAMETERS.items()},
    "tcache_count": None,
    "tcache_max": None,
    "tcache_unsorted_limit": None,
}


#: The older variables of the environment, each with the setting that it stands for.
_VARIABLES: Mapping[str, str] = {
    "MALLOC_TOP_PAD_": "top_pad",
    "MALLOC_TRIM_THRESHOLD_": "trim_threshold",
    "MALLOC_MMAP_THRESHOLD_": "mmap_threshold",
    "MALLOC_MMAP_MAX_": "mmap_max",
    "MALLOC_ARENA_MAX": "arena_max",
    "MALLOC_ARENA_TEST": "arena_test",
}


def environment_settings(environment: Mapping[str, str]) -> dict[str, int]:
    """Return the settings that GLIBC_TUNABLES and the older variables of an environment make, by their names."""
    texts = {name: environment[variable] for variable, name in _VARIABLES.items() if variable in environment}
    for part in environment.get("GLIBC_TUNABLES", "").split(":"):
        name, equals, text = part.partition("=")
        if equals and name.startswith("glibc.malloc."):
            texts[name.removeprefix("glibc.malloc.")] = text
    found: dict[str, int] = {}
    for name, text in texts.items():
        try:
            value = int(text, 0)
        except ValueError:
            continue  # glibc leaves it alone, too
        if name in SETTINGS:
            found[name] = value
    return found


def mallopt(machine: Machine, parameter: int, value: int) -> int:
    """Do mallopt(``parameter``, ``value``); return 1 where it is accepted, else 0."""
    start_malloc(machine)
    if machine.has_fastbins:
        malloc_consolidate(machine, machine.main_arena)
    name = PARAMETERS.get(parameter)
    if name is None or (name in ("arena_test", "arena_max") and value <= 0):
        machine.note("look", "__libc_mallopt", "There is no such setting: nothing is set, and yet 1 is returned.")
        return 1
    accepted = set_value(machine, name, value)
    if machine.steps is not None:
        done = f"{name} is set to {value}" if accepted else f"{name} cannot be {value}: nothing is set"
        machine.note("take", "__libc_mallopt", f"{done}.")
    return int(accepted)


def set_value(machine: Machine, name: str, value: int) -> bool:
    """Set one of SETTINGS, as mallopt and the tunable of that name do; return whether the value is accepted."""
    unsigned = value % machine.wrap
    if name == "mmap_max":
        machine.set_mp("n_mmaps_max", value)
        machine.set_mp("no_dyn_threshold", 1)
    elif name in ("trim_threshold", "top_pad", "mmap_threshold"):
        if name == "mmap_threshold" and unsigned > machine.heap_max_size // 2 and not machine.glibc.since(2, 35):
            return False
        machine.set_mp(name, unsigned)
        machine.set_mp("no_dyn_threshold", 1)
    elif name in ("arena_test", "arena_max"):
        machine.set_mp(name, unsigned)
    elif name == "mxfast":
        return _set_mxfast(machine, unsigned)
    elif name in ("tcache_count", "tcache_max", "tcache_unsorted_limit"):
        return _set_tcache(machine, name, unsigned)
    elif name != "perturb":
        raise Unpredictable(f"There is no setting {name}.")
    return True


def _set_mxfast(machine: Machine, value: int) -> bool:
    if not machine.has_fastbins:
        return True  # 2.43 ignores it
    if value > 80 * machine.word_size // 4:
        return False
    off = value <= machine.align_mask - machine.word_size if machine.safe_linking else value == 0
    size = (value + machine.word_size) & ~machine.align_mask
    machine.variables.max_fast = 2 * machine.word_size if off else size
    return True


def _set_tcache(machine: Machine, name: str, value: int) -> bool:
    if not machine.has_tcache:
        return False
    if name == "tcache_unsorted_limit":
        machine.set_mp(name, value)
        return True
    if name == "tcache_count":
        if value > (0x7F if machine.counts_are_bytes else 0xFFFF):
            return False
        machine.set_mp(name, value)
        return True
    if not machine.counts_down:
        if value > machine.largest_small - machine.word_size:
            return False
        machine.set_mp("tcache_max_bytes", value)
        machine.set_mp("tcache_bins", machine.small_index(machine.abi.request_to_chunk(value)) + 1)
        return True
    size = machine.abi.request_to_chunk(value)
    index = machine.small_index(size)
    if index < 64:
        machine.set_mp("tcache_small_bins", index + 1)
    elif size.bit_length() - machine.largest_small.bit_length() + 64 >= machine.entries_count:
        return False
    else:
        machine.set_mp("tcache_small_bins", 64)
    machine.set_mp("tcache_max_bytes", size + 1)
    return True


def malloc_trim(machine: Machine, pad: int) -> int:
    """Do malloc_trim(``pad``); return 1 where it gave memory back, else 0."""
    start_malloc(machine)
    words, result = machine.words, 0
    next_at = machine.layout.state.fields["next"].offset
    arena, seen = machine.main_arena, 0
    while True:
        result |= _trim_arena(machine, arena, pad)
        arena = words[arena + next_at]
        seen += 1
        if arena == machine.main_arena:
            return result
        if seen > 0x10000 or arena not in machine.variables.numbers:
            raise machine.loop("The ring of arenas")


def _trim_arena(machine: Machine, arena: int, pad: int) -> int:
    if machine.has_fastbins:
        malloc_consolidate(machine, arena)
    inside = tuple(item for item in _free_chunks(machine, arena) if pages_inside(machine.abi, *item)[1])
    before = state_of(machine, arena, TrimWalk(inside))
    made = len(machine.calls)
    run(machine, before, mtrim(before, pad))
    return int(any(call.syscall == "madvise" or call.path == "trim" for call, _ in machine.calls[made:]))


def _free_chunks(machine: Machine, arena: int) -> Iterator[tuple[int, int]]:
    """Yield address and size in bytes of the free chunks that malloc_trim looks at, in its order (mtrim)."""
    words, size = machine.words, machine.word_size
    for index in (1, *range(bin_index(machine.abi, machine.abi.page_size), LAST_BIN + 1)):
        header = machine.bin_at(arena, index)
        chunk, circle = words[header + 3 * size], Circle(machine, f"Bin {index} of {machine.name(arena)}")
        while chunk != header:
            circle.visit(chunk)
            yield chunk, machine.size(chunk)
            chunk = words[chunk + 3 * size]
