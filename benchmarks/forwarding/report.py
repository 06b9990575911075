"""What the benchmark of gateways found: ratios, tables, and who was at his limit. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.answering.report import Measured
from benchmarks.figures import CLIENT_BUSY, Rounds, busy_clients

BARE, NGINX, LITELLM, RELAIS = "upstream alone", "nginx", "LiteLLM", "Relais"
UPSTREAM, CLIENT = "upstream", "client"
MAX_DELAY_MS = 1000.0
"""Of a frame at p99; above it, a side has failed a step."""
LEAST_SENT = 0.9
"""Of the frames per second that were offered; with fewer, the machine has no time left for the upstream."""
_WIDTH = 16


def own_cpu_us(cpu_us: Mapping[str, float]) -> float:
    """Return a side's own CPU: without the upstream's and the client's."""
    return sum(us for part, us in cpu_us.items() if part not in (UPSTREAM, CLIENT))


@dataclass(frozen=True, slots=True)
class Step:
    """One side with so many streams.

    Attributes:
        opening_s: how long it took to open them.
        frames: of one token each, received.
        sent_per_s: frames that the upstream wrote; less than `offered_per_s` where it could not keep up.
        delays_ms: from a frame's writing to its reading, p50 and p99; nothing where none came.
        cpu_us: CPU time per frame, by process.
        busy: CPU time over wall time of the client and the upstream.
        errors: what went wrong.
    """

    streams: int
    opened: int
    opening_s: float
    offered_per_s: float
    sent_per_s: float
    frames: int
    elapsed_s: float
    delays_ms: tuple[float, ...]
    cpu_us: Mapping[str, float]
    busy: Mapping[str, float]
    errors: tuple[str, ...] = ()

    @property
    def frames_per_s(self) -> float:
        """Return the frames delivered per second."""
        return self.frames / self.elapsed_s if self.frames else 0.0

    @property
    def delay_p99_ms(self) -> float:
        """Return p99 of a frame's delay; not a number where none came."""
        return self.delays_ms[1] if self.delays_ms else math.nan

    @property
    def failed(self) -> str | None:
        """Return why the side takes no further step; None if it passed this one."""
        if self.errors:
            return "; ".join(dict.fromkeys(self.errors))
        if self.delay_p99_ms > MAX_DELAY_MS:
            return f"p99 of a frame's delay over {MAX_DELAY_MS / 1000:g} s"
        if self.sent_per_s < LEAST_SENT * self.offered_per_s:
            return f"the upstream sent under {LEAST_SENT:.0%} of what was offered"
        return None


Ladder = Mapping[str, Sequence[Step]]
"""The steps of each side, up to the first that it failed."""


def latency_text(rounds: Sequence[Mapping[str, Measured]]) -> str:
    """Return the table of one client at a time: what a side adds to the upstream's own latency."""
    found = Rounds(rounds)
    lines = [f"{'':{_WIDTH}}{'p50, p99 ms':>20}{'added p50, p99 ms':>22}{'added, of Relais':>20}"]
    added = {name: _added_ms(found, name) for name in found.names}
    for name in found.names:
        p50, p99 = (_latency_ms(found, name, share) for share in (0.5, 0.99))
        line = f"{name:{_WIDTH}}{p50:12.2f}{p99:8.2f}"
        if name != BARE:
            ratio = added[name][0] / added[RELAIS][0]
            line += f"{added[name][0]:14.2f}{added[name][1]:8.2f}{ratio:20.2f}"
        lines.append(line)
    return "\n".join(lines)


def _latency_ms(found: Rounds[Measured], name: str, share: float) -> float:
    return found.quantile_ms(name, lambda one: one.latencies_s, share)


def _added_ms(found: Rounds[Measured], name: str) -> tuple[float, float]:
    p50, p99 = (
        _latency_ms(found, name, share) - _latency_ms(found, BARE, share) for share in (0.5, 0.99)
    )
    return p50, p99


