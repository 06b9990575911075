"""Tools and reasoning with real vLLM: calls that are demanded, budgets, and a worker's death."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from relais_testing.native_client import events_url
from relais_testing.process_stack import DEMO_MODEL, MODEL, MORTAL, VLLM_ON_CPU, Starter
from relais_testing.sse_client import SseEvent, ids_of, read_events, text_of
from relais_testing.waiting import LIVENESS_S

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"mark": {"enum": [1, 2, 3]}, "kind": {"enum": ["a", "b"]}},
    "required": ["mark", "kind"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "rate", "parameters": PARAMETERS, "strict": True},
}
NAMED: Any = {"type": "function", "function": {"name": "rate"}}
MESSAGES: Any = [{"role": "user", "content": "Merci pour votre accueil."}]
WORKER = VLLM_ON_CPU


async def test_calls_that_are_demanded_follow_their_schema(start: Starter) -> None:
    front = start("orchestrator", WATCH_LEASE_S="60")
    start("llm_worker", **WORKER)
    async with openai.AsyncOpenAI(
        base_url=f"{front.url}/v1", api_key="any", max_retries=0, timeout=LIVENESS_S
    ) as client:
        for choice, reason in (("required", "tool_calls"), (NAMED, "stop")):
            asked: Any = {
                "model": MODEL,
                "messages": MESSAGES,
                "tools": [TOOL],
                "tool_choice": choice,
                "parallel_tool_calls": False,
                "max_tokens": 100,
                "temperature": 0,
            }
            whole = await client.chat.completions.create(**asked)
            async with client.chat.completions.stream(**asked) as stream:
                streamed = await stream.get_final_completion()
            for answer in (whole, streamed):
                calls: Any = answer.choices[0].message.tool_calls
                (call,) = calls
                assert call.function.name == "rate"
                arguments = json.loads(call.function.arguments)
                assert arguments.keys() == {"mark", "kind"}
                assert arguments["mark"] in (1, 2, 3)
            assert streamed.choices[0].finish_reason == reason
        bad: dict[str, Any] = {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/none"}},
            "required": ["a"],
        }
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model=MODEL,
                messages=MESSAGES,
                tools=[{"type": "function", "function": {"name": "rate", "parameters": bad}}],
                tool_choice=NAMED,
            )
        assert refused.value.param == "tools"


async def test_xgrammar_follows_the_model_s_own_form_of_a_call(start: Starter) -> None:
    """vLLM's structural tags. White space is free in them, and the demo model writes it without end."""
    front = start("orchestrator", WATCH_LEASE_S="60")
    config = json.dumps({"backend": "xgrammar"})
    start("llm_worker", **WORKER, VLLM_STRUCTURED_OUTPUTS_CONFIG=config)
    async with openai.AsyncOpenAI(
        base_url=f"{front.url}/v1", api_key="any", max_retries=0, timeout=LIVENESS_S
    ) as client:
        choices: list[Any] = ["required", NAMED, "auto"]
        for choice in choices:
            stream = await client.chat.completions.create(
                model=MODEL,
                messages=MESSAGES,
                tools=[TOOL],
                tool_choice=choice,
                max_tokens=60,
                temperature=0,
                stream=True,
            )
            names = [
                call.function.name
                async for chunk in stream
                for call in chunk.choices[0].delta.tool_calls or ()
                if call.function is not None and call.function.name is not None
            ]
            # It may choose not to call where it is not asked to.
            assert set(names) == ({"rate"} if choice != "auto" else set())


async def test_an_answer_that_may_call_tools_outlives_its_worker(start: Starter) -> None:
    front = start("orchestrator")
    doomed = start("llm_worker", **WORKER | MORTAL)
    body = {
        "model": MODEL,
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": {"name": "rate"}}],
        "params": {"temperature": 0, "max_tokens": 600, "ignore_eos": True},
    }
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIVENESS_S)) as session:

        async def submit() -> str:
            async with session.post(f"{front.url}/v1/requests", json=body) as response:
                assert response.status == 202, await response.text()
                return events_url(front.url, (await response.json())["channel_id"])

        undisturbed = text_of(await read_events(session, await submit()))
        url = await submit()
        begun = await read_events(session, url, stop_after=5)
        doomed.kill()
        heir = start("llm_worker", **WORKER)
        rest = await read_events(session, url, after=int(begun[-1].id))
        events = begun + rest
        assert ids_of(events) == list(range(1, len(events) + 1))
        assert (events[-1].name, text_of(events)) == ("completed", undisturbed)
        assert '"job_continued"' in heir.log_path.read_text()


