"""Tells an answer's content, reasoning and tool calls apart, step by step, also after an interruption. Pure."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from relais_common.jobs.chat import ChatOptions, Message, Streamed, ToolCall, ToolCallDelta
from relais_llm_worker.answer_text import AnswerText, exhausted
from relais_llm_worker.engine import Chunk, Emitted


@dataclass(slots=True)  # not frozen, which would double the cost of making one
class Parsed:
    """What one step of the model says."""

    content: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()


class AnswerParser(Protocol):
    """The port of a parser of one model's markup, for one answer."""

    def feed(self, text: str, token_ids: Sequence[int], *, finished: bool) -> Parsed:
        """Return what the next tokens say; the same portions give the same results."""
        ...

    def whole(self, text: str, token_ids: Sequence[int]) -> Message:
        """Return the whole answer. Calls that cannot be read are content; ids may be new ones."""
        ...

    def reasoning_tokens(self, token_ids: Sequence[int]) -> int | None:
        """Return how many of the whole answer's tokens are reasoning; None if they are not told apart."""
        ...


class ParsedAnswer:
    """One answer of a chat, from the text of its tokens to what a client sees."""

    def __init__(self, parser: AnswerParser, options: ChatOptions) -> None:
        self._parser = parser
        self._options = options
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._streamed = Streamed()
        self._emitted: tuple[ToolCall, ...] = ()

    def replay(self, text: AnswerText, emitted: Emitted) -> bool:
        """Restore the state of an interrupted engine, as `AnswerText.replay` does."""
        return exhausted(self.replaying(text, emitted))

    def replaying(self, text: AnswerText, emitted: Emitted) -> Generator[None, None, bool]:
        """Do the same in steps: the parser may read the whole answer again for each."""
        for token_id in emitted.token_ids:
            text.feed(token_id)
            self._take(text.give(ended=False), (token_id,), finished=False)
            yield
        self._emitted = emitted.tool_calls
        told = self._streamed.message()
        said = told.text, told.reasoning or ""
        return said == (emitted.text, emitted.reasoning) and _anonymous(
            told.tool_calls
        ) == _anonymous(emitted.tool_calls)

    @property
    def length(self) -> int:
        """The number of tokens so far."""
        return len(self._token_ids)

    def tell_apart(self, chunk: Chunk) -> Chunk:
        """Put what the chunk's text says in place of it; the last chunk gets the whole answer.

        Args:
            chunk: of one token, or of none at the end.
        """
        finished = chunk.finish_reason is not None
        parsed = self._take(chunk.text, chunk.token_ids, finished=finished)
        chunk.text, chunk.reasoning = parsed.content, parsed.reasoning
        chunk.tool_calls = tuple(parsed.tool_calls)
        if not self._options.include_reasoning:
            # As in vLLM: they would tell what it is.
            chunk.logprobs = None
        if finished:
            self._finish(chunk)
        return chunk

    def _take(self, text: str, token_ids: Sequence[int], *, finished: bool) -> Parsed:
        self._text.append(text)
        self._token_ids += token_ids
        parsed = self._parser.feed(text, token_ids, finished=finished)
        if not self._options.parallel_tool_calls:
            first = [delta for delta in parsed.tool_calls if delta.index == 0]
            parsed = Parsed(parsed.content, parsed.reasoning, first)
        if not self._options.include_reasoning:
            parsed = Parsed(parsed.content, "", parsed.tool_calls)
        self._streamed.add(parsed.reasoning, parsed.content, parsed.tool_calls)
        return parsed

    def _finish(self, chunk: Chunk) -> None:
        told = self._streamed.message()
        streamed, content = told.tool_calls, told.text
        if streamed and chunk.finish_reason == "stop" and self._options.named is None:
            # As at OpenAI and in vLLM, a call that was demanded by name ends with `stop`.
            chunk.finish_reason = "tool_calls"
        chunk.reasoning_tokens = self._parser.reasoning_tokens(self._token_ids)
        whole = self._parser.whole("".join(self._text), self._token_ids)
        if not self._options.include_reasoning:
            whole = replace(whole, reasoning=None)
        calls = whole.tool_calls if self._options.parallel_tool_calls else whole.tool_calls[:1]
        # A stream goes on after a call, while the whole answer's parser may drop what follows one.
        is_other = whole.text != content and not (self._options.as_streamed and calls)
        chunk.unreadable = self._options.may_call and (
            len(calls) < len(streamed) or is_other or (self._options.must_call and not calls)
        )
        if self._options.as_streamed:
            whole, calls = told, streamed
        # As in vLLM, an answer that had to be a call has empty content rather than none.
        said = whole.text or ("" if self._options.must_call else None)
        whole = replace(whole, content=said, tool_calls=self._with_ids_of(streamed, calls))
        is_more = whole.reasoning or whole.tool_calls or whole.text != content
        chunk.message = whole if is_more else None

    def _with_ids_of(
        self, streamed: Sequence[ToolCall], calls: Sequence[ToolCall]
    ) -> tuple[ToolCall, ...]:
        """Give calls the ids under which they were streamed, by an earlier holder or here."""
        known = [one.id for one in self._emitted]
        known += [one.id for one in streamed[len(known) :]]
        named = [replace(call, id=id_) for call, id_ in zip(calls, known, strict=False)]
        return (*named, *calls[len(known) :])


def merged(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Join neighbours as far as one chunk, which tells reasoning before text and text before calls, says the same."""
    told: list[Chunk] = []
    for chunk in chunks:
        if told and _follows(told[-1], chunk):
            before = told.pop()
            chunk.token_ids = before.token_ids + chunk.token_ids
            chunk.text = before.text + chunk.text
            chunk.reasoning = before.reasoning + chunk.reasoning
            chunk.tool_calls = _joined(before.tool_calls, chunk.tool_calls)
            chunk.prompt_logprobs = before.prompt_logprobs or chunk.prompt_logprobs
            if before.logprobs is not None and chunk.logprobs is not None:
                chunk.logprobs = before.logprobs + chunk.logprobs
        told.append(chunk)
    return told


def _follows(before: Chunk, after: Chunk) -> bool:
    if before.tool_calls:
        return not (after.reasoning or after.text)
    return not (before.text and after.reasoning)


def _joined(
    before: tuple[ToolCallDelta, ...], after: tuple[ToolCallDelta, ...]
) -> tuple[ToolCallDelta, ...]:
    if not (before and after) or before[-1].index != after[0].index or after[0].id is not None:
        return before + after
    parts = (before[-1].function.arguments, after[0].function.arguments)
    arguments = "".join(part for part in parts if part is not None)
    name = before[-1].function.name or after[0].function.name
    function = replace(before[-1].function, name=name, arguments=arguments)
    return (*before[:-1], replace(before[-1], function=function), *after[1:])


def _anonymous(calls: Iterable[ToolCall]) -> list[ToolCall]:
    # A parser makes up ids; what counts is which were told to the client.
    return [replace(call, id="") for call in calls]
