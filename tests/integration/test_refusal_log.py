"""Every 4xx leaves a line by which an operator finds it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relais_testing.stack import Front, Stack, chat_request

KEY = "a-long-enough-key-of-client-1"
AUTH = {"Authorization": f"Bearer {KEY}"}
PROMPT = "what nobody should read in a log"


@pytest.fixture
async def guarded(stack: Stack, tmp_path: Path) -> Front:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"client1": KEY}))
    return await stack.front(ENV="prod", API_KEYS=str(keys))


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "logged"),
    [
        (
            *("POST", "/v1/chat/completions", AUTH, chat_request(PROMPT, max_tokens="x")),
            {"status": 400, "code": "invalid_type", "param": "max_tokens", "key_id": "client1"},
        ),
        (
            *("POST", "/v1/requests", AUTH, {**chat_request(PROMPT), "model": "nobody-s"}),
            {"status": 404, "code": "model_not_found", "param": "model", "key_id": "client1"},
        ),
        (
            *("GET", "/v1/models", {"Authorization": "Bearer unknown"}, None),
            {"status": 401, "code": "invalid_api_key", "param": None, "key_id": None},
        ),
        (
            *("GET", "/v1/admin/queues", AUTH, None),
            {"status": 403, "code": "admin_required", "param": None, "key_id": "client1"},
        ),
        (
            *("GET", "/nowhere?token=secret", {}, None),
            {"status": 404, "code": "not_found", "path": "/nowhere"},
        ),
        (*("DELETE", "/v1/models", AUTH, None), {"status": 405, "code": "method_not_allowed"}),
    ],
    ids=["field", "model", "key", "right", "path", "method"],
)
async def test_a_refusal_is_logged_by_the_request_id_that_its_client_got(
    guarded: Front,
    method: str,
    path: str,
    headers: dict[str, str],
    body: dict[str, Any] | None,
    logged: dict[str, Any],
) -> None:
    with capture_logs() as lines:
        async with guarded.session.request(method, path, headers=headers, json=body) as response:
            assert response.status == logged["status"]
            request_id = response.headers["X-Request-Id"]
    [line] = [one for one in lines if one["event"] == "request_refused"]
    assert line["log_level"] == "info"
    assert line["request_id"] == request_id
    assert {name: line[name] for name in logged} == logged
    for secret in (KEY, PROMPT, "secret", "unknown"):
        assert secret not in str(line)


async def test_bytes_that_are_no_request_are_logged_too(guarded: Front) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.port)
    with capture_logs() as lines:
        writer.write(b"NOT HTTP\r\n\r\n")
        answer = await reader.read()
    writer.close()
    [line] = [one for one in lines if one["event"] == "request_refused"]
    assert line["status"] == 400
    assert line["request_id"].encode() in answer