def thinking_model(folder: Path) -> Path:
    """The demo model with two of its special tokens as marks of thoughts, which it ends by chance, if at all."""
    shutil.copytree(DEMO_MODEL, folder, ignore=shutil.ignore_patterns("training", "README.md"))
    text = (folder / "tokenizer.json").read_text().replace("think>", "unused>")
    text = text.replace("<|system|>", "<think>").replace("<|pad|>", "</think>")
    tokenizer = json.loads(text)
    for token in tokenizer["added_tokens"]:
        token["special"] = token["special"] and "think>" not in token["content"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"pad_token": config["eos_token"], "extra_special_tokens": ["<|user|>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


async def until_text(session: aiohttp.ClientSession, url: str) -> list[SseEvent]:
    """Read the events up to the first with text."""
    count = 1
    while not text_of(events := await read_events(session, url, stop_after=count)):
        count += 1
    return events


LONG_LIST = {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 80, "maxItems": 80}


async def test_reasoning_outlives_its_worker_and_keeps_to_its_budget(
    start: Starter, tmp_path: Path
) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(
        "{{ bos_token }}{% for turn in messages %}<|user|>{{ turn.content }}<|end|>{% endfor %}"
        "<|assistant|><think>"
    )
    settings = {
        **VLLM_ON_CPU,
        "VLLM_HF_REPO_ID": str(thinking_model(tmp_path / "model")),
        "VLLM_REASONING_PARSER": "deepseek_r1",
        "VLLM_CHAT_TEMPLATE": str(template),
    }
    front = start("orchestrator")
    doomed = start("llm_worker", **settings | MORTAL)
    long: dict[str, Any] = {"temperature": 0, "max_tokens": 600, "ignore_eos": True}

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIVENESS_S)) as session:

        async def submit(**params: Any) -> str:
            body = {"model": MODEL, "messages": MESSAGES, "params": long | params}
            async with session.post(f"{front.url}/v1/requests", json=body) as response:
                assert response.status == 202, await response.text()
                return events_url(front.url, (await response.json())["channel_id"])

        def thought(events: list[SseEvent]) -> str:
            told = [event.json for event in events if event.name == "token"]
            return "".join(one.get("reasoning", "") for one in told)

        short = await read_events(session, await submit(thinking_token_budget=8, max_tokens=40))
        assert thought(short)
        assert text_of(short), "it answers once the budget is spent"
        assert short[-1].json["message"]["reasoning"] == thought(short)
        undisturbed = thought(await read_events(session, await submit()))
        assert len(undisturbed) > 100
        # A budget that ends the thought before the cut, and JSON after it that the cut is within.
        budget = {"thinking_token_budget": 8, "structured_outputs": {"json": LONG_LIST}}
        budget |= {"ignore_eos": False}
        within = await read_events(session, await submit(**budget))
        json.loads(text_of(within))
        urls = [await submit(), await submit(**budget)]
        begun = await asyncio.gather(
            read_events(session, urls[0], stop_after=5), until_text(session, urls[1])
        )
        doomed.kill()
        start("llm_worker", **settings)
        rest = [
            await read_events(session, url, after=int(seen[-1].id))
            for url, seen in zip(urls, begun, strict=True)
        ]
        events, budgeted = (seen + more for seen, more in zip(begun, rest, strict=True))
        assert ids_of(events) == list(range(1, len(events) + 1))
        assert (events[-1].name, thought(events)) == ("completed", undisturbed)
        assert events[-1].json["message"]["reasoning"] == undisturbed
        assert (text_of(budgeted), thought(budgeted)) == (text_of(within), thought(within))
        assert budgeted[-1].name == "completed"
