"""What a coding agent sends first, with nothing but a base URL and a key in its environment."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest

from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack

NAME = "claude-sonnet-5"
HEADERS = {
    "X-Api-Key": "a-key-of-a-developer",
    "Anthropic-Version": "2023-06-01",
    "Anthropic-Beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
    "Anthropic-Dangerous-Direct-Browser-Access": "true",
    "User-Agent": "an-agent/1.0 (external, cli)",
    "X-App": "cli",
    "X-Stainless-Lang": "js",
    "X-Stainless-Helper-Method": "stream",
    "X-Stainless-Retry-Count": "0",
    "X-Stainless-Timeout": "600",
}
CACHED = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
RULES = "Prefer small changes. Run the tests of what you changed. Never print a secret. "


def tool(number: int) -> dict[str, Any]:
    """One of many, whose schema has what schema generators write."""
    return {
        "name": f"mcp__server_{number % 4}__tool_{number}",
        "description": f"Tool {number}. {RULES * 4}",
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "file_path": {"type": "string", "description": "An absolute path."},
                "limit": {"type": "integer", "exclusiveMinimum": 0, "maximum": 2**53 - 1},
                "mode": {"anyOf": [{"enum": ["content", "count"]}, {"type": "null"}]},
                "env": {
                    "type": "object",
                    "propertyNames": {"type": "string"},
                    "additionalProperties": {"type": "string"},
                },
                "edits": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"$ref": "#/$defs/edit"},
                },
            },
            "required": ["file_path"],
            "additionalProperties": False,
            "$defs": {
                "edit": {
                    "type": "object",
                    "properties": {"old": {"type": "string"}, "new": {"type": "string"}},
                    "required": ["old", "new"],
                }
            },
        },
    }


def first_request(question: str, **fields: Any) -> dict[str, Any]:
    tools: list[dict[str, Any]] = [tool(number) for number in range(40)]
    tools[-1]["cache_control"] = CACHED
    user = {"device_id": "d" * 64, "account_uuid": "", "session_id": "s" * 36}
    return {
        "model": NAME,
        "max_tokens": 32_000,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=1.0.0; cch=fa690;"},
            {"type": "text", "text": "You write code.", "cache_control": CACHED},
            {"type": "text", "text": RULES * 300, "cache_control": CACHED},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>Today is Monday.</system-reminder>"},
                    {"type": "text", "text": question, "cache_control": {"type": "ephemeral"}},
                ],
            },
        ],
        "tools": tools,
        "metadata": {"user_id": json.dumps(user)},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "stream": True,
        **fields,
    }


def small_request(**fields: Any) -> dict[str, Any]:
    """What goes before the conversation: is the key good, what shall the conversation be called."""
    return {
        "model": NAME,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "quota"}],
        "metadata": {"user_id": "user_1_account__session_2"},
        **fields,
    }


def function(number: int) -> dict[str, Any]:
    """A tool as an agent of OpenAI's Responses API declares it."""
    schema = tool(number)["input_schema"]
    return {
        "type": "function",
        "name": f"tool_{number}",
        "description": f"Tool {number}. {RULES * 4}",
        "strict": False,
        "parameters": {name: schema[name] for name in schema if name != "$schema"},
        **({"defer_loading": True} if number == 7 else {}),
    }


def message(role: str, *texts: str) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "role": role, "content": parts}


def responses_request(question: str, *items: Any) -> dict[str, Any]:
    """What such an agent sends with each turn: everything, since it lets the server store nothing."""
    context = "<environment_context>\n  <cwd>/work</cwd>\n</environment_context>"
    return {
        "model": NAME,
        "instructions": f"You write code. {RULES * 300}",
        "input": [
            message("developer", "<permissions>The sandbox is read-only.</permissions>"),
            message("user", "# AGENTS.md\n\nPrefer small changes.", context),
            message("user", question),
            *items,
        ],
        "tools": [function(number) for number in range(20)],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "detailed"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "service_tier": "priority",
        "prompt_cache_key": "0" * 36,
        "text": {"verbosity": "low"},
        "client_metadata": {"session_id": "0" * 36, "turn_id": "1"},
    }


RESPONSES_HEADERS = {
    "Authorization": "Bearer a-key-of-a-developer",
    "Accept": "text/event-stream",
    "OpenAI-Beta": "responses=experimental",
    "Originator": "an_agent_cli",
    "Session_Id": "0" * 36,
    "User-Agent": "an_agent_cli/1.0 (Linux 6; x86_64) xterm",
    "Version": "1.0",
    "X-Agent-Turn-Metadata": '{"turn_id":"1"}',
}

RESPONSES_CALL = '<tool_call>{"name": "tool_0", "arguments": {"file_path":"/a.py"}}</tool_call>'
CALL = (
    '<tool_call>{"name": "mcp__server_0__tool_0", "arguments": {"file_path":"/a.py"}}</tool_call>'
)


@pytest.fixture
async def front(stack: Stack) -> Front:
    """As `scripts/bootstrap.sh` starts one: unknown fields are refused."""
    await stack.worker(max_model_len=500_000)
    return await stack.front(WATCH_LEASE_S="60", MODEL_ALIASES=json.dumps({NAME: MODEL}))


async def test_a_base_url_is_there(front: Front) -> None:
    async with front.session.head("/", headers=HEADERS, allow_redirects=False) as response:
        assert response.status < 400


@pytest.mark.parametrize(
    "thinking", [{"type": "adaptive"}, {"type": "enabled", "budget_tokens": 31_999}]
)
async def test_first_requests_are_answered(front: Front, thinking: Any) -> None:
    body = first_request(f"[say]<think>Hm.</think>I look.{CALL}[/say]", thinking=thinking)
    counted = {name: body[name] for name in ("model", "messages", "tools", "system", "thinking")}
    path = "/v1/messages/count_tokens?beta=true"
    async with front.post(path, counted, headers=HEADERS) as response:
        assert response.status == 200, await response.text()
        assert (await response.json())["input_tokens"] > 10_000
    async with front.post("/v1/messages?beta=true", body, headers=HEADERS) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Request-Id"] == response.headers["X-Request-Id"]
        data = [line for line in (await response.text()).split("\n") if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in data]
    assert events[-1] == {"type": "message_stop"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert "".join(one.get("delta", {}).get("partial_json", "") for one in events) == (
        '{"file_path":"/a.py"}'
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "max_tokens": 64,
            "system": [{"type": "text", "text": "Name it.", "cache_control": CACHED}],
            "tools": [],
            "temperature": 1,
            "thinking": {"type": "disabled"},
            "stream": True,
        },
    ],
)
async def test_small_requests_before_it_are_answered(front: Front, fields: Any) -> None:
    body = small_request(**fields)
    async with front.post("/v1/messages?beta=true", body, headers=HEADERS) as response:
        assert response.status == 200, await response.text()


async def events_of(front: Front, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with front.post("/v1/responses", body, headers=RESPONSES_HEADERS) as response:
        assert response.status == 200, await response.text()
        lines = (await response.text()).split("\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def test_turns_of_an_agent_of_responses_are_answered(front: Front) -> None:
    async with front.get("/v1/models?client_version=1.0.0", headers=RESPONSES_HEADERS) as response:
        assert response.status == 200
    question = f"[say]<think>Hm.</think>I look.{RESPONSES_CALL}[/say]"
    events = await events_of(front, responses_request(question))
    assert events[-1]["type"] == "response.completed"
    usage = events[-1]["response"]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    # An agent keeps what each item was when it was done.
    done = [one["item"] for one in events if one["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call"]
    assert (done[-1]["name"], json.loads(done[-1]["arguments"])) == (
        "tool_0",
        {"file_path": "/a.py"},
    )
    result = {
        "type": "function_call_output",
        "call_id": done[-1]["call_id"],
        "output": "Exit code: 0\nOutput:\n[say]Done.[/say]",
    }
    events = await events_of(front, responses_request(question, *done, result))
    (answer,) = events[-1]["response"]["output"]
    assert answer["content"][0]["text"] == "Done."
    assert events[-1]["response"]["store"] is False


async def test_the_environment_alone_leads_there(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", front.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{front.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    turns: Any = [{"role": "user", "content": "[say]Yes.[/say]"}]
    async with anthropic.AsyncAnthropic(max_retries=0) as claude:
        message = await claude.messages.create(model=NAME, max_tokens=64, messages=turns)
        assert [block.type for block in message.content] == ["text"]
    async with openai.AsyncOpenAI(max_retries=0) as client:
        answer = await client.chat.completions.create(model=NAME, messages=turns)
        assert answer.choices[0].message.content == "Yes."
        response = await client.responses.create(model=NAME, input="[say]Yes.[/say]")
        assert response.output_text == "Yes."
