"""A model behind servers: what is asked of them, what is made of their answers, and what of their faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from relais_common.config.server_table import TableEntry
from relais_common.jobs.chat import (
    ChatOptions,
    FunctionCall,
    FunctionDelta,
    ImagePart,
    ImageUrl,
    Message,
    TextPart,
    ToolCall,
    ToolCallDelta,
)
from relais_common.jobs.errors import (
    EngineFailed,
    EngineRefused,
    NotResumable,
    RelaisError,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from relais_common.jobs.events import Usage
from relais_common.jobs.job import Job, PromptOptions, Sampling
from relais_common.remote.tries import MAX_BUSY
from relais_common.runtime.lifecycle import background
from relais_llm_worker.engine import Emitted
from relais_llm_worker.model import Cut
from relais_llm_worker.remote.chunk_turns import CHUNKS_PER_TURN
from relais_llm_worker.remote.model import RemoteModel
from relais_testing.builders import make_job
from relais_testing.fake_openai import (
    PROMPT_IDS,
    FakeServer,
    answer,
    answer_ids,
    logprob_of,
    open_fake_server,
)
from relais_testing.owned import end_task
from relais_testing.remote import Said, open_remote, open_table, say
from relais_testing.waiting import wait_until

REVISION = "/models/m|1000|f-1"


class Rig:
    """Servers and models that end with the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def server(self, **options: Any) -> FakeServer:
        return await self._stack.enter_async_context(open_fake_server(**options))

    async def model(self, *servers: FakeServer, **options: Any) -> RemoteModel:
        return await self._stack.enter_async_context(open_remote(*servers, **options))

    async def table(self, entries: Sequence[TableEntry]) -> Sequence[RemoteModel]:
        return await self._stack.enter_async_context(open_table(entries))

    async def both(self, **options: Any) -> tuple[FakeServer, RemoteModel]:
        server = await self.server(**options)
        return server, await self.model(server)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        yield Rig(stack)


def chat(**sampling: Any) -> Job:
    return make_job(messages=(Message("user", "hello"),), sampling=Sampling(**sampling))


def prompt(text: str | tuple[int, ...] = "hello", **sampling: Any) -> Job:
    return make_job(prompt=text, sampling=Sampling(**sampling))


def cut(count: int, text: str | None = None, revision: str = REVISION) -> Cut:
    emitted = Emitted(tuple(answer_ids(count)), answer(count) if text is None else text)
    return Cut(tuple(PROMPT_IDS), revision, emitted)


# what is asked and what is made of it


@pytest.mark.parametrize("job", [chat(), prompt()])
async def test_vllm_s_answer_comes_with_prompt_ids_and_a_token_id_for_each_word(
    rig: Rig, job: Job
) -> None:
    _, model = await rig.both(vllm=True)
    said = await say(model, job)
    assert (said.text, said.token_ids) == (answer(), answer_ids(12))
    assert (list(said.prompt_token_ids), said.revision) == (PROMPT_IDS, REVISION)
    assert (said.last.finish_reason, said.last.usage) == ("stop", None)


async def test_other_servers_give_text_and_count_themselves(rig: Rig) -> None:
    server, model = await rig.both()
    said = await say(model, chat())
    assert (said.text, said.token_ids, said.prompt_token_ids) == (answer(), [], ())
    assert (said.last.finish_reason, said.last.usage) == ("stop", Usage(3, 12))
    assert "return_token_ids" not in server.asked[0][1]


async def test_pieces_are_counted_where_nobody_counts_tokens(rig: Rig) -> None:
    _, model = await rig.both(usage=False)
    said = await say(model, chat())
    # The chunk that only ends the answer is none; what the prompt has is not known.
    assert said.last.usage == Usage(None, 12)


async def test_several_tokens_in_a_chunk_are_all_counted(rig: Rig) -> None:
    _, model = await rig.both(vllm=True, per_chunk=5)
    said = await say(model, chat())
    assert (len(said.chunks), said.token_ids) == (3, answer_ids(12))


async def test_sampling_goes_on_by_name_and_nothing_else_does(rig: Rig) -> None:
    server, model = await rig.both()
    await say(
        model, chat(temperature=0.5, top_k=3, stop=("x",), logit_bias={"5": 1.0}, max_tokens=4)
    )
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_k": 3,
        "stop": ["x"],
        "logit_bias": {"5": 1.0},
        "max_tokens": 4,
    }


