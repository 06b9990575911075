"""One job through the engine: prompt, tokens, end. A job that was begun elsewhere goes on where it stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from relais_common.backoff import Backoff
from relais_common.errors import EngineFailed, EngineRefused, NotResumable, StoreUnavailable
from relais_common.events import Completed, Restarted, Terminal, Timings, Token, Usage
from relais_common.jobs import Interrupted, Job, OnWorkerLoss
from relais_common.ports import EventLog, JobSource
from relais_common.worker.held import HeldJob
from relais_common.worker.publisher import Publisher
from relais_llm_worker.continuation import obstacle, read_emitted
from relais_llm_worker.engine import NOTHING, Chunk, Emitted, Engine

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Beginning:
    prompt: list[int]
    emitted: Emitted = NOTHING


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
        event_log: EventLog,
        publisher: Publisher,
        *,
        max_output_tokens: int,
        kv_cache_threshold: float,
    ) -> None:
        self._engine = engine
        self._source = source
        self._log = event_log
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
        try:
            return await self._run(held, await self._beginning(held))
        except NotResumable as error:
            if held.job.on_worker_loss is OnWorkerLoss.FAIL:
                raise
            log.info("restarted", reason=error.message)
            held.add(Restarted(error.message))
            self._publisher.send(held)
            return await self._run(held, _Beginning(await self._encode(held.job)))

    async def _run(self, held: HeldJob, beginning: _Beginning) -> Completed:
        began_s = time.monotonic()
        prompt, emitted = beginning.prompt, beginning.emitted
        max_tokens = self._max_tokens(held.job, len(prompt))
        output_tokens, cached_tokens = len(emitted.token_ids), 0
        first_s: float | None = None
        # The bounds of the deployment that began it may have allowed for more.
        reason = "length" if output_tokens >= max_tokens else None
        stop_reason: str | int | None = None
        if reason is None:
            async with self._engine.generate(
                held.lease.channel_id, prompt, held.job.sampling, max_tokens, emitted
            ) as generation:
                await self._note_start(held, prompt)
                async for chunk in generation.chunks():
                    first_s = first_s or time.monotonic()
                    output_tokens += len(chunk.token_ids)
                    cached_tokens = max(cached_tokens, chunk.cached_tokens)
                    self._publish(held, chunk)
                    reason, stop_reason = chunk.finish_reason, chunk.stop_reason
        if reason is None:
            raise EngineFailed("the engine ended the request without a reason")
        last_s = time.monotonic()
        first_s = first_s or last_s
        return Completed(
            finish_reason=reason,
            stop_reason=stop_reason,
            usage=Usage(len(prompt), output_tokens, cached_tokens),
            timings=Timings(
                queue_s=round(held.taken.queued_s, 6),
                prefill_s=round(first_s - began_s, 6),
                decode_s=round(last_s - first_s, 6),
            ),
        )

    def _publish(self, held: HeldJob, chunk: Chunk) -> None:
        if not (chunk.token_ids or chunk.text):
            return
        token = Token(chunk.text, chunk.token_ids)
        if chunk.finish_reason is not None:
            held.add_last(token)
        else:
            held.add(token)
            self._publisher.send(held)

    async def _beginning(self, held: HeldJob) -> _Beginning:
        """Prompt ids, and what was published already.

        Raises:
            NotResumable: the stream was cut and cannot go on.
        """
        interrupted = held.taken.interrupted
        if interrupted is None:
            return _Beginning(await self._encode(held.job))
        emitted = await read_emitted(self._log, held.lease.channel_id, held.taken.tail)
        if not emitted.token_ids:
            return _Beginning(await self._encode(held.job))
        why_not = self._why_not_resumable(held.job, interrupted)
        if why_not is not None:
            raise NotResumable(f"the worker was lost in the middle of the answer, and {why_not}")
        log.info("continued", tokens=len(emitted.token_ids))
        held.text.append(emitted.text)
        return _Beginning(list(interrupted.prompt_token_ids), emitted)

    def _why_not_resumable(self, job: Job, interrupted: Interrupted) -> str | None:
        if interrupted.model_revision != self._engine.info.revision:
            return "the model has changed since"
        return obstacle(self._engine.settled(job.sampling))

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
