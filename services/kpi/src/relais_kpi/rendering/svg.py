"""Elements of SVG. Their text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def svg(title: str, parts: Sequence[str], width: int, height: int) -> str:
    """Return the whole picture."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def titled(said: str, *parts: str) -> str:
    """Return a group with this tooltip."""
    return f"<g><title>{escape(said)}</title>{''.join(parts)}</g>"


def rect(tone: str, x: float, y: float, width: float, height: float) -> str:
    """Return a rectangle; `tone` is a CSS class of the page, as in the other elements."""
    return (
        f'<rect class="{tone}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def line(tone: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a straight line."""
    return f'<line class="{tone}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


CHARACTER_WIDTH = 6.7
"""Upper bound on a character's width at the page's font size, except for runs of wide capitals."""


def text(x: float, y: float, said: str, anchor: str, within: float) -> str:
    """Return text that begins, ends or is centred here, moved inwards if an edge of the picture would cut it."""
    before = {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * len(said) * CHARACTER_WIDTH
    after = len(said) * CHARACTER_WIDTH - before
    x = max(before, min(x, within - after))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def shortened(name: str, length: int) -> str:
    """Return the name, cut to this length."""
    return name if len(name) <= length else name[: length - 1] + "…"