async def test_how_a_prompt_is_made_goes_on_by_vllm_s_names(rig: Rig) -> None:
    server, model = await rig.both(vllm=True)
    options = ChatOptions(
        add_generation_prompt=False,
        continue_final_message=True,
        documents=({"text": "x"},),
        include_reasoning=False,
    )
    made = PromptOptions(add_special_tokens=True, truncate_prompt_tokens=5)
    await say(model, replace(chat(), chat=options, prompting=made))
    told = {
        "add_generation_prompt": False,
        "continue_final_message": True,
        "documents": [{"text": "x"}],
        "include_reasoning": False,
        "add_special_tokens": True,
        "truncate_prompt_tokens": 5,
    }
    body = server.asked[0][1]
    assert {name: body.get(name) for name in told} == told
    assert "tool_choice" not in body
    await say(model, chat())
    assert not server.asked[1][1].keys() & told.keys()


async def test_what_streams_of_servers_do_not_tell_is_refused_by_name(rig: Rig) -> None:
    server, model = await rig.both(vllm=True)
    with pytest.raises(EngineRefused) as caught:
        await say(model, replace(prompt(), prompting=PromptOptions(prompt_logprobs=1)))
    assert (caught.value.param, server.asked) == ("prompt_logprobs", [])


async def test_what_the_chat_template_is_told_goes_on_too(rig: Rig) -> None:
    server, model = await rig.both()
    told = {"enable_thinking": False}
    await say(model, make_job(chat_template_kwargs=told))
    assert server.asked[0][1]["chat_template_kwargs"] == told


@pytest.mark.parametrize("job", [chat(logprobs=2), prompt(logprobs=2)])
@pytest.mark.parametrize("vllm", [True, False])
async def test_probabilities_are_asked_for_in_each_route_s_way_and_told_of_every_token(
    rig: Rig, job: Job, vllm: bool
) -> None:
    server, model = await rig.both(vllm=vllm, halves=frozenset((3,)))
    said = await say(model, job)
    body = server.asked[0][1]
    assert (body["logprobs"], body.get("top_logprobs")) == (
        (True, 2) if job.messages is not None else (2, None)
    )
    told = [one for chunk in said.chunks for one in chunk.logprobs or ()]
    assert told == [logprob_of(number, 2) for number in range(12)]
    if vllm:
        assert all(len(chunk.logprobs or ()) == len(chunk.token_ids) for chunk in said.chunks)


async def test_probabilities_go_on_without_a_gap_at_another_server(rig: Rig) -> None:
    dying = await rig.server(vllm=True, cut_after=5, halves=frozenset((4,)))
    living = await rig.server(vllm=True, halves=frozenset((4,)))
    said = await say(await rig.model(dying, living), chat(logprobs=1))
    told = [one for chunk in said.chunks for one in chunk.logprobs or ()]
    assert told == [logprob_of(number, 1) for number in range(12)]


async def test_a_stop_that_is_to_be_kept_is_kept_here_too(rig: Rig) -> None:
    server, model = await rig.both(vllm=True)
    kept = {"include_stop_str_in_output": True, "stop_token_ids": (5, 6)}
    said = await say(model, chat(stop=("d-3",), **kept))
    assert said.text == answer(3) + "word-3"
    body = server.asked[0][1]
    assert (body["include_stop_str_in_output"], body["stop_token_ids"]) == (True, [5, 6])


async def test_stop_strings_of_vllm_are_found_here_so_that_a_cut_answer_keeps_to_them(
    rig: Rig,
) -> None:
    server, model = await rig.both(vllm=True, pause_s=0.05)
    said = await say(model, chat(stop=("d-3",)))
    assert said.text == answer(3) + "wor"
    assert (said.last.finish_reason, said.last.stop_reason) == ("stop", "d-3")
    assert "stop" not in server.asked[0][1]
    await wait_until(lambda: server.dropped == 1)


@pytest.mark.parametrize("vllm", [True, False])
async def test_length_is_bounded_by_this_deployment_too(rig: Rig, vllm: bool) -> None:
    server = await rig.server(vllm=vllm)
    model = await rig.model(server, max_output_tokens=5)
    assert (await say(model, chat())).text == answer(5)
    said = await say(model, chat(max_tokens=9, ignore_eos=True))
    assert (said.text, said.last.finish_reason) == (answer(5), "length")
    assert server.asked[1][1]["max_tokens"] == 5


