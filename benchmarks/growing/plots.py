"""Curves as SVG files that can be read on a light page and on a dark one. The only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.growing.filling import Filling
from benchmarks.growing.fit import Curve

INK = "#7a828c"
"""Four to five times as bright as a dark page and as dark against a white one."""
COLOURS = ("#2f81f7", "#d1731c", "#2da44e", "#c94f7c", "#8a63d2", "#1b9aaa", "#a08a1d")
MARKERS = "osD^vPX"

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "growth",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.prop_cycle": cycler(color=COLOURS),
    }
)


def grown(path: Path, title: str, x: str, panels: Sequence[tuple[str, Sequence[Curve]]]) -> None:
    """Cost against size, both logarithmic, with the exponent of each curve beside its name; a panel for each list."""
    figure = Figure(figsize=(4.9 * len(panels), 4.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, (name, curves) in zip(_panels(figure, len(panels)), panels, strict=True):
        for number, curve in enumerate(curves):
            each = list(zip(*curve.values, strict=True))
            colour = COLOURS[number % len(COLOURS)]
            axes.fill_between(
                curve.sizes, [*map(min, each)], [*map(max, each)], color=colour, alpha=0.12, lw=0
            )
            label = f"{curve.name}: {curve.exponents[0]:+.2f}"
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(curve.sizes, curve.medians, marker=marker, ms=4.5, color=colour, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        lowest = min(min(curve.medians) for curve in curves)
        highest = max(max(curve.medians) for curve in curves)
        # A decade at the least: noise on a flat line must not look like a slope.
        axes.set_ylim(min(lowest / 1.6, highest / 20), max(highest * 1.6, lowest * 12))
        if max(curves[0].sizes) < 100:
            axes.set_xticks(curves[0].sizes, [f"{size}" for size in curves[0].sizes])
            axes.minorticks_off()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if highest < 100 * lowest:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(x)
        axes.set_ylabel(curves[0].unit)
        axes.set_title(name, fontsize=10)
        _legend(axes)
    _save(figure, path)


def filled(path: Path, title: str, found: Filling, bound: int) -> None:
    """Memory over time beside the bound."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=11)
    (axes,) = _panels(figure, 1)
    seconds = [at for at, _, _ in found.samples]
    axes.plot(seconds, [used / 1e6 for _, used, _ in found.samples], label="used_memory")
    axes.plot(seconds, [held / 1e6 for _, _, held in found.samples], label="counted")
    axes.axhline(bound / 1e6, color=COLOURS[3], lw=1.2, ls="--", label="MAX_STORED_BYTES")
    axes.axhline(
        0.75 * bound / 1e6, color=INK, lw=1, ls=":", label="three quarters: 503 from here on"
    )
    axes.set_ylim(0, bound * 1.3 / 1e6)
    axes.set_xlim(0, seconds[-1])
    axes.set_xlabel("seconds")
    axes.set_ylabel("MB")
    _legend(axes)
    _save(figure, path)


def _panels(figure: Figure, count: int) -> list[Axes]:
    panels = [figure.add_subplot(1, count, number + 1) for number in range(count)]
    for axes in panels:
        axes.set_facecolor("none")
        axes.grid(color=INK, alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return panels


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9, frameon=False, ncols=1)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, transparent=True, metadata={"Date": None})
