"""Runs one job through an encoder: tokens, then vectors or scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Generic, TypeVar

from relais_common.jobs.errors import EngineRefused
from relais_common.jobs.job import Embedding, InputType, Job, Operation
from relais_common.queue.ports import JobSource
from relais_common.worker.held import HeldJob
from relais_embedding_worker.batches import Batches
from relais_embedding_worker.encoder import Encoder, Tokens, Vectors
from relais_embedding_worker.handler import JobHandler, Result
from relais_embedding_worker.settings import Bounds
from relais_embedding_worker.vectors import cosines, shortened

MOST_NAMED = 16
"""Number of dimensions that an error message lists."""


_Model = TypeVar("_Model", bound=Encoder)


class BatchHandler(JobHandler, Generic[_Model]):
    """Runs jobs through an encoder's batches."""

    def __init__(
        self, encoder: _Model, batches: Batches, source: JobSource, bounds: Bounds
    ) -> None:
        super().__init__(source, bounds, encoder.info.revision)
        self._encoder = encoder
        self._info = encoder.info
        self._batches = batches

    def enough_of(self, held: Collection[HeldJob]) -> Collection[str]:
        return self._batches.keys_with(self._bounds.max_queued_tokens)

    async def _run(self, job: Job, asked: Embedding) -> Result:
        tokens = await self._tokenize(job, asked)
        rows = self._answer(asked, await self._batches.encode(job.key_id, tokens))
        return Result(
            rows,
            sum(len(one.ids) for one in tokens),
            sum(one.truncated for one in tokens),
            self._info.labels,
        )

    @abstractmethod
    async def _tokenize(self, job: Job, asked: Embedding) -> list[Tokens]:
        """Return what the model is to read."""

    def _answer(self, asked: Embedding, rows: Vectors) -> Vectors:
        """Return the job's answer, which the model's rows may be."""
        return rows


class EmbedHandler(BatchHandler[Encoder]):
    """Runs embedding jobs, and scores texts by the cosine of their vectors."""

    kind = Operation.EMBEDDINGS

    def _asked(self, job: Job) -> Embedding:
        asked = super()._asked(job)
        self._dimensions(asked)
        return asked

    def _answer(self, asked: Embedding, rows: Vectors) -> Vectors:
        rows = shortened(rows, self._dimensions(asked))
        return cosines(rows, len(asked.queries)) if asked.queries else rows

    async def _tokenize(self, job: Job, asked: Embedding) -> list[Tokens]:
        """Tokenise the inputs, queries first."""
        queries: list[Tokens] = []
        if asked.queries:
            queries = await self._batches.tokenize(job.key_id, asked.queries, InputType.QUERY)
        return queries + await self._batches.tokenize(job.key_id, asked.inputs, asked.input_type)

    def _dimensions(self, asked: Embedding) -> int:
        full = self._info.dimensions
        dimensions = asked.dimensions or full
        shorter = {*self._bounds.dimensions, *self._info.shorter}
        allowed = {full, *(one for one in shorter if one < full)}
        if dimensions not in allowed:
            known = ", ".join(map(str, sorted(allowed)))
            if len(allowed) > MOST_NAMED:
                known = f"{min(allowed)} to {full}"
            raise EngineRefused(
                f"dimensions: this model gives {known}",
                param="dimensions",
                code="unsupported_value",
            )
        self._require_fits(len(asked.inputs), dimensions)
        return dimensions
