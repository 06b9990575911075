"""Quantiles of durations from logarithmic bins, with a bounded error that does not grow when they are merged.

Bin `i` holds durations over GAMMA^(i-1) s and up to GAMMA^i s; its middle is within RELATIVE_ERROR of each of them (the
mapping of DDSketch, Masson et al., VLDB 2019). To merge is to add counts: any split of the data gives the same bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

RELATIVE_ERROR = 0.01
SHORTEST_S = 1e-6
"""Shorter durations count as 0."""

GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(GAMMA)
_BINS_PER_E = 1 / _LOG_GAMMA
_ZERO = -(1 << 20)
"""The bin of durations that count as 0, below all others."""


class Sketch:
    """Durations in seconds.

    Attributes:
        count: number of durations.
        sum_us: their sum, in whole microseconds each, so that the order makes no difference.
        max_s: the exact maximum; 0 if empty.
    """

    __slots__ = ("bins", "count", "max_s", "sum_us")

    def __init__(self) -> None:
        self.bins: dict[int, int] = {}
        self.count = 0
        self.sum_us = 0
        self.max_s = 0.0

    def add(self, duration_s: float) -> None:
        """Add one duration."""
        index = math.ceil(math.log(duration_s) * _BINS_PER_E) if duration_s > SHORTEST_S else _ZERO
        self.bins[index] = self.bins.get(index, 0) + 1
        self.count += 1
        self.sum_us += microseconds(duration_s)
        self.max_s = max(self.max_s, duration_s)

    def merge(self, other: Sketch) -> None:
        """Add another sketch to this one."""
        mine = self.bins
        for index, count in other.bins.items():
            mine[index] = mine.get(index, 0) + count
        self.count += other.count
        self.sum_us += other.sum_us
        self.max_s = max(self.max_s, other.max_s)

    def quantile(self, share: float) -> float | None:
        """Return the shortest duration that at least `share` of them do not exceed (nearest rank), in seconds.

        Within RELATIVE_ERROR of the exact value; None if empty.
        """
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for index, count in sorted(self.bins.items()):
            seen += count
            if seen >= wanted:
                # No duration is longer than the longest.
                return min(middle_s(index), self.max_s)
        return None

    @property
    def mean_s(self) -> float | None:
        """Return the mean in seconds; None without durations."""
        return self.sum_us / 1e6 / self.count if self.count else None

    def sorted_bins(self) -> Iterator[tuple[float, int]]:
        """Return the bins' middles in seconds and their counts, shortest first."""
        for index, count in sorted(self.bins.items()):
            yield middle_s(index), count

    def to_document(self) -> dict[str, Any]:
        """Return plain numbers and arrays; `bins` and `counts` correspond."""
        pairs = sorted(self.bins.items())
        return {
            "count": self.count,
            "sum_us": self.sum_us,
            "max_s": self.max_s,
            "bins": [index for index, _ in pairs],
            "counts": [count for _, count in pairs],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Sketch:
        """Read a sketch from its document."""
        sketch = cls()
        sketch.bins = dict(zip(document["bins"], document["counts"], strict=True))
        sketch.count = document["count"]
        sketch.sum_us = document["sum_us"]
        sketch.max_s = document["max_s"]
        return sketch


def middle_s(index: int) -> float:
    """Return the middle of a bin, with the same relative distance to both of its ends."""
    return 0.0 if index == _ZERO else 2 * GAMMA**index / (GAMMA + 1)


def microseconds(duration_s: float) -> int:
    """Convert seconds to whole microseconds."""
    return round(duration_s * 1e6)
