"""What the relay benchmark found: ratios first, then figures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.figures import Rounds, busy_clients, cpu_lines

LIMIT, REFERENCE, RELAIS = "bare aiohttp", "FastAPI + pub/sub", "Relais"
BAR_RATE = 3.0
"""Times the reference's frames a second."""
BAR = f"bar: at least {BAR_RATE:g} x FastAPI and a lower first p99"


@dataclass(frozen=True, slots=True)
class Measured:
    """One server in one round.

    Attributes:
        frames: of one token each, received and checked.
        reads: of the clients' sockets.
        cpu_us: CPU time per frame, by process.
        client_busy: CPU time of a client process over wall time.
    """

    frames: int
    elapsed_s: float
    streams: int
    reads: int
    first_s: tuple[float, ...]
    gaps_s: tuple[float, ...]
    cpu_us: dict[str, float]
    client_busy: float

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.elapsed_s


@dataclass(frozen=True, slots=True)
class Row:
    """One server over all rounds: medians of rates and CPU, quantiles over every stream and frame."""

    of_limit: float
    of_reference: float
    frames_per_s: float
    streams_per_s: float
    first_p50_ms: float
    first_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    frames_per_read: float
    cpu_us: dict[str, float]
    client_busy: float


def table(rounds: Sequence[dict[str, Measured]]) -> dict[str, Row]:
    """A row for each server."""
    found = Rounds(rounds)
    return {name: _row(name, found) for name in found.names}


def _row(name: str, rounds: Rounds[Measured]) -> Row:
    def ratio(one: Measured, other: Measured) -> float:
        return one.frames_per_s / other.frames_per_s

    return Row(
        of_limit=rounds.compared(name, LIMIT, ratio),
        of_reference=rounds.compared(name, REFERENCE, ratio),
        frames_per_s=rounds.median(name, lambda one: one.frames_per_s),
        streams_per_s=rounds.median(name, lambda one: one.streams / one.elapsed_s),
        first_p50_ms=rounds.quantile_ms(name, lambda one: one.first_s, 0.5),
        first_p99_ms=rounds.quantile_ms(name, lambda one: one.first_s, 0.99),
        gap_p50_ms=rounds.quantile_ms(name, lambda one: one.gaps_s, 0.5),
        gap_p99_ms=rounds.quantile_ms(name, lambda one: one.gaps_s, 0.99),
        frames_per_read=rounds.median(name, lambda one: one.frames / one.reads),
        cpu_us=rounds.medians(name, lambda one: one.cpu_us),
        client_busy=rounds.median(name, lambda one: one.client_busy),
    )


def bar_met(rows: dict[str, Row]) -> bool:
    """Three times the reference's frames, and sooner at p99."""
    relais, reference = rows[RELAIS], rows[REFERENCE]
    return relais.of_reference >= BAR_RATE and relais.first_p99_ms < reference.first_p99_ms


def text(rows: dict[str, Row]) -> str:
    """The table as printed."""
    titles = (
        f"{'':18}{'of limit':>10}{'of FastAPI':>12}{'frames/s':>11}{'streams/s':>11}"
        f"{'first p50, p99 ms':>20}{'gap p50, p99 ms':>20}{'frames/read':>13}"
    )
    lines = [titles]
    for name, row in rows.items():
        lines.append(
            f"{name:18}{row.of_limit:10.2f}{row.of_reference:12.2f}{row.frames_per_s:11,.0f}"
            f"{row.streams_per_s:11.1f}{row.first_p50_ms:12.1f}{row.first_p99_ms:8.1f}"
            f"{row.gap_p50_ms:12.2f}{row.gap_p99_ms:8.2f}{row.frames_per_read:13.2f}"
        )
    lines.append("CPU per frame, us")
    lines += cpu_lines({name: row.cpu_us for name, row in rows.items()}, 18, 1)
    busy = {name: row.client_busy for name, row in rows.items()}
    lines += busy_clients(busy, ": use more --client-processes")
    return "\n".join(lines)


def as_json(rows: dict[str, Row], options: dict[str, object]) -> dict[str, Any]:
    """The table and what it was made with."""
    return {
        "options": options,
        "bar_met": bar_met(rows),
        "rows": {name: asdict(row) for name, row in rows.items()},
    }
