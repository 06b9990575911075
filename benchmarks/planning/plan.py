"""How many of each part a load needs, by the model. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.figures import quantile_ms
from benchmarks.planning.costs import PACED, UNPACED, Costs
from benchmarks.planning.loads import MONGODB, ORCHESTRATORS, REDIS, WORKERS, Fleet, Load, Run
from benchmarks.planning.simulation import Machine, Simulated, simulate

FULL = 0.7
"""Of its core that a process may use: above it, what waits grows quickly."""

MOST_PER_WORKER = 512
"""Streams of one engine; more than that wait in the queue."""

SLICE_PER_S = 12_000
"""Tokens per second of the part of a fleet that is simulated; the rest is alike."""

SIMULATED_TOKENS = 30
MANY_CORES = 10_000
HOP_S = 0.0002
"""Assumed where each process has a core: the measured one has waits for cores in it."""

AT_ONCE_PER_S = 4000
"""`Publisher`'s, on machines of three cores and more."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of a fleet.

    Attributes:
        streams: open at once, each with an answer under way.
        tokens_per_s: of each.
        tokens: of an answer.
        prompt: characters of each.
    """

    streams: int
    workers: int
    tokens_per_s: float = 30.0
    tokens: int = 256
    prompt: int = 2000


@dataclass(frozen=True, slots=True)
class Plan:
    """What a demand needs.

    Attributes:
        cores: that each part is busy for; the workers' without their engines.
        late_p99_ms: from a token's making to its client, without the network.
    """

    demand: Demand
    cores: dict[str, float]
    late_p99_ms: float

    @property
    def tokens_per_s(self) -> float:
        return self.demand.streams * self.demand.tokens_per_s

    @property
    def requests_per_s(self) -> float:
        return self.tokens_per_s / self.demand.tokens

    @property
    def needed(self) -> dict[str, int]:
        """Processes of each part."""
        found = {part: processes(cores) for part, cores in self.cores.items()}
        by_places = math.ceil(self.demand.streams / MOST_PER_WORKER)
        return {**found, WORKERS: max(by_places, found[WORKERS])}

    @property
    def first(self) -> tuple[str, float]:
        """What is full first as the load grows, with one orchestrator and one Redis, and at how many open streams."""
        demand = self.demand
        shares = {part: self.cores[part] / FULL for part in (ORCHESTRATORS, REDIS)}
        busy, places = self.cores[WORKERS] / FULL, demand.streams / MOST_PER_WORKER
        shares[WORKERS] = max(busy, places) / demand.workers
        part = max(shares, key=lambda part: shares[part])
        return part, demand.streams / shares[part]


def processes(cores: float) -> int:
    """Return how many processes of one thread do what keeps so many cores busy."""
    return max(1, math.ceil(cores / FULL))


def without_engine(costs: Costs) -> Costs:
    """Return the costs with an engine that costs its worker nothing: it runs elsewhere."""
    return Costs({**costs.us, WORKERS: {**costs.us[WORKERS], PACED: 0.0, UNPACED: 0.0}})


def plan(demand: Demand, costs: Costs, on: Machine) -> Plan:
    """Simulate a part of the fleet, and multiply what it did.

    Args:
        on: whose disk Redis has; each process has a core.
    """
    costs = without_engine(costs)
    each = min(MOST_PER_WORKER, max(1, round(demand.streams / demand.workers)))
    workers = max(1, min(demand.workers, int(SLICE_PER_S / (each * demand.tokens_per_s))))
    while (found := _simulated(demand, each, workers, costs, on)).busy[
        REDIS
    ] > FULL and workers > 1:
        # So many need more than one Redis: tokens wait for a full one, and travel together as they would not.
        workers = math.ceil(workers / 2)
    return Plan(demand, _cores(demand, found, costs), quantile_ms(found.late_s, 0.99))


def slot(demand: Demand, workers: Sequence[int], costs: Costs, on: Machine) -> list[Plan]:
    """Simulate one model on one Redis with more and more workers, each with the demand's streams; all of it."""
    costs = without_engine(costs)
    plans = []
    for count in workers:
        one = replace(demand, streams=demand.streams * count, workers=count)
        found = _simulated(one, demand.streams, count, costs, on)
        plans.append(Plan(one, _cores(one, found, costs), quantile_ms(found.late_s, 0.99)))
    return plans


def _simulated(demand: Demand, each: int, workers: int, costs: Costs, on: Machine) -> Simulated:
    rate = each * workers * demand.tokens_per_s
    on = replace(on, cores=MANY_CORES, hop_s=HOP_S, at_once_per_s=AT_ONCE_PER_S)
    # Twice as many as needed, so that what waits at Redis is seen.
    fronts = max(1, math.ceil(2 * rate * _frame_us(costs) * 1e-6 / FULL))
    load = Load(each * workers, 1, SIMULATED_TOKENS, demand.tokens_per_s, demand.prompt)
    return simulate(Fleet(fronts, workers), load, costs, on, steady=True)


def _frame_us(costs: Costs) -> float:
    return costs.of(ORCHESTRATORS, "entry") + costs.of(ORCHESTRATORS, "token")


def _cores(demand: Demand, found: Simulated, costs: Costs) -> dict[str, float]:
    """Of each part, for a second of the whole demand."""
    simulated = found.run.counts
    tokens = demand.streams * demand.tokens_per_s
    share = tokens / simulated.tokens
    requests = tokens / demand.tokens
    counts = replace(
        simulated,
        requests=requests,
        tokens=tokens,
        calls=simulated.calls * share,
        # Of the simulated ones each answer's end is one; these answers are longer.
        entries=(simulated.entries - simulated.requests) * share + requests,
        stream_s=demand.streams,
        elapsed_s=1.0,
    )
    load = Load(demand.streams, 1, demand.tokens, demand.tokens_per_s, demand.prompt)
    turns = {part: count * share for part, count in found.run.turns.items()}
    whole = Run(Fleet(1, demand.workers, traces=True), load, counts, {}, turns)
    return {part: costs.cpu_s(part, whole) for part in (ORCHESTRATORS, WORKERS, REDIS, MONGODB)}
