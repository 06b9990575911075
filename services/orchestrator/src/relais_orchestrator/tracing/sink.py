"""The port of what keeps traces for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from relais_common.jobs.traces import Trace


class SinkUnavailable(Exception):
    """Nothing is known to be written: the same traces must come again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the traces of one call, by their place in it; all others are written for good.

    Attributes:
        refused: those that would never be taken, and why.
        postponed: those that must come again, and why.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    postponed: Mapping[int, str] = field(default_factory=dict)

    @property
    def not_written(self) -> AbstractSet[int]:
        return self.refused.keys() | self.postponed.keys()


class TraceSink(Protocol):
    """Where traces go."""

    async def write(self, traces: Sequence[Trace]) -> Outcome:
        """Keep these. One that is kept already stays as it is. Raises SinkUnavailable."""
        ...