async def test_thoughts_are_left_out_and_then_ids_alone_do_not_tell_the_answer(rig: Rig) -> None:
    _, model = await rig.both(vllm=True, thinks=True)
    said = await say(model, chat())
    assert (said.text, said.token_ids) == (answer(), [])
    assert said.last.usage == Usage(3, 12)


# faults before the first token


async def test_refusal_is_the_client_s_error_with_its_field(rig: Rig) -> None:
    error = {"error": {"message": "top_k is too large", "param": "top_k", "code": 400}}
    server, model = await rig.both(vllm=True, refuse=[(400, error, {})])
    with pytest.raises(EngineRefused, match="top_k is too large") as caught:
        await say(model, chat())
    assert (caught.value.param, caught.value.status) == ("top_k", 400)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [(422, {"error": "`stop` has too many", "error_type": "validation"}), (413, "no JSON object")],
)
async def test_refusals_of_other_forms_are_refusals_too(rig: Rig, status: int, body: Any) -> None:
    _, model = await rig.both(refuse=[(status, body, {})])
    with pytest.raises(EngineRefused):
        await say(model, chat())


OVERFLOWS = {
    "OpenAI": (
        400,
        {
            "message": "This model's maximum context length is 512 tokens. Your messages have 600.",
            "param": "messages",
            "code": "context_length_exceeded",
        },
    ),
    "vLLM": (
        400,
        {
            "message": "You passed 600 input tokens, but the model's context length is only 512 tokens.",
            "param": "input_text",
            "code": 400,
        },
    ),
    "vLLM's engine": (
        400,
        {
            "message": "The prompt is longer than the maximum model length of 512. See `max_model_len`"
        },
    ),
    "SGLang": (
        400,
        {
            "message": "The input (600 tokens) is longer than the model's context length (512 tokens)."
        },
    ),
    "llama.cpp": (
        400,
        {
            "message": "the request exceeds the available context size",
            "type": "exceed_context_size_error",
            "code": 400,
        },
    ),
    "TGI": (422, "Input validation error: `inputs` must have less than 512 tokens. Given: 600"),
    "TGI, with the answer": (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512. Given: 600",
    ),
    "Ollama": (500, "the input length exceeds the context length"),
    "Mistral": (
        400,
        {
            "message": "Prompt contains 600 tokens, too large for model with 512 maximum context length"
        },
    ),
}
"""What servers say where a request is too long."""


@pytest.mark.parametrize("server", OVERFLOWS)
@pytest.mark.parametrize("vllm", [False, True])
async def test_too_long_a_prompt_is_openai_s_error_whatever_the_server_says(
    rig: Rig, server: str, vllm: bool
) -> None:
    status, error = OVERFLOWS[server]
    # vLLM tells how long the context is; of others their words are read.
    _, model = await rig.both(vllm=vllm, max_model_len=512, refuse=[(status, {"error": error}, {})])
    with pytest.raises(EngineRefused) as caught:
        await say(model, chat())
    refused = caught.value
    assert (refused.code, refused.status) == ("context_length_exceeded", 400)
    assert refused.param == "messages"
    tells = vllm or server not in ("llama.cpp", "Ollama")
    expected = "is 512 tokens" if tells else "is exceeded"
    assert f"maximum context length {expected}" in refused.message, refused.message


async def test_what_grows_too_long_within_a_stream_is_not_tried_again(rig: Rig) -> None:
    said = "the input length exceeds the context length"
    server, model = await rig.both(error_after=1, error=said)
    with pytest.raises(EngineRefused) as caught:
        await say(model, chat())
    assert caught.value.code == "context_length_exceeded"
    assert len(server.asked) == 1


async def test_fault_of_the_server_is_told_without_its_words(rig: Rig) -> None:
    _, model = await rig.both(refuse=[(500, {"error": {"message": "at /secret/path"}}, {})])
    with pytest.raises(EngineFailed) as caught:
        await say(model, chat())
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("status", [429, 503])
async def test_busy_server_is_asked_again_after_the_time_it_names(rig: Rig, status: int) -> None:
    server, model = await rig.both(refuse=[(status, {}, {"Retry-After": "0.1"})] * 5)
    assert (await say(model, chat())).text == answer()
    assert len(server.asked) == 6


async def test_busy_server_s_work_goes_to_another_at_once(rig: Rig) -> None:
    one = await rig.server(refuse=[(429, {}, {"Retry-After": "3600"})])
    two = await rig.server()
    model = await rig.model(one, two)
    said = await asyncio.gather(*(say(model, chat()) for _ in range(2)))
    assert [one.text for one in said] == [answer()] * 2
    assert (len(one.asked), len(two.asked)) == (1, 2)
    # One request's refusal is not the server's state.
    assert model.status().capacity == 8


