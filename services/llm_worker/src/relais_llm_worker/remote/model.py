"""A model behind servers: one answer may take several tries, and go on at another server where the first one died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from relais_common.backoff import Backoff
from relais_common.errors import EngineFailed, NotResumable
from relais_common.events import TokenLogprob, Usage
from relais_common.jobs import Job
from relais_common.worker.status import ModelStatus
from relais_llm_worker.answer_text import HeldText
from relais_llm_worker.continuation import obstacle, require_resumable
from relais_llm_worker.engine import Chunk, Emitted
from relais_llm_worker.model import Answer, Cut
from relais_llm_worker.remote.bodies import Delta, Question, ask, ask_to_go_on
from relais_llm_worker.remote.errors import Busy, Lost, TryFailed, Unreachable
from relais_llm_worker.remote.exchange import Client
from relais_llm_worker.remote.pool import Changes, Pool
from relais_llm_worker.remote.resumption import Meaning
from relais_llm_worker.remote.server import Server

log = structlog.get_logger(__name__)

BEGUN = Chunk((), "")
"""Before all others: a server has the job."""
LONGEST_REST_S = 60.0
REST_MARGIN_S = 0.01  # a timer may fire a little early


@dataclass(frozen=True, slots=True)
class Limits:
    """Of every request.

    Attributes:
        max_output_tokens: the most it gets.
        max_failures: tries in a row that may end with a server lost, nothing having come of them.
    """

    max_output_tokens: int
    max_failures: int


class RemoteModel:
    """The `Model` port over a pool of servers."""

    def __init__(
        self, name: str, pool: Pool, client: Client, changes: Changes, limits: Limits
    ) -> None:
        self._name = name
        self._pool = pool
        self._client = client
        self._changes = changes
        self._limits = limits

    @property
    def name(self) -> str:
        return self._name

    def room(self, held: int) -> int:
        return self._pool.room(held)

    def status(self) -> ModelStatus:
        return ModelStatus(
            capacity=self._pool.capacity,
            max_model_len=self._pool.max_model_len,
            not_ready=self._pool.not_ready,
        )

    @asynccontextmanager
    async def answer(self, job: Job, cut: Cut | None = None) -> AsyncIterator[Answer]:
        run = _Run(self._name, job, self._limits)
        if cut is not None:
            require_resumable(cut, self._pool.revisions(), job.sampling)
            run.take_up(cut)
        async with aclosing(self._chunks(run)) as chunks:
            first = await anext(chunks)
            assert first is BEGUN
            yield Answer(run.prompt_token_ids, run.revision or "", chunks)

    async def check_health(self) -> None:
        """Servers that are down come back; nothing ends with them."""

    async def _chunks(self, run: _Run) -> AsyncGenerator[Chunk]:
        backoff = Backoff()
        last: Server | None = None
        begun = False
        while True:
            emitted = len(run.token_ids)
            async with self._pool.place(revision=run.revision, avoid=last) as server:
                last = server
                try:
                    async with aclosing(run.one_try(self._client, server)) as chunks:
                        async for chunk in chunks:
                            if not begun:
                                begun = True
                                yield BEGUN
                            if chunk is not BEGUN:
                                yield chunk
                            if chunk.finish_reason is not None:
                                return
                    raise Lost("the stream ended before the answer did")
                except TryFailed as error:
                    log.warning(
                        "try_failed",
                        url=server.shown,
                        reason=f"{type(error).__name__.lower()}: {error}",
                        tokens=len(run.token_ids),
                    )
                    self._heed(server, error)
                    progressed = len(run.token_ids) > emitted
                    run.note_failure(error, progressed=progressed)
                    if progressed:
                        backoff.reset()
            await backoff.pause()

    def _heed(self, server: Server, error: TryFailed) -> None:
        if isinstance(error, Busy):
            rest_s = min(
                1.0 if error.retry_after_s is None else error.retry_after_s, LONGEST_REST_S
            )
            server.rest(rest_s)
            # Whoever waits looks again then.
            asyncio.get_running_loop().call_later(rest_s + REST_MARGIN_S, self._changes.ring)
        else:
            server.note_down(str(error))


class _Run:
    """One answer, over all its tries.

    Attributes:
        prompt_token_ids: as the first server that told them was given them.
        revision: the one it must go on with; None where any will do.
        token_ids, text: what went out.
    """

    def __init__(self, model: str, job: Job, limits: Limits) -> None:
        self._model = model
        self._job = job
        self._limits = limits
        self._most = min(
            job.sampling.max_tokens or limits.max_output_tokens, limits.max_output_tokens
        )
        self._failures = 0
        self.prompt_token_ids: tuple[int, ...] = ()
        self.revision: str | None = None
        self.token_ids: list[int] = []
        self.text = ""
        self._all_known = True
        self._pieces = 0
        self._bounded_there = True
        self._held: HeldText | None = None

    def take_up(self, cut: Cut) -> None:
        """What an earlier holder gave counts as given."""
        self.prompt_token_ids, self.revision = cut.prompt_token_ids, cut.model_revision
        self.token_ids, self.text = list(cut.emitted.token_ids), cut.emitted.text

    def note_failure(self, error: TryFailed, *, progressed: bool) -> None:
        """Whether there is to be another try.

        Raises:
            NotResumable: text went out, and the rest of it cannot be had.
            EngineFailed: too many servers were lost over it.
        """
        if self.token_ids or self.text:
            why_not = None if self._all_known else "its tokens are not known"
            why_not = why_not or obstacle(self._job.sampling)
            if why_not is not None:
                raise NotResumable(
                    f"the server was lost in the middle of the answer, and {why_not}"
                )
        if progressed:
            self._failures = 0
        elif not isinstance(error, (Busy, Unreachable)):
            self._failures += 1
        if self._failures >= self._limits.max_failures:
            raise EngineFailed(f"the model's servers failed at this request {self._failures} times")

    async def one_try(self, client: Client, server: Server) -> AsyncGenerator[Chunk]:
        """`BEGUN` once the server has it, then chunks that follow what went out. Raises as `Client.stream` does."""
        served = server.served(self._model)
        context = served.max_model_len
        repeated: tuple[int, ...] = ()
        if self.token_ids or self.text:
            room = self._most
            if context is not None:
                room = min(room, context - len(self.prompt_token_ids))
            if len(self.token_ids) >= room:
                yield BEGUN
                yield Chunk((), "", "length")
                return
            emitted = Emitted(tuple(self.token_ids), self.text)
            meaning = Meaning(client, server, self._model)
            kept = await meaning.whole(emitted)
            if self._held is None:
                self._held = self._no_text_yet()
                stops = self._job.sampling.stop
                pending = await meaning.held_back(emitted, stops) if stops else ""
                self._held.go_on(pending, len(self.token_ids))
            repeated = emitted.token_ids[kept:]
            prompt = [*self.prompt_token_ids, *emitted.token_ids[:kept]]
            question = ask_to_go_on(self._job, self._model, prompt, kept, room - kept)
        else:
            self._held = self._no_text_yet()
            question = self._ask(context, with_ids=served.tells_ids)
        begun = False
        held_ids: tuple[int, ...] = ()
        held_logprobs: tuple[TokenLogprob, ...] = ()
        async with aclosing(client.stream(server, question)) as deltas:
            async for delta in deltas:
                if not begun:
                    begun = True
                    self._begin(delta, served.revision if served.tells_ids else None)
                    yield BEGUN
                still_to_come = len(repeated)
                ids, repeated = _after(repeated, delta.token_ids or ())
                held_ids += ids
                if not delta.aside:
                    held_logprobs += delta.logprobs[still_to_come - len(repeated) :]
                self._note_kind(delta)
                # Ids go out with text alone, so that the log ends, as a rule, where a character does.
                if not delta.text and delta.finish_reason is None:
                    continue
                chunk = self._chunk(delta, held_ids, self._held)
                if self._job.sampling.logprobs is not None:
                    chunk.logprobs = tuple(
                        replace(one, top_logprobs=one.top_logprobs[: self._job.sampling.logprobs])
                        for one in held_logprobs
                    )
                held_ids, held_logprobs = (), ()
                yield chunk
                if chunk.finish_reason is not None:
                    return

    def _no_text_yet(self) -> HeldText:
        sampling = self._job.sampling
        return HeldText(
            sampling.stop,
            sampling.min_tokens or 0,
            keep_stop=sampling.include_stop_str_in_output,
        )

    def _ask(self, context: int | None, *, with_ids: bool) -> Question:
        most: int | None = self._most
        if self._job.sampling.max_tokens is None:
            # vLLM takes what fits beside the prompt; others may refuse a limit beyond a context that they do not tell.
            most = None if context is None else min(self._most, context)
        self._bounded_there = most is not None
        return ask(self._job, self._model, most, with_ids=with_ids)

    def _begin(self, delta: Delta, revision: str | None) -> None:
        if self.token_ids or self.text:
            return
        self._all_known, self._pieces = True, 0
        self.prompt_token_ids = delta.prompt_token_ids or ()
        self.revision = revision if self.prompt_token_ids else None

    def _note_kind(self, delta: Delta) -> None:
        """Once there was anything but text with its ids, ids alone do not tell the answer."""
        if delta.aside or (delta.text and not delta.token_ids):
            self._all_known = False

    def _chunk(self, delta: Delta, ids: tuple[int, ...], held: HeldText) -> Chunk:
        """What goes out now."""
        if not self._all_known:
            ids = ()
        self._pieces += 1
        matched = held.add(delta.text, len(ids) or 1)
        reason, stop_reason = delta.finish_reason, delta.stop_reason
        if matched is not None:
            reason, stop_reason = "stop", matched
        elif reason is None and not self._bounded_there and self._pieces >= self._most:
            reason = "length"
        text = held.give(ended=reason is not None)
        self.token_ids += ids
        self.text += text
        return Chunk(
            token_ids=ids,
            text=text,
            finish_reason=reason,
            stop_reason=stop_reason,
            cached_tokens=delta.usage.cached_tokens if delta.usage is not None else 0,
            usage=None if reason is None or self._all_known else self._usage(delta),
        )

    def _usage(self, delta: Delta) -> Usage:
        """As the server counts; where it does not, a piece of text is taken for a token."""
        return delta.usage or Usage(len(self.prompt_token_ids), self._pieces)


def _after(
    repeated: tuple[int, ...], ids: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids beyond those that were to come again, and what of those is still to come."""
    count = min(len(repeated), len(ids))
    if ids[:count] != repeated[:count]:
        raise NotResumable("it was cut off within a character, which comes out differently now")
    return ids[count:], repeated[count:]
