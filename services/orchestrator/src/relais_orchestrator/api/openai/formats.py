"""OpenAI's response objects, for chat and for text completion. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from msgspec import to_builtins

from relais_common.jobs.chat import Message
from relais_common.jobs.events import (
    AnswerEnd,
    Completed,
    Prompt,
    PromptLogprob,
    RankedToken,
    Token,
    TokenLogprob,
    Usage,
)
from relais_orchestrator.api.answering import Whole, WholeAnswer, details
from relais_orchestrator.api.openai.objects import (
    Candidate,
    ChatAnswer,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    ChatToken,
    PromptToken,
    TextChoice,
    TextCompletion,
    TextCompletionChunk,
    TextLogprobs,
    UsageObject,
)


def usage_object(usage: Usage) -> UsageObject | None:
    """Return OpenAI's `usage`; None if a remote server does not count, because all counts are required."""
    counts = usage_so_far(usage.input_tokens, usage.output_tokens)
    if counts is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
        if usage.reasoning_tokens is not None:
            counts["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return counts


def usage_so_far(input_tokens: int | None, output_tokens: int) -> UsageObject | None:
    """Return the counts alone, while it is unknown how much of the prompt was cached."""
    if input_tokens is None:
        return None
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


@dataclass(frozen=True, slots=True)
class Identity:
    """Fields that every object of one response repeats."""

    channel_id: str
    model: str
    created_s: int


Body = Mapping[str, object]
End = Completed | AnswerEnd


@dataclass(frozen=True, slots=True)
class Shown:
    """What a response has beside the answers, if requested.

    Attributes:
        token_ids: the ids of prompts and answers.
        echo: the prompt of a text completion.
        logprobs: of the prompt that is repeated, too.
        begins: what an answer to a chat continues.
        n: answers to each prompt.
    """

    token_ids: bool = False
    echo: bool = False
    logprobs: bool = False
    begins: str = ""
    n: int = 1


NOTHING_MORE = Shown()


class Format(Protocol):
    """The response format of one route."""

    shown: Shown

    def head(self, index: int) -> Sequence[Body]:
        """Return the first chunks of this answer, if any precede the text."""
        ...

    def prompt(self, prompt: Prompt) -> Sequence[Body]:
        """Return the chunks that tell of a prompt."""
        ...

    def text(self, text: str, index: int = 0) -> Body:
        """Return a chunk with text alone."""
        ...

    def token(self, token: Token, offset: int) -> Body:
        """Return a chunk with all that the event has; texts of its tokens begin at this character."""
        ...

    def finish(self, end: End, index: int = 0) -> Body:
        """Return the chunk with the finish reason."""
        ...

    def usage(self, completed: Completed) -> Body:
        """Return the final chunk with the usage, if it was requested."""
        ...

    async def whole(self, whole: Whole) -> Body:
        """Return the response to a non-streaming request."""
        ...


class ChatFormat:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, identity: Identity, shown: Shown = NOTHING_MORE) -> None:
        self._identity = identity
        self._id = f"chatcmpl-{identity.channel_id}"
        self.shown = shown

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatCompletionChunk:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._identity.created_s,
            "model": self._identity.model,
            "choices": choices,
        }

    def head(self, index: int) -> list[ChatCompletionChunk]:
        chunks = [self._chunk([_chunk_choice(index, {"role": "assistant", "content": ""})])]
        if self.shown.begins:
            chunks.append(self.text(self.shown.begins, index))
        return chunks

    def prompt(self, prompt: Prompt) -> list[ChatCompletionChunk]:
        if not self.shown.token_ids:
            return []
        # Clients may take it for granted that every chunk but the last has a choice.
        chunk = self._chunk([_chunk_choice(0, {"content": ""})])
        return [{**chunk, "prompt_token_ids": list(prompt.token_ids)}]

    def text(self, text: str, index: int = 0) -> ChatCompletionChunk:
        return self._chunk([_chunk_choice(index, {"content": text})])

    def token(self, token: Token, offset: int) -> ChatCompletionChunk:
        delta: ChatDelta = {}
        if token.text or not token.says_something:
            delta["content"] = token.text
        if token.reasoning:
            delta["reasoning"] = delta["reasoning_content"] = token.reasoning
        if token.tool_calls:
            delta["tool_calls"] = to_builtins(token.tool_calls)
        logprobs = (
            None if token.logprobs is None else _chat_logprobs([*map(_chat_token, token.logprobs)])
        )
        choice = _chunk_choice(token.index, delta, logprobs)
        if self.shown.token_ids:
            choice["token_ids"] = list(token.token_ids)
        return self._chunk([choice])

    def finish(self, end: End, index: int = 0) -> ChatCompletionChunk:
        choice = _chunk_choice(index, {})
        choice["finish_reason"] = end.finish_reason
        if end.stop_reason is not None:
            choice["stop_reason"] = end.stop_reason
        return self._chunk([choice])

    def usage(self, completed: Completed) -> ChatCompletionChunk:
        return {
            **self._chunk([]),
            "usage": usage_object(completed.usage),
            "timings": completed.timings,
        }

    async def whole(self, whole: Whole) -> ChatCompletion:
        completed = whole.completed
        body: ChatCompletion = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._identity.created_s,
            "model": self._identity.model,
            "choices": [
                await self._choice(index, answer) for index, answer in enumerate(whole.answers)
            ],
            "usage": usage_object(completed.usage),
            "timings": completed.timings,
        }
        prompt = whole.prompts.get(0)
        if prompt is not None and self.shown.token_ids:
            body["prompt_token_ids"] = list(prompt.token_ids)
        if prompt is not None and prompt.logprobs is not None:
            body["prompt_logprobs"] = await details(prompt.logprobs, _prompt_candidates)
        return body

    async def _choice(self, index: int, answer: WholeAnswer) -> ChatChoice:
        end = answer.end
        assert end is not None
        choice: ChatChoice = {
            "index": index,
            "message": _message(self.shown.begins, answer.text, end.message),
            "logprobs": _chat_logprobs(await details(answer.tokens, _chat_token))
            if answer.tokens
            else None,
            "finish_reason": end.finish_reason,
        }
        if end.message is not None and not end.message.tool_calls:
            # A stream may have begun a call that could not be read in the end, and is text here.
            choice["finish_reason"] = end.finish_reason.replace("tool_calls", "stop")
        if end.stop_reason is not None:
            choice["stop_reason"] = end.stop_reason
        if self.shown.token_ids:
            choice["token_ids"] = answer.token_ids
        return choice