def rate_text(rounds: Sequence[Mapping[str, Measured]]) -> str:
    """Return the table of many clients: requests per second, and the CPU of each."""
    found = Rounds(rounds)
    lines = [
        f"{'':{_WIDTH}}{'requests/s':>12}{'of Relais':>11}{'p50, p99 ms':>18}{'own CPU, us':>13}{'of Relais':>11}"
    ]
    for name in found.names:
        rate = found.median(name, lambda one: one.requests_per_s)
        of_relais = found.compared(
            name, RELAIS, lambda one, other: one.requests_per_s / other.requests_per_s
        )
        p50, p99 = (_latency_ms(found, name, share) for share in (0.5, 0.99))
        line = f"{name:{_WIDTH}}{rate:12,.0f}{of_relais:11.2f}{p50:10.1f}{p99:8.1f}"
        if name != BARE:
            own = found.median(name, lambda one: own_cpu_us(one.cpu_us))
            ratio = found.compared(
                name, RELAIS, lambda one, other: own_cpu_us(one.cpu_us) / own_cpu_us(other.cpu_us)
            )
            line += f"{own:13,.0f}{ratio:11.2f}  ({_parts(found.medians(name, lambda one: one.cpu_us))})"
        lines.append(line)
    lines += busy_clients(
        {name: found.median(name, lambda one: one.client_busy) for name in found.names}
    )
    return "\n".join(lines)


def step_line(name: str, step: Step) -> str:
    """Return the line of a table that `STEP_TITLES` heads."""
    line = (
        f"{step.streams:8,} {name:{_WIDTH}}{step.offered_per_s:10,.0f}{step.sent_per_s:9,.0f}"
        f"{step.frames_per_s:11,.0f}"
        f"{''.join(f'{ms:>10,.1f}' for ms in step.delays_ms):>20}{own_cpu_us(step.cpu_us):9.1f}  {_parts(step.cpu_us)}"
    )
    limits = [who for who, share in step.busy.items() if share > CLIENT_BUSY]
    if limits:
        line += f"  [{' and '.join(limits)} over {CLIENT_BUSY:.0%} of a core]"
    if step.failed:
        line += f"  FAILED: {step.failed}"
    return line


STEP_TITLES = (
    f"{'streams':>8} {'':{_WIDTH}}{'offered/s':>10}{'sent/s':>9}{'frames/s':>11}{'delay p50, p99 ms':>20}"
    f"{'own us':>9}  CPU per frame by process, us"
)


def _parts(cpu_us: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {us:,.0f}" for part, us in cpu_us.items())


def ladder_text(ladder: Ladder) -> str:
    """Return how far each side came, and what Relais delivered and cost beside it at the steps that both passed."""
    lines = []
    for name, steps in ladder.items():
        passed = [step for step in steps if not step.failed]
        best = max(passed, key=lambda step: step.frames_per_s, default=None)
        if best is None:
            lines.append(f"{name}: passed no step")
            continue
        line = f"{name}: up to {passed[-1].streams:,} streams, {best.frames_per_s:,.0f} frames/s"
        if name != RELAIS and name != BARE:
            line += _beside_relais(steps, ladder[RELAIS])
        lines.append(line)
    return "\n".join(lines)


def _beside_relais(steps: Sequence[Step], relais: Sequence[Step]) -> str:
    both = [
        (one, other)
        for one, other in zip(steps, relais, strict=False)
        if not one.failed and not other.failed
    ]
    if not both:
        return ""
    one, other = both[-1]
    cpu = own_cpu_us(one.cpu_us) / own_cpu_us(other.cpu_us)
    delay = one.delay_p99_ms / other.delay_p99_ms
    return (
        f"; at {one.streams:,} streams {cpu:.2f} of Relais's CPU per frame,"
        f" {delay:.2f} of its p99 delay"
    )
