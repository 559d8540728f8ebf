"""What all pictures share: safe text for SVG, and the frame of a file that nothing in comes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

from gdbheap.render.escape import printable

WIDTH = 1200
LINE_HEIGHT = 18
#: The most characters of a line of text, and of one in a tooltip.
MOST_TEXT, MOST_TOOLTIP = 150, 250

_STYLE = """
text { font-family: "DejaVu Sans", Verdana, Arial, sans-serif; font-size: 12px; fill: #222222; }
.title { font-size: 17px; font-weight: bold; }
.small { font-size: 11px; fill: #555555; }
"""


def safe(text: str) -> str:
    """Return text for XML: what a terminal would act on is not allowed there either, or could mislead a reader."""
    return escape(printable(text), {'"': "&quot;"})


def fitted(text: str, width: int) -> str:
    """Return the text in at most ``width`` characters; where some had to go, how many is said at the end."""
    if len(text) <= width:
        return text
    for kept in range(width, -1, -1):
        cut = f"{text[:kept].rstrip()} … ({len(text) - kept} more characters)"
        if len(cut) <= width:
            return cut
    return ""


def text_element(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    """Return a line of text that begins at a place, or is aligned there as ``anchor`` says (end, middle)."""
    kinds = f' class="{kind}"' if kind else ""
    anchors = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{number(x)}" y="{number(y)}"{kinds}{anchors}>{safe(fitted(text, MOST_TEXT))}</text>'


def tooltip(lines: Iterable[str]) -> str:
    """Return the element that makes a browser show lines while the mouse is on what holds it."""
    text = "\n".join(safe(fitted(line, MOST_TOOLTIP)) for line in lines)
    return f"<title>{text}</title>"


def number(value: float) -> str:
    """Return a coordinate, rounded to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def document(title: str, height: int, style: str, body: Iterable[str]) -> str:
    """Return the whole file; ``style`` are the rules of CSS that it has besides those for text."""
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{safe(title)}</title>",
            f"<style>{_STYLE}{style}</style>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *body,
            "</svg>",
            "",
        ]
    )
