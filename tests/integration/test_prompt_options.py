"""How prompts are made, and what is told of them: vLLM's fields on every route."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest

from relais_testing.builders import MODEL
from relais_testing.sse_client import read_events
from relais_testing.stack import Front, Stack, answer_to_prompt

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
async def front(stack: Stack) -> Front:
    return await stack.front(WATCH_LEASE_S="60")


async def complete(front: Front, **fields: Any) -> dict[str, Any]:
    async with front.post(
        "/v1/completions", {"model": MODEL, "max_tokens": 4, **fields}
    ) as response:
        body: dict[str, Any] = await response.json()
        assert response.status == 200, body
        return body


async def chat(front: Front, *messages: tuple[str, str], **fields: Any) -> dict[str, Any]:
    turns = [{"role": role, "content": text} for role, text in messages]
    asked = {"model": MODEL, "messages": turns, "max_tokens": 4, **fields}
    async with front.post("/v1/chat/completions", asked) as response:
        body: dict[str, Any] = await response.json()
        assert response.status == 200, body
        return body


async def refusal(front: Front, route: str, **fields: Any) -> tuple[int, str]:
    given: dict[str, Any] = {"model": MODEL, "prompt": "abc"}
    if "chat" in route:
        given = {"model": MODEL, "messages": [{"role": "user", "content": "abc"}]}
    async with front.post(route, given | fields) as response:
        return response.status, (await response.json())["error"]["param"]


async def test_echo_repeats_the_prompt(front: Front) -> None:
    body = await complete(front, prompt=["abc", "de"], n=2, echo=True)
    assert [one["text"] for one in body["choices"]] == [
        prompt + answer_to_prompt(prompt, 4, index) for prompt in ("abc", "de") for index in (0, 1)
    ]


async def test_echo_of_token_ids_is_their_text(front: Front) -> None:
    body = await complete(front, prompt=list(b"abc"), echo=True)
    assert body["choices"][0]["text"] == "abc" + answer_to_prompt("abc", 4)


async def test_echo_with_log_probabilities_has_those_of_the_prompt(front: Front) -> None:
    (choice,) = (await complete(front, prompt="abc", echo=True, logprobs=1))["choices"]
    told = choice["logprobs"]
    assert told["tokens"][:3] == ["a", "b", "c"]
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    assert all(one < 0 for one in told["token_logprobs"][1:3])
    assert told["text_offset"][:4] == [0, 1, 2, 3]
    assert len(told["tokens"]) == 3 + 4
    # As in vLLM, those of the prompt by themselves too.
    assert choice["prompt_logprobs"][0] is None
    assert choice["prompt_logprobs"][1]["98"]["decoded_token"] == "b"


async def test_a_prompt_alone_can_be_scored(front: Front) -> None:
    body = await complete(front, prompt="abc", echo=True, logprobs=1, max_tokens=0)
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert choice["logprobs"]["tokens"] == ["a", "b", "c"]
    assert body["usage"]["completion_tokens"] == 0


async def test_a_streamed_echo_comes_first(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model=MODEL, prompt="abc", max_tokens=4, echo=True, logprobs=0, stream=True
    )
    chunks = [chunk.choices[0] async for chunk in stream]
    assert "".join(one.text for one in chunks) == "abc" + answer_to_prompt("abc", 4)
    assert chunks[0].text == "abc"
    offsets = [at for one in chunks if one.logprobs for at in one.logprobs.text_offset or ()]
    assert offsets == sorted(offsets)
    assert offsets[:4] == [0, 1, 2, 3]


async def test_log_probabilities_of_a_chat_s_prompt(front: Front) -> None:
    body = await chat(front, ("user", "a"), prompt_logprobs=2)
    places = body["prompt_logprobs"]
    assert places[0] is None
    assert len(places) == body["usage"]["prompt_tokens"]
    assert [one["rank"] for one in places[1].values()] == [1, 2]


async def test_ids_of_prompts_and_answers(front: Front) -> None:
    body = await complete(front, prompt=["ab", "c"], return_token_ids=True)
    assert [one["prompt_token_ids"] for one in body["choices"]] == [list(b"ab"), list(b"c")]
    assert [len(one["token_ids"]) for one in body["choices"]] == [4, 4]
    body = await chat(front, ("user", "a"), return_token_ids=True)
    assert bytes(body["prompt_token_ids"]) == b"<user>a<assistant>"
    assert len(body["choices"][0]["token_ids"]) == 4


async def test_ids_in_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a"}],
        max_tokens=4,
        stream=True,
        extra_body={"return_token_ids": True},
    )
    chunks: list[Any] = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks)
    (prompt,) = [ids for one in chunks if (ids := getattr(one, "prompt_token_ids", None))]
    assert bytes(prompt) == b"<user>a<assistant>"
    ids = [at for one in chunks for at in getattr(one.choices[0], "token_ids", None) or ()]
    assert len(ids) == 4


async def test_tokens_told_as_ids(front: Front) -> None:
    fields = {"logprobs": 1, "return_tokens_as_token_ids": True, "return_token_ids": True}
    (choice,) = (await complete(front, prompt="abc", **fields))["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{one}" for one in choice["token_ids"]]


async def test_a_prompt_is_cut_from_the_left(front: Front) -> None:
    for prompt in ("abcdef", list(b"abcdef")):
        body = await complete(front, prompt=prompt, truncate_prompt_tokens=3, echo=True)
        assert body["choices"][0]["text"] == "def" + answer_to_prompt("def", 4)
        assert body["usage"]["prompt_tokens"] == 3


async def refused_as_too_long(front: Front, prompt: str) -> int:
    """Return the length of the model's context, as the refusal of this prompt tells it."""
    async with front.post("/v1/completions", {"model": MODEL, "prompt": prompt}) as response:
        error = (await response.json())["error"]
    assert error["code"] == "context_length_exceeded"
    told = re.search(r"maximum context length is (\d+) tokens", error["message"])
    assert told
    return int(told[1])


