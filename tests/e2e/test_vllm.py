"""vLLM with the demo model behind a real orchestrator, as scripts/bootstrap.sh runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import aiohttp
import openai
import psutil
import pytest

from relais_testing.process_stack import MODEL, VLLM_ON_CPU, make_starter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import read_events, text_of
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import LIVENESS_S, wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

REMARK = "La salle d'attente de la mairie de Lyon était propre, merci."
LONG_TOKENS = 900
LONG = {"ignore_eos": True, "max_tokens": LONG_TOKENS}


@dataclass(frozen=True, slots=True)
class Stack:
    front: ServiceProcess
    second_front: ServiceProcess
    worker: ServiceProcess
    client: openai.OpenAI


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    with (
        ValkeyServer(tmp_path_factory.mktemp("redis")) as redis,
        ExitStack() as processes,
    ):
        start = make_starter(processes, redis, tmp_path_factory.mktemp("logs"))
        worker = start("llm_worker", **VLLM_ON_CPU)
        # A refusal that takes longer than this would come in a stream that has begun, and not as a 400.
        patient = {"KEEPALIVE_S": "600"}
        front, second_front = start("orchestrator", **patient), start("orchestrator", **patient)
        with openai.OpenAI(base_url=f"{front.url}/v1", api_key="any", max_retries=0) as client:
            yield Stack(front, second_front, worker, client)


def chat(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_the_openai_client_gets_the_same_answer_streamed_and_whole(stack: Stack) -> None:
    whole = stack.client.chat.completions.create(
        model=MODEL, messages=chat(REMARK), temperature=0, max_tokens=80
    )
    answer = whole.choices[0].message.content
    assert answer
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > 5
    pieces, usage = [], None
    for chunk in stack.client.chat.completions.create(
        model=MODEL,
        messages=chat(REMARK),
        temperature=0,
        max_tokens=80,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
    assert "".join(pieces) == answer
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_vllm_finds_no_fault_with_the_settings(stack: Stack) -> None:
    assert "Unknown vLLM environment variable" not in stack.worker.log_path.read_text()


def test_the_openai_client_reads_while_the_model_writes(stack: Stack) -> None:
    # Seconds of work: a machine so busy that a short answer comes in one piece does not stand still for so long.
    stream = stack.client.chat.completions.create(
        model=MODEL,
        messages=chat(REMARK),
        max_tokens=LONG_TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 1


def test_the_chat_template_is_told_what_it_is_to_be_told(stack: Stack) -> None:
    def prompt_tokens(**told: str) -> int:
        answer = stack.client.chat.completions.create(
            model=MODEL,
            messages=chat(REMARK),
            max_tokens=1,
            extra_body={"chat_template_kwargs": told},
        )
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    # A name that the demo model's template does not know changes nothing.
    assert prompt_tokens(bos_token="") == prompt_tokens() - 1 == prompt_tokens(unknown="x") - 1
    with pytest.raises(openai.BadRequestError) as refused:
        prompt_tokens(chat_template="x")
    assert refused.value.param == "chat_template_kwargs.chat_template"
    with pytest.raises(openai.BadRequestError) as refused:
        prompt_tokens(messages="x")
    assert refused.value.param == "chat_template_kwargs.messages"


def test_the_openai_client_completes_text(stack: Stack) -> None:
    done = stack.client.completions.create(
        model=MODEL, prompt="Bonjour", temperature=0, max_tokens=12
    )
    streamed = stack.client.completions.create(
        model=MODEL, prompt="Bonjour", temperature=0, max_tokens=12, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == done.choices[0].text


def test_every_token_says_its_probability_streamed_and_whole(stack: Stack) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": chat(REMARK),
        "temperature": 0,
        "max_tokens": 40,
        "stop": ["never said"],
        "logprobs": True,
        "top_logprobs": 3,
    }
    whole = stack.client.chat.completions.create(**asked)
    assert whole.usage is not None
    (choice,) = whole.choices
    assert choice.logprobs is not None
    told = choice.logprobs.content or []
    assert len(told) == whole.usage.completion_tokens
    assert "".join(one.token for one in told).startswith(choice.message.content or "-")
    for one in told:
        assert one.top_logprobs[0].token == one.token
        assert len(one.top_logprobs) == 3
    streamed = [
        one
        for chunk in stack.client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs is not None
        for one in chunk.choices[0].logprobs.content or ()
    ]
    assert [one.token for one in streamed] == [one.token for one in told]
    text = stack.client.completions.create(
        model=MODEL, prompt="Bonjour", temperature=0, max_tokens=12, logprobs=2
    )
    logprobs = text.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens or ()) == len(logprobs.text_offset or ()) == 12


def test_an_engine_told_not_to_compile_compiles_nothing_later_either(stack: Stack) -> None:
    """A part of the sampler would be compiled at the first request with logprobs, while everybody waits."""
    # Of the processes that it started: vLLM writes the engine's name over its environment.
    told = [one.environ().get("TORCHDYNAMO_DISABLE") for one in stack.worker.descendants()]
    assert "1" in told


def test_the_openai_client_lists_the_model(stack: Stack) -> None:
    assert [model.id for model in stack.client.models.list()] == [MODEL]
    assert stack.client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 5000}, "max_tokens"),
        ({"messages": chat("mot " * 3000)}, "messages"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"max_tokens": 4, "extra_body": {"min_tokens": 5}}, "min_tokens"),
        ({"extra_body": {"allowed_token_ids": [999_999]}}, "allowed_token_ids"),
        ({"extra_body": {"stop_token_ids": [999_999]}}, "stop_token_ids"),
        ({"extra_body": {"structured_outputs": {"regex": "(("}}}, "structured_outputs.regex"),
        (
            {"extra_body": {"structured_outputs": {"grammar": "no grammar"}}},
            "structured_outputs.grammar",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
                }
            },
            "response_format",
        ),
    ],
)
def test_what_vllm_refuses_is_a_400_that_names_the_field(
    stack: Stack, fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            stack.client.chat.completions.create(
                **{"model": MODEL, "messages": chat(REMARK), "stream": stream, **fields}
            )
        assert refused.value.param == param
    # The worker lives on.
    assert stack.client.chat.completions.create(
        model=MODEL, messages=chat(REMARK), max_tokens=2
    ).choices


def test_a_prompt_far_over_the_context_is_refused_in_openais_words(stack: Stack) -> None:
    for text in ("one more word " * 280_000, " " * 4_000_000, "é" * 5000):
        with pytest.raises(openai.BadRequestError) as refused:
            stack.client.completions.create(model=MODEL, prompt=text)
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
        with pytest.raises(openai.BadRequestError) as refused:
            stack.client.chat.completions.create(model=MODEL, messages=chat(f".{text}."))
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
        assert "maximum context length is 1024 tokens" in refused.value.message


def test_an_answer_follows_a_json_schema(stack: Stack) -> None:
    wanted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "label", "schema": {"enum": ["praise", "complaint"]}},
    }
    answer = stack.client.chat.completions.create(
        model=MODEL,
        messages=chat(REMARK),
        temperature=0,
        max_tokens=20,
        response_format=wanted,
    )
    assert answer.choices[0].message.content in ('"praise"', '"complaint"')


@pytest.mark.parametrize(
    ("structure", "possible"),
    [
        ({"choice": ["praise", "complaint"]}, ("praise", "complaint")),
        ({"regex": "mark [1-3]"}, ("mark 1", "mark 2", "mark 3")),
        ({"json": {"enum": [1, 2]}}, ("1", "2")),
        ({"grammar": 'root ::= "yes" | "no"'}, ("yes", "no")),
    ],
)
def test_an_answer_follows_a_structure(
    stack: Stack, structure: dict[str, Any], possible: tuple[str, ...]
) -> None:
    answer = stack.client.chat.completions.create(
        model=MODEL,
        messages=chat(REMARK),
        temperature=0,
        max_tokens=20,
        extra_body={"structured_outputs": structure},
    )
    assert answer.choices[0].message.content in possible


CHAIN = "".join(f"a{i} ::= a{i + 1} a{i + 1} | a{i + 1}\n" for i in range(200))
REFERS_TO_ITSELF = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}


def test_what_cannot_be_followed_is_a_400_while_another_answer_goes_on(stack: Stack) -> None:
    deep = f'root ::= a0\n{CHAIN}a200 ::= "x"'
    schema = {"name": "n", "schema": REFERS_TO_ITSELF}
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"structured_outputs": {"grammar": deep}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"grammar": "start: x\nx: start"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json": {"$ref": "#"}}}, "structured_outputs.json"),
        (
            {"response_format": {"type": "json_schema", "json_schema": schema}},
            "response_format",
        ),
        (
            {"structured_outputs": {"choice": ["yes"]}, "allowed_token_ids": [5]},
            "structured_outputs.choice",
        ),
    ]
    victim = stack.client.chat.completions.create(
        model=MODEL,
        messages=chat(REMARK),
        stream=True,
        temperature=0,
        max_tokens=LONG_TOKENS,
        extra_body={"ignore_eos": True},
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in islice(victim, 5)]
    for (fields, param), stream in product(refusals, (True, False)):
        with pytest.raises(openai.BadRequestError) as refused:
            stack.client.chat.completions.create(
                model=MODEL, messages=chat("x"), stream=stream, max_tokens=20, extra_body=fields
            )
        assert refused.value.param is not None, fields
        assert refused.value.param.startswith(param), fields
    last: str | None = None
    for chunk in victim:
        pieces.append(chunk.choices[0].delta.content or "")
        last = chunk.choices[0].finish_reason
    assert last == "length"
    assert "".join(pieces).strip()


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"regex": "((a*b*)*c*)*((a*b*)*c*)*x"}},
        {"structured_outputs": {"choice": ["yes", "no"]}, "min_tokens": 8},
        {"structured_outputs": {"choice": ["yes", "no"]}, "ignore_eos": True},
        {"structured_outputs": {"json": {"type": "object"}}, "bad_words": ["{"]},
        {"structured_outputs": {"json": {"type": "array", "minItems": 3000}}},
    ],
)
def test_no_structure_is_a_fault_of_the_engine(stack: Stack, fields: dict[str, Any]) -> None:
    try:
        answer = stack.client.chat.completions.create(
            model=MODEL, messages=chat(REMARK), max_tokens=20, extra_body=fields
        )
    except openai.BadRequestError:
        return
    assert answer.choices[0].finish_reason in ("stop", "length")


async def test_vllms_stops_and_bounds_on_tokens(stack: Stack) -> None:
    def said(text: str = REMARK, **fields: Any) -> tuple[str, Any]:
        answer = stack.client.chat.completions.create(
            model=MODEL, messages=chat(text), temperature=0, max_tokens=12, extra_body=fields
        )
        return answer.choices[0].message.content or "", answer.choices[0].finish_reason

    async with aiohttp.ClientSession() as session:
        accepted = await submit(session, stack, {"max_tokens": 12})
        events = await read_events(session, stack.front.url + accepted["events_url"])
    tokens = [event.json for event in events if event.name == "token"]
    ids = [one for token in tokens for one in token["token_ids"]]
    assert ids.index(ids[4]) == 4
    whole, before = said()[0], said(max_tokens=4)[0]
    assert said(stop_token_ids=[ids[4]]) == (before, "stop")
    kept = said(stop_token_ids=[ids[4]], include_stop_str_in_output=True)[0]
    assert kept == said(max_tokens=5)[0]
    stop = whole[10:16]
    assert said(stop=[stop], include_stop_str_in_output=True)[0] == whole.partition(stop)[0] + stop
    assert said(allowed_token_ids=[ids[0]])[0] == said(max_tokens=1)[0] * 12
    word = whole.split()[0]
    assert not said(bad_words=[word])[0].startswith(word)


async def submit(
    session: aiohttp.ClientSession, stack: Stack, params: dict[str, Any]
) -> dict[str, Any]:
    body = {
        "model": MODEL,
        "messages": chat(REMARK),
        "params": {"temperature": 0, **params},
    }
    async with session.post(f"{stack.front.url}/v1/requests", json=body) as response:
        assert response.status == 202, await response.text()
        accepted: dict[str, Any] = await response.json()
        return accepted


async def test_a_client_that_disconnects_goes_on_at_the_second_orchestrator(stack: Stack) -> None:
    async with aiohttp.ClientSession() as session:
        accepted = await submit(session, stack, LONG)
        seen = await read_events(session, stack.front.url + accepted["events_url"], stop_after=5)
        rest = await read_events(
            session, stack.second_front.url + accepted["events_url"], after=int(seen[-1].id)
        )
        whole = await read_events(session, stack.second_front.url + accepted["events_url"])
    assert seen + rest == whole
    token_ids = [
        token for event in whole if event.name == "token" for token in event.json["token_ids"]
    ]
    assert len(token_ids) == LONG_TOKENS, whole[-1]
    completed = whole[-1].json
    assert completed["usage"]["output_tokens"] == LONG_TOKENS
    assert min(completed["timings"].values()) >= 0
    assert text_of(whole)


async def test_a_cancel_frees_the_engines_place(stack: Stack) -> None:
    """Four places, five long requests: the fifth starts when one of the four is cancelled."""
    async with aiohttp.ClientSession() as session:
        held = [await submit(session, stack, LONG) for _ in range(4)]
        for accepted in held:
            await read_events(session, stack.front.url + accepted["events_url"], stop_after=3)
        fifth = await submit(session, stack, LONG)
        channels = f"{stack.front.url}/v1/channels/"

        async def status(accepted: dict[str, Any]) -> str:
            async with session.get(channels + accepted["channel_id"]) as response:
                state: dict[str, str] = await response.json()
                return state["status"]

        async def wait_for(wanted: str, accepted: dict[str, Any]) -> None:
            async def reached() -> bool:
                return await status(accepted) == wanted

            await wait_until(reached)

        assert await status(fifth) == "queued"
        async with session.delete(channels + held[0]["channel_id"]) as response:
            assert response.status in (200, 202)
        await wait_for("cancelled", held[0])
        await wait_for("running", fifth)
        assert [await status(accepted) for accepted in held[1:]] == ["running"] * 3
        for accepted in [*held[1:], fifth]:
            async with session.delete(channels + accepted["channel_id"]):
                pass
        for accepted in [*held[1:], fifth]:
            await wait_for("cancelled", accepted)


async def test_leaving_an_openai_stream_stops_the_generation(stack: Stack) -> None:
    client = openai.AsyncOpenAI(base_url=f"{stack.front.url}/v1", api_key="any", max_retries=0)
    async with client, aiohttp.ClientSession() as session:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=chat(REMARK),
            max_tokens=900,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        first = await anext(aiter(stream))
        await stream.close()
        channel_id = first.id.removeprefix("chatcmpl-")

        async def cancelled() -> bool:
            url = f"{stack.front.url}/v1/channels/{channel_id}"
            async with session.get(url, headers={"Authorization": "Bearer any"}) as response:
                state: dict[str, str] = await response.json()
                return state["status"] == "cancelled"

        await wait_until(cancelled)


async def test_sixteen_clients_at_once_each_get_their_own_answer(stack: Stack) -> None:
    client = openai.AsyncOpenAI(base_url=f"{stack.front.url}/v1", api_key="any", max_retries=0)
    prompts = [
        f"Merci à l'équipe de la mairie de {city}." for city in ("Lyon", "Nantes", "Lille", "Metz")
    ]

    async def ask(prompt: str) -> str:
        answer = await client.chat.completions.create(
            model=MODEL, messages=chat(prompt), temperature=0, max_tokens=60
        )
        return answer.choices[0].message.content or ""

    async with client:
        alone = [await ask(prompt) for prompt in prompts]
        together = await asyncio.gather(*(ask(prompt) for prompt in prompts * 4))
    assert list(together) == alone * 4


def test_killing_a_worker_leaves_no_engine_process(stack: Stack) -> None:
    """Not even one that is stuck and could notice nothing. Last: it ends the worker that the others share."""
    children = stack.worker.descendants()
    # Python's own resource tracker sits on a pipe from the worker and ends with it.
    engine = [one for one in children if "resource_tracker" not in " ".join(one.cmdline())]
    assert engine, "vLLM runs its engine in processes of its own"
    for process in engine:
        process.suspend()
    stack.worker.kill()
    _, alive = psutil.wait_procs(children, timeout=LIVENESS_S)
    left = [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    assert left == []
