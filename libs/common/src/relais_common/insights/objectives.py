"""Service level objectives, and how requests are counted so that any objectives can be asked for afterwards.

Goodput needs to know of each request whether it met *all* objectives, which separate histograms cannot tell. So
completed requests are counted in cells of three durations together: TTFT, TPOT, end to end, each on a ladder of steps
at round numbers. An objective that is a step is judged exactly; another one is taken down to the step below it, and
the report says to which.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

_MANTISSAS = (10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 25, 30, 35, 40, 45, 50, 60, 70, 75, 80, 90)
STEPS_S = tuple(
    float(f"{mantissa}e{exponent}") for exponent in range(-5, 4) for mantissa in _MANTISSAS
)
"""From 0.1 ms to 90,000 s; at most a quarter from each to the next."""

_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60)}
_BITS = 8
_MASK = (1 << _BITS) - 1
_NO_TOKENS = 1 << 3 * _BITS
"""In the cells of operations that write no tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """Bounds in seconds, included; None: no such objective. They are steps of the ladder."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @property
    def needs_tokens(self) -> bool:
        """Nothing can be said of an operation that writes no tokens, such as embeddings."""
        return self.e2e_s is None

    def __bool__(self) -> bool:
        return (self.ttft_s, self.tpot_s, self.e2e_s) != (None, None, None)

    def met_by(self, cells: Mapping[int, int]) -> int:
        """How many of the requests in these cells met all objectives. What a request has not got is no breach."""
        ttft, tpot, e2e = (_last_good(one) for one in (self.ttft_s, self.tpot_s, self.e2e_s))
        unjudged = _NO_TOKENS if self.needs_tokens else 0
        return sum(
            count
            for cell, count in cells.items()
            if cell >> 2 * _BITS & _MASK <= ttft
            and cell >> _BITS & _MASK <= tpot
            and cell & _MASK <= e2e
            and not cell & unjudged
        )


DEFAULT_OBJECTIVES = Objectives(ttft_s=1.0, tpot_s=0.05, e2e_s=10.0)


def cell_of(
    ttft_s: float | None, tpot_s: float | None, e2e_s: float, *, writes_tokens: bool
) -> int:
    """The cell that counts a completed request."""
    kind = 0 if writes_tokens else _NO_TOKENS
    return kind | _bin(ttft_s) << 2 * _BITS | _bin(tpot_s) << _BITS | _bin(e2e_s)


def parse_objectives(text: str) -> Objectives:
    """`ttft=1s,tpot=50ms,e2e=10s`: any of the three, in ms, s or min; each is taken down to a step.

    Raises:
        ValueError: says what is wrong with it.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in ("ttft", "tpot", "e2e"):
            raise ValueError("write objectives as ttft=1s,tpot=50ms,e2e=10s, or some of them")
        if f"{name}_s" in found:
            raise ValueError(f"{name} is there twice")
        found[f"{name}_s"] = step_below(_seconds(name, value))
    return Objectives(**found)


def step_below(seconds: float) -> float:
    """The highest step that is not over it; the lowest for anything shorter."""
    return STEPS_S[max(0, bisect_right(STEPS_S, seconds) - 1)]


def _seconds(name: str, text: str) -> float:
    unit = text.lstrip("0123456789.")
    try:
        number = Decimal(text.removesuffix(unit))
        seconds = float(number * _UNITS[unit])
    except (InvalidOperation, KeyError):
        raise ValueError(f"{name} takes a duration such as 50ms, 1.5s or 2min") from None
    if not STEPS_S[0] <= seconds <= STEPS_S[-1]:
        raise ValueError(f"{name} takes a duration from 0.1ms to 1500min")
    return seconds


def _bin(duration_s: float | None) -> int:
    """0 for none; else one more than the number of the first step that is not under it."""
    return 0 if duration_s is None else bisect_left(STEPS_S, duration_s) + 1


def _last_good(objective_s: float | None) -> int:
    return _MASK if objective_s is None else bisect_right(STEPS_S, objective_s)
