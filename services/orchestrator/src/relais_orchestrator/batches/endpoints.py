"""What a batch needs to know of a route whose requests it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from relais_orchestrator.access.auth import Caller
from relais_orchestrator.app_keys import Parts
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading

Wait = Callable[[], Awaitable[bytes]]
"""Waits for a request's end and returns the response's JSON. Raises RelaisError if the request did not complete."""

AnswerLine = Callable[[Parts, Caller, Asked, str], Wait]
"""Returns how to wait for a channel. What it returns keeps no more of the request than the response needs."""


Prepare = Callable[[Parts, Caller, Asked], Awaitable[Asked]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route that batches may use.

    Attributes:
        reading: how its bodies are read.
        answer: how its responses are made.
        prepare: completes what was read; raises RelaisError if the route would.
        fields: has errors that leave it name fields as the route does. It may be entered any number of times.
    """

    reading: Reading
    answer: AnswerLine
    prepare: Prepare | None = None
    fields: AbstractContextManager[None] = field(default_factory=nullcontext)