@pytest.mark.parametrize("status", [502, 504, 401, 404])
async def test_server_that_cannot_run_it_is_left_for_another(rig: Rig, status: int) -> None:
    one, two = await rig.server(refuse=[(status, {}, {})]), await rig.server()
    model = await rig.model(one, two)
    said = await asyncio.gather(*(say(model, chat()) for _ in range(4)))
    assert [one.text for one in said] == [answer()] * 4


@pytest.mark.parametrize(
    ("status", "error", "code", "shown"),
    [
        (
            429,
            {"message": "limit of org-7: 30 dollars a day"},
            "upstream_rate_limited",
            (503, "this deployment"),
        ),
        (403, {"message": "flagged", "type": "moderation"}, "upstream_refused", (403, "flagged")),
        (
            404,
            {"message": "no model on host-7"},
            "upstream_misconfigured",
            (502, "this deployment"),
        ),
        (408, {"message": "host-7 is slow"}, "upstream_unavailable", (503, "overloaded")),
        (409, {"message": "see /usr/lib/x.py"}, "upstream_refused", (409, "see a file")),
        (503, {"message": "host-7 is full"}, "upstream_unavailable", (503, "overloaded")),
        (529, {"message": "host-7 is full"}, "upstream_unavailable", (503, "overloaded")),
        (401, {"message": "key sk-abcdef1"}, "upstream_misconfigured", (502, "this deployment")),
        (402, {"message": "pay 7 dollars"}, "upstream_misconfigured", (502, "this deployment")),
        (403, {"message": "no", "code": "invalid_api_key"}, "upstream_misconfigured", (502, "")),
    ],
)
async def test_client_is_told_what_the_server_said_of_its_request_and_not_what_of_ours(
    rig: Rig, status: int, error: Any, code: str, shown: tuple[int, str]
) -> None:
    refusal = (status, {"error": error}, {"Retry-After": "0.01"})
    server, model = await rig.both(refuse=[refusal] * 20)
    with pytest.raises(RelaisError) as caught:
        await say(model, chat())
    info = caught.value.info
    assert (info.code, info.status) == (code, shown[0])
    assert shown[1] in info.message
    for secret in ("sk-abc", "dollars", "org-7", "host-7", "/usr"):
        assert secret not in info.message
    assert len(server.asked) <= MAX_BUSY
    # The others are served as before.
    server.refuse.clear()
    assert model.status().capacity == 4
    assert (await say(model, chat())).text == answer()


async def test_request_with_a_short_deadline_learns_of_the_refusal_before_it_expires(
    rig: Rig,
) -> None:
    server, model = await rig.both(refuse=[(429, {}, {"Retry-After": "6"})] * 9)
    with pytest.raises(UpstreamRateLimited):
        await say(model, make_job(deadline_s=10.0))
    assert len(server.asked) == 1


async def test_requests_that_are_put_off_for_ever_take_no_place_from_others(rig: Rig) -> None:
    server, model = await rig.both()
    server.refuse_where = "mine"
    refused = [
        asyncio.create_task(say(model, make_job("one", messages=(Message("user", "mine"),))))
        for _ in range(4)
    ]
    await wait_until(lambda: len(server.asked) >= 4)
    # Each waits on its own: there is room for as many others as ever, each time that one of them was tried again.
    others = 0

    def went_on(tries: int) -> bool:
        return len(server.asked) > tries or all(job.done() for job in refused)

    while not all(job.done() for job in refused):
        await wait_until(partial(went_on, len(server.asked)))
        await wait_until(lambda: model.room(sum(not job.done() for job in refused)) >= 3)
        assert model.status().not_ready is None
        assert (await say(model, make_job("two"))).text == answer()
        others += 1
    assert others > 1
    for job in refused:
        with pytest.raises(UpstreamRateLimited):
            await job
    assert model.room(0) == 4
    asked = sum(body["messages"][0]["content"] == "mine" for _, body in server.asked)
    assert asked <= 4 * MAX_BUSY


async def test_as_many_of_a_key_are_put_off_as_there_are_places_and_no_more(rig: Rig) -> None:
    server, model = await rig.both()
    server.refuse_where = "mine"
    job = make_job("one", messages=(Message("user", "mine"),))
    refused = [asyncio.create_task(say(model, job)) for _ in range(12)]
    # Those beyond are told at once, and another key is still let in.
    await wait_until(lambda: sum(one.done() for one in refused) >= 8)
    assert (await say(model, make_job("two"))).text == answer()
    for one in refused:
        with pytest.raises((UpstreamRateLimited, UpstreamUnavailable)):
            await one


