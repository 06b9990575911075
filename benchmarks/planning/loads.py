"""What a fleet is, what it is asked for, and what it does meanwhile: said of real ones and of simulated ones. Pure."""

from __future__ import annotations

from dataclasses import dataclass

ORCHESTRATORS, WORKERS, REDIS, CLIENTS, MONGODB = PARTS = (
    "orchestrators", "workers", "Redis", "clients", "MongoDB",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """What clients ask for.

    Attributes:
        streams: at once, as many as there are clients.
        requests: of each client, one after another.
        tokens: of each answer.
        tokens_per_s: pace of each stream's engine; 0 is as fast as its loop turns.
        prompt: characters of each.
    """

    streams: int
    requests: int
    tokens: int
    tokens_per_s: float = 0.0
    prompt: int = 40

    def __str__(self) -> str:
        pace = f" at {self.tokens_per_s:g}/s" if self.tokens_per_s else ""
        asked = f" x {self.requests}" if self.requests > 1 else ""
        long = f", prompts of {self.prompt:,}" if self.prompt > 1000 else ""
        return f"{self.streams} streams{asked} of {self.tokens:,} tokens{pace}{long}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many processes there are of each part; traces are written to a database or to none."""

    orchestrators: int
    workers: int
    traces: bool = False

    def __str__(self) -> str:
        return f"{self.orchestrators} x {self.workers}" + (" with traces" if self.traces else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What all processes did from the first request to the last token.

    Attributes:
        requests: that ended.
        tokens: that reached their clients.
        calls: of `append`, by all workers.
        call_s: how long they took, summed.
        entries: streams in these calls; each is a write of Redis, and a live message to an orchestrator.
        stream_s: seconds for which streams were open, summed.
        elapsed_s: how long it took.
    """

    requests: float
    tokens: float
    calls: float
    call_s: float
    entries: float
    stream_s: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One load on one fleet, measured or predicted.

    Attributes:
        cpu_s: of each part, all its processes.
        turns: how often each part's processes began to work after they had nothing to do; of Redis, all turns.
        others: cores that other programs of the machine used meanwhile.
    """

    fleet: Fleet
    load: Load
    counts: Counts
    cpu_s: dict[str, float]
    turns: dict[str, float]
    others: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.counts.tokens / self.counts.elapsed_s
