"""What a handler asks of a model, wherever it runs: room, and answers to jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from relais_common.jobs.job import Job
from relais_common.worker.status import ModelStatus
from relais_llm_worker.engines.engine import Chunk, Emitted


@dataclass(frozen=True, slots=True)
class Cut:
    """A stream that another holder began, and what its log says of it.

    Attributes:
        prompt_token_ids: the prompt as that holder's engine was given it; empty where it was not told.
        model_revision: the weights that it ran.
        emitted: what was published.
    """

    prompt_token_ids: tuple[int, ...]
    model_revision: str
    emitted: Emitted


@dataclass(frozen=True, slots=True)
class Answer:
    """A job that the model has accepted.

    Attributes:
        prompt_token_ids: empty where a server keeps them to itself.
        model_revision: what identifies the weights; a stream goes on only on the same.
        chunks: in order; the last one has a `finish_reason`. They raise what `Generation.chunks` does, and
            NotResumable where a server was lost and the answer cannot go on at another.
    """

    prompt_token_ids: Sequence[int]
    model_revision: str
    chunks: AsyncIterator[Chunk]


class Model(Protocol):
    """One model, in this process or behind servers."""

    @property
    def name(self) -> str: ...

    def room(self, held: int) -> int:
        """How many more jobs it could begin right now, while this worker holds `held`."""
        ...

    def status(self) -> ModelStatus: ...

    def can_continue(self, job: Job) -> bool:
        """Whether this job's answer, cut off now, could go on to the letter, as far as its parameters are concerned."""
        ...

    def answer(self, job: Job, cut: Cut | None = None) -> AbstractAsyncContextManager[Answer]:
        """Entering hands the job to the model; leaving before its end aborts it.

        Args:
            cut: where an earlier holder was cut off. Chunks go on after it, ids and text.

        Raises (on entry):
            NotResumable: `cut` cannot be gone on from.
            EngineRefused: the request is wrong: a bad schema, an unknown token, too long a prompt.
            EngineFailed: it failed for this request.
            EngineDead: the engine is gone.
        """
        ...

    async def check_health(self) -> None:
        """Raises EngineDead if nothing more can ever be run."""
        ...
