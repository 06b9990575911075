"""What the comparison of queues found: ratios first, then figures. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.figures import Rounds

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


def best_peer(rounds: Rounds[Measured]) -> str:
    """The one with the most jobs a second, by the median."""
    peers = [name for name in rounds.names if name != RELAIS]
    return max(peers, key=lambda name: rounds.median(name, lambda one: one.jobs_per_s))


def ratio(rounds: Rounds[Measured], name: str, to: str) -> float:
    """Jobs a second, of another's."""
    return rounds.compared(name, to, lambda one, other: one.jobs_per_s / other.jobs_per_s)


def text(rounds: Rounds[Measured]) -> str:
    """The table as printed."""
    best = best_peer(rounds)
    lines = [
        f"{'':8}{'of ' + best:>11}{'jobs/s':>9}{'loaded p50, p99 ms':>22}{'alone p50, p99 ms':>20}  CPU per job, us"
    ]
    for name in rounds.names:
        shares = (0.5, 0.99)
        loaded = [rounds.quantile_ms(name, lambda one: one.loaded_s, share) for share in shares]
        alone = [rounds.quantile_ms(name, lambda one: one.alone_s, share) for share in shares]
        spent = rounds.medians(name, lambda one: one.cpu_us)
        lines.append(
            f"{name:8}{ratio(rounds, name, best):11.2f}{rounds.median(name, lambda one: one.jobs_per_s):9,.0f}"
            f"{loaded[0]:13.1f}{loaded[1]:9.1f}{alone[0]:12.2f}{alone[1]:8.2f}"
            f"  {sum(spent.values()):,.0f} = "
            + ", ".join(f"{one} {us:,.0f}" for one, us in spent.items())
        )
    return "\n".join(lines)
