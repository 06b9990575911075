"""Charts as inline SVG without scripts, in the page's colours, with their values as text too. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from relais_kpi.rendering.svg import line, rect, shortened, svg, text, titled

WIDTH, HEIGHT = 460, 200
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 14, 26
_INNER_WIDTH, _INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
_FLOOR = TOP + _INNER_HEIGHT
_NAME_CHARACTERS = 19
_LABELS = 7
"""Maximum number of labels along the bottom."""

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Scale:
    """How values are written: on the axis, and in exact form."""

    tick: Format
    show: Format


@dataclass(frozen=True, slots=True)
class Series:
    """Values in the order of the chart's labels, None where nothing was measured. `tone` is a CSS class of the page."""

    name: str
    tone: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a distribution at a value."""

    name: str
    tone: str
    value: float


def bars(
    title: str, labels: Sequence[str], series: Sequence[Series], scale: Scale, ticks: Sequence[str]
) -> str:
    """Draw bars, with the series stacked from the bottom."""
    sums = [sum(one.values[at] or 0 for one in series) for at in range(len(labels))]
    top = nice_top(max(sums, default=0))
    step = _INNER_WIDTH / max(1, len(labels))
    gap = min(2.0, step * 0.2)
    parts = [_value_axis(top, scale.tick), _label_axis(ticks, step)]
    for at, label in enumerate(labels):
        base, x = float(_FLOOR), LEFT + at * step
        bars = []
        for one in series:
            height = (one.values[at] or 0) / top * _INNER_HEIGHT
            if height > 0:
                base -= height
                bars.append(rect(f"f-{one.tone}", x + gap / 2, base, step - gap, height))
        said = ", ".join(f"{one.name} {scale.show(one.values[at] or 0)}" for one in series)
        hit = rect("hit", x, TOP, step, _INNER_HEIGHT)
        parts.append(titled(f"{label}: {said}", hit, *bars))
    return svg(title, parts, WIDTH, HEIGHT)


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
    """Draw lines, broken where nothing was measured. `bound` is drawn across if it fits."""
    values = [value for one in series for value in one.values if value is not None]
    top = nice_top(max(values, default=0)) if top is None else top
    step = _INNER_WIDTH / max(1, len(labels))
    parts = [_value_axis(top, scale.tick), _label_axis(ticks, step)]
    if bound is not None and bound.value <= top:
        y = _y(bound.value, top)
        parts.append(line(f"s-{bound.tone} dashed", LEFT, y, WIDTH - RIGHT, y))
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
        hit = rect("hit", LEFT + at * step, TOP, step, _INNER_HEIGHT)
        parts.append(titled(f"{label}: {said}", hit))
    return svg(title, parts, WIDTH, HEIGHT)


def distribution(
    title: str, bins: Sequence[tuple[float, int]], scale: Scale, marks: Sequence[Mark]
) -> str:
    """Draw a histogram of durations on a logarithmic scale. `bins` are sorted middles and counts."""
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
        return LEFT + min(1.0, max(0.0, math.log(max(value, low) / low) / ratio)) * _INNER_WIDTH

    parts = []
    for value in _log_ticks(low, high):
        parts.append(line("grid", x(value), TOP, x(value), _FLOOR))
        parts.append(text(x(value), HEIGHT - 8, scale.tick(value), "middle", WIDTH))
    for at, count in enumerate(counts):
        start, end = (low * math.exp(ratio * edge / columns) for edge in (at, at + 1))
        said = f"{scale.show(start)} to {scale.show(end)}: {count:,} requests ({count / whole:.1%})"
        drawn = [rect("hit", LEFT + at * width, TOP, width, _INNER_HEIGHT)]
        if count:
            height = max(count / top * (_INNER_HEIGHT - 14), 0.8)
            drawn.append(
                rect("f-pale", LEFT + at * width + 0.5, _FLOOR - height, width - 1, height)
            )
        parts.append(titled(said, *drawn))
    parts.append(line("axis", LEFT, _FLOOR, WIDTH - RIGHT, _FLOOR))
    parts.append(text(LEFT - 6, TOP + 18, f"{top / whole:.0%}", "end", WIDTH))
    parts.append(text(LEFT - 6, _FLOOR + 4, "0", "end", WIDTH))
    taken = -math.inf
    for mark in marks:
        at_x = x(mark.value)
        dashed = " dashed" if mark.tone == "bound" else ""
        parts.append(line(f"s-{mark.tone}{dashed}", at_x, TOP + 4, at_x, _FLOOR))
        # An objective's name is in the legend; so are those that would overlap.
        if mark.tone != "bound" and at_x - taken > 26:
            parts.append(text(at_x, TOP, mark.name, "middle", WIDTH))
            taken = at_x
    return svg(title, parts, WIDTH, HEIGHT)


def shares(title: str, rows: Sequence[tuple[str, Sequence[Series]]], scale: Scale) -> str:
    """Draw a bar for each name, as long as the sum of its parts; each part is a series with one value."""
    height, left, right = 30, 140, 74
    inner = WIDTH - left - right
    longest = max((sum(one.values[0] or 0 for one in parts) for _, parts in rows), default=0) or 1
    drawn = []
    for at, (name, parts) in enumerate(rows):
        y, x = at * height + 6.0, float(left)
        shown = [
            rect("hit", 0, y, WIDTH, height - 4),
            text(left - 8, y + 14, shortened(name, _NAME_CHARACTERS), "end", WIDTH),
        ]
        for one in parts:
            width = (one.values[0] or 0) / longest * inner
            if width > 0:
                shown.append(rect(f"f-{one.tone}", x, y, width, height - 12))
                x += width
        whole = sum(one.values[0] or 0 for one in parts)
        shown.append(text(x + 6, y + 14, scale.show(whole), "start", WIDTH))
        said = ", ".join(f"{one.name} {scale.show(one.values[0] or 0)}" for one in parts)
        drawn.append(titled(f"{name}: {said}", *shown))
    return svg(title, drawn, WIDTH, len(rows) * height + 8)


def nice_top(highest: float) -> float:
    """Return a round number, at least this value, that divides well into four steps."""
    if highest <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(highest))
    steps = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10)
    return next(size * one for one in steps if size * one >= highest * 0.9999)


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
    """Return the range without the outer thousandths, at least a factor of ten wide."""
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
    """Return round numbers between them, as many for each power of ten as there is room for."""
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
        parts.append(line("axis" if quarter == 0 else "grid", LEFT, y, WIDTH - RIGHT, y))
        if quarter % 2 == 0:
            parts.append(text(LEFT - 6, y + 4, show(value), "end", WIDTH))
    return "".join(parts)


def _label_axis(ticks: Sequence[str], step: float) -> str:
    return "".join(
        text(LEFT + (at + 0.5) * step, HEIGHT - 8, tick, "middle", WIDTH)
        for at, tick in enumerate(ticks)
        if tick
    )


def _y(value: float, top: float) -> float:
    return _FLOOR - min(value / top, 1.0) * _INNER_HEIGHT
