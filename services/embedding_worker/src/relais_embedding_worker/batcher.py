"""Which inputs go into the next batch. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Owner = TypeVar("Owner")

SLACK_TOKENS = 16
"""So much shorter an input may always share a batch with a longer one; else half as long at least."""

FEW = 64
"""Inputs that are put in their places one by one; more are sorted with all that wait."""


@dataclass(slots=True)
class _Share:
    """What a key, or a request of it, had of the encoder.

    Attributes:
        served: tokens that it had; one that comes later begins at the clock, which is what each had a right to.
        order: of arrival.
    """

    order: int
    served: float


@dataclass(slots=True)
class _Request(_Share):
    """One request's part of the queue.

    Attributes:
        left: lengths of its waiting inputs, by index.
    """

    key_id: str
    left: dict[int, int]


@dataclass(slots=True, eq=False)
class _Key(Generic[Owner], _Share):
    """All requests of one key.

    Attributes:
        clock: what each of its requests had a right to.
        tokens: of what waits.
    """

    clock: float = 0.0
    tokens: int = 0
    requests: dict[Owner, _Request] = field(default_factory=dict)


class Batcher(Generic[Owner]):
    """Inputs of many requests, by length.

    Each batch holds an input of the key that had the fewest tokens so far, from that key's request that had the fewest.
    Beside it go those of all requests whose lengths are nearest. So little is padded; keys take turns, and so do the
    requests of each. A new one begins at what each had a right to so far, so nobody starves.

    Args:
        max_tokens: of a batch, padding counted. One input goes alone if it is longer.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._keys: dict[str, _Key[Owner]] = {}
        self._requests: dict[Owner, _Request] = {}
        self._owners: dict[int, Owner] = {}
        # Sorted: length, order of the request, index.
        self._waiting: list[tuple[int, int, int]] = []
        self._arrivals = 0
        self._clock = 0.0
        self.tokens = 0

    def add(self, key_id: str, owner: Owner, lengths: Sequence[int]) -> None:
        """Let a request's inputs wait; each owner comes once."""
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
        """Forget what still waits of a request."""
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
        """What waits of each key."""
        return {key_id: key.tokens for key_id, key in self._keys.items()}

    def next(self) -> list[tuple[Owner, int]]:
        """The next batch: requests and indexes of their inputs. Empty if nothing waits."""
        if not self._keys:
            return []
        key = min(self._keys.values(), key=lambda one: (one.served, len(one.requests), one.order))
        first = min(key.requests.values(), key=lambda one: (one.served, len(one.left), one.order))
        index, length = max(first.left.items(), key=lambda one: one[1])
        begin, end = self._window(bisect_left(self._waiting, (length, first.order, index)))
        batch = [(self._owners[order], index) for _, order, index in self._waiting[begin:end]]
        # By what each had a right to: whoever has had less is behind it, and is served before those who come new.
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
        """Neighbours in length, as many as fit."""
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
