"""What the reports of several benchmarks have in common. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CLIENT_BUSY = 0.85
"""Of a core and client process; above it the client may be what was measured."""


def quantile_ms(values_s: Sequence[float], share: float) -> float:
    """The nearest-rank quantile, in milliseconds; not a number where there are no values."""
    if not values_s:
        return math.nan
    ordered = sorted(values_s)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


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
