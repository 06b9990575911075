"""The port of permanent trace storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from relais_common.jobs.records import StoredAnswer
from relais_common.jobs.traces import Trace


class SinkUnavailable(Exception):
    """It is unknown whether anything was written; the same traces must be sent again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The traces of one call that were not written, by index; all others were.

    Attributes:
        refused: traces that would never be accepted, and why.
        postponed: traces that must be sent again, and why.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    postponed: Mapping[int, str] = field(default_factory=dict)

    @property
    def not_written(self) -> AbstractSet[int]:
        """Return the traces that were not written."""
        return self.refused.keys() | self.postponed.keys()


class TraceSink(Protocol):
    """Stores traces permanently."""

    async def write(self, traces: Sequence[Trace]) -> Outcome:
        """Store these traces. Existing ones stay unchanged. Raises SinkUnavailable."""
        ...


class AnswerSink(Protocol):
    """Stores answers for those who ask for them later."""

    async def keep(self, answers: Sequence[StoredAnswer]) -> None:
        """Store these. Existing ones stay unchanged. Raises SinkUnavailable."""
        ...
