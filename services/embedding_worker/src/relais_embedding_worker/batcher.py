"""Decides which inputs form the next batch. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Owner = TypeVar("Owner")

SLACK_TOKENS = 16
"""Length difference up to which inputs may always share a batch; otherwise one is at least half as long."""

FEW = 64
"""Number of inputs up to which they are inserted one by one; more are sorted together with all waiting ones."""


@dataclass(slots=True)
class _Share:
    """The share of the encoder that a key, or one of its requests, has had.

    Attributes:
        served: tokens it has had. A newcomer begins at the clock, which is the fair share so far.
        order: of arrival.
    """

    order: int
    served: float


@dataclass(slots=True)
class _Request(_Share):
    """The waiting inputs of one request.

    Attributes:
        left: their lengths, by index.
    """

    key_id: str
    left: dict[int, int]


@dataclass(slots=True, eq=False)
class _Key(Generic[Owner], _Share):
    """The waiting requests of one key.

    Attributes:
        clock: the fair share of each of its requests so far.
        tokens: waiting tokens.
    """

    clock: float = 0.0
    tokens: int = 0
    requests: dict[Owner, _Request] = field(default_factory=dict)


class Batcher(Generic[Owner]):
    """Forms batches from inputs of many requests, by length.

    Each batch is built around an input of the key that has had the fewest tokens, from that key's request with the
    fewest. The inputs of all requests with the nearest lengths join it, so there is little padding. Keys take turns,
    and so do the requests of each key. A newcomer begins at the fair share so far, so nobody starves.

    Args:
        max_tokens: tokens of a batch, including padding. A longer input goes alone.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._keys: dict[str, _Key[Owner]] = {}
        self._requests: dict[Owner, _Request] = {}
        self._owners: dict[int, Owner] = {}
        # Sorted by length, order of the request, index.
        self._waiting: list[tuple[int, int, int]] = []
        self._arrivals = 0
        self._clock = 0.0
        self.tokens = 0

    def add(self, key_id: str, owner: Owner, lengths: Sequence[int]) -> None:
        """Add a request's inputs; each owner is added once."""
        self._arrivals += 1
        order = self._arrivals
        key = self._keys.setdefault(key_id, _Key(order, self._clock))
        request = _Request(order, key.clock, key_id, dict(enumerate(lengths)))
        key.requests[owner] = self._requests[owner] = request
        self._owners[order] = owner
        fresh = [(length, order, index) for index, length in enumerate(lengths)]
        if len(fresh) < FEW:
            for one in fresh:
                insort(self._waiting, one)
        else:
            self._waiting += sorted(fresh)
            self._waiting.sort()
        key.tokens += sum(lengths)
        self.tokens += sum(lengths)

    def remove(self, owner: Owner) -> None:
        """Remove a request's waiting inputs."""
        request = self._requests.get(owner)
        if request is not None:
            left = sum(request.left.values())
            self._keys[request.key_id].tokens -= left
            self.tokens -= left
            self._waiting = [one for one in self._waiting if one[1] != request.order]
            self._forget(owner)

    def _forget(self, owner: Owner) -> None:
        request = self._requests.pop(owner)
        del self._owners[request.order]
        key = self._keys[request.key_id]
        del key.requests[owner]
        if not key.requests:
            del self._keys[request.key_id]

    def tokens_of(self) -> dict[str, int]:
        """Return the waiting tokens of each key."""
        return {key_id: key.tokens for key_id, key in self._keys.items()}

    def next(self) -> list[tuple[Owner, int]]:
        """Return the next batch as requests and indexes of their inputs. Empty if nothing waits."""
        if not self._keys:
            return []
        key = min(self._keys.values(), key=lambda one: (one.served, len(one.requests), one.order))
        first = min(key.requests.values(), key=lambda one: (one.served, len(one.left), one.order))
        index, length = max(first.left.items(), key=lambda one: one[1])
        begin, end = self._window(bisect_left(self._waiting, (length, first.order, index)))
        batch = [(self._owners[order], index) for _, order, index in self._waiting[begin:end]]
        # Advance the fair share: whoever has had less is served before newcomers.
        self._clock += sum(length for length, *_ in self._waiting[begin:end]) / len(self._keys)
        del self._waiting[begin:end]
        for owner, index in batch:
            request = self._requests[owner]
            key = self._keys[request.key_id]
            taken = request.left.pop(index)
            request.served += taken
            key.served += taken
            key.tokens -= taken
            key.clock += taken / len(key.requests)
            self.tokens -= taken
            if not request.left:
                self._forget(owner)
        return batch

    def _window(self, at: int) -> tuple[int, int]:
        """Return neighbours in length, as many as fit."""
        waiting = self._waiting
        begin, end = at, at + 1
        own = longest = waiting[at][0]
        while True:
            shorter = waiting[begin - 1][0] if begin > 0 else None
            longer = waiting[end][0] if end < len(waiting) else None
            count = end - begin + 1
            if shorter is not None and 2 * shorter + SLACK_TOKENS < longest:
                shorter = None
            if longer is not None and (
                count * longer > self._max_tokens or 2 * waiting[begin][0] + SLACK_TOKENS < longer
            ):
                longer = None
            if longer is not None and (shorter is None or longer - own < own - shorter):
                end, longest = end + 1, longer
            elif shorter is not None and count * longest <= self._max_tokens:
                begin -= 1
            else:
                return begin, end
