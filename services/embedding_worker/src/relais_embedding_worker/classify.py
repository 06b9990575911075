"""Runs one job through a classification model: tokens, then the probabilities of its classes, packed."""

from __future__ import annotations

import asyncio

from relais_common.jobs.job import Embedding, Job, Operation, PromptOptions
from relais_embedding_worker.embed import BatchHandler
from relais_embedding_worker.encoder import Classifier, Tokens


class ClassifyHandler(BatchHandler[Classifier]):
    """Classifies texts."""

    kind = Operation.CLASSIFY

    def _asked(self, job: Job) -> Embedding:
        asked = super()._asked(job)
        self._require_fits(len(asked.inputs), self._info.dimensions)
        return asked

    async def _tokenize(self, job: Job, asked: Embedding) -> list[Tokens]:
        texts = await self._batches.tokenize(job.key_id, asked.inputs, None)
        return await asyncio.to_thread(self._completed, texts, job.prompting)

    def _completed(self, texts: list[Tokens], options: PromptOptions) -> list[Tokens]:
        limit = self._info.max_tokens
        most = options.truncate_prompt_tokens
        if most is None or most < 0:
            most = limit
        special_tokens = options.add_special_tokens is not False
        return [
            self._encoder.complete(one, min(most, limit), special_tokens=special_tokens)
            for one in texts
        ]
