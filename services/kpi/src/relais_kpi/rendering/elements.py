"""Pieces of HTML. All foreign text is escaped here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TypeVar

from relais_kpi.rendering import words
from relais_kpi.rendering.charts import Mark, Series

Item = TypeVar("Item")
Column = tuple[str, Callable[[Item], str]]
"""A column: its heading, and the cell of a row."""


def prose(said: str) -> str:
    """Return a sentence as HTML; text between backticks becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(said))


def tile(name: str, value: str, note: str, direction: int) -> str:
    """Return a tile: a value with its name and a note."""
    tone = {1: " good", -1: " bad"}.get(direction, "")
    return (
        f'<div class="tile"><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="note{tone}">{escape(note)}</dd></div>'
    )


def chart(name: str, series: Sequence[Series], drawn: str, bound: Mark | None = None) -> str:
    """Return a drawing with its title, and a legend if it shows several series."""
    legend = [f'<span class="t-{one.tone}">{escape(one.name)}</span>' for one in series]
    legend += objective(bound)
    return figure(name, "".join(legend) if len(legend) > 1 else "", drawn)


def figure(name: str, legend: str, drawn: str) -> str:
    """Return a drawing with its title and this legend; drawing and legend are HTML."""
    shown = f'<div class="legend">{legend}</div>' if legend else ""
    return f'<figure class="chart"><figcaption><h3>{escape(name)}</h3>{shown}</figcaption>{drawn}</figure>'


def objective(bound: Mark | None) -> list[str]:
    """Return the legend's entry of an objective, if there is one."""
    if bound is None:
        return []
    return [f'<span class="dashed t-bound">objective {words.tick(bound.value)}</span>']


def table(columns: Sequence[Column[Item]], items: Iterable[Item], *, words_until: int = 1) -> str:
    """Return a table with a row for each item; the first `words_until` columns are text."""
    head = [name for name, _ in columns]
    body = [[cell(item) for _, cell in columns] for item in items]
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
