"""What the reports of several benchmarks have in common. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Measured = TypeVar("Measured")

CLIENT_BUSY = 0.85
"""Of a core and client process; above it the client may be what was measured."""


def quantile_ms(values_s: Sequence[float], share: float) -> float:
    """The nearest-rank quantile, in milliseconds; not a number where there are no values."""
    if not values_s:
        return math.nan
    ordered = sorted(values_s)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


@dataclass(frozen=True, slots=True)
class Rounds(Generic[Measured]):
    """What was measured of each server in each round."""

    rounds: Sequence[Mapping[str, Measured]]

    @property
    def names(self) -> list[str]:
        """Of the servers."""
        return list(self.rounds[0])

    def of(self, name: str) -> list[Measured]:
        """One server, round by round."""
        return [one[name] for one in self.rounds]

    def median(self, name: str, figure: Callable[[Measured], float]) -> float:
        """Over rounds."""
        return statistics.median(map(figure, self.of(name)))

    def compared(self, name: str, to: str, figure: Callable[[Measured, Measured], float]) -> float:
        """The median of each round's own comparison: drift hits all servers of a round alike."""
        return statistics.median(map(figure, self.of(name), self.of(to)))

    def quantile_ms(
        self, name: str, values_s: Callable[[Measured], Iterable[float]], share: float
    ) -> float:
        """Over all values of all rounds."""
        return quantile_ms([one for each in self.of(name) for one in values_s(each)], share)

    def medians(
        self, name: str, figures: Callable[[Measured], Mapping[str, float]]
    ) -> dict[str, float]:
        """Of each figure, over rounds."""
        found = [figures(one) for one in self.of(name)]
        return {part: statistics.median(one[part] for one in found) for part in found[0]}


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of Relais's beside what it must be."""

    what: str
    figure: str
    met: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.figure}, {'met' if self.met else 'MISSED'}"


def busy_clients(shares: dict[str, float], advice: str = "") -> list[str]:
    """A line for each server whose client process had hardly any time to spare."""
    return [
        f"The client was busy {share:.0%} against {name}{advice}"
        for name, share in shares.items()
        if share > CLIENT_BUSY
    ]


def cpu_lines(spent: dict[str, dict[str, float]], width: int, digits: int) -> list[str]:
    """A line for each server: CPU in all, and by process."""
    return [
        f"{name:{width}}{sum(one.values()):8.{digits}f} = "
        + "  ".join(f"{process} {value:.{digits}f}" for process, value in one.items())
        for name, one in spent.items()
    ]
