"""How a cost grows with a size: the exponent of a power law, with its spread over rounds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FLAT = 0.15
"""An exponent up to this counts as flat: 1,000 times the size costs less than three times as much."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One cost at each size, measured once a round.

    Attributes:
        values: a row per round, in the order of the sizes.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]

    @property
    def medians(self) -> tuple[float, ...]:
        """Over rounds, at each size."""
        return tuple(statistics.median(column) for column in zip(*self.values, strict=True))

    @property
    def exponents(self) -> tuple[float, float, float]:
        """Median, least and greatest over rounds."""
        each = sorted(exponent(self.sizes, row) for row in self.values)
        return statistics.median(each), each[0], each[-1]

    @property
    def is_flat(self) -> bool:
        return self.exponents[0] <= FLAT


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log(cost) against log(size), by least squares; nan where one cost too little to be measured."""
    if min(costs) <= 0:
        return math.nan
    x = [math.log(size) for size in sizes]
    y = [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope
