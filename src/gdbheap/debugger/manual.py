"""What `help heap` says: the commands in groups, and what scripts and settings there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from gdbheap.debugger.commands.base import HeapCommand

_GROUPS = (
    ("see", "See what is there:"),
    ("explain", "Record, and explain why:"),
)


def manual(
    shown: str,
    commands: Iterable[type[HeapCommand]],
    functions: Sequence[tuple[str, str]],
    settings: Sequence[tuple[str, str]],
) -> str:
    """Return the groups as text, made of the commands' own sentences.

    ``functions`` and ``settings`` are pairs of a name and a sentence.
    """
    by_group: dict[str, list[tuple[str, str]]] = {group: [] for group, _ in _GROUPS}
    with_object = []
    for command in commands:
        if command.word:
            by_group[command.group].append((f"{shown} {command.word}", command.summary))
        if command.has_answer():
            with_object.append(f"-heap-{command.word}".rstrip("-"))
    lines = []
    for group, title in _GROUPS:
        lines += ["", title, *_rows(by_group[group])]
    lines += [
        "",
        "In scripts: -json with the commands above; the same objects in GDB's machine interface (GDB 12 and newer), as",
        *_wrapped(with_object, "    "),
        "and in Python: 'import gdbheap', then gdbheap.heap(). In expressions and conditions of breakpoints:",
        *_rows(functions),
        "",
        f"Settings ('show {shown}' shows all):",
        *_rows(settings),
    ]
    return "\n".join(lines)


def _rows(pairs: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in pairs), default=0)
    return [f"    {name:<{width}}  {text}" for name, text in pairs]


def _wrapped(words: Iterable[str], indent: str) -> list[str]:
    lines = [indent]
    for word in words:
        if len(lines[-1]) + len(word) > 110:
            lines.append(indent)
        lines[-1] += f"{word} "
    return [line.rstrip() for line in lines]
