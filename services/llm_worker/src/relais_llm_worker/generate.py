"""Runs one job through a model: started, tokens, end. A job begun elsewhere continues where it stopped."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

import orjson
import structlog

from relais_common.jobs.errors import EngineFailed, EngineRefused, NotResumable
from relais_common.jobs.events import Completed, Restarted, Terminal, Timings, Token, Usage
from relais_common.jobs.job import OnWorkerLoss, Operation
from relais_common.queue.ports import EventLog, JobSource
from relais_common.worker.held import HeldJob
from relais_common.worker.publisher import Publisher
from relais_common.worker.starting import note_start
from relais_llm_worker.continuation import read_emitted
from relais_llm_worker.engine import NOTHING, Chunk
from relais_llm_worker.model import Cut, Model

log = structlog.get_logger(__name__)

PROGRESS = 32
"""Tokens that a preempted job generates before it may be preempted again."""


class GenerateHandler:
    """Runs chats and text completions, and tells what their tokens are.

    Attributes:
        generated_tokens: tokens generated so far, for all jobs.
    """

    def __init__(
        self, model: Model, source: JobSource, event_log: EventLog, publisher: Publisher
    ) -> None:
        self._model = model
        self._source = source
        self._log = event_log
        self._publisher = publisher
        self.generated_tokens = 0

    def room(self, held: int) -> int:
        return self._model.room(held)

    def enough_of(self) -> Collection[str]:
        return ()

    def can_preempt(self, held: HeldJob) -> bool:
        if held.taken.preempted and held.pieces < PROGRESS:
            return False
        emitted = held.pieces > 0 or held.taken.interrupted is not None
        return not emitted or (held.tells_ids and self._model.can_continue(held.job))

    async def handle(self, held: HeldJob) -> Terminal:
        if held.job.embedding is not None:
            raise EngineRefused(
                "this is not an embedding model",
                param="model",
                code="wrong_operation",
            )
        if held.job.operation in (Operation.TOKENIZE, Operation.DETOKENIZE):
            return await self._tell_tokens(held)
        try:
            return await self._run(held, await self._cut(held))
        except NotResumable as error:
            if held.job.on_worker_loss is OnWorkerLoss.FAIL:
                raise
            log.info("job_restarted", reason=error.message)
            held.add(Restarted(error.message))
            self._publisher.send(held)
            return await self._run(held, None)

    async def _tell_tokens(self, held: HeldJob) -> Completed:
        began_s = time.monotonic()
        if held.job.operation is Operation.TOKENIZE:
            text = orjson.dumps(await self._model.tokenize(held.job)).decode()
        else:
            text = await self._model.detokenize(held.job)
        held.add_last(Token(text, ()))
        timings = Timings(
            queue_s=round(held.taken.queued_s, 6),
            prefill_s=round(time.monotonic() - began_s, 6),
            decode_s=0.0,
        )
        return Completed("stop", Usage(0, 0), timings)

    async def _run(self, held: HeldJob, cut: Cut | None) -> Completed:
        began_s = time.monotonic()
        output_tokens = 0
        async with self._model.answer(held.job, cut) as answer:
            if cut is not None:
                log.info("job_continued", tokens=len(cut.emitted.token_ids))
                output_tokens = len(cut.emitted.token_ids)
                held.text.append(cut.emitted.text)
            await note_start(
                self._source,
                held,
                prompt_token_ids=answer.prompt_token_ids,
                model_revision=answer.model_revision,
            )
            cached_tokens = 0
            first_s: float | None = None
            chunk: Chunk | None = None
            async for chunk in answer.chunks:
                first_s = first_s or time.monotonic()
                output_tokens += len(chunk.token_ids)
                self.generated_tokens += len(chunk.token_ids)
                cached_tokens = max(cached_tokens, chunk.cached_tokens)
                self._publish(held, chunk)
                await held.until_mostly_sent()
        if chunk is None or chunk.finish_reason is None:
            raise EngineFailed("the engine ended the request without a reason")
        if chunk.usage is not None:
            # Continued from elsewhere, so the ids may be incomplete.
            self.generated_tokens += max(0, chunk.usage.output_tokens - output_tokens)
        if chunk.unreadable:
            log.info("tool_call_unreadable")
            held.metrics.unreadable_call()
        last_s = time.monotonic()
        first_s = first_s or last_s
        usage = chunk.usage or Usage(len(answer.prompt_token_ids), output_tokens, cached_tokens)
        if chunk.reasoning_tokens is not None:
            usage = replace(usage, reasoning_tokens=chunk.reasoning_tokens)
        return Completed(
            finish_reason=chunk.finish_reason,
            stop_reason=chunk.stop_reason,
            usage=usage,
            timings=Timings(
                queue_s=round(held.taken.queued_s, 6),
                prefill_s=round(first_s - began_s, 6),
                decode_s=round(last_s - first_s, 6),
            ),
            message=chunk.message,
        )

    def _publish(self, held: HeldJob, chunk: Chunk) -> None:
        token = Token(
            chunk.text, chunk.token_ids, chunk.logprobs, chunk.reasoning, chunk.tool_calls
        )
        if not (token.token_ids or token.says_something):
            return
        if chunk.finish_reason is not None:
            held.add_last(token)
        else:
            held.add(token)
            self._publisher.send(held)

    async def _cut(self, held: HeldJob) -> Cut | None:
        """Return what an earlier holder published of the job, if anything."""
        interrupted = held.taken.interrupted
        if interrupted is None:
            return None
        emitted = await read_emitted(self._log, held.lease.channel_id, held.taken.tail)
        if emitted == NOTHING:
            return None
        return Cut(interrupted.prompt_token_ids, interrupted.model_revision, emitted)
