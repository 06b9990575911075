"""The plan as an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import FuncFormatter

from benchmarks.charts import INK, save, two_panels
from benchmarks.planning.loads import MONGODB, ORCHESTRATORS, REDIS, WORKERS
from benchmarks.planning.plan import FULL, Plan

COLOURS = {ORCHESTRATORS: "#2f81f7", WORKERS: "#d1731c", REDIS: "#2da44e", MONGODB: "#8a63d2"}


def drawn(path: Path, grown: Sequence[Plan], of_slot: Sequence[Plan]) -> None:
    """Draw the cores that each part needs over open streams, and a token's delay over one model's load."""
    figure, left, right = two_panels("capacity")
    streams = [plan.demand.streams for plan in grown]
    for part, colour in COLOURS.items():
        left.plot(
            streams, [plan.cores[part] for plan in grown], "o-", ms=4, color=colour, label=part
        )
    left.axhline(FULL, color=INK, lw=1, ls=":", label=f"{FULL:.0%} of one core")
    left.set(xscale="log", yscale="log", xlabel="open streams", ylabel="cores")
    each = grown[0].demand
    left.set_title(
        f"{each.tokens_per_s:g} tokens/s each, {each.streams // each.workers} per worker",
        fontsize=10,
    )
    rates = [plan.tokens_per_s for plan in of_slot]
    colour = COLOURS[REDIS]
    right.plot(
        rates, [plan.late_p99_ms for plan in of_slot], "o-", ms=4, color=INK, label="p99, ms"
    )
    right.set(xlabel="tokens/s of one model", ylabel="from a token's making to its client, ms")
    right.set_ylim(bottom=0)
    busy = right.twinx()
    busy.plot(
        rates,
        [100 * plan.cores[REDIS] for plan in of_slot],
        "s--",
        ms=4,
        color=colour,
        label="busy",
    )
    busy.set_ylim(0, 110)
    busy.set_ylabel("of Redis's core, %", color=colour)
    busy.spines[["top", "left"]].set_visible(False)
    right.set_title("One model, whose slot one Redis serves", fontsize=10)
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    left.legend(fontsize=9, frameon=False)
    save(figure, path)
