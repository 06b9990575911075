"""What the comparison of embedding servers found. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Bar, Rounds, busy_clients, cpu_lines

LIMIT, PLAIN, INFINITY, RELAIS = "offline encode", "plain aiohttp", "infinity_emb", "Relais"
MIN_OF_LIMIT, MIN_OF_PLAIN = 0.85, 2.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One side in one round.

    Attributes:
        single_s: of each request with one text, from asking to the whole answer; empty of the limit.
        request_s: of every request.
        cpu_ms: CPU time per text, by process.
        client_busy: CPU time of the client process over wall time.
        difference: the largest of any number in any vector from the limit's.
    """

    texts: int
    elapsed_s: float
    single_s: tuple[float, ...]
    request_s: tuple[float, ...]
    cpu_ms: dict[str, float]
    client_busy: float
    difference: float

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.elapsed_s


Round = dict[str, Measured]


@dataclass(frozen=True, slots=True)
class Row:
    """One side over all rounds: medians of rates and CPU, quantiles over every request."""

    of_limit: float
    of_plain: float
    texts_per_s: float
    single_p50_ms: float | None
    single_p99_ms: float | None
    request_p50_ms: float | None
    request_p99_ms: float | None
    cpu_ms: dict[str, float]
    client_busy: float
    difference: float


def table(rounds: Sequence[Round]) -> dict[str, Row]:
    """A row for each side."""
    found = Rounds(rounds)
    return {name: _row(name, found) for name in found.names}


def _row(name: str, rounds: Rounds[Measured]) -> Row:
    def ratio(one: Measured, other: Measured) -> float:
        return one.texts_per_s / other.texts_per_s

    def quantile(values_s: Callable[[Measured], Sequence[float]], share: float) -> float | None:
        return None if name == LIMIT else rounds.quantile_ms(name, values_s, share)

    return Row(
        of_limit=rounds.compared(name, LIMIT, ratio),
        of_plain=rounds.compared(name, PLAIN, ratio),
        texts_per_s=rounds.median(name, lambda one: one.texts_per_s),
        single_p50_ms=quantile(lambda one: one.single_s, 0.5),
        single_p99_ms=quantile(lambda one: one.single_s, 0.99),
        request_p50_ms=quantile(lambda one: one.request_s, 0.5),
        request_p99_ms=quantile(lambda one: one.request_s, 0.99),
        cpu_ms=rounds.medians(name, lambda one: one.cpu_ms),
        client_busy=rounds.median(name, lambda one: one.client_busy),
        difference=max(one.difference for one in rounds.of(name)),
    )


def bars(rows: dict[str, Row]) -> list[Bar]:
    """What is asked of Relais."""
    relais, plain = rows[RELAIS], rows[PLAIN]
    assert relais.single_p99_ms is not None
    assert plain.single_p99_ms is not None
    return [
        Bar(
            f"texts/s, at least {MIN_OF_LIMIT:g} x {LIMIT}",
            f"{relais.of_limit:.2f}",
            relais.of_limit >= MIN_OF_LIMIT,
        ),
        Bar(
            f"texts/s, at least {MIN_OF_PLAIN:g} x {PLAIN}",
            f"{relais.of_plain:.2f}",
            relais.of_plain >= MIN_OF_PLAIN,
        ),
        Bar(
            f"p99 of requests with one text, below {PLAIN}",
            f"{relais.single_p99_ms:,.0f} ms beside {plain.single_p99_ms:,.0f}",
            relais.single_p99_ms < plain.single_p99_ms,
        ),
    ]


def line(number: int, one: Round) -> str:
    """How one round went."""
    rates = ", ".join(f"{name} {found.texts_per_s:,.0f}" for name, found in one.items())
    return f"round {number + 1}, texts/s: {rates}"


def text(rows: dict[str, Row]) -> str:
    """The table as printed."""
    titles = (
        f"{'':16}{'of offline':>11}{'of plain':>10}{'texts/s':>9}{'one text p50, p99 ms':>23}"
        f"{'all requests p50, p99 ms':>27}{'off by':>10}"
    )
    lines = [titles]
    for name, row in rows.items():
        lines.append(
            f"{name:16}{row.of_limit:11.2f}{row.of_plain:10.2f}{row.texts_per_s:9,.0f}"
            f"{_ms(row.single_p50_ms):>13}{_ms(row.single_p99_ms):>10}"
            f"{_ms(row.request_p50_ms):>15}{_ms(row.request_p99_ms):>12}{row.difference:10.0e}"
        )
    lines.append("CPU per text, ms")
    lines += cpu_lines({name: row.cpu_ms for name, row in rows.items()}, 16, 2)
    lines += busy_clients({name: row.client_busy for name, row in rows.items()})
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
