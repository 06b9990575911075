"""Runs one job through a classification model: tokens, then the probabilities of its classes, packed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from relais_common.jobs.job import Embedding, Job, Operation, PromptOptions
from relais_embedding_worker.embed import BatchHandler
from relais_embedding_worker.encoder import Classifier, Input, Tokens


class ClassifyHandler(BatchHandler[Classifier]):
    """Classifies texts."""

    kind = Operation.CLASSIFY

    def _asked(self, job: Job) -> Embedding:
        asked = super()._asked(job)
        self._require_fits(len(asked.inputs), self._info.dimensions)
        return asked

    async def _tokenize(self, job: Job, asked: Embedding) -> list[Tokens]:
        texts = await self._batches.tokenize(job.key_id, asked.inputs, None)
        return await asyncio.to_thread(self._completed, asked.inputs, texts, job.prompting)

    def _completed(
        self, inputs: Sequence[Input], texts: list[Tokens], options: PromptOptions
    ) -> list[Tokens]:
        limit = self._info.max_tokens
        most = options.truncate_prompt_tokens
        if most is None or most < 0:
            most = limit
        adds = options.add_special_tokens is not False
        return [
            # Given token ids are read as they are, as in vLLM.
            self._encoder.complete(
                text, min(most, limit), special_tokens=adds and isinstance(given, str)
            )
            for given, text in zip(inputs, texts, strict=True)
        ]
