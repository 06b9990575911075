"""Charts as SVG files for light and dark pages."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#7a828c"
"""Four to five times as bright as a dark page and as dark against a white one."""


def two_panels(name: str) -> tuple[Figure, Axes, Axes]:
    """Return a figure with two panels side by side. The same name gives the file the same ids each time."""
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "font.size": 10,
            "text.color": INK,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    figure = Figure(figsize=(9.8, 4.4), layout="constrained")
    left, right = (_panel(figure, number) for number in (1, 2))
    return figure, left, right


def _panel(figure: Figure, number: int) -> Axes:
    axes = figure.add_subplot(1, 2, number)
    axes.set_facecolor("none")
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def save(figure: Figure, path: Path) -> None:
    """Write the file: the same bytes for the same figures."""
    figure.savefig(path, transparent=True, format="svg", metadata={"Date": None})
