"""Charts as inline SVG: no script; their colours are the page's; what they show they say in words too. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 14, 26
_INNER_WIDTH, _INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
_FLOOR = TOP + _INNER_HEIGHT
_LABELS = 7
"""At most so many along the bottom."""

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Scale:
    """How values are written: on the axis, and where they are told exactly."""

    tick: Format
    show: Format


@dataclass(frozen=True, slots=True)
class Series:
    """Values in the order of the chart's labels; None: nothing was measured. `tone` is a class of the page's style."""

    name: str
    tone: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a distribution, at a value."""

    name: str
    tone: str
    value: float


def bars(
    title: str, labels: Sequence[str], series: Sequence[Series], scale: Scale, ticks: Sequence[str]
) -> str:
    """Bars, the series stacked from the bottom."""
    sums = [sum(one.values[at] or 0 for one in series) for at in range(len(labels))]
    top = nice_top(max(sums, default=0))
    step = _INNER_WIDTH / max(1, len(labels))
    gap = min(2.0, step * 0.2)
    parts = [_value_axis(top, scale.tick), _label_axis(ticks, step, centred=True)]
    for at, label in enumerate(labels):
        base = float(_FLOOR)
        said = [f"{one.name} {scale.show(one.values[at] or 0)}" for one in series]
        parts.append(f"<g><title>{escape(label)}: {escape(', '.join(said))}</title>")
        parts.append(_rect("hit", LEFT + at * step, TOP, step, _INNER_HEIGHT))
        for one in series:
            height = (one.values[at] or 0) / top * _INNER_HEIGHT
            if height > 0:
                base -= height
                parts.append(
                    _rect(f"f-{one.tone}", LEFT + at * step + gap / 2, base, step - gap, height)
                )
        parts.append("</g>")
    return _svg(title, parts)


def lines(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    scale: Scale,
    ticks: Sequence[str],
    *,
    top: float | None = None,
    bound: Mark | None = None,
) -> str:
    """Lines; broken where nothing was measured. `bound` is drawn across, where it fits."""
    values = [value for one in series for value in one.values if value is not None]
    top = nice_top(max(values, default=0)) if top is None else top
    step = _INNER_WIDTH / max(1, len(labels))
    parts = [_value_axis(top, scale.tick), _label_axis(ticks, step, centred=True)]
    if bound is not None and bound.value <= top:
        y = _y(bound.value, top)
        parts.append(_line(f"s-{bound.tone} dashed", LEFT, y, WIDTH - RIGHT, y))
    for one in series:
        for run in _runs(one.values):
            points = [(LEFT + (at + 0.5) * step, _y(value, top)) for at, value in run]
            if len(points) == 1:
                parts.append(
                    f'<circle class="f-{one.tone}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2.5"/>'
                )
            else:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                parts.append(f'<polyline class="line s-{one.tone}" points="{path}"/>')
    for at, label in enumerate(labels):
        told = [(one.name, one.values[at]) for one in series]
        said = ", ".join(
            f"{name} {'–' if value is None else scale.show(value)}" for name, value in told
        )
        parts.append(f"<g><title>{escape(label)}: {escape(said)}</title>")
        parts.append(_rect("hit", LEFT + at * step, TOP, step, _INNER_HEIGHT) + "</g>")
    return _svg(title, parts)


def distribution(
    title: str, bins: Sequence[tuple[float, int]], scale: Scale, marks: Sequence[Mark], tone: str
) -> str:
    """How often which duration: columns of equal width on a logarithmic scale. `bins` are sorted middles and counts."""
    whole = sum(count for _, count in bins)
    low, high = _range_of(bins, whole)
    columns = 40
    ratio = math.log(high / low)
    counts = [0] * columns
    for middle, count in bins:
        at = math.floor(math.log(max(middle, low) / low) / ratio * columns)
        counts[min(max(at, 0), columns - 1)] += count
    top = max(counts, default=0) or 1
    width = _INNER_WIDTH / columns

    def x(value: float) -> float:
        return LEFT + min(1.0, max(0.0, math.log(value / low) / ratio)) * _INNER_WIDTH

    parts = []
    for value in _log_ticks(low, high):
        parts.append(_line("grid", x(value), TOP, x(value), _FLOOR))
        parts.append(_text(min(x(value), WIDTH - 18), HEIGHT - 8, scale.tick(value), "middle"))
    for at, count in enumerate(counts):
        start, end = (
            low * math.exp(ratio * at / columns),
            low * math.exp(ratio * (at + 1) / columns),
        )
        height = count / top * (_INNER_HEIGHT - 14)
        said = f"{scale.show(start)} to {scale.show(end)}: {count:,} requests ({count / whole:.1%})"
        parts.append(f"<g><title>{escape(said)}</title>")
        parts.append(_rect("hit", LEFT + at * width, TOP, width, _INNER_HEIGHT))
        if count:
            parts.append(
                _rect(
                    f"f-{tone}",
                    LEFT + at * width + 0.5,
                    _FLOOR - max(height, 0.8),
                    width - 1,
                    max(height, 0.8),
                )
            )
        parts.append("</g>")
    parts.append(_line("axis", LEFT, _FLOOR, WIDTH - RIGHT, _FLOOR))
    parts.append(_text(LEFT - 6, TOP + 18, f"{top / whole:.0%}", "end"))
    parts.append(_text(LEFT - 6, _FLOOR + 4, "0", "end"))
    taken = -math.inf
    for mark in marks:
        at_x = x(mark.value)
        dashed = " dashed" if mark.tone == "bound" else ""
        parts.append(_line(f"s-{mark.tone}{dashed}", at_x, TOP + 4, at_x, _FLOOR))
        # An objective's name is in the legend; so are those that would overlap.
        if mark.tone != "bound" and at_x - taken > 26:
            parts.append(_text(at_x, TOP, mark.name, "middle"))
            taken = at_x
    return _svg(title, parts)


