"""The kernel's side of a simulated operation: what it answers, and what that does to the memory."""

from __future__ import annotations

from errno import ENOMEM
from typing import Protocol

from gdbheap.ptmalloc.abi import round_up
from gdbheap.simulate.calls import Call, Unpredictable, failed
from gdbheap.simulate.kernel import MADV_DONTNEED, MAP_FIXED, PROT_NONE
from gdbheap.simulate.words import Words

#: From here on a program has no addresses, by word size (x86-64 ends at half of the larger one).
_USER_END = {8: 1 << 48, 4: 1 << 32}
#: Where placeholders for addresses that the kernel chooses begin, by word size: no process has anything there.
_PLACEHOLDERS = {8: 1 << 52, 4: 0x00100000}
_PLACEHOLDERS_END = {8: 1 << 56, 4: 0x08000000}


class Kernel(Protocol):
    """What answers system calls in a simulation."""

    def answer(self, call: Call) -> int:
        """Return the kernel's answer, as a signed number."""
        ...

    def copy(self) -> Kernel:
        """Return a kernel that answers what this one would, and can go on on its own."""
        ...


class WillingKernel:
    """A kernel that refuses nothing but what no kernel can give.

    brk moves the break to where it is asked to. Where a mapping goes is for the real kernel to choose: an address
    stands for it here that no process has, so that the operations after it can be told; ``is_placeholder`` knows it.
    ``largest`` is how many bytes can be asked for at once; None where only the number of addresses is a limit.
    """

    def __init__(self, word_size: int, brk: int | None = None, largest: int | None = None) -> None:
        self._word_size = word_size
        self._brk = brk
        self._largest = _USER_END[word_size] if largest is None else largest
        self._next = _PLACEHOLDERS[word_size]
        self._free: tuple[tuple[int, int], ...] = ()  # places that were given back: length and address

    def copy(self) -> WillingKernel:
        """Return a kernel that answers what this one would."""
        made = WillingKernel(self._word_size, self._brk, self._largest)
        made._next, made._free = self._next, self._free
        return made

    def is_placeholder(self, address: int) -> bool:
        """Whether an address stands for one that the kernel chooses."""
        return is_placeholder(self._word_size, address)

    def answer(self, call: Call) -> int:
        """Return the kernel's answer."""
        name, args = call.syscall, call.args
        if name == "brk":
            if args[0] == 0:
                if self._brk is None:
                    raise Unpredictable("The break was never asked for in this process, and where it is is not known.")
                return self._brk
            if args[0] - (self._brk or 0) <= self._largest and args[0] < _USER_END[self._word_size]:
                self._brk = args[0]
            return self._brk or 0
        counted = (name == "mmap" and args[2] != PROT_NONE) or name == "mremap"
        if counted and (args[1] if name == "mmap" else args[2] - args[1]) > self._largest:
            return -ENOMEM
        if name == "mmap" and not args[3] & MAP_FIXED:
            if call.path == "heap-reserve" and args[0]:
                return args[0]  # the hint is the place behind the heap before, which is most likely free
            # A reservation is hardly ever where a heap may begin.
            return self._place(args[1], args[1] // 2) + 0x1000 if call.path == "heap-reserve" else self._place(args[1])
        if name == "mmap":
            return args[0]
        if name == "mremap":
            return args[0] if args[2] <= args[1] else self._place(args[2])
        if name == "munmap" and call.path == "munmap-chunk" and self._word_size == 4:
            self._free += ((args[1], args[0]),)  # there are not many places
        return 0

    def _place(self, length: int, alignment: int = 0x1000) -> int:
        for item in self._free if alignment == 0x1000 else ():
            if length <= item[0]:
                self._free = tuple(other for other in self._free if other is not item)
                return item[1]
        address = round_up(self._next, alignment)
        self._next = address + round_up(length, 0x1000) + 0x10000
        if self._next > _PLACEHOLDERS_END[self._word_size]:
            raise Unpredictable("There are no more addresses that could stand for those of mappings.")
        return address


def is_placeholder(word_size: int, address: int) -> bool:
    """Whether an address stands for one that the kernel chooses."""
    return _PLACEHOLDERS[word_size] <= address < _PLACEHOLDERS_END[word_size]


def apply(words: Words, call: Call, answer: int, brk_before: int | None) -> None:
    """Do to the memory what the kernel did when it gave ``answer``; ``brk_before`` is where the break was."""
    name, args = call.syscall, call.args
    if name == "brk":
        if brk_before and args[0] and answer > brk_before:
            words.fresh(brk_before, answer)
        elif brk_before and args[0] and answer < brk_before:
            words.unmap(answer, brk_before)
    elif failed(answer) or call.path in ("heap-reserve", "heap-align"):
        return  # nothing of what is reserved can be read before mprotect
    elif name == "mprotect":
        words.fresh(args[0], args[0] + args[1])
    elif name == "mmap" and args[3] & MAP_FIXED:
        words.zero(answer, answer + args[1])
    elif name == "mmap":
        words.fresh(answer, answer + args[1])
    elif name == "munmap":
        words.unmap(args[0], args[0] + args[1])
    elif name == "mremap":
        if answer != args[0]:
            words.move(args[0], args[1], answer)
            words.fresh(answer + args[1], answer + args[2])
        elif args[2] > args[1]:
            words.fresh(args[0] + args[1], args[0] + args[2])
        else:
            words.unmap(args[0] + args[2], args[0] + args[1])
    elif name == "madvise" and args[2] == MADV_DONTNEED:
        words.zero(args[0], args[0] + args[1])
