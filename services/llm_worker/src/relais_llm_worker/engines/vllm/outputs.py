"""What vLLM makes of one request: chunks, and the log probabilities of their tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector

from relais_common.jobs.errors import EngineDead, EngineFailed, NotResumable
from relais_common.jobs.events import PromptLogprob, RankedToken, TokenLogprob
from relais_common.jobs.job import Sampling
from relais_llm_worker.answer_text import AnswerText
from relais_llm_worker.engine import Chunk
from relais_llm_worker.engines.parsing import AnswerParsing
from relais_llm_worker.engines.token_texts import TokenTexts

_PLACES_AT_ONCE = 512
"""Of a prompt, between two turns of the event loop."""


class Logprobs:
    """Converts vLLM's log probabilities of one request, adding texts to ids."""

    def __init__(self, texts: TokenTexts, count: int) -> None:
        self._texts = texts
        self._count = count

    def of(self, token_ids: Sequence[int], told: Iterable[Any]) -> tuple[TokenLogprob, ...]:
        """Convert the log probabilities of the next tokens from vLLM's maps of id to object."""
        return tuple(map(self._one, token_ids, told))

    def _one(self, token_id: int, candidates: Mapping[int, Any]) -> TokenLogprob:
        ranked = sorted(candidates.items(), key=lambda item: item[1].logprob, reverse=True)
        one = TokenLogprob(
            self._texts.text(token_id),
            _bounded(candidates[token_id].logprob),
            tuple(
                RankedToken(self._texts.text(other_id), _bounded(other.logprob))
                for other_id, other in ranked[: self._count]
            ),
        )
        self._texts.advance((token_id,))
        return one


class PromptLogprobs:
    """Converts vLLM's log probabilities of a prompt, adding texts to ids."""

    def __init__(
        self, token_ids: Sequence[int], text: Callable[[Sequence[int]], str], count: int
    ) -> None:
        self._token_ids = token_ids
        self._text = text
        self._count = count

    async def of(self, told: Sequence[Any]) -> tuple[tuple[PromptLogprob, ...], ...]:
        """Convert vLLM's maps of id to object, of which the first token has none."""
        places = []
        for at, (token_id, candidates) in enumerate(zip(self._token_ids, told, strict=False)):
            if at % _PLACES_AT_ONCE == 0:
                await asyncio.sleep(0)
            places.append(tuple(self._place(token_id, candidates)))
        return tuple(places)

    def _place(
        self, token_id: int, candidates: Mapping[int, Any] | None
    ) -> Iterator[PromptLogprob]:
        if candidates is None:
            yield PromptLogprob(token_id, self._text((token_id,)), None, None)
            return
        others = sorted(
            (other for other in candidates if other != token_id),
            key=lambda other: candidates[other].rank,
        )
        # The token itself is one of the candidates, if it is among the likeliest.
        rest = self._count - (candidates[token_id].rank <= self._count)
        for one in (token_id, *others[:rest]):
            told = candidates[one]
            yield PromptLogprob(one, self._text((one,)), _bounded(told.logprob), told.rank)


def _bounded(logprob: float) -> float:
    """Clamp a log probability. JSON has no infinity; OpenAI and vLLM use this value instead."""
    return max(logprob, -9999.0)


class VllmGeneration:
    """A request that vLLM is running."""

    def __init__(
        self,
        collector: RequestOutputCollector,
        text: AnswerText,
        sampling: Sampling,
        logprobs: Logprobs | None,
        parsing: AnswerParsing | None,
        forced: Sequence[int] = (),
        told_prompt: PromptLogprobs | None = None,
    ) -> None:
        self._parsing = parsing
        self._forced = forced
        self._told_prompt = told_prompt
        self._collector = collector
        self._text = text
        self._keep_stop = sampling.include_stop_str_in_output
        self._logprobs = logprobs
        self.finished = False

    async def chunks(self) -> AsyncIterator[Chunk]:
        of_prompt: list[Any] = []
        while not self.finished:
            try:
                output: Any = await self._collector.get()
            except EngineDeadError as error:
                self.finished = True
                raise EngineDead("vLLM's engine is dead") from error
            self.finished = output.finished
            completion = output.outputs[0]
            repeated = self._repeated(completion) if self._forced else 0
            if completion.finish_reason not in (None, "stop", "length"):
                raise EngineFailed("the engine ended the request with an error")
            token_ids = tuple(completion.token_ids[repeated:])
            if repeated and not token_ids and not self.finished:
                continue
            chunks = list(self._chunks(token_ids, completion.finish_reason, completion.stop_reason))
            chunks[-1].cached_tokens = output.num_cached_tokens or 0
            if self._told_prompt is not None:
                of_prompt += output.prompt_logprobs or ()
                if token_ids:
                    chunks[0].prompt_logprobs = await self._told_prompt.of(of_prompt)
                    self._told_prompt = None
            if self._logprobs is not None:
                told = iter((completion.logprobs or ())[repeated:])
                for chunk in chunks:
                    chunk.logprobs = self._logprobs.of(
                        chunk.token_ids, islice(told, len(chunk.token_ids))
                    )
            if self._parsing is not None:
                chunks = await self._parsing.tell_apart(chunks)
            for chunk in chunks:
                yield chunk
            if chunks[-1].finish_reason is not None:
                return

    def _repeated(self, completion: Any) -> int:
        """Return how many of the new tokens are forced ones, which have been published."""
        count = min(len(self._forced), len(completion.token_ids))
        expected, self._forced = self._forced[:count], self._forced[count:]
        ended = completion.finish_reason is not None and len(completion.token_ids) <= count
        if tuple(completion.token_ids[:count]) != tuple(expected) or ended:
            raise NotResumable("the engine does not make its tokens again")
        return count

    def _chunks(
        self, token_ids: tuple[int, ...], reason: str | None, stop_reason: int | str | None
    ) -> Iterator[Chunk]:
        """Yield what the tokens say: of each, where a parser reads it, because not all of vLLM's can take several."""
        while self._parsing is not None and len(token_ids) > 1:
            chunk = self._chunk(token_ids[:1], None, None)
            yield chunk
            if chunk.finish_reason is not None:
                return
            token_ids = token_ids[1:]
        yield self._chunk(token_ids, reason, stop_reason)

    def _chunk(
        self, token_ids: tuple[int, ...], reason: str | None, stop_reason: int | str | None
    ) -> Chunk:
        # The token at which the engine stops is counted, but adds no text unless requested.
        text_ids = token_ids[:-1] if reason == "stop" and not self._keep_stop else token_ids
        for count, token_id in enumerate(text_ids, 1):
            matched = self._text.feed(token_id)
            if matched is not None:
                return Chunk(token_ids[:count], self._text.give(ended=True), "stop", matched)
        return Chunk(token_ids, self._text.give(ended=reason is not None), reason, stop_reason)
