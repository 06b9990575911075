"""What the benchmark of short requests found: ratios first, then figures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import Rounds, busy_clients, cpu_lines

REFERENCE, RELAIS = "FastAPI + lists", "Relais"


@dataclass(frozen=True, slots=True)
class Measured:
    """One server in one round.

    Attributes:
        latencies_s: from a request to its whole answer.
        cpu_us: CPU time per request, by process.
        client_busy: CPU time of the client process over wall time.
    """

    requests: int
    elapsed_s: float
    latencies_s: tuple[float, ...]
    cpu_us: dict[str, float]
    client_busy: float

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.elapsed_s


def text(measured: Sequence[dict[str, Measured]]) -> str:
    """The table of one load, as printed."""
    rounds = Rounds(measured)
    lines = [
        f"{'':18}{'of FastAPI':>11}{'requests/s':>12}{'p50, p99 ms':>19}{'CPU, of FastAPI':>17}"
    ]
    for name in rounds.names:
        rate = rounds.compared(
            name, REFERENCE, lambda one, other: one.requests_per_s / other.requests_per_s
        )
        cpu = rounds.compared(
            name,
            REFERENCE,
            lambda one, other: sum(one.cpu_us.values()) / sum(other.cpu_us.values()),
        )
        p50, p99 = (
            rounds.quantile_ms(name, lambda one: one.latencies_s, share) for share in (0.5, 0.99)
        )
        each = rounds.median(name, lambda one: one.requests_per_s)
        lines.append(f"{name:18}{rate:11.2f}{each:12,.0f}{p50:11.1f}{p99:8.1f}{cpu:17.2f}")
    lines.append("CPU per request, us")
    spent = {name: rounds.medians(name, lambda one: one.cpu_us) for name in rounds.names}
    lines += cpu_lines(spent, 18, 0)
    lines += busy_clients(
        {name: rounds.median(name, lambda one: one.client_busy) for name in rounds.names}
    )
    return "\n".join(lines)