def shares(title: str, rows: Sequence[tuple[str, Sequence[Series]]], scale: Scale) -> str:
    """A bar for each name, as long as its parts together; each part is a series with one value."""
    height, left, right = 30, 118, 62
    inner = WIDTH - left - right
    longest = max((sum(one.values[0] or 0 for one in parts) for _, parts in rows), default=0) or 1
    drawn = []
    for at, (name, parts) in enumerate(rows):
        y, x = at * height + 6.0, float(left)
        said = ", ".join(f"{one.name} {scale.show(one.values[0] or 0)}" for one in parts)
        drawn.append(f"<g><title>{escape(name)}: {escape(said)}</title>")
        drawn.append(_rect("hit", 0, y, WIDTH, height - 4))
        drawn.append(_text(left - 8, y + 14, _cut(name, 18), "end"))
        for one in parts:
            width = (one.values[0] or 0) / longest * inner
            if width > 0:
                drawn.append(_rect(f"f-{one.tone}", x, y, width, height - 12))
                x += width
        drawn.append(
            _text(x + 6, y + 14, scale.show(sum(one.values[0] or 0 for one in parts)), "start")
        )
        drawn.append("</g>")
    return _svg(title, drawn, height=len(rows) * height + 8)


def nice_top(highest: float) -> float:
    """A round number that is not under it, for four steps of a scale."""
    if highest <= 0:
        return 1.0
    size = 10 ** math.floor(math.log10(highest))
    return float(
        next(
            size * one
            for one in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10)
            if size * one >= highest * 0.9999
        )
    )


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    run: list[tuple[int, float]] = []
    for at, value in enumerate(values):
        if value is not None:
            run.append((at, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _range_of(bins: Sequence[tuple[float, int]], whole: int) -> tuple[float, float]:
    """From the first of a thousand to the last of a thousand, at least a factor of ten apart."""
    seen, low, high = 0, bins[-1][0], bins[-1][0]
    for middle, count in bins:
        if seen <= whole * 0.002:
            low = middle
        seen += count
        if seen >= whole * 0.999:
            high = middle
            break
    low = max(low, 1e-5)
    return low / 1.1, max(high * 1.1, low * 10)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between them: as many to each power of ten as there is room for."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        found = [
            one
            for power in powers
            for one in (mantissa * 10.0**power for mantissa in mantissas)
            if low <= one <= high
        ]
        if len(found) <= _LABELS:
            break
    return found[:: math.ceil(len(found) / _LABELS)]


def _value_axis(top: float, show: Format) -> str:
    parts = []
    for quarter in range(5):
        value = top * quarter / 4
        y = _y(value, top)
        parts.append(_line("axis" if quarter == 0 else "grid", LEFT, y, WIDTH - RIGHT, y))
        if quarter % 2 == 0:
            parts.append(_text(LEFT - 6, y + 4, show(value), "end"))
    return "".join(parts)


def _label_axis(ticks: Sequence[str], step: float, *, centred: bool) -> str:
    shift = 0.5 if centred else 0.0
    return "".join(
        _text(LEFT + (at + shift) * step, HEIGHT - 8, tick, "middle")
        for at, tick in enumerate(ticks)
        if tick
    )


def _y(value: float, top: float) -> float:
    return _FLOOR - min(value / top, 1.0) * _INNER_HEIGHT


def _rect(tone: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{tone}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def _line(tone: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{tone}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
