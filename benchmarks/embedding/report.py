"""What the comparison of embedding servers found. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Bar, Rounds, busy_clients, cpu_lines

LIMIT, PLAIN, INFINITY, RELAIS = "torch fp32 alone", "plain aiohttp", "infinity_emb", "Relais"
MIN_OF_OWN, MIN_OF_PLAIN = 0.95, 2.0
MIN_AUTO, MIN_COSINE = 3.0, 0.999
"""Of the backend that `auto` chooses: its rate, over that of torch in fp32, and its vectors' cosine with torch's."""


def offline_of(backend: str) -> str:
    """The name of a backend that encodes all texts alone."""
    return f"{backend} alone"


def served_by(backend: str) -> str:
    """The name of Relais with a backend."""
    return RELAIS if backend == "torch" else f"{RELAIS} {backend}"


@dataclass(frozen=True, slots=True)
class Measured:
    """One side in one round.

    Attributes:
        single_s: of each request with one text, from asking to the whole answer; empty of the limit.
        request_s: of every request.
        cpu_ms: CPU time per text, by process.
        client_busy: CPU time of the client process over wall time.
        difference: the largest of any number in any vector from the limit's.
        cosine: the lowest of any vector with the limit's.
    """

    texts: int
    elapsed_s: float
    single_s: tuple[float, ...]
    request_s: tuple[float, ...]
    cpu_ms: dict[str, float]
    client_busy: float
    difference: float
    cosine: float

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.elapsed_s


Round = dict[str, Measured]


@dataclass(frozen=True, slots=True)
class Row:
    """One side over all rounds: medians of rates and CPU, quantiles over every request."""

    of_limit: float
    of_own: float | None
    of_plain: float | None
    texts_per_s: float
    single_p50_ms: float | None
    single_p99_ms: float | None
    request_p50_ms: float | None
    request_p99_ms: float | None
    cpu_ms: dict[str, float]
    client_busy: float
    difference: float
    cosine: float


def table(rounds: Sequence[Round]) -> dict[str, Row]:
    """A row for each side."""
    found = Rounds(rounds)
    return {name: _row(name, found) for name in found.names}


def _row(name: str, rounds: Rounds[Measured]) -> Row:
    def ratio(one: Measured, other: Measured) -> float:
        return one.texts_per_s / other.texts_per_s

    def quantile(values_s: Callable[[Measured], Sequence[float]], share: float) -> float | None:
        return None if name.endswith(" alone") else rounds.quantile_ms(name, values_s, share)

    def compared(other: str) -> float | None:
        return rounds.compared(name, other, ratio) if other in rounds.names else None

    own = offline_of(_backend_of(name))
    return Row(
        of_limit=rounds.compared(name, LIMIT, ratio),
        of_own=compared(own if own in rounds.names else LIMIT),
        of_plain=compared(PLAIN),
        texts_per_s=rounds.median(name, lambda one: one.texts_per_s),
        single_p50_ms=quantile(lambda one: one.single_s, 0.5),
        single_p99_ms=quantile(lambda one: one.single_s, 0.99),
        request_p50_ms=quantile(lambda one: one.request_s, 0.5),
        request_p99_ms=quantile(lambda one: one.request_s, 0.99),
        cpu_ms=rounds.medians(name, lambda one: one.cpu_ms),
        client_busy=rounds.median(name, lambda one: one.client_busy),
        difference=max(one.difference for one in rounds.of(name)),
        cosine=min(one.cosine for one in rounds.of(name)),
    )


def _backend_of(name: str) -> str:
    return name.removeprefix(RELAIS).removesuffix(" alone").strip() or "torch"


def bars(rows: dict[str, Row]) -> list[Bar]:
    """What is asked of Relais."""
    found = []
    for name, row in rows.items():
        if not name.startswith(RELAIS):
            continue
        assert row.of_own is not None
        found.append(
            Bar(
                f"{name}: texts/s, at least {MIN_OF_OWN:g} x its backend alone",
                f"{row.of_own:.2f}",
                row.of_own >= MIN_OF_OWN,
            )
        )
        if _backend_of(name) == "auto":
            found.append(
                Bar(
                    f"{name}: texts/s, at least {MIN_AUTO:g} x {LIMIT}, cosine at least {MIN_COSINE:g}",
                    f"{row.of_limit:.2f}, {row.cosine:.5f}",
                    row.of_limit >= MIN_AUTO and row.cosine >= MIN_COSINE,
                )
            )
        if (plain := rows.get(PLAIN)) is None:
            continue
        assert row.of_plain is not None
        assert row.single_p99_ms is not None
        assert plain.single_p99_ms is not None
        found += [
            Bar(
                f"{name}: texts/s, at least {MIN_OF_PLAIN:g} x {PLAIN}",
                f"{row.of_plain:.2f}",
                row.of_plain >= MIN_OF_PLAIN,
            ),
            Bar(
                f"{name}: p99 of requests with one text, below {PLAIN}",
                f"{row.single_p99_ms:,.0f} ms beside {plain.single_p99_ms:,.0f}",
                row.single_p99_ms < plain.single_p99_ms,
            ),
        ]
    return found


def line(number: int, one: Round) -> str:
    """How one round went."""
    rates = ", ".join(f"{name} {found.texts_per_s:,.0f}" for name, found in one.items())
    return f"round {number + 1}, texts/s: {rates}"


def text(rows: dict[str, Row]) -> str:
    """The table as printed."""
    width = max(map(len, rows))
    titles = (
        f"{'':{width}}{'of torch':>10}{'of its own':>12}{'of plain':>10}{'texts/s':>9}{'one text p50, p99 ms':>23}"
        f"{'all requests p50, p99 ms':>27}{'off by':>10}{'cosine':>10}"
    )
    lines = [titles]
    for name, row in rows.items():
        lines.append(
            f"{name:{width}}{row.of_limit:10.2f}{_ratio(row.of_own):>12}{_ratio(row.of_plain):>10}"
            f"{row.texts_per_s:9,.0f}{_ms(row.single_p50_ms):>13}{_ms(row.single_p99_ms):>10}"
            f"{_ms(row.request_p50_ms):>15}{_ms(row.request_p99_ms):>12}{row.difference:10.0e}{row.cosine:10.5f}"
        )
    lines.append("CPU per text, ms")
    lines += cpu_lines({name: row.cpu_ms for name, row in rows.items()}, width, 2)
    lines += busy_clients({name: row.client_busy for name, row in rows.items()})
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
