"""One answer of a model behind servers: what was sent to the client, and the requests for the rest of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import msgspec
import orjson

from relais_common.jobs.chat import Message, Streamed
from relais_common.jobs.errors import NotResumable
from relais_common.jobs.events import TokenLogprob, Usage
from relais_common.jobs.job import Job
from relais_common.remote.server import Served, Server
from relais_llm_worker.answer_text import HeldText
from relais_llm_worker.continuation import obstacle
from relais_llm_worker.engine import Chunk, Emitted
from relais_llm_worker.model import Cut
from relais_llm_worker.remote.bodies import Question, ask, ask_to_go_on
from relais_llm_worker.remote.bounds import Bounds
from relais_llm_worker.remote.chunks import Counts, Delta
from relais_llm_worker.remote.exchange import StreamingClient
from relais_llm_worker.remote.resumption import Meaning

BEGUN = Chunk((), "")
"""The first chunk of every answer: a server has accepted the job."""


def obstacle_of(job: Job) -> str | None:
    """Return why this job's answer cannot continue at another server; None if it can."""
    if job.chat.may_call:
        return "its tool calls are read by the server that was lost"
    if job.images:
        return "no server takes images beside the tokens so far"
    return obstacle(job.sampling)


class AnswerSoFar:
    """One answer, across all its tries.

    Attributes:
        prompt_token_ids: as the first server that reports them received them.
        revision: the weights that it must continue with; None if any will do.
        token_ids: of what was sent to the client.
    """

    def __init__(self, model: str, job: Job, max_output_tokens: int) -> None:
        self._model = model
        self.job = job
        self._most = min(job.sampling.max_tokens or max_output_tokens, max_output_tokens)
        self.prompt_token_ids: tuple[int, ...] = ()
        self.revision: str | None = None
        self.token_ids: list[int] = []
        self._told = Streamed()
        self._all_known = True
        self._pieces = 0
        self._bounded_there = True
        self._held: HeldText | None = None

    def take_up(self, cut: Cut) -> None:
        """Begin with what an earlier holder sent."""
        self.prompt_token_ids, self.revision = cut.prompt_token_ids, cut.model_revision
        self.token_ids = list(cut.emitted.token_ids)
        self._told.add("", cut.emitted.text, ())

    def require_another_try(self) -> None:
        """Raise NotResumable if text was sent and the answer cannot continue elsewhere."""
        why_not = None if self._all_known else "its tokens are not known"
        why_not = why_not or obstacle_of(self.job)
        if self._has_begun and why_not is not None:
            raise NotResumable(f"the server was lost in the middle of the answer, and {why_not}")

    def require_no_tools_or_images(self) -> None:
        """Raise NotResumable if the rest may be tool calls, which only the server that began them can parse.

        A prompt of token ids has no images.
        """
        if self.job.chat.may_call or self.job.images:
            raise NotResumable(
                f"the worker was lost in the middle of the answer, and {obstacle_of(self.job)}"
            )

    async def one_try(self, client: StreamingClient, server: Server) -> AsyncGenerator[Chunk]:
        """Yield `BEGUN` once the server has accepted it, then the missing chunks. Raises as `Client.stream` does."""
        served = server.served(self._model)
        repeated: tuple[int, ...] = ()
        if not self._has_begun:
            self._held = self._no_text_yet()
            question = self._ask(served)
        elif (room := self._room(served)) > 0:
            question, repeated = await self._ask_to_go_on(
                Meaning(client, server, self._model), room
            )
        else:
            yield BEGUN
            yield Chunk((), "", "length")
            return
        unsent = _Unsent(repeated)
        begun = False
        bounds = self._bounds(question, repeated)
        async with aclosing(client.stream(server, question, bounds)) as deltas:
            async for delta in deltas:
                if not begun:
                    begun = True
                    self._begin(delta, served)
                    yield BEGUN
                unsent.add(delta)
                self._note_kind(delta)
                if delta.reasoning and not self.job.chat.include_reasoning:
                    delta = replace(delta, reasoning="")
                # Ids go out with text alone, so that the log ends, as a rule, where a character does.
                if not (delta.text or delta.aside) and delta.finish_reason is None:
                    continue
                chunk = self._chunk(delta, *unsent.take())
                yield chunk
                if chunk.finish_reason is not None:
                    return

    @property
    def _has_begun(self) -> bool:
        return bool(self.token_ids) or self._told.says_something

    def _room(self, served: Served) -> int:
        """Return how many tokens may still come."""
        most = self._most
        if served.max_model_len is not None:
            most = min(most, served.max_model_len - len(self.prompt_token_ids))
        return most - len(self.token_ids)

    async def _ask_to_go_on(self, meaning: Meaning, room: int) -> tuple[Question, tuple[int, ...]]:
        """Return the request for the rest, and the token ids that it will repeat."""
        emitted = Emitted(tuple(self.token_ids), self._told.message().text)
        kept = await meaning.whole(emitted)
        if self._held is None:
            self._held = self._no_text_yet()
            stops = self.job.sampling.stop
            pending = await meaning.held_back(emitted, stops) if stops else ""
            self._held.go_on(pending, len(self.token_ids))
        prompt = [*self.prompt_token_ids, *emitted.token_ids[:kept]]
        repeated = emitted.token_ids[kept:]
        return ask_to_go_on(self.job, self._model, prompt, kept, room + len(repeated)), repeated

    def _bounds(self, question: Question, repeated: tuple[int, ...]) -> Bounds:
        return Bounds(
            self._most - len(self.token_ids) + len(repeated),
            self.job.sampling.logprobs,
            len(orjson.dumps(question.body)),
        )

    def _no_text_yet(self) -> HeldText:
        sampling = self.job.sampling
        return HeldText(
            sampling.stop,
            sampling.min_tokens or 0,
            keep_stop=sampling.include_stop_str_in_output,
        )

    def _ask(self, served: Served) -> Question:
        most: int | None = self._most
        if self.job.sampling.max_tokens is None:
            # vLLM takes what fits beside the prompt; others may refuse a limit beyond a context that they do not tell.
            context = served.max_model_len
            most = None if context is None else min(self._most, context)
        self._bounded_there = most is not None
        return ask(self.job, self._model, most, with_ids=served.tells_ids)

    def _begin(self, delta: Delta, served: Served) -> None:
        if self._has_begun:
            return
        self._all_known, self._pieces = True, 0
        self.prompt_token_ids = delta.prompt_token_ids or ()
        self.revision = served.revision if served.tells_ids and self.prompt_token_ids else None

    def _note_kind(self, delta: Delta) -> None:
        """Note whether token ids alone still describe the answer: not after anything but text with ids."""
        if delta.aside or (delta.text and not delta.token_ids):
            self._all_known = False

    def _chunk(
        self, delta: Delta, ids: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]
    ) -> Chunk:
        """Return the chunk to send now."""
        held = self._held
        assert held is not None
        if not self._all_known:
            ids = ()
        # The chunk that only ends an answer is no token.
        self._pieces += bool(delta.text or delta.aside)
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
        self._told.add(delta.reasoning, text, delta.tool_calls)
        return Chunk(
            token_ids=ids,
            text=text,
            finish_reason=reason,
            stop_reason=stop_reason,
            cached_tokens=delta.counts.cached_tokens,
            usage=None if reason is None or self._all_known else self._usage(delta.counts),
            logprobs=None if self.job.sampling.logprobs is None else logprobs,
            reasoning=delta.reasoning,
            tool_calls=delta.tool_calls,
            message=None if reason is None else self._message(),
            reasoning_tokens=None if reason is None else delta.counts.reasoning_tokens,
        )

    def _message(self) -> Message | None:
        told = self._told.message()
        if not (told.reasoning or told.tool_calls):
            return None
        return told if self.job.chat.as_streamed else msgspec.structs.replace(told, stretches=())

    def _usage(self, counts: Counts) -> Usage:
        """Return the server's token counts; without them, each piece of text counts as a token."""
        known = len(self.prompt_token_ids) or None
        return Usage(
            known if counts.input_tokens is None else counts.input_tokens,
            self._pieces if counts.output_tokens is None else counts.output_tokens,
            counts.cached_tokens,
        )


class _Unsent:
    """Received parts of an answer that were not sent yet.

    Args:
        repeated: sent ids that the server repeats first.
    """

    def __init__(self, repeated: tuple[int, ...]) -> None:
        self._repeated = repeated
        self._ids: tuple[int, ...] = ()
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, delta: Delta) -> None:
        """Add a delta. Raises NotResumable if the server repeats other ids than those sent."""
        ids = delta.token_ids or ()
        count = min(len(self._repeated), len(ids))
        if ids[:count] != self._repeated[:count]:
            raise NotResumable("it was cut off within a character, which comes out differently now")
        self._repeated = self._repeated[count:]
        self._ids += ids[count:]
        if not delta.aside:
            self._logprobs += delta.logprobs[count:]

    def take(self) -> tuple[tuple[int, ...], tuple[TokenLogprob, ...]]:
        """Return ids and their probabilities."""
        taken = self._ids, self._logprobs
        self._ids, self._logprobs = (), ()
        return taken
