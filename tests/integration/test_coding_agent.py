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
