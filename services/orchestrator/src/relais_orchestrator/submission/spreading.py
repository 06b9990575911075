"""Chooses a shard of its model for each request."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from hashlib import blake2b

from relais_common.config.api_keys import ApiKey
from relais_common.jobs.beginnings import conversation_of
from relais_common.jobs.chat import Message
from relais_common.queue.shards import Shards
from relais_orchestrator.access.auth import Caller

Messages = Sequence[Message] | None

REMEMBERED = 64
"""Choices of this process that count, for each shard."""

MOST_ABOVE = 1.25
"""A shard that got so many times its even part of them gets no conversation for its name alone."""


class Spreader:
    """Spreads requests over shards, as this process sees them. The store's own bounds hold whatever it chooses.

    - All requests of a key with limits of its own go to one shard, which can count them.
    - A request with an idempotency key goes where that leads, so that its repetition finds it.
    - Turns of a conversation go to one shard, where the worker that had the last one is known, unless that shard got
      clearly more than its part lately.
    - Any other goes to the shard that got the fewest lately.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._recent: dict[str, _Recent] = {}

    def count(self, model: str) -> int:
        """Return over how many shards the model is spread."""
        return self._shards.filled(model)

    def shards_for(
        self, model: str, caller: Caller, *, idempotency: str | None, messages: Messages
    ) -> list[int]:
        """Return the shards that may take the request, the best first."""
        number = self._shards.filled(model)
        if number == 1:
            return [0]
        name = _pin(caller, idempotency)
        if name is not None:
            return _ranked(name, number)[:1]
        return self._recent_of(model).order(messages)

    def note(self, model: str, shard: int) -> None:
        """Note that the shard is asked to take a request."""
        if self._shards.filled(model) > 1:
            self._recent_of(model).note(shard)

    def shards_before(self, model: str, caller: Caller, idempotency: str) -> list[int]:
        """Return the shards to which an idempotency key may have led before.

        The model may have been spread over other numbers of them, and the key may have had limits, or none.
        """
        numbers = self._shards.numbers(model)
        if max(numbers) == 1:
            return []
        names = (caller.key_id, _of_idempotency(caller, idempotency))
        now = self.shards_for(model, caller, idempotency=idempotency, messages=None)
        return sorted({_ranked(name, one)[0] for name in names for one in numbers}.difference(now))

    def shards_of_lines(self, model: str, caller: Caller) -> list[int]:
        """Return the shards that lines of a new batch go to, in turn."""
        number = self._shards.filled(model)
        name = _pin(caller, None)
        return list(range(number)) if name is None else _ranked(name, number)[:1]

    def _recent_of(self, model: str) -> _Recent:
        if model not in self._recent:
            self._recent[model] = _Recent(self._shards.filled(model))
        return self._recent[model]


def is_pinned(key: ApiKey) -> bool:
    """Return whether all requests of a key go to one shard of each model: it has limits of its own."""
    limits = (key.requests_per_minute, key.tokens_per_minute, key.tokens_per_day)
    return any(limit is not None for limit in (*limits, key.concurrent_requests))


def _pin(caller: Caller, idempotency: str | None) -> str | None:
    if is_pinned(caller.may):
        return caller.key_id
    return None if idempotency is None else _of_idempotency(caller, idempotency)


def _of_idempotency(caller: Caller, idempotency: str) -> str:
    return f"{caller.key_id} {idempotency}"


class _Recent:
    """What each shard of a model got lately."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._choices: deque[int] = deque(maxlen=REMEMBERED * number)
        self._counts: Counter[int] = Counter()

    def order(self, messages: Messages) -> list[int]:
        if messages is None:
            return sorted(range(self._number), key=self._counts.__getitem__)
        most = MOST_ABOVE * len(self._choices) / self._number + 1
        ranked = _ranked(conversation_of(messages), self._number)
        return sorted(ranked, key=lambda shard: self._counts[shard] >= most)

    def note(self, shard: int) -> None:
        if len(self._choices) == self._choices.maxlen:
            self._counts[self._choices[0]] -= 1
        self._choices.append(shard)
        self._counts[shard] += 1


def _ranked(name: str, number: int) -> list[int]:
    """Return all shards in the order of this name. Among n, a new one comes first for every n-th name alone."""
    return sorted(
        range(number),
        key=lambda shard: blake2b(f"{shard} {name}".encode(), digest_size=8).digest(),
    )
