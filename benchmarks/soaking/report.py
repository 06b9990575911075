"""What a run has shown, and whether it is enough."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.soaking import audit
from benchmarks.soaking.client import Outcome

STEADY_AFTER_S = 240.0
GROWTH_ALLOWED = 1.10
GROWTH_ALLOWED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that is asked of the run."""

    what: str
    asked: str
    seen: str
    ok: bool


@dataclass
class Soaked:
    """What a run has shown."""

    seed: int
    seconds: float
    faults: Counter[str]
    outcomes: list[Outcome]
    continued: dict[str, int]
    errors: Counter[str]
    surprises: list[str]
    remains: list[str]
    traces: list[str]
    memory: dict[str, audit.Growth] = field(default_factory=dict)

    def problems(self, *kinds: str) -> list[str]:
        """Broken promises of these kinds, or of all."""
        return [
            f"{kind}: {what}"
            for outcome in self.outcomes
            for kind, what in outcome.problems
            if not kinds or kind in kinds
        ]

    @property
    def kept(self) -> int:
        """Requests that completed, or were cancelled as their clients asked."""
        return sum(outcome.kept for outcome in self.outcomes)

    @property
    def continued_midway(self) -> int:
        """Requests that a second worker went on with after `audit.MIDDLE` tokens."""
        ours = {outcome.channel_id for outcome in self.outcomes}
        return sum(
            tokens >= audit.MIDDLE and channel_id in ours
            for channel_id, tokens in self.continued.items()
        )


def judge(soaked: Soaked, *, requests: int, continued: int) -> list[Bar]:
    """The bars: so many requests, so many continued midway, and nothing lost."""
    asked = len(soaked.outcomes)

    def none_of(what: str, found: Sequence[str]) -> Bar:
        return Bar(what, "0", str(len(found)), not found)

    return [
        Bar("requests", f">= {requests:,}", f"{asked:,}", asked >= requests),
        Bar(
            "completed, or cancelled as asked",
            "100 %",
            f"{soaked.kept / max(1, asked):.2%}",
            soaked.kept == asked,
        ),
        Bar(
            f"continued after >= {audit.MIDDLE} tokens",
            f">= {continued:,}",
            f"{soaked.continued_midway:,}",
            soaked.continued_midway >= continued,
        ),
        none_of("lost", soaked.problems("lost", "ended", "refused")),
        none_of(
            "events doubled, missing or rewound", soaked.problems("doubled", "missing", "rewound")
        ),
        none_of("logs that read differently again", soaked.problems("reread")),
        none_of("texts or counts that differ", soaked.problems("text")),
        none_of("left in Redis", soaked.remains),
        none_of("traces missing, doubled or untrue", soaked.traces),
        none_of("processes that ended by themselves", soaked.surprises),
        none_of("unforeseen errors in the logs", sorted(soaked.errors.elements())),
        *_judge_memory(soaked),
    ]


def _judge_memory(soaked: Soaked) -> Iterator[Bar]:
    """The last sixth of the run against its second: growth in between would go on for ever."""
    if soaked.seconds < STEADY_AFTER_S:
        return
    sixth_s = soaked.seconds / 6
    for name, growth in sorted(soaked.memory.items()):
        early = growth.between(sixth_s, 2 * sixth_s)
        late = growth.between(5 * sixth_s, 6 * sixth_s)
        bound = early * GROWTH_ALLOWED + GROWTH_ALLOWED_BYTES
        yield Bar(
            f"memory of {name}, MiB",
            f"<= {bound / 2**20:.1f}",
            f"{early / 2**20:.1f} -> {late / 2**20:.1f}",
            late <= bound,
        )


def print_report(soaked: Soaked, bars: Sequence[Bar]) -> None:
    print(f"\nseed {soaked.seed}, {soaked.seconds:.0f} s")
    faults = ", ".join(f"{count} {name}" for name, count in soaked.faults.most_common())
    print(f"{soaked.faults.total()} faults: {faults}")
    ends = Counter(outcome.status for outcome in soaked.outcomes)
    print("ends: " + ", ".join(f"{count:,} {name}" for name, count in ends.most_common()))
    took = sorted(outcome.seconds for outcome in soaked.outcomes)
    print(f"a request took {statistics.median(took):.1f} s (median), {took[-1]:.1f} s (longest)")
    seen = sum((outcome.seen for outcome in soaked.outcomes), Counter[str]())
    print("clients: " + ", ".join(f"{count:,} {name}" for name, count in seen.most_common()))
    for line in soaked.problems() + soaked.surprises + soaked.remains[:20] + soaked.traces[:20]:
        print(f"  ! {line[:400]}")
    print(f"\n{'':40} {'asked':>12} {'seen':>16}")
    for bar in bars:
        print(f"{bar.what:40} {bar.asked:>12} {bar.seen:>16}  {'ok' if bar.ok else 'MISSED'}")
