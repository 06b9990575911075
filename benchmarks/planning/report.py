"""Tables of what a step costs, of predicted and measured runs, and of plans, as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.planning.costs import Costs
from benchmarks.planning.loads import (
    CLIENTS,
    MONGODB,
    ORCHESTRATORS,
    REDIS,
    WORKERS,
    Run,
)
from benchmarks.planning.plan import FULL, Plan
from benchmarks.planning.simulation import Simulated

NEAR = 0.15
"""How far a prediction may be off."""

BUSY = 0.1
"""Cores that other programs may use; with more, rates say little."""

_PARTS = (ORCHESTRATORS, WORKERS, REDIS)


def costs_table(costs: Costs) -> str:
    """Return what each step costs, a row for each."""
    steps = list(dict.fromkeys(step for part in costs.us.values() for step in part))
    parts = (ORCHESTRATORS, WORKERS, REDIS, MONGODB, CLIENTS)
    rows = [
        [
            step,
            *(f"{costs.us[part][step]:,.1f}" if step in costs.us[part] else "" for part in parts),
        ]
        for step in steps
    ]
    return _table(["µs of CPU", *parts], rows)


def checks_table(measured: Sequence[Run], predicted: Sequence[Simulated]) -> str:
    """Return each run beside its prediction, predicted first; what is further off than `NEAR` is bold."""
    rows = []
    for run, found in zip(measured, predicted, strict=True):
        here, there = run.counts.tokens, found.run.counts.tokens
        rows.append(
            [
                f"{run.fleet}",
                f"{run.load}",
                _beside(found.run.tokens_per_s, run.tokens_per_s),
                *(
                    _beside(found.run.cpu_s[part] / there * 1e6, run.cpu_s[part] / here * 1e6)
                    for part in _PARTS
                ),
                f"{run.others:.1f}",
            ]
        )
    titles = ["orchestrators x workers", "load", "tokens/s", *_PARTS, "others' cores"]
    return _table(titles, rows)


def near(measured: Sequence[Run], predicted: Sequence[Simulated]) -> tuple[int, int]:
    """Return how many figures of these runs are predicted within `NEAR`, and of how many."""
    pairs = [
        pair
        for run, found in zip(measured, predicted, strict=True)
        for pair in (
            (found.run.tokens_per_s, run.tokens_per_s),
            *((found.run.cpu_s[part], run.cpu_s[part]) for part in _PARTS),
        )
    ]
    return sum(_is_near(*pair) for pair in pairs), len(pairs)


def near_by_counts(measured: Sequence[Run], costs: Costs) -> tuple[int, int]:
    """Return how many CPU times are near what the counted steps cost, without a simulation, and of how many."""
    pairs = [(costs.cpu_s(part, run), run.cpu_s[part]) for run in measured for part in _PARTS]
    return sum(_is_near(*pair) for pair in pairs), len(pairs)


def plans_table(plans: Sequence[Plan]) -> str:
    """Return what each demand needs, a row for each."""
    rows = []
    for plan in plans:
        demand, needed, (first, streams) = plan.demand, plan.needed, plan.first
        fits = demand.workers >= needed[WORKERS]
        rows.append(
            [
                f"{demand.streams:,}",
                f"{demand.workers:,}" + ("" if fits else f" (too few: {needed[WORKERS]:,})"),
                f"{plan.tokens_per_s:,.0f}",
                f"{first} ({streams:,.0f})",
                f"{needed[ORCHESTRATORS]:,}",
                f"{needed[REDIS]:,}",
                f"{plan.cores[WORKERS] / demand.workers:.2f}",
                f"{plan.requests_per_s:,.0f}",
                f"{needed[MONGODB]:,}",
            ]
        )
    titles = [
        *("open streams", "workers", "tokens/s", "full first (at open streams)", "orchestrators"),
        *("Redis", "cores per worker", "traces/s", "MongoDB's cores"),
    ]
    return _table(titles, rows)


def slot_table(plans: Sequence[Plan]) -> str:
    """Return what one model's slot does under more and more workers."""
    rows = [
        [
            f"{plan.demand.workers:,}",
            f"{plan.demand.streams:,}",
            f"{plan.tokens_per_s:,.0f}",
            f"{plan.cores[REDIS]:.0%}" + (" (full)" if plan.cores[REDIS] > FULL else ""),
            f"{plan.late_p99_ms:,.0f} ms",
        ]
        for plan in plans
    ]
    return _table(["workers", "open streams", "tokens/s", "of Redis's core", "token's p99"], rows)


def _is_near(predicted: float, measured: float) -> bool:
    return abs(predicted - measured) <= NEAR * measured


def _beside(predicted: float, measured: float) -> str:
    digits = 0 if measured >= 100 else 1
    text = f"{predicted:,.{digits}f}, {measured:,.{digits}f}"
    return text if _is_near(predicted, measured) else f"**{text}**"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
