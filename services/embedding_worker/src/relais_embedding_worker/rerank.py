"""Runs one job through a cross-encoder: pairs of tokens, then scores, packed."""

from __future__ import annotations

import asyncio
from itertools import cycle

from relais_common.jobs.job import Embedding, InputType, Job, Operation
from relais_embedding_worker.embed import BatchHandler
from relais_embedding_worker.encoder import Reranker, Tokens


class RerankHandler(BatchHandler[Reranker]):
    """Scores documents by a query. Every text is tokenised once, whatever the number of its pairs."""

    kind = Operation.RERANK

    async def _tokenize(self, job: Job, asked: Embedding) -> list[Tokens]:
        queries = await self._batches.tokenize(job.key_id, asked.queries, InputType.QUERY)
        documents = await self._batches.tokenize(job.key_id, asked.inputs, InputType.PASSAGE)
        return await asyncio.to_thread(self._pairs, queries, documents)

    def _pairs(self, queries: list[Tokens], documents: list[Tokens]) -> list[Tokens]:
        return [
            self._encoder.pair(query, document)
            for query, document in zip(cycle(queries), documents, strict=False)
        ]
