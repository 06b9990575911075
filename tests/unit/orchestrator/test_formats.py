"""OpenAI's objects, by the types of OpenAI's own package."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from relais_common.jobs.events import (
    Completed,
    Prompt,
    PromptLogprob,
    RankedToken,
    Timings,
    Token,
    TokenLogprob,
    Usage,
)
from relais_common.runtime.lifecycle import background
from relais_orchestrator.api.answering import DETAILS_AT_ONCE, Whole, WholeAnswer
from relais_orchestrator.api.openai.formats import ChatFormat, CompletionFormat, Format, Identity

IDENTITY = Identity("org~2fm.abc", "org/m", 1_700_000_000)
COMPLETED = Completed("length", Usage(7, 5, 3), Timings(queue_s=0, prefill_s=0, decode_s=0))

STOPPED = replace(COMPLETED, finish_reason="stop")


def whole(text: str, completed: Completed, tokens: Sequence[TokenLogprob] = ()) -> Whole:
    return Whole([WholeAnswer(text, list(tokens), end=completed)], completed)


TOLD = (TokenLogprob("", -0.5), TokenLogprob("é", -1.5, (RankedToken("e", -0.5),)))


def checked(kind: type[BaseModel], body: Mapping[str, Any]) -> Any:
    """Strictly of this type, with no field that it does not know but `timings`, beside `usage`."""
    parsed = kind.model_validate(orjson.loads(orjson.dumps(body)), strict=True)
    assert unknown_fields(parsed) == (["timings"] if "usage" in body else [])
    return parsed


def unknown_fields(model: BaseModel) -> list[str]:
    found = list(model.model_extra or {})
    for value in vars(model).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, BaseModel):
                found += unknown_fields(item)
    return found


async def test_whole_chat() -> None:
    answer = checked(ChatCompletion, await ChatFormat(IDENTITY).whole(whole("text", COMPLETED)))
    assert answer.id == "chatcmpl-org~2fm.abc"
    assert (answer.model, answer.created) == ("org/m", 1_700_000_000)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason, choice.index) == ("text", "length", 0)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 5)
    assert answer.usage.total_tokens == 12
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_chat_chunks() -> None:
    shape = ChatFormat(IDENTITY)
    head = checked(ChatCompletionChunk, shape.head(0)[0])
    assert (head.choices[0].delta.role, head.choices[0].delta.content) == ("assistant", "")
    text = checked(ChatCompletionChunk, shape.text("é"))
    assert text.choices[0].delta.content == "é"
    assert text.choices[0].finish_reason is None
    end = checked(ChatCompletionChunk, shape.finish(STOPPED))
    assert (end.choices[0].delta.content, end.choices[0].finish_reason) == (None, "stop")
    usage = checked(ChatCompletionChunk, shape.usage(COMPLETED))
    assert usage.choices == []
    assert usage.usage.total_tokens == 12
    assert {head.id, text.id, end.id, usage.id} == {"chatcmpl-org~2fm.abc"}


async def test_whole_completion() -> None:
    answer = checked(Completion, await CompletionFormat(IDENTITY).whole(whole("text", COMPLETED)))
    assert answer.id == "cmpl-org~2fm.abc"
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("text", "length")
    assert answer.usage.total_tokens == 12


def test_completion_chunks() -> None:
    shape = CompletionFormat(IDENTITY)
    assert shape.head(0) == []
    # Until its last chunk a stream has no reason to end, though the package's type always has one.
    chunk = shape.text("é")
    assert chunk["choices"][0]["finish_reason"] is None
    chunk["choices"][0]["finish_reason"] = "stop"
    assert checked(Completion, chunk).choices[0].text == "é"
    end = checked(Completion, shape.finish(STOPPED))
    assert (end.choices[0].text, end.choices[0].finish_reason) == ("", "stop")
    usage = checked(Completion, shape.usage(COMPLETED))
    assert usage.choices == []
    assert usage.usage.completion_tokens == 5


@pytest.mark.parametrize("shape", [ChatFormat(IDENTITY), CompletionFormat(IDENTITY)])
async def test_the_stop_that_was_met_is_told_where_there_was_one(shape: Format) -> None:
    met = replace(STOPPED, stop_reason="mot")
    for body in (shape.finish(met), await shape.whole(whole("", met))):
        assert cast(Any, body)["choices"][0]["stop_reason"] == "mot"
    for body in (shape.finish(STOPPED), await shape.whole(whole("", STOPPED))):
        assert "stop_reason" not in cast(Any, body)["choices"][0]


async def test_probabilities_of_a_chat() -> None:
    shape = ChatFormat(IDENTITY)
    for body, kind in (
        (await shape.whole(whole("é", COMPLETED, TOLD)), ChatCompletion),
        (shape.token(Token("é", (), TOLD), 0), ChatCompletionChunk),
    ):
        first, second = checked(kind, body).choices[0].logprobs.content
        assert (first.token, first.bytes, first.top_logprobs) == ("", [], [])
        assert (second.token, second.bytes, second.logprob) == ("é", [195, 169], -1.5)
        assert [(top.token, top.logprob) for top in second.top_logprobs] == [("e", -0.5)]


@pytest.mark.parametrize("shape", [ChatFormat(IDENTITY), CompletionFormat(IDENTITY)])
@pytest.mark.parametrize("of_prompt", [False, True])
async def test_probabilities_of_long_texts_leave_turns_of_the_loop_to_others(
    shape: Format, of_prompt: bool
) -> None:
    number = 20 * DETAILS_AT_ONCE
    known = whole("é", COMPLETED, () if of_prompt else TOLD * (number // len(TOLD)))
    if of_prompt:
        places = ((PromptLogprob(7, "é", -1.5, 1),),) * number
        known = replace(known, prompts={0: Prompt((), logprobs=places)})
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with background(count()):
        body = await shape.whole(known)
    assert turns >= number / DETAILS_AT_ONCE
    assert orjson.dumps(body).count(b"-1.5") >= number / len(TOLD)


async def test_probabilities_of_a_completion() -> None:
    shape = CompletionFormat(IDENTITY)
    told = checked(Completion, await shape.whole(whole("é", COMPLETED, TOLD))).choices[0].logprobs
    assert (told.tokens, told.token_logprobs, told.text_offset) == (["", "é"], [-0.5, -1.5], [0, 0])
    assert told.top_logprobs == [{"": -0.5}, {"é": -1.5, "e": -0.5}]
    choice = shape.token(Token("é", (), TOLD[1:]), 7)["choices"][0]
    assert choice["logprobs"] is not None
    assert choice["logprobs"]["text_offset"] == [7]


@pytest.mark.parametrize("shape", [ChatFormat(IDENTITY), CompletionFormat(IDENTITY)])
def test_every_object_of_a_stream_has_the_same_identity(shape: Format) -> None:
    objects = [shape.text("a"), shape.finish(STOPPED), shape.usage(COMPLETED)]
    assert len({(one["id"], one["object"], one["created"], one["model"]) for one in objects}) == 1
