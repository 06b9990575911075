"""What jobs for vectors and scores have in common, wherever their model runs."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from relais_common.jobs import events
from relais_common.jobs.errors import EngineRefused, PayloadTooLarge
from relais_common.jobs.events import Completed, Terminal, Timings, Usage
from relais_common.jobs.job import ANSWERED, Embedding, Job, ModelOperation, Operation
from relais_common.queue.ports import JobSource
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_common.worker.held import HeldJob
from relais_common.worker.starting import note_start
from relais_embedding_worker.encoder import Vectors
from relais_embedding_worker.settings import Bounds

_WHAT: dict[ModelOperation, str] = {
    Operation.EMBEDDINGS: "this is an embedding model",
    Operation.RERANK: "this is a reranker: RERANK_MODELS declares it, and it scores pairs of texts",
    Operation.CLASSIFY: "this is a classification model: CLASSIFY_MODELS declares it",
}
MOST_PER_TAKE = 16
"""Jobs taken at once. They are not begun yet, so their size is known before more are taken."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a model gave for a job.

    Attributes:
        rows: vectors, scores in one column, or probabilities with a column for each class.
        input_tokens: None where a server does not tell.
        truncated: inputs that were cut.
    """

    rows: Vectors
    input_tokens: int | None
    truncated: int = 0
    labels: tuple[str | None, ...] = ()


class JobHandler(ABC):
    """Runs jobs through a model."""

    kind: ModelOperation
    """What its model is for."""

    def __init__(self, source: JobSource, bounds: Bounds, revision: str = "") -> None:
        self._source = source
        self._bounds = bounds
        self._revision = revision

    def room(self, held: int) -> int:
        return min(MOST_PER_TAKE, self._bounds.max_requests - held)

    def enough_of(self, held: Collection[HeldJob]) -> Collection[str]:
        return ()

    def can_preempt(self, held: HeldJob) -> bool:
        return False

    async def handle(self, held: HeldJob) -> Terminal:
        asked = self._asked(held.job)
        began_s = time.monotonic()
        starting = asyncio.create_task(
            note_start(self._source, held, prompts=((),), model_revision=self._revision)
        )
        try:
            result = await self._run(held.job, asked)
            await starting
        finally:
            await cancel_and_wait(starting)
        count, dimensions = result.rows.shape
        held.vectors = result.rows.astype("<f4", copy=False).tobytes()
        return Completed(
            finish_reason="stop",
            usage=Usage(result.input_tokens, 0),
            timings=Timings(
                queue_s=round(held.taken.queued_s, 6),
                prefill_s=round(time.monotonic() - began_s, 6),
                decode_s=0.0,
            ),
            vectors=events.Vectors(
                count=count,
                dimensions=dimensions,
                truncated=result.truncated,
                labels=result.labels,
            ),
        )

    def _asked(self, job: Job) -> Embedding:
        """Return what is asked. Raises EngineRefused or PayloadTooLarge if this model does not answer it."""
        if job.embedding is None or job.operation not in ANSWERED[self.kind]:
            raise EngineRefused(_WHAT[self.kind], param="model", code="wrong_operation")
        return job.embedding

    @abstractmethod
    async def _run(self, job: Job, asked: Embedding) -> Result:
        """Return the job's vectors or scores."""

    def _require_fits(self, inputs: int, dimensions: int) -> None:
        """Raise PayloadTooLarge if the vectors take too many bytes."""
        if inputs * dimensions * 4 > self._bounds.max_result_bytes:
            raise PayloadTooLarge(
                f"{inputs} vectors of {dimensions} dimensions are more than"
                f" {self._bounds.max_result_bytes} bytes",
                param="input",
            )
