"""Which inputs go into the next batch. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Owner = TypeVar("Owner")

SLACK_TOKENS = 16
"""So much shorter an input may always share a batch with a longer one; else half as long at least."""


@dataclass(slots=True)
class _Share:
    """One request's part of the queue.

    Attributes:
        left: lengths of its waiting inputs, by index.
        served: tokens that it had; one that comes later begins at the clock, which is what each had a right to.
        order: of arrival.
    """

    order: int
    served: float
    left: dict[int, int] = field(default_factory=dict)


class Batcher(Generic[Owner]):
    """Inputs of many requests, by length.

    Each batch holds an input of the request that had the fewest tokens so far, and beside it those of all requests
    whose lengths are nearest: little is padded, and a request of thousands of inputs takes turns with the others. A new
    one begins at what each had a right to so far, so nobody starves.

    Args:
        max_tokens: of a batch, padding counted. One input goes alone if it is longer.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._shares: dict[Owner, _Share] = {}
        # Sorted: length, order of the request, index, request.
        self._waiting: list[tuple[int, int, int, Owner]] = []
        self._arrivals = 0
        self._clock = 0.0
        self.tokens = 0

    def add(self, owner: Owner, lengths: Sequence[int]) -> None:
        """Let a request's inputs wait; each owner comes once."""
        self._arrivals += 1
        order = self._arrivals
        self._shares[owner] = _Share(order, self._clock, dict(enumerate(lengths)))
        self._waiting += [(length, order, index, owner) for index, length in enumerate(lengths)]
        self._waiting.sort(key=_by_length)
        self.tokens += sum(lengths)

    def remove(self, owner: Owner) -> None:
        """Forget what still waits of a request."""
        share = self._shares.pop(owner, None)
        if share is not None:
            self.tokens -= sum(share.left.values())
            self._waiting = [one for one in self._waiting if one[1] != share.order]

    def next(self) -> list[tuple[Owner, int]]:
        """The next batch: requests and indexes of their inputs. Empty if nothing waits."""
        if not self._shares:
            return []
        first = min(
            self._shares.values(), key=lambda share: (share.served, len(share.left), share.order)
        )
        index, length = max(first.left.items(), key=lambda one: one[1])
        begin, end = self._window(
            bisect_left(self._waiting, (length, first.order, index), key=_by_length)
        )
        batch = [(owner, index) for _, _, index, owner in self._waiting[begin:end]]
        # By what each had a right to: whoever has had less is behind it, and is served before those who come new.
        self._clock += sum(length for length, *_ in self._waiting[begin:end]) / len(self._shares)
        del self._waiting[begin:end]
        for owner, index in batch:
            share = self._shares[owner]
            taken = share.left.pop(index)
            share.served += taken
            self.tokens -= taken
            if not share.left:
                del self._shares[owner]
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


def _by_length(one: tuple[int, int, int, Owner]) -> tuple[int, int, int]:
    return one[:3]