async def test_server_rests_once_requests_of_several_keys_were_put_off(rig: Rig) -> None:
    server, model = await rig.both(refuse=[(429, {}, {"Retry-After": "50"})] * 3)
    jobs = []
    for number in range(3):
        assert model.status().not_ready is None
        jobs.append(asyncio.create_task(say(model, make_job(f"key-{number}"))))
        await wait_until(lambda: len(server.asked) == len(jobs))
    await wait_until(lambda: "left alone" in (model.status().not_ready or ""))
    await wait_until(lambda: (model.room(3), model.status().capacity) == (0, 0))
    for job in jobs:
        await end_task(job)


async def test_keys_that_are_always_put_off_do_not_rest_a_server_that_serves_another(
    rig: Rig,
) -> None:
    server, model = await rig.both()
    server.refuse_where = "mine"
    assert (await say(model, make_job("good"))).text == answer()
    mine = (Message("user", "mine"),)
    refused = [
        asyncio.create_task(say(model, make_job(f"key-{number}", messages=mine)))
        for number in range(3)
    ]
    await wait_until(lambda: len(server.asked) > 3)
    for _ in range(3):
        assert (model.status().not_ready, model.status().capacity) == (None, 4)
        assert (await say(model, make_job("good"))).text == answer()
    for job in refused:
        await end_task(job)


async def test_a_key_s_requests_wait_for_one_that_goes_well(rig: Rig) -> None:
    _, model = await rig.both(refuse=[(429, {}, {"Retry-After": "0.2"})] * 3)
    said = await asyncio.gather(*(say(model, make_job("one")) for _ in range(4)))
    assert [one.text for one in said] == [answer()] * 4
    assert model.status().capacity == 4


async def test_cut_answer_is_no_outage_for_others(rig: Rig) -> None:
    server, model = await rig.both(refuse=[(502, {}, {})])
    seen: list[str | None] = []
    saying = asyncio.create_task(say(model, chat()))
    while not saying.done():
        seen.append(model.status().not_ready)
        await asyncio.sleep(0)
    assert ((await saying).text, len(server.asked)) == (answer(), 2)
    assert set(seen) == {None}


async def test_entries_with_one_url_keep_their_own_key_and_places(rig: Rig) -> None:
    server = await rig.server()
    table = [
        TableEntry("m", server.url, "key-m", 2),
        TableEntry("n", server.url, "key-n", 3),
    ]
    one, two = await rig.table(table)
    await wait_until(lambda: (one.room(0), two.room(0)) == (2, 3))
    for model in (one, two):
        assert (await say(model, chat())).text == answer()
    keys = [headers["Authorization"] for headers in server.headers]
    assert keys == ["Bearer key-m", "Bearer key-n"]


async def test_request_that_loses_every_server_is_given_up(rig: Rig) -> None:
    server, model = await rig.both(refuse=[(502, {}, {})] * 10)
    with pytest.raises(EngineFailed, match="3 times"):
        await say(model, chat())
    assert len(server.asked) == 3


async def test_request_waits_for_a_server_that_is_away(rig: Rig) -> None:
    server, model = await rig.both()
    await server.stop()
    saying = asyncio.create_task(say(model, chat()))
    await wait_until(lambda: model.status().not_ready is not None)
    assert (model.room(0), model.status().capacity) == (0, 0)
    assert server.url in (model.status().not_ready or "")
    await server.start()
    assert (await saying).text == answer()
    assert model.room(0) == 4


# and after it


@pytest.mark.parametrize("count", [1, 5, 11])
async def test_cut_answer_goes_on_at_the_other_server(rig: Rig, count: int) -> None:
    one, two = await rig.server(vllm=True, cut_after=count), await rig.server(vllm=True)
    model = await rig.model(one, two)
    said = await say(model, chat())
    assert (said.text, said.token_ids) == (answer(), answer_ids(12))
    # Equally free, they are asked in the table's order; then the one that failed is avoided.
    [_], [(path, body)] = one.asked, two.asked
    assert path == "/v1/completions"
    assert body["prompt"] == [*PROMPT_IDS, *answer_ids(count)]
    assert body["max_tokens"] == 1000 - len(PROMPT_IDS) - count