@pytest.mark.parametrize("kept", [-1, 20])
async def test_what_is_longer_than_the_context_is_cut_to_fit(front: Front, kept: int) -> None:
    cut: dict[str, Any] = {"truncate_prompt_tokens": kept, "max_tokens": 3}
    long = "abc " * 10**5
    fits = (await refused_as_too_long(front, long)) - 1
    for body in (
        await complete(front, prompt=long, **cut),
        await chat(front, ("user", long), **cut),
    ):
        usage = body["usage"]
        told = (usage["prompt_tokens"], usage["completion_tokens"])
        assert told == ((fits, 1) if kept < 0 else (kept, 3))


async def test_an_answer_continues_the_last_message(front: Front) -> None:
    last = {"add_generation_prompt": False, "continue_final_message": True}
    turns = ("user", "a"), ("assistant", "Well,")
    prompt = "<user>a<assistant>Well,"
    body = await chat(front, *turns, **last)
    assert body["choices"][0]["message"]["content"] == answer_to_prompt(prompt, 4)
    body = await chat(front, *turns, **last, echo=True)
    assert body["choices"][0]["message"]["content"] == "Well," + answer_to_prompt(prompt, 4)


async def test_documents_reach_the_template(front: Front) -> None:
    documents = [{"title": "t", "text": "x"}]
    body = await chat(front, ("user", "a"), documents=documents, return_token_ids=True)
    assert b'<documents>[{"title":"t","text":"x"}]' in bytes(body["prompt_token_ids"])


async def test_reasoning_may_be_left_out(front: Front) -> None:
    said = ("user", "[say]<think>hm</think>So.[/say]")
    body = await chat(front, said, max_tokens=100, include_reasoning=False)
    (choice,) = body["choices"]
    assert choice["message"]["content"] == "So."
    assert "reasoning" not in choice["message"]
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_only_allowed_tools_may_be_called(front: Front) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("one", "two")]
    named = {"type": "function", "function": {"name": "two"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    body = await chat(front, ("user", "a"), tools=tools, tool_choice=choice, max_tokens=200)
    (call,) = body["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "two"
    named["function"] = {"name": "three"}
    fields = {"tools": tools, "tool_choice": choice}
    assert await refusal(front, "/v1/chat/completions", **fields) == (400, "tool_choice")


async def test_native_streams_tell_of_the_prompt(front: Front) -> None:
    params = {"max_tokens": 3, "echo": True, "prompt_logprobs": 1, "n": 2}
    channel_id = await front.submit({"model": MODEL, "prompt": ["ab", "c"], "params": params})
    events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    told = [event.json for event in events if event.name == "prompt"]
    assert sorted((one["index"], one["text"]) for one in told) == [(0, "ab"), (1, "c")]
    for number in (0, 1):
        names = [
            event.name
            for event in events
            if (event.name == "prompt" and event.json["index"] == number)
            or (event.name == "token" and event.json.get("index", 0) // 2 == number)
        ]
        assert names[0] == "prompt"


@pytest.mark.parametrize(
    ("route", "fields", "param"),
    [
        ("/v1/completions", {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ("/v1/completions", {"prompt_logprobs": -1}, "prompt_logprobs"),
        ("/v1/completions", {"max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ("/v1/completions", {"truncate_prompt_tokens": 10**6}, "truncate_prompt_tokens"),
        ("/v1/completions", {"truncate_prompt_tokens": 0}, "prompt"),
        ("/v1/completions", {"prompt": "x" * 3000, "prompt_logprobs": 20}, "prompt_logprobs"),
        ("/v1/chat/completions", {"continue_final_message": True}, "continue_final_message"),
        ("/v1/chat/completions", {"documents": [{"text": 1}]}, "documents.0.text"),
        ("/v1/chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("/v1/requests", {"params": {"prompt_logprobs": 21}}, "params.prompt_logprobs"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    front: Front, route: str, fields: dict[str, Any], param: str
) -> None:
    assert await refusal(front, route, **fields) == (400, param)
