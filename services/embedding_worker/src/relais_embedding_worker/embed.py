"""Runs one job through the model: tokens, then vectors or scores, packed."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Collection

import numpy as np

from relais_common.jobs import events
from relais_common.jobs.errors import EngineRefused, PayloadTooLarge
from relais_common.jobs.events import Completed, Terminal, Timings, Usage
from relais_common.jobs.job import Embedding, InputType, Job, Operation
from relais_common.queue.ports import JobSource
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_common.worker.held import HeldJob
from relais_common.worker.starting import note_start
from relais_embedding_worker.batches import Batches
from relais_embedding_worker.encoder import EncoderInfo, Tokens, Vectors
from relais_embedding_worker.settings import Bounds

MOST_PER_TAKE = 16
"""Jobs taken at once. They are not tokenised yet, so their tokens are counted before more are taken."""

MOST_NAMED = 16
"""Number of dimensions that an error message lists."""


class JobHandler(ABC):
    """Runs jobs through a model's batches."""

    def __init__(
        self, info: EncoderInfo, batches: Batches, source: JobSource, bounds: Bounds
    ) -> None:
        self._info = info
        self._batches = batches
        self._source = source
        self._bounds = bounds

    def room(self, held: int) -> int:
        return min(MOST_PER_TAKE, self._bounds.max_requests - held)

    def enough_of(self, held: Collection[HeldJob]) -> Collection[str]:
        return self._batches.keys_with(self._bounds.max_queued_tokens)

    def can_preempt(self, held: HeldJob) -> bool:
        return False

    async def handle(self, held: HeldJob) -> Terminal:
        asked = self._asked(held.job)
        began_s = time.monotonic()
        starting = asyncio.create_task(
            note_start(self._source, held, prompts=((),), model_revision=self._info.revision)
        )
        try:
            key_id = held.job.key_id
            tokens = await self._tokenize(key_id, asked)
            answer = self._answer(asked, await self._batches.encode(key_id, tokens))
            await starting
        finally:
            await cancel_and_wait(starting)
        held.vectors = answer.astype("<f4", copy=False).tobytes()
        return Completed(
            finish_reason="stop",
            usage=Usage(sum(len(one.ids) for one in tokens), 0),
            timings=Timings(
                queue_s=round(held.taken.queued_s, 6),
                prefill_s=round(time.monotonic() - began_s, 6),
                decode_s=0.0,
            ),
            vectors=events.Vectors(
                count=answer.shape[0],
                dimensions=answer.shape[1],
                truncated=sum(one.truncated for one in tokens),
            ),
        )

    @abstractmethod
    def _asked(self, job: Job) -> Embedding:
        """Return what is asked. Raises EngineRefused or PayloadTooLarge if this model does not answer it."""

    @abstractmethod
    async def _tokenize(self, key_id: str, asked: Embedding) -> list[Tokens]:
        """Return what the model is to read."""

    @abstractmethod
    def _answer(self, asked: Embedding, rows: Vectors) -> Vectors:
        """Return the job's vectors or scores."""


class EmbedHandler(JobHandler):
    """Runs embedding jobs, and scores texts by the cosine of their vectors."""

    def _asked(self, job: Job) -> Embedding:
        asked = job.embedding
        if asked is None or job.operation is Operation.RERANK:
            raise EngineRefused("this is an embedding model", param="model", code="wrong_operation")
        self._dimensions(asked)
        return asked

    def _answer(self, asked: Embedding, rows: Vectors) -> Vectors:
        rows = _shortened(rows, self._dimensions(asked))
        return _scores(rows, len(asked.queries)) if asked.queries else rows

    async def _tokenize(self, key_id: str, asked: Embedding) -> list[Tokens]:
        """Tokenise the inputs, queries first."""
        queries: list[Tokens] = []
        if asked.queries:
            queries = await self._batches.tokenize(key_id, asked.queries, InputType.QUERY)
        return queries + await self._batches.tokenize(key_id, asked.inputs, asked.input_type)

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
        if len(asked.inputs) * dimensions * 4 > self._bounds.max_result_bytes:
            raise PayloadTooLarge(
                f"{len(asked.inputs)} vectors of {dimensions} dimensions are more than"
                f" {self._bounds.max_result_bytes} bytes",
                param="input",
            )
        return dimensions


def _shortened(rows: Vectors, dimensions: int) -> Vectors:
    """Return the first dimensions, normalised to length 1, as models trained for it (Matryoshka) allow."""
    return rows if dimensions == rows.shape[1] else _normalized(rows[:, :dimensions])


def _scores(rows: Vectors, queries: int) -> Vectors:
    """Return the cosine similarity of each input with the query, or with its own query."""
    rows = _normalized(rows)
    scores: Vectors = np.sum(rows[:queries] * rows[queries:], axis=1, keepdims=True)
    return np.clip(scores, -1.0, 1.0)


def _normalized(rows: Vectors) -> Vectors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    normalized: Vectors = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalized
