"""OpenAI's response objects, for chat and for text completion. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from msgspec import to_builtins

from relais_common.jobs.chat import Message
from relais_common.jobs.events import Completed, RankedToken, Token, TokenLogprob, Usage
from relais_orchestrator.api.answering import Whole
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


class Format(Protocol):
    """The response format of one route."""

    def head(self) -> Body | None:
        """Return the first chunk of a stream, if one precedes the text."""
        ...

    def text(self, text: str) -> Body:
        """Return a chunk with text."""
        ...

    def tokens(self, text: str, tokens: Sequence[TokenLogprob], offset: int) -> Body:
        """Return a chunk with text and log probabilities of its tokens, whose texts begin at this character."""
        ...

    def aside(self, token: Token) -> Body:
        """Return a chunk with reasoning or tool calls, and whatever else the event has."""
        ...

    def finish(self, completed: Completed) -> Body:
        """Return the chunk with the finish reason."""
        ...

    def usage(self, completed: Completed) -> Body:
        """Return the final chunk with the usage, if it was requested."""
        ...

    def whole(self, whole: Whole) -> Body:
        """Return the response to a non-streaming request."""
        ...


class ChatFormat:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._id = f"chatcmpl-{identity.channel_id}"

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatCompletionChunk:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._identity.created_s,
            "model": self._identity.model,
            "choices": choices,
        }

    def head(self) -> ChatCompletionChunk | None:
        return self._chunk([_chunk_choice({"role": "assistant", "content": ""})])

    def text(self, text: str) -> ChatCompletionChunk:
        return self._chunk([_chunk_choice({"content": text})])

    def tokens(self, text: str, tokens: Sequence[TokenLogprob], offset: int) -> ChatCompletionChunk:
        return self._chunk([_chunk_choice({"content": text}, _chat_logprobs(tokens))])

    def aside(self, token: Token) -> ChatCompletionChunk:
        delta: ChatDelta = {}
        if token.text:
            delta["content"] = token.text
        if token.reasoning:
            delta["reasoning"] = delta["reasoning_content"] = token.reasoning
        if token.tool_calls:
            delta["tool_calls"] = to_builtins(token.tool_calls)
        logprobs = None if token.logprobs is None else _chat_logprobs(token.logprobs)
        return self._chunk([_chunk_choice(delta, logprobs)])

    def finish(self, completed: Completed) -> ChatCompletionChunk:
        choice = _chunk_choice({})
        choice["finish_reason"] = completed.finish_reason
        if completed.stop_reason is not None:
            choice["stop_reason"] = completed.stop_reason
        return self._chunk([choice])

    def usage(self, completed: Completed) -> ChatCompletionChunk:
        return {
            **self._chunk([]),
            "usage": usage_object(completed.usage),
            "timings": completed.timings,
        }

    def whole(self, whole: Whole) -> ChatCompletion:
        completed = whole.completed
        choice: ChatChoice = {
            "index": 0,
            "message": _message(whole.text, completed.message),
            "logprobs": _chat_logprobs(whole.tokens) if whole.tokens else None,
            "finish_reason": completed.finish_reason,
        }
        if completed.message is not None and not completed.message.tool_calls:
            # A stream may have begun a call that could not be read in the end, and is text here.
            choice["finish_reason"] = completed.finish_reason.replace("tool_calls", "stop")
        if completed.stop_reason is not None:
            choice["stop_reason"] = completed.stop_reason
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._identity.created_s,
            "model": self._identity.model,
            "choices": [choice],
            "usage": usage_object(completed.usage),
            "timings": completed.timings,
        }


class CompletionFormat:
    """`text_completion`."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._id = f"cmpl-{identity.channel_id}"

    def _chunk(self, choices: list[TextChoice]) -> TextCompletionChunk:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._identity.created_s,
            "model": self._identity.model,
            "choices": choices,
        }

    def head(self) -> TextCompletionChunk | None:
        return None

    def text(self, text: str) -> TextCompletionChunk:
        return self._chunk([_text_choice(text, None)])

    def tokens(self, text: str, tokens: Sequence[TokenLogprob], offset: int) -> TextCompletionChunk:
        return self._chunk([_text_choice(text, None, _text_logprobs(tokens, offset))])

    def aside(self, token: Token) -> TextCompletionChunk:
        # Nothing is told apart in a plain completion.
        return self.text(token.text)

    def finish(self, completed: Completed) -> TextCompletionChunk:
        return self._chunk([_last_text_choice("", completed, None)])

    def usage(self, completed: Completed) -> TextCompletionChunk:
        return {
            **self._chunk([]),
            "usage": usage_object(completed.usage),
            "timings": completed.timings,
        }

    def whole(self, whole: Whole) -> TextCompletion:
        completed = whole.completed
        logprobs = _text_logprobs(whole.tokens, 0) if whole.tokens else None
        return {
            **self._chunk([_last_text_choice(whole.text, completed, logprobs)]),
            "usage": usage_object(completed.usage),
            "timings": completed.timings,
        }


def _message(text: str, whole: Message | None) -> ChatAnswer:
    content = text if whole is None else whole.content
    message: ChatAnswer = {"role": "assistant", "content": content, "refusal": None}
    if whole is not None and whole.reasoning:
        message["reasoning"] = message["reasoning_content"] = whole.reasoning
    if whole is not None and whole.tool_calls:
        message["tool_calls"] = to_builtins(whole.tool_calls)
    return message


def _chunk_choice(delta: ChatDelta, logprobs: ChatLogprobs | None = None) -> ChatChunkChoice:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _text_choice(
    text: str, finish_reason: str | None, logprobs: TextLogprobs | None = None
) -> TextChoice:
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _last_text_choice(text: str, completed: Completed, logprobs: TextLogprobs | None) -> TextChoice:
    choice = _text_choice(text, completed.finish_reason, logprobs)
    if completed.stop_reason is not None:
        choice["stop_reason"] = completed.stop_reason
    return choice


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    content: list[ChatToken] = [
        {**_candidate(one), "top_logprobs": [_candidate(top) for top in one.top_logprobs]}
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def _candidate(one: TokenLogprob | RankedToken) -> Candidate:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode())}


def _text_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> TextLogprobs:
    texts = [one.token for one in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [
            {one.token: one.logprob, **{top.token: top.logprob for top in one.top_logprobs}}
            for one in tokens
        ],
        "text_offset": list(accumulate(map(len, texts[:-1]), initial=offset)) if texts else [],
    }
