"""What the comparison of queues found: ratios first, then figures. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import quantile_ms

RELAIS = "relais"
BAR = "bar: ahead of the best peer in jobs/s"


@dataclass(frozen=True, slots=True)
class Measured:
    """One queue in one round.

    Attributes:
        jobs_per_s: under load, submitted and their results received.
        loaded_s: from submit to result, of each job under load.
        alone_s: of each job where there is one at a time.
        cpu_us: CPU time per job under load, by process.
    """

    jobs_per_s: float
    loaded_s: tuple[float, ...]
    alone_s: tuple[float, ...]
    cpu_us: dict[str, float]


def best_peer(rounds: Sequence[dict[str, Measured]]) -> str:
    """The one with the most jobs a second, by the median."""
    peers = [name for name in rounds[0] if name != RELAIS]
    return max(peers, key=lambda name: statistics.median(one[name].jobs_per_s for one in rounds))


def ratio(rounds: Sequence[dict[str, Measured]], name: str, to: str) -> float:
    """Jobs a second: the median of each round's own ratio."""
    return statistics.median(one[name].jobs_per_s / one[to].jobs_per_s for one in rounds)


def text(rounds: Sequence[dict[str, Measured]]) -> str:
    """The table as printed."""
    best = best_peer(rounds)
    lines = [
        f"{'':8}{'of ' + best:>11}{'jobs/s':>9}{'loaded p50, p99 ms':>22}{'alone p50, p99 ms':>20}  CPU per job, us"
    ]
    for name in rounds[0]:

        def median(of: Callable[[Measured], float], name: str = name) -> float:
            return statistics.median(of(one[name]) for one in rounds)

        loaded = [seconds for one in rounds for seconds in one[name].loaded_s]
        alone = [seconds for one in rounds for seconds in one[name].alone_s]
        spent = {
            process: median(lambda one, process=process: one.cpu_us[process])  # type: ignore[misc]
            for process in rounds[0][name].cpu_us
        }
        lines.append(
            f"{name:8}{ratio(rounds, name, best):11.2f}{median(lambda one: one.jobs_per_s):9,.0f}"
            f"{quantile_ms(loaded, 0.5):13.1f}{quantile_ms(loaded, 0.99):9.1f}"
            f"{quantile_ms(alone, 0.5):12.2f}{quantile_ms(alone, 0.99):8.2f}"
            f"  {sum(spent.values()):,.0f} = "
            + ", ".join(f"{one} {us:,.0f}" for one, us in spent.items())
        )
    return "\n".join(lines)
