"""One job through the engine: prompt, tokens, end."""

from __future__ import annotations

import time

from relais_common.backoff import Backoff
from relais_common.errors import EngineFailed, EngineRefused, NotResumable, StoreUnavailable
from relais_common.events import Completed, Terminal, Timings, Token, Usage
from relais_common.jobs import Job
from relais_common.ports import JobSource
from relais_common.worker.held import HeldJob
from relais_common.worker.publisher import Publisher
from relais_llm_worker.engine import Engine


class GenerateHandler:
    """Runs chat and text-completion jobs.

    Args:
        max_output_tokens: the most that one request may ask for.
        kv_cache_threshold: share of the KV cache above which no further job is taken.
    """

    def __init__(
        self,
        engine: Engine,
        source: JobSource,
        publisher: Publisher,
        *,
        max_output_tokens: int,
        kv_cache_threshold: float,
    ) -> None:
        self._engine = engine
        self._source = source
        self._publisher = publisher
        self._max_output_tokens = max_output_tokens
        self._kv_cache_threshold = kv_cache_threshold

    def room(self, held: int) -> int:
        """Places free in the running batch; none while the engine has a queue of its own."""
        load = self._engine.load()
        # An engine with nothing to do says nothing new: its last word may be out of date.
        if held == 0:
            return self._engine.info.max_num_seqs
        if load.waiting > 0 or load.kv_cache_usage >= self._kv_cache_threshold:
            return 0
        return self._engine.info.max_num_seqs - held

    async def handle(self, held: HeldJob) -> Terminal:
        if held.taken.emitted:
            raise NotResumable("the worker was lost after the first token was sent")
        began_s = time.monotonic()
        prompt = await self._encode(held.job)
        max_tokens = self._max_tokens(held.job, len(prompt))
        first_s = last_s = began_s
        output_tokens = cached_tokens = 0
        async with self._engine.generate(
            held.lease.channel_id, prompt, held.job.sampling, max_tokens
        ) as generation:
            await self._note_start(held, prompt)
            async for chunk in generation.chunks():
                last_s = time.monotonic()
                if output_tokens == 0:
                    first_s = last_s
                output_tokens += len(chunk.token_ids)
                cached_tokens = max(cached_tokens, chunk.cached_tokens)
                if chunk.token_ids or chunk.text:
                    held.add(Token(chunk.text, chunk.token_ids))
                    self._publisher.send(held)
                if chunk.finish_reason is not None:
                    return Completed(
                        finish_reason=chunk.finish_reason,
                        stop_reason=chunk.stop_reason,
                        usage=Usage(len(prompt), output_tokens, cached_tokens),
                        timings=Timings(
                            queue_s=round(held.taken.queued_s, 6),
                            prefill_s=round(first_s - began_s, 6),
                            decode_s=round(last_s - first_s, 6),
                        ),
                    )
        raise EngineFailed("the engine ended the request without a reason")

    async def _note_start(self, held: HeldJob, prompt: list[int]) -> None:
        """Say that the engine has the job; while the store is away the engine works on meanwhile."""
        backoff = Backoff()
        while True:
            try:
                verdict = await self._source.start(
                    held.lease,
                    prompt_token_ids=prompt,
                    model_revision=self._engine.info.revision,
                )
            except StoreUnavailable:
                await backoff.pause()
                continue
            held.note_started(verdict.tail)
            held.heed(verdict)
            return

    async def _encode(self, job: Job) -> list[int]:
        if job.messages is not None:
            return await self._engine.encode_chat(job.messages)
        if isinstance(job.prompt, str):
            return await self._engine.encode_text(job.prompt)
        return list(job.prompt or ())

    def _max_tokens(self, job: Job, prompt_tokens: int) -> int:
        """What the request asks for, cut to what the model and this deployment allow."""
        limit = self._engine.info.max_model_len
        param = "messages" if job.messages is not None else "prompt"
        if prompt_tokens == 0:
            raise EngineRefused("the prompt is empty", param=param, code="invalid_value")
        if prompt_tokens >= limit:
            raise EngineRefused(
                f"the prompt has {prompt_tokens} tokens; this model takes {limit} with the answer",
                param=param,
                code="context_length_exceeded",
            )
        asked = job.sampling.max_tokens
        room = limit - prompt_tokens
        if asked is not None and asked > room:
            raise EngineRefused(
                f"{prompt_tokens} prompt tokens and max_tokens {asked} exceed"
                f" this model's context of {limit} tokens",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return min(asked or room, self._max_output_tokens, room)
