"""All answers of one job: started, tokens, ends. Each continues where an earlier holder stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import structlog

from relais_common.jobs.chat import Message
from relais_common.jobs.errors import EngineDead, EngineFailed, EngineRefused
from relais_common.jobs.events import AnswerEnd, Completed, Prompt, Timings, Token, Usage
from relais_common.queue.ports import JobSource
from relais_common.worker.held import HeldJob
from relais_common.worker.publisher import Publisher
from relais_common.worker.starting import note_start
from relais_llm_worker.continuation import Logged
from relais_llm_worker.engine import NOTHING, Chunk
from relais_llm_worker.model import Answer, Cut, Model

log = structlog.get_logger(__name__)


class Answering:
    """Runs a job's answers, all at once, into the job's one log.

    Args:
        logged: what earlier holders published.

    Attributes:
        generated_tokens: tokens generated here.
    """

    def __init__(
        self,
        model: Model,
        source: JobSource,
        publisher: Publisher,
        held: HeldJob,
        logged: Logged,
    ) -> None:
        self._model = model
        self._source = source
        self._publisher = publisher
        self._held = held
        self._job = held.job
        self._answers = held.job.answers
        self._tells_prompt = held.job.prompting.tells_prompt
        self._logged = logged.answers
        self._told = set(logged.prompts)
        before = held.taken.interrupted if logged.answers else None
        several: list[Sequence[int]] = [()] * max(1, len(held.job.prompts))
        self._prompts: list[Sequence[int]] = several if before is None else list(before.prompts)
        self._inputs = [len(prompt) or None for prompt in self._prompts]
        self._cached = [0] * len(self._prompts)
        self._revision = "" if before is None else before.model_revision
        self._begun: set[int] = set()
        self._starting = asyncio.Lock()
        self._prompt_known = [asyncio.Event() for _ in self._prompts]
        for which in self._told:
            self._prompt_known[which].set()
        self._texts: list[list[str]] = [[] for _ in range(self._answers)]
        self._ends: dict[int, AnswerEnd] = {}
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        self.generated_tokens = 0

    async def run(self) -> Completed:
        """Run every answer to its end. If one fails, the others are stopped. Raises as `Model.answer` does."""
        for index, emitted in self._logged.items():
            self._texts[index].append(emitted.text)
            if index == 0:
                self._held.text.append(emitted.text)
            if emitted.end is not None:
                self._end(index, emitted.end)
        left = [index for index in range(self._answers) if index not in self._ends]
        if len(left) == 1:
            await self._answer(left[0])
            return self._completed()
        try:
            async with asyncio.TaskGroup() as group:
                for index in left:
                    group.create_task(self._answer(index))
        except ExceptionGroup as failed:
            dead = [error for error in failed.exceptions if isinstance(error, EngineDead)]
            raise (dead or failed.exceptions)[0] from None
        return self._completed()

    async def _answer(self, index: int) -> None:
        which, emitted = index // self._job.n, self._logged.get(index, NOTHING)
        cut = None
        if emitted != NOTHING:
            log.info("job_continued", tokens=len(emitted.token_ids), index=index)
            cut = Cut(tuple(self._prompts[which]), self._revision, emitted)
        output_tokens, cached_tokens = len(emitted.token_ids), 0
        chunk: Chunk | None = None
        one = self._job.one(index)
        if self._job.prompting.prompt_logprobs is not None and one.index:
            # Its first answer tells of the prompt, before anything of the others.
            await self._prompt_known[which].wait()
        only_prompt = one.sampling.max_tokens == 0
        if only_prompt:
            one = replace(one, sampling=replace(one.sampling, max_tokens=1, min_tokens=None))
        async with self._model.answer(one, cut) as answer:
            await self._note_start(which, answer)
            async for chunk in answer.chunks:
                if self._tells_prompt and which not in self._told:
                    await self._tell_prompt(which, answer, chunk)
                if only_prompt:
                    chunk = Chunk((), "", "length", cached_tokens=chunk.cached_tokens)
                self._first_s = self._first_s or time.monotonic()
                output_tokens += len(chunk.token_ids)
                self.generated_tokens += len(chunk.token_ids)
                cached_tokens = max(cached_tokens, chunk.cached_tokens)
                if chunk.finish_reason is not None:
                    self._note_end(index, chunk, output_tokens, cached_tokens)
                self._publish(index, chunk)
                await self._held.until_mostly_sent()
                if only_prompt:
                    break
        if chunk is None or chunk.finish_reason is None:
            raise EngineFailed("the engine ended the request without a reason")

    async def _note_start(self, which: int, answer: Answer) -> None:
        """Report that the engine has this prompt, unless that is known; nothing is published before."""
        async with self._starting:
            if self._begun and answer.model_revision != self._revision:
                # Servers of one pool may differ: nothing that has several revisions can be continued.
                self._revision = ""
            elif not self._begun:
                self._revision = answer.model_revision
            if which in self._begun:
                return
            self._begun.add(which)
            self._prompts[which] = answer.prompt_token_ids
            self._inputs[which] = len(answer.prompt_token_ids)
            await note_start(
                self._source,
                self._held,
                prompts=self._prompts,
                model_revision=self._revision,
                newest=which,
            )

    async def _tell_prompt(self, which: int, answer: Answer, chunk: Chunk) -> None:
        """Publish what was asked of this prompt, unless it was."""
        async with self._starting:
            if which in self._told:
                return
            ids = tuple(answer.prompt_token_ids)
            if not ids:
                raise EngineRefused(
                    "return_token_ids: this model's server does not tell its tokens",
                    param="return_token_ids",
                    code="unsupported_parameter",
                )
            text = await self._echoed(which, ids)
            self._held.add(Prompt(ids, text, chunk.prompt_logprobs, which))
            self._told.add(which)
            self._prompt_known[which].set()

    async def _echoed(self, which: int, ids: tuple[int, ...]) -> str | None:
        """Return the text of a prompt, if it is to be told. As in vLLM, who wants ids needs no text."""
        prompting = self._job.prompting
        if not prompting.echo or prompting.return_token_ids:
            return None
        given = self._job.one(which * self._job.n).prompt
        if isinstance(given, str) and prompting.truncate_prompt_tokens is None:
            return given
        return await self._model.detokenize(replace(self._job, prompt=ids, prompts=()))

    def _note_end(self, index: int, chunk: Chunk, output_tokens: int, cached_tokens: int) -> None:
        which, usage = index // self._job.n, chunk.usage
        if usage is not None:
            # Continued from elsewhere, so the ids may be incomplete.
            self.generated_tokens += max(0, usage.output_tokens - output_tokens)
            output_tokens, cached_tokens = usage.output_tokens, usage.cached_tokens
            self._inputs[which] = usage.input_tokens
        if index % self._job.n == 0:
            # The other answers to this prompt find all of it in the cache.
            self._cached[which] = cached_tokens
        if chunk.unreadable:
            log.info("tool_call_unreadable")
            self._held.metrics.unreadable_call()
        assert chunk.finish_reason is not None
        self._end(
            index,
            AnswerEnd(
                chunk.finish_reason,
                output_tokens,
                chunk.stop_reason,
                chunk.message,
                chunk.reasoning_tokens,
            ),
        )

    def _end(self, index: int, end: AnswerEnd) -> None:
        self._ends[index] = end
        # The last one is free when the job has gone.
        self._held.places = max(1, self._answers - len(self._ends))

    def _publish(self, index: int, chunk: Chunk) -> None:
        token = Token(
            chunk.text, chunk.token_ids, chunk.logprobs, chunk.reasoning, chunk.tool_calls, index
        )
        if self._answers > 1:
            token.end = self._ends.get(index)
            self._texts[index].append(chunk.text)
        if not (token.token_ids or token.says_something or token.end):
            return
        if len(self._ends) == self._answers:
            self._held.add_last(token)
        else:
            self._held.add(token)
            self._publisher.send(self._held)

    def _completed(self) -> Completed:
        last_s = time.monotonic()
        first_s = self._first_s or last_s
        first = self._ends[0]
        return Completed(
            finish_reason=first.finish_reason,
            stop_reason=first.stop_reason,
            usage=self._usage(),
            timings=Timings(
                queue_s=round(self._held.taken.queued_s, 6),
                prefill_s=round(first_s - self._began_s, 6),
                decode_s=round(last_s - first_s, 6),
            ),
            message=first.message,
            answers=() if self._answers == 1 else tuple(map(self._whole, sorted(self._ends))),
        )

    def _whole(self, index: int) -> AnswerEnd:
        """Return how this answer ended, with all of it."""
        end = self._ends[index]
        if end.message is not None:
            return end
        return replace(end, message=Message("assistant", "".join(self._texts[index])))

    def _usage(self) -> Usage:
        """Return what all answers took, with each prompt counted once."""
        counted = [tokens for tokens in self._inputs if tokens is not None]
        reasoning = [end.reasoning_tokens for end in self._ends.values()]
        known = [tokens for tokens in reasoning if tokens is not None]
        return Usage(
            sum(counted) if len(counted) == len(self._inputs) else None,
            sum(end.output_tokens for end in self._ends.values()),
            sum(self._cached),
            sum(known) if known else None,
            self._job.images,
        )
