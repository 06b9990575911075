"""What the comparison with `vllm serve` found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import Bar, Rounds, busy_clients, quantile_ms

PEER, PEER_AS_IT_COMES, RELAIS = "vllm serve", "vllm serve, defaults", "Relais"
MIN_RATE, RATE_FROM_CLIENTS = 1.0, 16
MAX_FIRST_ADDED_MS = 3.0
MAX_CPU = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One server in one round.

    Attributes:
        tokens: received, as `usage` counts them.
        first_s: of each stream, from the request's last byte to the first text.
        gaps_s: between arrivals of text in one stream.
        per_token_s: of each stream, time after its first token over the tokens after it.
        cpu_us: CPU time per token, by process; empty where it was not measured.
        client_busy: CPU time of the client process over wall time.
        texts: the answers, by prompt.
    """

    tokens: int
    elapsed_s: float
    first_s: tuple[float, ...]
    gaps_s: tuple[float, ...]
    per_token_s: tuple[float, ...]
    cpu_us: dict[str, float]
    client_busy: float
    texts: dict[str, str]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.elapsed_s

    @property
    def server_cpu_us(self) -> float:
        """Per token, of all processes of the server."""
        return sum(self.cpu_us.values())


Round = dict[str, Measured]


@dataclass(frozen=True, slots=True)
class Row:
    """One server over all rounds: medians of rates, CPU and comparisons, quantiles over every stream and gap.

    Attributes:
        first_added_ms: the median time to the first token, less the peer's.
        same_texts: answers that are the peer's to the letter, of `texts`.
    """

    of_peer: float
    tokens_per_s: float
    first_added_ms: float
    first_p50_ms: float
    first_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    per_token_p50_ms: float
    cpu_of_peer: float | None
    cpu_us: dict[str, float]
    client_busy: float
    same_texts: int
    texts: int


def table(rounds: Sequence[Round]) -> dict[str, Row]:
    """A row for each server."""
    found = Rounds(rounds)
    return {name: _row(name, found) for name in found.names}


def _row(name: str, rounds: Rounds[Measured]) -> Row:
    def first_added_ms(one: Measured, peer: Measured) -> float:
        return quantile_ms(one.first_s, 0.5) - quantile_ms(peer.first_s, 0.5)

    own = rounds.of(name)
    return Row(
        of_peer=rounds.compared(name, PEER, lambda one, peer: one.tokens_per_s / peer.tokens_per_s),
        tokens_per_s=rounds.median(name, lambda one: one.tokens_per_s),
        first_added_ms=rounds.compared(name, PEER, first_added_ms),
        first_p50_ms=rounds.quantile_ms(name, lambda one: one.first_s, 0.5),
        first_p99_ms=rounds.quantile_ms(name, lambda one: one.first_s, 0.99),
        gap_p50_ms=rounds.quantile_ms(name, lambda one: one.gaps_s, 0.5),
        gap_p99_ms=rounds.quantile_ms(name, lambda one: one.gaps_s, 0.99),
        per_token_p50_ms=rounds.quantile_ms(name, lambda one: one.per_token_s, 0.5),
        cpu_of_peer=rounds.compared(
            name, PEER, lambda one, peer: one.server_cpu_us / peer.server_cpu_us
        )
        if own[0].cpu_us
        else None,
        cpu_us=rounds.medians(name, lambda one: one.cpu_us),
        client_busy=rounds.median(name, lambda one: one.client_busy),
        same_texts=sum(
            text == peer.texts[prompt]
            for one, peer in zip(own, rounds.of(PEER), strict=True)
            for prompt, text in one.texts.items()
        ),
        texts=sum(len(one.texts) for one in own),
    )


def bars(tables: dict[int, dict[str, Row]]) -> list[Bar]:
    """What is asked of Relais, of the tables by number of clients."""
    found = []
    for clients, rows in tables.items():
        relais = rows[RELAIS]
        if clients >= RATE_FROM_CLIENTS:
            met = relais.of_peer >= MIN_RATE
            figure = f"{relais.of_peer:.2f} x {PEER}'s"
            found.append(Bar(f"tokens/s at {clients}, at least {MIN_RATE:g} x", figure, met))
        if clients == 1:
            met = relais.first_added_ms <= MAX_FIRST_ADDED_MS
            figure = f"{relais.first_added_ms:+.1f} ms"
            what = f"median time to the first token at 1, at most {MAX_FIRST_ADDED_MS:+g} ms"
            found.append(Bar(what, figure, met))
        if relais.cpu_of_peer is not None:
            met = relais.cpu_of_peer <= MAX_CPU
            figure = f"{relais.cpu_of_peer:.2f} x {PEER}'s"
            found.append(Bar(f"CPU per token at {clients}, at most {MAX_CPU:g} x", figure, met))
    return found


def line(number: int, clients: int, one: Round) -> str:
    """How one round went at one number of clients."""
    rates = ", ".join(f"{name} {found.tokens_per_s:,.0f}" for name, found in one.items())
    return f"round {number + 1}, {clients} clients, tokens/s: {rates}"


def text(rows: dict[str, Row]) -> str:
    """The table as printed."""
    titles = (
        f"{'':22}{'of peer':>9}{'tokens/s':>10}{'first added, p50, p99 ms':>27}"
        f"{'gap p50, p99 ms':>18}{'ms/token':>10}{'same texts':>13}"
    )
    lines = [titles]
    for name, row in rows.items():
        lines.append(
            f"{name:22}{row.of_peer:9.2f}{row.tokens_per_s:10,.0f}{row.first_added_ms:+11.1f}"
            f"{row.first_p50_ms:8.1f}{row.first_p99_ms:8.1f}{row.gap_p50_ms:10.2f}{row.gap_p99_ms:8.2f}"
            f"{row.per_token_p50_ms:10.2f}{row.same_texts:7} of {row.texts}"
        )
    for name, row in rows.items():
        if row.cpu_of_peer is not None:
            spent = "  ".join(f"{process} {us:.0f}" for process, us in row.cpu_us.items())
            lines.append(
                f"CPU per token, us: {name:22}{row.cpu_of_peer:6.2f} x {sum(row.cpu_us.values()):6.0f} = {spent}"
            )
    lines += busy_clients({name: row.client_busy for name, row in rows.items()})
    return "\n".join(lines)
