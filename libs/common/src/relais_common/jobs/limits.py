"""What a key may have of one model in a minute, and what it took in a day: frozen types and arithmetic, no I/O.

Each limit is a token bucket, kept as what is used of it: it empties evenly, a minute's worth a minute, and a request
passes where what it needs still fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

USAGE_DAYS = 92
"""How long a day's account is kept."""

COUNTERS = (
    "completed",
    "failed",
    "cancelled",
    "expired",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
)
"""Of a key, a model and a day: ends of jobs, by status, and tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a request is measured against.

    Attributes:
        requests_per_minute, tokens_per_minute: of this key and model; None for any number.
        tokens_per_day: of requests that ended on this day in UTC.
        tokens: what this request is taken to need until its end says what it took.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens: int = 0

    @property
    def limits_anything(self) -> bool:
        """Return whether there is any limit per minute."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit at one instant. `used` may be above `per_minute`: a request may take more than it was taken to need."""

    per_minute: int
    used: float

    @property
    def remaining(self) -> int:
        """Return what is left, in whole units."""
        return max(0, int(self.per_minute - self.used + 1e-6))

    @property
    def reset_s(self) -> float:
        """Seconds until nothing of it is used."""
        return self.used * 60 / self.per_minute

    def wait_s(self, needed: float) -> float:
        """Seconds until `needed` fits; 0 where it does now."""
        return max(0.0, self.used + needed - self.per_minute) * 60 / self.per_minute


@dataclass(frozen=True, slots=True)
class Buckets:
    """What a key has used of a model; None where it has no such limit."""

    requests: Bucket | None
    tokens: Bucket | None

    def wait_s(self, tokens: int) -> float:
        """Seconds until one more request with so many tokens fits."""
        waits = [0.0]
        if self.requests is not None:
            waits.append(self.requests.wait_s(1))
        if self.tokens is not None:
            waits.append(self.tokens.wait_s(tokens))
        return max(waits)


def buckets(quota: Quota, requests_used: float, tokens_used: float) -> Buckets:
    """The buckets that a quota has."""
    requests, tokens = quota.requests_per_minute, quota.tokens_per_minute
    return Buckets(
        None if requests is None else Bucket(requests, requests_used),
        None if tokens is None else Bucket(tokens, tokens_used),
    )


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True, kw_only=True)
class DayUsage:
    """What a key took of a model on one day in UTC.

    Attributes:
        date: on which the jobs ended.
        input_tokens, output_tokens: also of jobs that did not complete, as far as an engine had them.
        cached_tokens: those of the input that the engine had in its cache.
    """

    date: date
    model: str
    key_id: str
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0

    @property
    def requests(self) -> int:
        """Return the number of requests of the day."""
        return self.completed + self.failed + self.cancelled + self.expired
