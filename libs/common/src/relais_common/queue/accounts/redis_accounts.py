"""`Accounts` over Redis."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta

from relais_common.jobs.limits import COUNTERS, DayUsage
from relais_common.queue import keys
from relais_common.queue.client.calls import Commands
from relais_common.queue.client.connection import store_errors

_EPOCH = date(1970, 1, 1)


class RedisAccounts:
    """Reads the accounts that the scripts write."""

    def __init__(self, calls: Commands) -> None:
        self._calls = calls

    async def usage(
        self, model: str, *, since: date, until: date, key_id: str | None
    ) -> list[DayUsage]:
        days = [since + timedelta(days=number) for number in range((until - since).days + 1)]
        if not days:
            return []
        fields = [f"{key_id} {counter}" for counter in COUNTERS]
        with store_errors():
            names = [keys.usage(model, (day - _EPOCH).days) for day in days]
            if key_id is None:
                asked = [self._calls.send("HGETALL", name) for name in names]
            else:
                asked = [self._calls.send("HMGET", name, *fields) for name in names]
            answers = await asyncio.gather(*asked)
        found = []
        for day, answer in zip(days, answers, strict=True):
            if key_id is not None:
                counted = zip(COUNTERS, answer, strict=True)
                by_key = {key_id: {name: int(value) for name, value in counted if value}}
            else:
                by_key = _by_key(answer)
            found += [
                DayUsage(date=day, model=model, key_id=one, **counts)
                for one, counts in sorted(by_key.items())
                if counts
            ]
        return found


def _by_key(answer: list[bytes]) -> dict[str, dict[str, int]]:
    by_key: dict[str, dict[str, int]] = {}
    for field, value in zip(answer[::2], answer[1::2], strict=True):
        key_id, _, counter = field.decode().rpartition(" ")
        by_key.setdefault(key_id, {})[counter] = int(value)
    return by_key
