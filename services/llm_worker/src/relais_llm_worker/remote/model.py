"""A model behind servers: one answer may take several tries, and go on at another server where the first one died."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import orjson
import structlog

from relais_common.jobs.errors import NotResumable, UpstreamUnavailable
from relais_common.jobs.events import TokenLogprob, Usage
from relais_common.jobs.job import Job
from relais_common.runtime.backoff import Backoff
from relais_common.worker.status import ModelStatus
from relais_llm_worker.answer_text import HeldText
from relais_llm_worker.continuation import obstacle, require_resumable
from relais_llm_worker.engines.engine import Chunk, Emitted
from relais_llm_worker.model import Answer, Cut
from relais_llm_worker.remote.bodies import Question, ask, ask_to_go_on
from relais_llm_worker.remote.bounds import Bounds
from relais_llm_worker.remote.chunks import Counts, Delta
from relais_llm_worker.remote.errors import Busy, Lost, Misplaced, TryFailed, Unreachable
from relais_llm_worker.remote.exchange import Client
from relais_llm_worker.remote.pool import Pool
from relais_llm_worker.remote.resumption import Meaning
from relais_llm_worker.remote.server import Server
from relais_llm_worker.remote.tries import Tries

log = structlog.get_logger(__name__)

BEGUN = Chunk((), "")
"""Before all others: a server has the job."""


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

    def __init__(self, name: str, pool: Pool, client: Client, limits: Limits) -> None:
        self._name = name
        self._pool = pool
        self._client = client
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

    def can_continue(self, job: Job) -> bool:
        return obstacle(job.sampling) is None

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
        tries = Tries(self._limits.max_failures, run.job.deadline_s)
        key_id = run.job.key_id
        last: Server | None = None
        begun = False
        while True:
            emitted = len(run.token_ids)
            async with self._pool.place(key_id, tries, revision=run.revision, avoid=last) as server:
                last = server
                try:
                    async with aclosing(run.one_try(self._client, server)) as chunks:
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
                    log.warning(
                        "server_try_failed",
                        url=server.shown,
                        reason=f"{type(error).__name__.lower()}: {error}",
                        tokens=len(run.token_ids),
                    )
                    self._heed(server, error, run.job)
                    run.require_another_try()
                    if len(run.token_ids) > emitted:
                        backoff.reset()
                        tries.note_progress()
                    tries.note(server, error)
            if not tries.put_off:
                await backoff.pause()

    def _heed(self, server: Server, error: TryFailed, job: Job) -> None:
        """What a failed try says of the server. One request's refusal says little."""
        match error:
            case Busy():
                server.note_busy(job.channel_id, job.key_id, error.retry_after_s)
                if isinstance(error.passed_on, UpstreamUnavailable):
                    server.doubt()
            case Misplaced():
                server.note_misplaced(str(error))
            case Unreachable():
                server.note_down(str(error))
            case Lost():
                # Only a look can tell whether it was the server or the request.
                server.doubt()


class _Run:
    """One answer, over all its tries.

    Attributes:
        prompt_token_ids: as the first server that told them was given them.
        revision: the one it must go on with; None where any will do.
        token_ids, text: what went out.
    """

    def __init__(self, model: str, job: Job, limits: Limits) -> None:
        self._model = model
        self.job = job
        self._limits = limits
        self._most = min(
            job.sampling.max_tokens or limits.max_output_tokens, limits.max_output_tokens
        )
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

    def require_another_try(self) -> None:
        """Raises NotResumable where text went out and the rest of it cannot be had."""
        if self.token_ids or self.text:
            why_not = None if self._all_known else "its tokens are not known"
            why_not = why_not or obstacle(self.job.sampling)
            if why_not is not None:
                raise NotResumable(
                    f"the server was lost in the middle of the answer, and {why_not}"
                )

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
                stops = self.job.sampling.stop
                pending = await meaning.held_back(emitted, stops) if stops else ""
                self._held.go_on(pending, len(self.token_ids))
            repeated = emitted.token_ids[kept:]
            prompt = [*self.prompt_token_ids, *emitted.token_ids[:kept]]
            question = ask_to_go_on(self.job, self._model, prompt, kept, room - kept)
        else:
            self._held = self._no_text_yet()
            question = self._ask(context, with_ids=served.tells_ids)
        begun = False
        held_ids: tuple[int, ...] = ()
        held_logprobs: tuple[TokenLogprob, ...] = ()
        bounds = Bounds(
            self._most - len(self.token_ids) + len(repeated),
            self.job.sampling.logprobs,
            len(orjson.dumps(question.body)),
        )
        async with aclosing(client.stream(server, question, bounds)) as deltas:
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
                if self.job.sampling.logprobs is not None:
                    chunk.logprobs = held_logprobs
                held_ids, held_logprobs = (), ()
                yield chunk
                if chunk.finish_reason is not None:
                    return

    def _no_text_yet(self) -> HeldText:
        sampling = self.job.sampling
        return HeldText(
            sampling.stop,
            sampling.min_tokens or 0,
            keep_stop=sampling.include_stop_str_in_output,
        )

    def _ask(self, context: int | None, *, with_ids: bool) -> Question:
        most: int | None = self._most
        if self.job.sampling.max_tokens is None:
            # vLLM takes what fits beside the prompt; others may refuse a limit beyond a context that they do not tell.
            most = None if context is None else min(self._most, context)
        self._bounded_there = most is not None
        return ask(self.job, self._model, most, with_ids=with_ids)

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
        # The chunk that only ends an answer is no token.
        self._pieces += bool(delta.text)
        matched = held.add(delta.text, len(ids) or 1)
        reason, stop_reason = delta.finish_reason, delta.stop_reason
        if isinstance(stop_reason, str) and stop_reason not in self.job.sampling.stop:
            stop_reason = None
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
            cached_tokens=delta.counts.cached_tokens,
            usage=None if reason is None or self._all_known else self._usage(delta.counts),
        )

    def _usage(self, counts: Counts) -> Usage:
        """As the server counts; where it does not, a piece of text is taken for a token."""
        known = len(self.prompt_token_ids) or None
        return Usage(
            known if counts.input_tokens is None else counts.input_tokens,
            self._pieces if counts.output_tokens is None else counts.output_tokens,
            counts.cached_tokens,
        )


def _after(
    repeated: tuple[int, ...], ids: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids beyond those that were to come again, and what of those is still to come."""
    count = min(len(repeated), len(ids))
    if ids[:count] != repeated[:count]:
        raise NotResumable("it was cut off within a character, which comes out differently now")
    return ids[count:], repeated[count:]