async def test_answer_cut_at_every_token_goes_on_at_the_same_server(rig: Rig) -> None:
    server, model = await rig.both(vllm=True, cut_after=1)
    said = await say(model, chat(max_tokens=8))
    assert (said.text, said.token_ids) == (answer(8), answer_ids(8))
    assert [body["max_tokens"] for _, body in server.asked] == list(range(8, 0, -1))
    assert said.last.finish_reason == "length"


@pytest.mark.parametrize("fault", ["garbage_after", "error_after"])
async def test_nonsense_in_a_stream_counts_as_its_end(rig: Rig, fault: str) -> None:
    server, model = await rig.both(vllm=True, **{fault: 4})
    said = await say(model, chat())
    assert (said.text, len(server.asked)) == (answer(), 3)


async def test_silent_stream_is_cut_and_gone_on_with(rig: Rig) -> None:
    server = await rig.server(vllm=True, hold_after=4)
    model = await rig.model(server, read_timeout_s=0.5)
    assert (await say(model, chat())).text == answer()
    await wait_until(lambda: server.dropped >= 2)


async def test_stop_string_across_the_cut_ends_the_answer(rig: Rig) -> None:
    _, model = await rig.both(vllm=True, cut_after=1)
    said = await say(model, chat(stop=("2 word-3",)))
    assert said.text == answer(2) + "word-"
    assert said.last.stop_reason == "2 word-3"


async def test_answer_cut_within_a_character_goes_on_before_it(rig: Rig) -> None:
    server, model = await rig.both(vllm=True, halves=frozenset((3, 7)), per_chunk=2, cut_after=2)
    said = await say(model, chat())
    assert (said.text, said.token_ids) == (answer(), answer_ids(12))
    assert [len(body["prompt"]) - 3 for _, body in server.asked[1:]] == [3, 7, 11]


async def test_text_without_token_ids_does_not_go_on(rig: Rig) -> None:
    server, model = await rig.both(cut_after=4)
    said = Said()
    with pytest.raises(NotResumable, match="tokens are not known"):
        await say(model, chat(), said=said)
    assert (said.text, len(server.asked)) == (answer(4), 1)


async def test_seeded_sampling_does_not_go_on(rig: Rig) -> None:
    _, model = await rig.both(vllm=True, cut_after=4)
    with pytest.raises(NotResumable, match="seeded"):
        await say(model, chat(seed=1, temperature=0.5))


async def test_answer_cut_in_another_worker_s_hands_goes_on_here(rig: Rig) -> None:
    server, model = await rig.both(vllm=True)
    said = await say(model, chat(max_tokens=20), cut(5))
    assert said.text == answer().removeprefix(answer(5))
    assert (said.token_ids, list(said.prompt_token_ids)) == (answer_ids(12)[5:], PROMPT_IDS)
    assert server.asked[0][1]["max_tokens"] == 15


async def test_text_held_back_at_the_cut_goes_out_here(rig: Rig) -> None:
    _, model = await rig.both(vllm=True)
    said = await say(model, chat(stop=("4 x",)), cut(5, text=answer(5)[:-2]))
    assert answer(5)[:-2] + said.text == answer()


async def test_answer_that_had_all_its_tokens_ends_here(rig: Rig) -> None:
    server, model = await rig.both(vllm=True)
    said = await say(model, chat(max_tokens=5), cut(5))
    assert (said.text, said.last.finish_reason, server.asked) == ("", "length", [])


@pytest.mark.parametrize("revision", ["/models/other|1000|f-1", ""])
async def test_another_model_does_not_go_on_with_it(rig: Rig, revision: str) -> None:
    _, model = await rig.both(vllm=True)
    with pytest.raises(NotResumable, match="model has changed"):
        await say(model, chat(), cut(5, revision=revision))


async def test_tokens_that_say_something_else_here_are_not_gone_on_with(rig: Rig) -> None:
    _, model = await rig.both(vllm=True)
    with pytest.raises(NotResumable, match="another text"):
        await say(model, chat(stop=("x",)), cut(5, text="something else"))


async def test_model_that_changed_while_its_server_was_away_does_not_go_on(rig: Rig) -> None:
    server, model = await rig.both(vllm=True, hold_after=4)
    saying = asyncio.create_task(say(model, chat(), said=(said := Said())))
    await wait_until(lambda: len(said.chunks) == 4)
    await server.stop()
    server.root = "/models/new"
    await server.start()
    with pytest.raises(NotResumable, match="model has changed"):
        await saying


# places


