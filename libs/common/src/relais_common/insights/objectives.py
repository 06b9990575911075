"""Service level objectives, and counts of requests that allow any objectives to be evaluated later.

Goodput depends on whether each request met *all* objectives, which separate histograms cannot show. Completed requests
are therefore counted in cells of three durations: TTFT, TPOT, end to end, each on a ladder of steps at round numbers.
An objective on a step is evaluated exactly; any other is rounded down to the step below it, which the report names.
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
"""Steps from 0.1 ms to 90,000 s, each at most a quarter above the previous one."""

_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60)}
_BITS = 8
_MASK = (1 << _BITS) - 1
_NO_TOKENS = 1 << 3 * _BITS
"""The TTFT and TPOT bin of operations without tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """Inclusive bounds in seconds, on steps of the ladder; None means no such objective."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @property
    def needs_tokens(self) -> bool:
        """Return whether the objectives only apply to operations with tokens, unlike embeddings."""
        return self.e2e_s is None

    def __bool__(self) -> bool:
        return (self.ttft_s, self.tpot_s, self.e2e_s) != (None, None, None)

    def judge(self, cells: Mapping[int, int]) -> Judgement:
        """Count the requests in these cells to which the objectives apply. Inapplicable objectives are not breached."""
        bounds = [_last_good(one) for one in (self.ttft_s, self.tpot_s, self.e2e_s)]
        unjudged = _NO_TOKENS if self.needs_tokens else 0
        completed = met = 0
        missed = [0, 0, 0]
        for cell, count in cells.items():
            if cell & unjudged:
                continue
            bins = (cell >> 2 * _BITS & _MASK, cell >> _BITS & _MASK, cell & _MASK)
            late = [at for at in range(3) if bins[at] > bounds[at]]
            completed += count
            met += 0 if late else count
            for at in late:
                missed[at] += count
        return Judgement(completed, met, *missed)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Completed requests, those that met all objectives, and those that missed each; one may miss several."""

    completed: int
    met: int
    missed_ttft: int
    missed_tpot: int
    missed_e2e: int


def cell_of(
    ttft_s: float | None, tpot_s: float | None, e2e_s: float, *, writes_tokens: bool
) -> int:
    """Return the cell that counts a completed request."""
    kind = 0 if writes_tokens else _NO_TOKENS
    return kind | _bin(ttft_s) << 2 * _BITS | _bin(tpot_s) << _BITS | _bin(e2e_s)


def parse_objectives(text: str) -> Objectives:
    """Parse `ttft=1s,tpot=50ms,e2e=10s`: any of the three, in ms, s or min, rounded down to a step.

    Raises:
        ValueError: says what is invalid.
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
    """Return the highest step that does not exceed the duration; the lowest one for shorter durations."""
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
    """Return 0 for None, else one more than the index of the first step that is not below the duration."""
    return 0 if duration_s is None else bisect_left(STEPS_S, duration_s) + 1


def _last_good(objective_s: float | None) -> int:
    return _MASK if objective_s is None else bisect_right(STEPS_S, objective_s)
