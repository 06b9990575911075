"""The ladder as an SVG file for light and dark pages. The only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.forwarding.report import BARE, LITELLM, MAX_DELAY_MS, NGINX, RELAIS, Ladder, Step

INK = "#7a828c"
"""Four to five times as bright as a dark page and as dark against a white one."""
LOOKS = {
    BARE: (INK, "o"),
    NGINX: ("#2da44e", "s"),
    LITELLM: ("#d1731c", "^"),
    RELAIS: ("#2f81f7", "D"),
}


def draw(path: Path, ladder: Ladder, tokens_per_s: float) -> None:
    """Draw frames per second and p99 of a frame's delay over the number of streams; failed steps are hollow."""
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "gateways",
            "font.size": 10,
            "text.color": INK,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    figure = Figure(figsize=(9.8, 4.4), layout="constrained")
    figure.suptitle(f"Streams of {tokens_per_s:g} tokens/s through a gateway", fontsize=11)
    rate, delay = (_panel(figure, number) for number in (1, 2))
    sizes = sorted({step.streams for steps in ladder.values() for step in steps})
    offered = [size * tokens_per_s for size in sizes]
    rate.plot(sizes, offered, color=INK, lw=1, ls=":", label="offered")
    delay.axhline(MAX_DELAY_MS, color=INK, lw=1, ls=":", label="failed above")
    for name, steps in ladder.items():
        _curve(rate, name, steps, lambda step: step.frames_per_s)
        _curve(delay, name, steps, lambda step: step.delay_p99_ms)
    for axes, title in ((rate, "frames/s delivered"), (delay, "p99 of a frame's delay, ms")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("streams")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9, frameon=False, ncols=3
        )
    figure.savefig(path, transparent=True, format="svg", metadata={"Date": None})


def _panel(figure: Figure, number: int) -> Axes:
    axes = figure.add_subplot(1, 2, number)
    axes.set_facecolor("none")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _curve(
    axes: Axes, name: str, steps: Sequence[Step], figure_of: Callable[[Step], float]
) -> None:
    shown = [step for step in steps if step.frames]
    colour, marker = LOOKS[name]
    axes.plot(
        [step.streams for step in shown],
        [figure_of(step) for step in shown],
        color=colour,
        lw=1.4,
        label=name,
    )
    for step in shown:
        filled = "none" if step.failed else colour
        axes.plot(step.streams, figure_of(step), marker, ms=5, color=colour, mfc=filled)