async def test_closing_an_answer_closes_the_stream_and_frees_its_place(rig: Rig) -> None:
    server, model = await rig.both(hold_after=2)
    said = Said()
    saying = asyncio.create_task(say(model, chat(), said=said))
    await wait_until(lambda: len(said.chunks) == 2)
    assert model.room(1) == 3
    await end_task(saying)
    await wait_until(lambda: server.dropped == 1 and server.open == 0)
    assert model.room(0) == 4


async def test_servers_share_the_load_and_none_gets_more_than_it_may(rig: Rig) -> None:
    one, two = await rig.server(hold_after=1), await rig.server(hold_after=1)
    model = await rig.model(one, two, max_concurrency=3)
    jobs = [asyncio.create_task(say(model, chat())) for _ in range(7)]
    await wait_until(lambda: one.open + two.open == 6)
    assert (one.open, two.open) == (3, 3)
    # Six run and one waits for a place: there is none for an eighth.
    assert model.room(7) < 0
    one.hold_after = two.hold_after = None
    await end_task(jobs[0])
    await wait_until(lambda: jobs[6].done())
    for job in jobs[1:6]:
        await end_task(job)
    assert model.room(0) == 6


async def test_connections_are_used_again(rig: Rig) -> None:
    server, model = await rig.both(vllm=True)
    for _ in range(5):
        await say(model, chat())
    assert server.dropped == 0


