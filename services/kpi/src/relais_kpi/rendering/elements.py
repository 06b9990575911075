"""Pieces of HTML; everything that is not ours is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from relais_kpi.rendering import words
from relais_kpi.rendering.charts import Mark, Series


def tile(name: str, value: str, note: str, direction: int, against: str) -> str:
    tone = {1: " good", -1: " bad"}.get(direction, "")
    versus = f" against the time {against}" if against and note != words.NONE else ""
    return (
        f'<div class="tile"><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="note{tone}">{escape(note + versus)}</dd></div>'
    )


def chart(
    name: str, series: Sequence[Series], draw: Callable[[str], str], bound: Mark | None = None
) -> str:
    legend = [f'<span class="t-{one.tone}">{escape(one.name)}</span>' for one in series]
    if bound is not None:
        legend.append(f'<span class="dashed t-bound">objective {words.tick(bound.value)}</span>')
    shown = f'<div class="legend">{"".join(legend)}</div>' if len(legend) > 1 else ""
    return f'<figure class="chart"><figcaption><h3>{escape(name)}</h3>{shown}</figcaption>{draw(name)}</figure>'


def table(head: Sequence[str], body: Sequence[Sequence[str]], *, words_until: int = 1) -> str:
    """`words_until`: so many columns from the left are words."""
    tone = [' class="word"' if at < words_until else "" for at in range(len(head))]
    top = "".join(f'<th scope="col"{tone[at]}>{escape(name)}</th>' for at, name in enumerate(head))
    rows = "".join(
        "<tr>"
        + "".join(f"<td{tone[at]}>{escape(cell)}</td>" for at, cell in enumerate(cells))
        + "</tr>"
        for cells in body
    )
    # It scrolls by itself on a narrow screen, and by keyboard too.
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Table">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
