"""What each step costs each part, fitted to measured runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.planning.loads import (
    CLIENTS,
    MONGODB,
    ORCHESTRATORS,
    REDIS,
    WORKERS,
    Fleet,
    Load,
    Run,
)

PACED, UNPACED = "engine's token", "engine's token, unpaced"
"""What a token of the engine itself costs a worker, at a pace and without one."""

_REQUEST, _OPEN = ("request", "prompt_kb", "trace"), ("stream_s", "process_s")
STEPS = {
    ORCHESTRATORS: (*_REQUEST, "turn", "entry", "token", *_OPEN),
    WORKERS: ("request", "prompt_kb", "turn", "call", "entry", "token", *_OPEN),
    REDIS: (*_REQUEST, "turn", "call", "entry", "token", *_OPEN, "second"),
    CLIENTS: ("request", "prompt_kb", "turn", "entry", "token"),
    MONGODB: ("trace", "second"),
}
"""Of each part, what its CPU time is made of.

request: all that a request costs besides its tokens; prompt_kb: a thousand characters of its prompt; trace: that it is
traced. turn: work that begins after there was none; for Redis, each turn of its loop, which syncs its file once. call:
an `append`; entry: a stream in it; token: an event in it. stream_s: a stream that is open for a second. process_s: a
second of an orchestrator, or of a worker; for Redis, of a worker that it serves. second: one of a server's own.
"""


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of CPU, by part and step; the engine's tokens are steps of the workers."""

    us: Mapping[str, Mapping[str, float]]

    def of(self, part: str, step: str) -> float:
        """Return what a step costs a part."""
        return self.us[part].get(step, 0.0)

    def request_us(self, part: str, load: Load, fleet: Fleet) -> float:
        """Return what a request costs a part besides its tokens."""
        of = self.of
        traced_us = of(part, "trace") if fleet.traces else 0.0
        return of(part, "request") + of(part, "prompt_kb") * load.prompt / 1000 + traced_us

    def cpu_s(self, part: str, run: Run) -> float:
        """Return what a part spends on what was done in a run."""
        done = steps(part, run)
        spent_us = sum(self.of(part, step) * count for step, count in done.items())
        if part == WORKERS:
            spent_us += _engine_us(self.us[WORKERS], run)
        return spent_us * 1e-6


def steps(part: str, run: Run) -> dict[str, float]:
    """Return how often each step of a part was done in a run."""
    counts, fleet = run.counts, run.fleet
    processes = fleet.orchestrators if part == ORCHESTRATORS else fleet.workers
    every = {
        "request": counts.requests,
        "prompt_kb": counts.requests * run.load.prompt / 1000,
        "trace": counts.requests * fleet.traces,
        "turn": run.turns.get(part, 0.0),
        "call": counts.calls,
        "entry": counts.entries,
        "token": counts.tokens,
        "stream_s": counts.stream_s,
        "process_s": counts.elapsed_s * processes,
        "second": counts.elapsed_s,
    }
    return {step: every[step] for step in STEPS[part]}


def _engine_us(engine: Mapping[str, float], run: Run) -> float:
    return run.counts.tokens * engine[PACED if run.load.tokens_per_s else UNPACED]


def fit(runs: Sequence[Run], engine: Mapping[str, float]) -> Costs:
    """Return the costs, none below 0, that explain each run's CPU times with the least relative error.

    Args:
        engine: microseconds of the engine's tokens, which are measured by themselves.
    """
    from scipy.optimize import nnls

    found: dict[str, dict[str, float]] = {}
    for part, names in STEPS.items():
        rows, spent = [], []
        for run in runs:
            cpu_us = run.cpu_s.get(part, 0.0) * 1e6
            if part == WORKERS:
                cpu_us -= _engine_us(engine, run)
            if cpu_us > 0:
                rows.append([count / cpu_us for count in steps(part, run).values()])
                spent.append(1.0)
        if not rows:
            found[part] = dict.fromkeys(names, 0.0)
            continue
        scale = np.array(rows).max(axis=0)
        scale[scale == 0] = 1.0
        values, _ = nnls(np.array(rows) / scale, np.array(spent))
        found[part] = dict(zip(names, (values / scale).tolist(), strict=True))
    found[WORKERS].update(engine)
    return Costs(found)
