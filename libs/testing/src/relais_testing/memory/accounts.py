"""Usage of one model by key, as plain data: the steps of `accounts.lua`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime

from relais_common.jobs.errors import over_quota
from relais_common.jobs.events import Restarted, Started, Token, Usage
from relais_common.jobs.job import Job, Priority, Status
from relais_common.jobs.limits import Buckets, DayUsage, Quota, buckets
from relais_common.queue import codec

ROUNDING = 1e-6


class MemoryAccounts:
    """Usage of one model by minute and by day."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._used: dict[tuple[str, str], tuple[float, float]] = {}
        self._days: dict[tuple[date, str], Counter[str]] = {}

    def reserve(self, job: Job, quota: Quota) -> Buckets:
        """Take a request and its tokens from its key's minute, both or neither.

        Raises:
            RateLimited, TokensOverLimit: it does not fit.
        """
        key_id, model = job.key_id, job.model
        rpm, tpm = quota.requests_per_minute, quota.tokens_per_minute
        requests = self._used_of("requests", key_id, rpm)
        tokens = self._used_of("tokens", key_id, tpm)
        is_line = job.priority is Priority.BATCH
        if (rpm is not None and requests + 1 > rpm + ROUNDING) or (
            tpm is not None
            and (tokens + quota.tokens > tpm + ROUNDING or (is_line and tokens > tpm / 2))
        ):
            raise over_quota(quota, buckets(quota, requests, tokens), model, is_line=is_line)
        if full_s := self._day_full_s(key_id, quota):
            now = buckets(quota, requests, tokens)
            raise over_quota(quota, now, model, day_full_s=full_s)
        if rpm is not None:
            self._note_used("requests", key_id, requests + 1)
        if tpm is not None:
            self._note_used("tokens", key_id, tokens + quota.tokens)
        return buckets(quota, requests + 1, tokens + quota.tokens)

    def settle(self, key_id: str, status: Status, usage: Usage, quota: Quota) -> None:
        """Replace a job's reservation by its usage, and add that to its key's account."""
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        account = self._days.setdefault((today, key_id), Counter())
        account[status] += 1
        input_tokens = usage.input_tokens or 0
        account["input_tokens"] += input_tokens
        account["output_tokens"] += usage.output_tokens
        account["cached_tokens"] += usage.cached_tokens
        if quota.tokens_per_minute is not None:
            used = self._used_of("tokens", key_id, quota.tokens_per_minute)
            took = input_tokens + usage.output_tokens
            self._note_used("tokens", key_id, max(0.0, used + took - quota.tokens))

    def usage(self, model: str, since: date, until: date, key_id: str | None) -> list[DayUsage]:
        return [
            DayUsage(date=day, model=model, key_id=one, **account)
            for (day, one), account in sorted(self._days.items(), key=lambda item: item[0])
            if since <= day <= until and key_id in (None, one)
        ]

    def _day_full_s(self, key_id: str, quota: Quota) -> float:
        """Return the seconds until the key's day has room; 0 where it has."""
        now_s = self._clock()
        today = datetime.fromtimestamp(now_s, UTC).date()
        account = self._days.get((today, key_id), Counter())
        spent = account["input_tokens"] + account["output_tokens"]
        most = quota.tokens_per_day
        fits = most is None or spent + quota.tokens <= most
        return 0.0 if fits else 86400 - now_s % 86400

    def _used_of(self, limit: str, key_id: str, per_minute: int | None) -> float:
        used, at_s = self._used.get((limit, key_id), (0.0, 0.0))
        passed_s = max(0.0, self._clock() - at_s)
        return 0.0 if per_minute is None else max(0.0, used - passed_s * per_minute / 60)

    def _note_used(self, limit: str, key_id: str, used: float) -> None:
        self._used[limit, key_id] = (used, self._clock())


def measure(log: list[bytes]) -> tuple[Usage, int]:
    """Count a job's tokens in its log, if its holder did not: those since the answer last began, and those before."""
    input_tokens = output_tokens = void_tokens = 0
    for line in log:
        event = codec.decode_event(line)
        if isinstance(event, Started):
            input_tokens = event.input_tokens or 0
        elif isinstance(event, Token):
            output_tokens += len(event.token_ids) or bool(event.text)
        elif isinstance(event, Restarted):
            void_tokens, output_tokens = void_tokens + output_tokens, 0
    return Usage(input_tokens, output_tokens), void_tokens