async def test_key_goes_to_its_server_and_into_no_log(
    rig: Rig, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await rig.server(api_key="s3cr3t", refuse=[(502, {}, {})])
    model = await rig.model(server, api_key="s3cr3t")
    assert (await say(model, chat())).text == answer()
    assert server.headers[0]["Authorization"] == "Bearer s3cr3t"
    out = capsys.readouterr()
    assert "s3cr3t" not in caplog.text + out.out + out.err
    assert "server_try_failed" in caplog.text + out.out + out.err


async def test_server_with_a_wrong_key_is_not_used(rig: Rig) -> None:
    server = await rig.server(api_key="s3cr3t")
    model = await rig.model(server, ready=False, api_key="other")
    await wait_until(lambda: "401" in (model.status().not_ready or ""))
    assert model.room(0) == 0


async def test_vllm_that_serves_another_model_is_not_used(rig: Rig) -> None:
    server = await rig.server(vllm=True, model="other")
    model = await rig.model(server, ready=False)
    await wait_until(lambda: "serves other" in (model.status().not_ready or ""))


async def test_server_that_says_it_is_not_well_gets_nothing_until_it_is(rig: Rig) -> None:
    server, model = await rig.both()
    server.health = 503
    await wait_until(lambda: "/health answers 503" in (model.status().not_ready or ""))
    server.health = 200
    await wait_until(lambda: model.room(0) == 4)


async def test_server_without_health_route_is_known_by_its_models(rig: Rig) -> None:
    _, model = await rig.both(health=404)
    assert model.status().not_ready is None


# Tools and reasoning


def called(index: int | None = 0, **function: Any) -> dict[str, Any]:
    where = {} if index is None else {"index": index}
    return {"tool_calls": [{**where, "id": "call_1", "type": "function", "function": function}]}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALLS = [
    called(name="f", arguments=""),
    called(name="f", arguments='{"a":'),  # some servers repeat id and name
    called(arguments=" 1}"),
    {"finish_reason": "tool_calls"},
]


def with_tools(choice: Any = "auto") -> Job:
    return replace(chat(), chat=ChatOptions(tools=(TOOL,), tool_choice=choice))


async def test_calls_of_a_server_come_with_id_and_name_once(rig: Rig) -> None:
    server, model = await rig.both(script=CALLS)
    said = await say(model, with_tools())
    deltas = [delta for chunk in said.chunks for delta in chunk.tool_calls]
    assert deltas == [
        ToolCallDelta(0, "call_1", "function", FunctionDelta("f", "")),
        ToolCallDelta(0, function=FunctionDelta(arguments='{"a":')),
        ToolCallDelta(0, function=FunctionDelta(arguments=" 1}")),
    ]
    call = ToolCall("call_1", FunctionCall("f", '{"a": 1}'))
    assert said.last.message == Message("assistant", tool_calls=(call,))
    assert (said.last.finish_reason, said.last.reasoning_tokens) == ("tool_calls", 7)
    asked = server.asked[0][1]
    assert (asked["tools"], asked["tool_choice"]) == ([TOOL], "auto")
    assert "parallel_tool_calls" not in asked


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_of_a_server_is_told_under_either_name(rig: Rig, name: str) -> None:
    _, model = await rig.both(script=[{name: "Hm"}, {name: "m."}, {"content": "Yes."}])
    said = await say(model, chat())
    assert "".join(chunk.reasoning for chunk in said.chunks) == "Hmm."
    assert said.last.message == Message("assistant", "Yes.", reasoning="Hmm.")


async def test_messages_with_calls_and_results_reach_a_server_as_they_came(rig: Rig) -> None:
    server, model = await rig.both()
    call = ToolCall("c", FunctionCall("f", "{}"))
    messages = (
        Message("user", "go"),
        Message("assistant", reasoning="hm", tool_calls=(call,)),
        Message("tool", "done", tool_call_id="c"),
    )
    await say(model, replace(with_tools(), messages=messages))
    assert server.asked[0][1]["messages"] == [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "hm",
            "tool_calls": [
                {"type": "function", "id": "c", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "content": "done", "tool_call_id": "c"},
    ]


@pytest.mark.parametrize(
    "calls",
    ["f", [5], [{"index": -1}], [{"index": 10**9}], [{"index": 0, "function": {"arguments": {}}}]],
)
async def test_calls_of_another_form_are_left_out(rig: Rig, calls: Any) -> None:
    _, model = await rig.both(script=[{"content": "Yes."}, {"tool_calls": calls}, {}])
    said = await say(model, with_tools())
    assert (said.text, said.last.message) == ("Yes.", None)


async def test_calls_without_id_or_index_get_one(rig: Rig) -> None:
    _, model = await rig.both(
        script=[{"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, {}]
    )
    said = await say(model, with_tools())
    assert said.last.message is not None
    (call,) = said.last.message.tool_calls
    assert call.id
    assert call.function == FunctionCall("f", "{}")


async def test_an_answer_that_may_call_tools_goes_on_at_no_other_server(rig: Rig) -> None:
    _, model = await rig.both(vllm=True, cut_after=3)
    assert not model.can_continue(with_tools())
    with pytest.raises(NotResumable, match="tool calls"):
        await say(model, with_tools())


async def test_images_are_passed_on_as_they_are_and_go_on_at_no_other_server(rig: Rig) -> None:
    image = ImagePart(ImageUrl("data:image/png;base64,AAAA", "low"))
    job = replace(chat(), messages=(Message("user", (TextPart("a"), image)),))
    server, model = await rig.both(vllm=True, cut_after=3)
    assert not model.can_continue(job)
    with pytest.raises(NotResumable, match="images"):
        await say(model, job)
    assert server.asked[0][1]["messages"][0]["content"] == [
        {"type": "text", "text": "a"},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"},
        },
    ]


async def test_vllm_s_servers_tell_tokens_and_others_do_not(rig: Rig) -> None:
    server, model = await rig.both(vllm=True)
    assert len((await model.tokenize(with_tools())).tokens) == 3
    path, asked = server.asked[0]
    assert (path, set(asked)) == ("/tokenize", {"model", "messages", "tools"})
    assert await model.detokenize(prompt(tuple(answer_ids(2)))) == answer(2)
    _, other = await rig.both()
    with pytest.raises(EngineRefused):
        await other.tokenize(chat())


async def test_many_full_streams_leave_other_tasks_their_turns(rig: Rig) -> None:
    """A worker whose servers send more than it can pass on still sends to Redis and renews its leases."""
    streams, tokens = 30, 100
    server = await rig.server()
    model = await rig.model(server, max_concurrency=streams)
    all_is_there = asyncio.Event()
    read, most_in_a_turn = 0, 0

    async def answer_one() -> None:
        nonlocal read
        async with model.answer(chat(max_tokens=tokens, ignore_eos=True), None) as given:
            await all_is_there.wait()
            async for _ in given.chunks:
                read += 1

    async def watch_turns() -> None:
        nonlocal most_in_a_turn
        while True:
            before = read
            await asyncio.sleep(0)
            most_in_a_turn = max(most_in_a_turn, read - before)

    async with background(watch_turns()):
        answers = [asyncio.create_task(answer_one()) for _ in range(streams)]
        await wait_until(lambda: len(server.asked) == streams and server.open == 0)
        all_is_there.set()
        await asyncio.gather(*answers)

    assert read >= streams * tokens
    # The last chunk of an answer waits for nothing.
    assert most_in_a_turn <= CHUNKS_PER_TURN + streams
