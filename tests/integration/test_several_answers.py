"""Requests with several answers: `n`, and lists of prompts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import openai
import pytest

from relais_testing.builders import MODEL
from relais_testing.sse_client import ids_of, read_events
from relais_testing.stack import Front, Stack, answer_to, answer_to_prompt, chat_request
from relais_testing.waiting import wait_until
from relais_testing.worker import Worker

MESSAGES: Any = [{"role": "user", "content": "hello"}]
PROMPTS = ["one", "two", "three"]


@pytest.fixture
async def front(stack: Stack) -> Front:
    return await stack.front(WATCH_LEASE_S="60")


async def test_a_chat_has_as_many_choices_as_it_asks_for(
    client: openai.AsyncOpenAI, worker: Worker
) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, n=3)
    assert [one.index for one in answer.choices] == [0, 1, 2]
    texts = [one.message.content for one in answer.choices]
    assert texts == [answer_to("hello", index=index) for index in range(3)]
    assert answer.usage is not None
    # The prompt once, and the tokens of every answer.
    assert answer.usage.prompt_tokens == len("<user>hello<assistant>")
    assert answer.usage.completion_tokens == 3 * 32


async def test_a_stream_tells_whose_each_chunk_is(
    client: openai.AsyncOpenAI, worker: Worker
) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        n=4,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts: defaultdict[int, str] = defaultdict(str)
    ends: dict[int, str] = {}
    async for chunk in stream:
        for choice in chunk.choices:
            assert choice.index not in ends
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason is not None:
                ends[choice.index] = choice.finish_reason
    assert texts == {index: answer_to("hello", index=index) for index in range(4)}
    assert ends == dict.fromkeys(range(4), "stop")
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == 4 * 32


@pytest.mark.parametrize("stream", [False, True])
async def test_each_of_a_list_of_prompts_is_answered(
    client: openai.AsyncOpenAI, worker: Worker, stream: bool
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": PROMPTS, "n": 2, "best_of": 2}
    answered: Any = await client.completions.create(
        **asked, max_tokens=5, logprobs=0, stream=stream
    )
    answers = [one async for one in answered] if stream else [answered]
    texts: defaultdict[int, str] = defaultdict(str)
    offsets: defaultdict[int, list[int]] = defaultdict(list)
    for choice in (choice for answer in answers for choice in answer.choices):
        texts[choice.index] += choice.text
        offsets[choice.index] += choice.logprobs.text_offset if choice.logprobs else []
    assert texts == {
        2 * which + index: answer_to_prompt(prompt, 5, index)
        for which, prompt in enumerate(PROMPTS)
        for index in range(2)
    }
    assert all(len(of_one) == 5 and of_one == sorted(of_one) for of_one in offsets.values())
    if not stream:
        assert answered.usage.prompt_tokens == len("onetwothree")
        assert answered.usage.completion_tokens == 30


async def test_token_ids_may_be_a_list_of_prompts_too(
    client: openai.AsyncOpenAI, worker: Worker
) -> None:
    ids = [list(prompt.encode()) for prompt in PROMPTS]
    answer = await client.completions.create(model=MODEL, prompt=ids, max_tokens=4)
    assert [one.text for one in answer.choices] == [answer_to_prompt(one, 4) for one in PROMPTS]


async def test_a_native_stream_has_all_answers_in_one_log(front: Front, worker: Worker) -> None:
    channel_id = await front.submit(
        {"model": MODEL, "prompt": PROMPTS[:2], "params": {"n": 2, "max_tokens": 6}}
    )
    events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    assert ids_of(events) == list(range(1, len(events) + 1))
    expected = [answer_to_prompt(prompt, 6, index) for prompt in PROMPTS[:2] for index in (0, 1)]
    texts: defaultdict[int, str] = defaultdict(str)
    ends: dict[int, Any] = {}
    for event in events:
        if event.name == "token":
            index = event.json.get("index", 0)
            assert index not in ends
            texts[index] += event.json["text"]
            if "end" in event.json:
                ends[index] = event.json["end"]
    assert [texts[index] for index in range(4)] == expected
    end = {"finish_reason": "length", "output_tokens": 6, "stop_reason": None}
    assert ends == dict.fromkeys(range(4), end)
    assert events[-1].json["usage"] == {
        "input_tokens": len("onetwo"),
        "output_tokens": 24,
        "cached_tokens": 0,
    }
    result = (await front.state(channel_id))["result"]
    assert [one["message"]["content"] for one in result["answers"]] == expected
    assert result["text"] == expected[0]


async def test_answers_are_whole_after_the_log_has_gone(stack: Stack, worker: Worker) -> None:
    front = await stack.front(LOG_TTL_S="1")
    headers = {"Idempotency-Key": "again"}
    asked = chat_request(n=2, on_disconnect="continue")
    bodies = []
    for _ in range(2):
        async with front.post("/v1/chat/completions", asked, headers=headers) as response:
            bodies.append(await response.json())
            channel_id = bodies[-1]["id"].removeprefix("chatcmpl-")

        async def gone(channel_id: str = channel_id) -> bool:
            return not await stack.store.log.read(channel_id, after=0, limit=1)

        await wait_until(gone)
    assert bodies[0]["choices"] == bodies[1]["choices"]


async def test_cancelling_a_request_frees_the_places_of_all_its_answers(
    stack: Stack, front: Front
) -> None:
    worker = await stack.worker(tokens_per_s=20)
    params = {"n": 3, "max_tokens": 400}
    channel_id = await front.submit({"model": MODEL, "prompt": "x", "params": params})
    await wait_until(lambda: len(worker.engine.running) == 3)
    await front.delete(f"/v1/channels/{channel_id}")
    await wait_until(lambda: not worker.engine.running)
    await wait_until(lambda: front.is_terminal(channel_id))
    assert await front.status(channel_id) == "cancelled"


async def test_each_answer_counts_towards_what_a_key_may_have(stack: Stack) -> None:
    front = await stack.front(MAX_INFLIGHT_PER_KEY="5")
    three = {"model": MODEL, "prompt": "x", "params": {"n": 3}}
    await front.submit(three)
    async with front.post("/v1/requests", three) as response:
        assert response.status == 429
    await front.submit({**three, "params": {"n": 2}})
    async with front.post("/v1/requests", {**three, "params": {"n": 6}}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "n"


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/v1/completions", {"prompt": ["x"] * 65, "n": 2}, "prompt"),
        ("/v1/completions", {"prompt": "x", "n": 3, "best_of": 2}, "best_of"),
        ("/v1/completions", {"prompt": "x", "best_of": 2}, "best_of"),
        ("/v1/requests", {"prompt": ["x"] * 65, "params": {"n": 2}}, "params.n"),
    ],
)
async def test_more_answers_than_a_request_may_have_are_refused(
    front: Front, route: str, body: dict[str, Any], param: str
) -> None:
    async with front.post(route, {"model": MODEL, **body}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == param
