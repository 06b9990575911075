"""A model behind servers. An answer may take several tries, and continues at another server if one fails."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from relais_common.jobs.errors import EngineFailed, EngineRefused, UpstreamUnavailable
from relais_common.jobs.job import Job
from relais_common.remote.errors import Lost, Misplaced, TryFailed
from relais_common.remote.pool import Pool
from relais_common.remote.server import Server
from relais_common.remote.tries import Tries
from relais_common.runtime.backoff import Backoff
from relais_common.worker.status import ModelStatus
from relais_llm_worker.continuation import require_resumable
from relais_llm_worker.engine import Chunk
from relais_llm_worker.model import Answer, Cut, Tokens
from relais_llm_worker.remote.answer_so_far import BEGUN, AnswerSoFar, obstacle_of
from relais_llm_worker.remote.bodies import prompt_of
from relais_llm_worker.remote.exchange import StreamingClient


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of every request.

    Attributes:
        max_output_tokens: maximum output of a request.
        max_failures: consecutive tries without progress that may lose a server.
    """

    max_output_tokens: int
    max_failures: int


class RemoteModel:
    """The `Model` port over a pool of servers."""

    def __init__(self, name: str, pool: Pool, client: StreamingClient, limits: Limits) -> None:
        self._name = name
        self._pool = pool
        self._client = client
        self._limits = limits

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    def room(self, held: int) -> int:
        """Return how many more jobs may begin now."""
        return self._pool.room(held)

    def status(self) -> ModelStatus:
        """Return capacity, context and readiness."""
        return self._pool.status()

    def can_continue(self, job: Job) -> bool:
        """Return whether the answer can continue at another server."""
        return obstacle_of(job) is None

    @asynccontextmanager
    async def answer(self, job: Job, cut: Cut | None = None) -> AsyncIterator[Answer]:
        """As `Model.answer`."""
        if job.prompting.prompt_logprobs is not None:
            raise EngineRefused(
                "prompt_logprobs: servers tell none while they stream, as this model's are asked to"
                " (also of `echo` with log probabilities)",
                param="prompt_logprobs",
                code="unsupported_parameter",
            )
        so_far = AnswerSoFar(self._name, job, self._limits.max_output_tokens)
        if cut is not None:
            require_resumable(cut, self._pool.revisions(), job.sampling)
            so_far.require_no_tools_or_images()
            so_far.take_up(cut)
        async with aclosing(self._chunks(so_far)) as chunks:
            first = await anext(chunks)
            assert first is BEGUN
            yield Answer(so_far.prompt_token_ids, so_far.revision or "", chunks)

    async def tokenize(self, job: Job) -> Tokens:
        """As `Model.tokenize`."""
        asked = prompt_of(job)
        if job.prompting.echo:
            asked["return_token_strs"] = True
        told = await self._call(job, "/tokenize", asked)
        try:
            tokens = msgspec.convert(told, Tokens)
        except msgspec.ValidationError:
            raise EngineFailed("the model's server gave no token ids") from None
        if not job.prompting.echo:
            return Tokens(tokens.tokens)
        if tokens.token_strs is None:
            raise EngineFailed("the model's server gave no token strings")
        return tokens

    async def detokenize(self, job: Job) -> str:
        """As `Model.detokenize`."""
        body = {"tokens": list(job.prompt or ())}
        text = (await self._call(job, "/detokenize", body)).get("prompt")
        if not isinstance(text, str):
            raise EngineFailed("the model's server gave no text")
        return text

    async def _call(self, job: Job, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask one of the vLLM servers; others lack these paths."""
        tries = Tries(self._limits.max_failures, job.deadline_s)
        async with self._pool.place(job.key_id, tries) as server:
            try:
                answer = await self._client.call_for_object(
                    server, path, {"model": self._name, **body}
                )
            except Misplaced:
                raise EngineRefused(
                    "this model's server does not tell its tokens",
                    param="model",
                    code="unsupported_value",
                ) from None
            except TryFailed:
                server.doubt()
                raise UpstreamUnavailable("the model's server did not answer") from None
            server.note_good(job.key_id)
            return answer

    async def check_health(self) -> None:
        """Never raises: servers that are down may come back."""

    async def _chunks(self, so_far: AnswerSoFar) -> AsyncGenerator[Chunk]:
        backoff = Backoff()
        tries = Tries(self._limits.max_failures, so_far.job.deadline_s)
        key_id = so_far.job.key_id
        last: Server | None = None
        begun = False
        while True:
            emitted = len(so_far.token_ids)
            async with self._pool.place(
                key_id, tries, revision=so_far.revision, avoid=last
            ) as server:
                last = server
                try:
                    async with aclosing(so_far.one_try(self._client, server)) as chunks:
                        async for chunk in chunks:
                            if chunk is BEGUN:
                                server.note_good(key_id)
                            if not begun:
                                begun = True
                                yield BEGUN
                            if chunk is not BEGUN:
                                yield chunk
                            if chunk.finish_reason is not None:
                                return
                    raise Lost("the stream ended before the answer did")
                except TryFailed as error:
                    server.heed(error, so_far.job, tokens=len(so_far.token_ids))
                    so_far.require_another_try()
                    if len(so_far.token_ids) > emitted:
                        backoff.reset()
                        tries.note_progress()
                    tries.note(server, error)
            if not tries.put_off:
                await backoff.pause()