class CompletionFormat:
    """`text_completion`."""

    def __init__(self, identity: Identity, shown: Shown = NOTHING_MORE) -> None:
        self._identity = identity
        self._id = f"cmpl-{identity.channel_id}"
        self.shown = shown

    def _chunk(self, choices: list[TextChoice]) -> TextCompletionChunk:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._identity.created_s,
            "model": self._identity.model,
            "choices": choices,
        }

    def head(self, index: int) -> list[TextCompletionChunk]:
        return []

    def prompt(self, prompt: Prompt) -> list[TextCompletionChunk]:
        if not (self.shown.echo or self.shown.token_ids):
            return []
        first = prompt.index * self.shown.n
        chunks = []
        for index in range(first, first + self.shown.n):
            logprobs = None
            if self.shown.echo and self.shown.logprobs and prompt.logprobs is not None:
                places = prompt.logprobs
                logprobs = _text_logprobs(_chosen(places), [*map(_echoed_candidates, places)])
            choice = _text_choice(index, prompt.text or "", None, logprobs)
            if self.shown.token_ids:
                choice["prompt_token_ids"] = list(prompt.token_ids)
            chunks.append(self._chunk([choice]))
        return chunks

    def text(self, text: str, index: int = 0) -> TextCompletionChunk:
        return self._chunk([_text_choice(index, text, None)])

    def token(self, token: Token, offset: int) -> TextCompletionChunk:
        # Nothing is told apart in a plain completion.
        told = token.logprobs
        logprobs = (
            None if told is None else _text_logprobs(told, [*map(_text_candidates, told)], offset)
        )
        choice = _text_choice(token.index, token.text, None, logprobs)
        if self.shown.token_ids:
            choice["token_ids"] = list(token.token_ids)
        return self._chunk([choice])

    def finish(self, end: End, index: int = 0) -> TextCompletionChunk:
        return self._chunk([_last_text_choice(index, "", end, None)])

    def usage(self, completed: Completed) -> TextCompletionChunk:
        return {
            **self._chunk([]),
            "usage": usage_object(completed.usage),
            "timings": completed.timings,
        }

    async def whole(self, whole: Whole) -> TextCompletion:
        choices = [
            await self._choice(index, answer, whole.prompts.get(index // self.shown.n))
            for index, answer in enumerate(whole.answers)
        ]
        return {
            **self._chunk(choices),
            "usage": usage_object(whole.completed.usage),
            "timings": whole.completed.timings,
        }

    async def _choice(self, index: int, answer: WholeAnswer, prompt: Prompt | None) -> TextChoice:
        end = answer.end
        assert end is not None
        before = () if prompt is None else prompt.logprobs or ()
        echoed = before if self.shown.echo and self.shown.logprobs else ()
        logprobs = None
        if answer.tokens or echoed:
            candidates = await details(echoed, _echoed_candidates)
            candidates += await details(answer.tokens, _text_candidates)
            logprobs = _text_logprobs([*_chosen(echoed), *answer.tokens], candidates)
        text = answer.text if prompt is None else (prompt.text or "") + answer.text
        choice = _last_text_choice(index, text, end, logprobs)
        if before:
            choice["prompt_logprobs"] = await details(before, _prompt_candidates)
        if self.shown.token_ids:
            choice["token_ids"] = answer.token_ids
            choice["prompt_token_ids"] = [] if prompt is None else list(prompt.token_ids)
        return choice


def _message(begins: str, text: str, whole: Message | None) -> ChatAnswer:
    content: str | None = text
    if whole is not None:
        content = None if whole.content is None else whole.text
    if begins:
        content = begins + (content or "")
    message: ChatAnswer = {"role": "assistant", "content": content, "refusal": None}
    if whole is not None and whole.reasoning:
        message["reasoning"] = message["reasoning_content"] = whole.reasoning
    if whole is not None and whole.tool_calls:
        message["tool_calls"] = to_builtins(whole.tool_calls)
    return message


def _chunk_choice(
    index: int, delta: ChatDelta, logprobs: ChatLogprobs | None = None
) -> ChatChunkChoice:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _text_choice(
    index: int, text: str, finish_reason: str | None, logprobs: TextLogprobs | None = None
) -> TextChoice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _last_text_choice(index: int, text: str, end: End, logprobs: TextLogprobs | None) -> TextChoice:
    choice = _text_choice(index, text, end.finish_reason, logprobs)
    if end.stop_reason is not None:
        choice["stop_reason"] = end.stop_reason
    return choice


def _chat_logprobs(content: list[ChatToken]) -> ChatLogprobs:
    return {"content": content, "refusal": None}


def _chat_token(one: TokenLogprob) -> ChatToken:
    return {**_candidate(one), "top_logprobs": [_candidate(top) for top in one.top_logprobs]}


def _candidate(one: TokenLogprob | RankedToken) -> Candidate:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode())}


def _text_logprobs(
    tokens: Sequence[TokenLogprob | PromptLogprob],
    candidates: list[dict[str, float] | None],
    offset: int = 0,
) -> TextLogprobs:
    texts = [one.token for one in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": candidates,
        "text_offset": list(accumulate(map(len, texts[:-1]), initial=offset)) if texts else [],
    }


def _chosen(prompt: Sequence[Sequence[PromptLogprob]]) -> list[PromptLogprob]:
    return [place[0] for place in prompt]


def _text_candidates(one: TokenLogprob) -> dict[str, float] | None:
    return {one.token: one.logprob, **{top.token: top.logprob for top in one.top_logprobs}}


def _echoed_candidates(place: Sequence[PromptLogprob]) -> dict[str, float] | None:
    return {one.token: one.logprob for one in place if one.logprob is not None} or None


def _prompt_candidates(place: Sequence[PromptLogprob]) -> dict[str, PromptToken] | None:
    return {
        str(one.token_id): {
            "logprob": one.logprob,
            "rank": one.rank,
            "decoded_token": one.token,
        }
        for one in place
        if one.logprob is not None
    } or None
