"""Which member or element of a variable a byte is, by the variable's type."""

from __future__ import annotations

import gdb

#: Types whose insides are the C++ library's: what they hold is told by the variable alone.
_LIBRARY = ("std::", "__gnu_cxx::")
#: Types nested more deeply than this are no program's.
_DEEPEST = 64


def member_path(kind: gdb.Type, offset: int, word_size: int) -> str:
    """Return the member or element of a variable of type ``kind`` whose word is at ``offset`` bytes.

    The answer follows the variable's name: ``.items[3]``, `` + 0xa0`` in what has no member there, or nothing.
    """
    path = ""
    for _ in range(_DEEPEST):
        kind = kind.strip_typedefs()
        if kind.code == gdb.TYPE_CODE_ARRAY:
            element = kind.target().strip_typedefs()
            if not element.sizeof or element.sizeof < word_size:
                break
            place, offset = divmod(offset, element.sizeof)
            path += f"[{kind.range()[0] + place}]"
            kind = element
        elif kind.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
            if (kind.name or "").startswith(_LIBRARY):
                return path
            field = _field(kind, offset)
            if field is None or field.type is None:
                break
            offset -= (field.bitpos or 0) // 8
            kind = field.type
            if field.name and not field.is_base_class:
                path += f".{field.name}"
        else:
            break
    return f"{path} + {offset:#x}" if offset else path


def _field(kind: gdb.Type, offset: int) -> gdb.Field | None:
    """Return the field of a struct that covers ``offset``, of a union's the first; None where none does."""
    for field in kind.fields():
        place = getattr(field, "bitpos", None)  # a static member has none, nor has a virtual base a constant one
        if not isinstance(place, int) or field.type is None or field.bitsize:
            continue
        if place // 8 <= offset < place // 8 + field.type.sizeof:
            return field
    return None


def pointed_path(name: str, kind: gdb.Type, offset: int, word_size: int) -> str | None:
    """Return what is ``offset`` bytes behind what the pointer ``name`` points to, as C writes it: ``head->next``.

    ``kind`` is the type that is pointed to. None where that tells nothing of the byte.
    """
    kind = kind.strip_typedefs()
    if kind.code == gdb.TYPE_CODE_VOID or kind.sizeof < word_size:
        return None
    place, rest = divmod(offset, kind.sizeof)
    path = member_path(kind, rest, word_size)
    if place == 0 and path.startswith("."):
        return f"{name}->{path[1:]}"
    if place == 0 and kind.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        return f"*{name}{path}"
    return f"{name}[{place}]{path}"
