"""Runs one job through a cross-encoder: pairs of tokens, then scores, packed."""

from __future__ import annotations

import asyncio
from itertools import cycle

from relais_common.jobs.job import Embedding, InputType, Job, Operation
from relais_common.queue.ports import JobSource
from relais_embedding_worker.batches import Batches
from relais_embedding_worker.embed import BatchHandler
from relais_embedding_worker.encoder import Reranker, Tokens
from relais_embedding_worker.settings import Bounds


class RerankHandler(BatchHandler):
    """Scores documents by a query. Every text is tokenised once, whatever the number of its pairs."""

    kind = Operation.RERANK

    def __init__(
        self, reranker: Reranker, batches: Batches, source: JobSource, bounds: Bounds
    ) -> None:
        super().__init__(reranker.info, batches, source, bounds)
        self._reranker = reranker

    async def _tokenize(self, job: Job, asked: Embedding) -> list[Tokens]:
        queries = await self._batches.tokenize(job.key_id, asked.queries, InputType.QUERY)
        documents = await self._batches.tokenize(job.key_id, asked.inputs, InputType.PASSAGE)
        return await asyncio.to_thread(self._pairs, queries, documents)

    def _pairs(self, queries: list[Tokens], documents: list[Tokens]) -> list[Tokens]:
        return [
            self._reranker.pair(query, document)
            for query, document in zip(cycle(queries), documents, strict=False)
        ]
