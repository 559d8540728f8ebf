"""malloc_state: one arena, and the ring of them all."""

from __future__ import annotations

from dataclasses import dataclass

NONCONTIGUOUS_BIT = 2


@dataclass(frozen=True)
class Arena:
    """One ``malloc_state`` as it was read.

    Addresses and sizes are in bytes. ``number`` is 0 for main_arena and counts the others in the order in which they
    were made. ``bins`` has glibc's 254 words: bin i's front at ``2 * i - 2``, its back at ``2 * i - 1``. ``fastbins``
    is empty where the release has none (2.43). ``top_size`` is the size of the top chunk without its flags, 0 where
    there is no top chunk yet, and None where it could not be read.
    """

    address: int
    number: int
    mutex: int
    flags: int
    top: int
    top_size: int | None
    last_remainder: int
    fastbins: tuple[int, ...]
    bins: tuple[int, ...]
    bins_address: int
    binmap: tuple[int, ...]
    next: int
    next_free: int
    attached_threads: int
    system_mem: int
    max_system_mem: int

    @property
    def is_main(self) -> bool:
        """Whether this is main_arena, the one that grows with brk."""
        return self.number == 0

    @property
    def name(self) -> str:
        """The name that is shown: ``main_arena`` or ``arena N``."""
        return "main_arena" if self.is_main else f"arena {self.number}"

    @property
    def contiguous(self) -> bool:
        """Whether malloc believes that its break area has no holes (NONCONTIGUOUS_BIT is clear)."""
        return not self.flags & NONCONTIGUOUS_BIT
