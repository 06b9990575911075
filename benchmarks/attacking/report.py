"""What an attack cost others, and whether that is within bounds. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.attacking.victim import KINDS, Probe
from benchmarks.figures import quantile_ms

ALLOWED_MS = 100.0
ALLOWED_BYTES = 30 << 20
ALLOWED_LOG_BYTES_PER_S = 1 << 20
ALLOWED_SERIES = 2000
JUDGED_MEMORY = ("front", "worker", "vectors")


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one kind of probe in one stretch of time."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    def __str__(self) -> str:
        if not self.count:
            return f"{'-':>26}"
        return f"{self.p50_ms:8,.0f}{self.p99_ms:9,.0f}{self.max_ms:9,.0f}"


def spreads(probes: Sequence[Probe]) -> dict[str, Spread]:
    """By kind of probe."""
    found = {}
    for kind in KINDS:
        took = [one.took_s for one in probes if one.kind == kind and one.took_s is not None]
        longest = max(took, default=0.0) * 1000
        found[kind] = Spread(len(took), quantile_ms(took, 0.5), quantile_ms(took, 0.99), longest)
    return found


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process."""

    before: int
    peak: int
    after: int


@dataclass(slots=True)
class Found:
    """One attack.

    Attributes:
        before, busy, during, after: of victims, by kind of probe. `busy` is what they wait for while the attackers'
            keys send what anyone may.
        errors: of victims, by their text.
        lag_s: the latest timer of each loop, as the bound of its bucket.
        got: what the attackers were answered.
        series: how many more metrics there are than before.
        ended: processes that died.
    """

    name: str
    point: str
    sends: str
    seconds: float
    before: dict[str, Spread]
    busy: dict[str, Spread]
    during: dict[str, Spread]
    after: dict[str, Spread]
    errors: Counter[str]
    memory: dict[str, Memory]
    settled_s: float
    lag_s: dict[str, float]
    got: Counter[str]
    log_bytes: int
    series: int
    ended: list[str] = field(default_factory=list)

    def bound_ms(self, kind: str) -> float:
        """p99 before, what others' fair share adds to it, and 100 ms."""
        before, busy = self.before[kind].p99_ms, self.busy[kind].p99_ms
        return max(before, busy) + ALLOWED_MS

    def missed(self) -> Iterator[str]:
        """Each bound that was passed."""
        for kind, during in self.during.items():
            if during.count and during.p99_ms > self.bound_ms(kind):
                yield f"{kind} p99 {during.p99_ms:,.0f} ms > {self.bound_ms(kind):,.0f}"
        for error, count in self.errors.most_common(3):
            yield f"{count} x victim: {error}"
        for name, memory in self.memory.items():
            kept = memory.after - memory.before
            if name.startswith(JUDGED_MEMORY) and kept > ALLOWED_BYTES:
                yield f"{name} kept {kept / 2**20:,.0f} MB"
        if self.log_bytes > ALLOWED_LOG_BYTES_PER_S * self.seconds:
            yield f"{self.log_bytes / 2**20:,.0f} MB of logs"
        if self.series > ALLOWED_SERIES:
            yield f"{self.series:,} new series of metrics"
        yield from self.ended


def text(found: Found) -> str:
    """As printed."""
    titles = "".join(f"{title:>26}" for title in ("before", "busy", "during", "after"))
    lines = [
        f"\n{found.name} ({found.point or 'not listed'}), {found.seconds:.0f} s: {found.sends}",
        f"  {'p50, p99, max ms':12}{titles}   bound of p99",
    ]
    for kind in KINDS:
        row = "".join(
            str(one[kind]) for one in (found.before, found.busy, found.during, found.after)
        )
        lines.append(f"  {kind:16}{row}   {found.bound_ms(kind):,.0f}")
    held = ", ".join(
        f"{name} {one.before >> 20} -> {one.peak >> 20} -> {one.after >> 20}"
        for name, one in found.memory.items()
    )
    lag = ", ".join(f"{name} <= {lag_s:g}" for name, lag_s in found.lag_s.items())
    lines += [
        f"  memory, MB, before -> peak -> {found.settled_s:.0f} s after: {held}",
        f"  loops were late, s: {lag}",
        f"  attackers got: {_counts(found.got)}",
        f"  logs {found.log_bytes / 2**10:,.0f} KB, new series {found.series}",
        *(f"  MISSED {line}" for line in found.missed()),
    ]
    return "\n".join(lines)


def summary(all_found: Sequence[Found]) -> str:
    """One line for each attack: chat and healthz during it, memory, and how many bounds were passed."""
    lines = [
        (
            f"\n{'':30}{'chat p99 ms: before, busy, during, max':>42}{'healthz max':>13}"
            f"{'memory MB: before, peak, after':>34}{'victims errors':>16}{'missed':>8}"
        )
    ]
    for one in all_found:
        chat = [f"{each['chat'].p99_ms:,.0f}" for each in (one.before, one.busy, one.during)]
        chat.append(f"{one.during['chat'].max_ms:,.0f}")
        held = _most_grown(one.memory)
        memory = f"{held.before >> 20}, {held.peak >> 20}, {held.after >> 20}"
        lines.append(
            f"{one.name:30}{', '.join(chat):>42}{one.during['healthz'].max_ms:>13,.0f}"
            f"{memory:>34}{sum(one.errors.values()):>16}{len(list(one.missed())):>8}"
        )
    return "\n".join(lines)


def _most_grown(memory: Mapping[str, Memory]) -> Memory:
    judged = [one for name, one in memory.items() if name.startswith(JUDGED_MEMORY)]
    return max(judged, key=lambda one: one.peak - one.before, default=Memory(0, 0, 0))


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{what} x {count:,}" for what, count in counted.most_common(8)) or "nothing"
