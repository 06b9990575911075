"""The ladder as an SVG file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.charts import INK, save, two_panels
from benchmarks.forwarding.report import BARE, LITELLM, MAX_DELAY_MS, NGINX, RELAIS, Ladder, Step

LOOKS = {
    BARE: (INK, "o"),
    NGINX: ("#2da44e", "s"),
    LITELLM: ("#d1731c", "^"),
    RELAIS: ("#2f81f7", "D"),
}


def draw(path: Path, ladder: Ladder, tokens_per_s: float) -> None:
    """Draw frames per second and p99 of a frame's delay over the number of streams; failed steps are hollow."""
    figure, rate, delay = two_panels("gateways")
    figure.suptitle(f"Streams of {tokens_per_s:g} tokens/s through a gateway", fontsize=11)
    for axes in (rate, delay):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
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
    save(figure, path)


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
