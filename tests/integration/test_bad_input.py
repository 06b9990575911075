"""Wrong requests: the right status, one error object that names the field, and a queue that nobody touched."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_orchestrator.api.parsing import MAX_PARAM_LENGTH
from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.waiting import wait_until

NATIVE, CHAT, COMPLETION = "/v1/requests", "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "hello"}]
GOOD: dict[str, dict[str, Any]] = {
    NATIVE: {"model": MODEL, "messages": MESSAGES},
    CHAT: {"model": MODEL, "messages": MESSAGES},
    COMPLETION: {"model": MODEL, "prompt": "hello"},
}
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(autouse=True)
async def untouched_queue(stack: Stack) -> AsyncIterator[None]:
    """Whatever a test here sends, no job comes of it."""
    yield
    assert await stack.idle()
    assert await stack.store.redis.keys("relais:*:job:*") == []


async def refusal(response: Any, status: int) -> dict[str, Any]:
    """The error object of a response, checked for its form."""
    text = await response.text()
    assert response.status == status, text
    assert response.content_type == "application/json"
    body = json.loads(text)
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert "Traceback" not in text
    return error


# What is wrong with a field, wherever sampling parameters stand: (field, value, param, code).
SAMPLING: list[tuple[str, Any, str, str]] = [
    ("max_tokens", -1, "max_tokens", "invalid_value"),
    ("max_tokens", 0, "max_tokens", "invalid_value"),
    ("max_tokens", 10**9, "max_tokens", "invalid_value"),
    ("max_tokens", 10**400, "max_tokens", "invalid_value"),
    ("max_tokens", 1.5, "max_tokens", "invalid_type"),
    ("max_tokens", "5", "max_tokens", "invalid_type"),
    ("max_tokens", True, "max_tokens", "invalid_type"),
    ("max_tokens", NAN, "max_tokens", "invalid_type"),
    ("min_tokens", -1, "min_tokens", "invalid_value"),
    ("n", 0, "n", "invalid_value"),
    ("n", 17, "n", "invalid_value"),
    ("n", True, "n", "invalid_type"),
    ("n", "2", "n", "invalid_type"),
    ("temperature", NAN, "temperature", "invalid_value"),
    ("temperature", INFINITY, "temperature", "invalid_value"),
    ("temperature", -0.1, "temperature", "invalid_value"),
    ("temperature", 2.1, "temperature", "invalid_value"),
    ("temperature", "hot", "temperature", "invalid_type"),
    ("temperature", [1], "temperature", "invalid_type"),
    ("top_p", 0, "top_p", "invalid_value"),
    ("top_p", 1.1, "top_p", "invalid_value"),
    ("top_k", -2, "top_k", "invalid_value"),
    ("stop_token_ids", [-1], "stop_token_ids.0", "invalid_value"),
    ("stop_token_ids", [1] * 257, "stop_token_ids", "invalid_value"),
    ("allowed_token_ids", [], "allowed_token_ids", "invalid_value"),
    ("allowed_token_ids", [1] * 4097, "allowed_token_ids", "invalid_value"),
    ("bad_words", [""], "bad_words.0", "invalid_value"),
    ("include_stop_str_in_output", 1, "include_stop_str_in_output", "invalid_type"),
    ("structured_outputs", {}, "structured_outputs", "invalid_value"),
    ("structured_outputs", {"regex": None}, "structured_outputs", "invalid_value"),
    (
        "structured_outputs",
        {"regex": "a", "choice": ["a"]},
        "structured_outputs",
        "invalid_value",
    ),
    ("structured_outputs", {"choice": []}, "structured_outputs.choice", "invalid_value"),
    ("structured_outputs", {"backend": "x"}, "structured_outputs.backend", "unknown_parameter"),
    ("min_p", -1, "min_p", "invalid_value"),
    ("presence_penalty", 3, "presence_penalty", "invalid_value"),
    ("frequency_penalty", -3, "frequency_penalty", "invalid_value"),
    ("repetition_penalty", 0, "repetition_penalty", "invalid_value"),
    ("seed", 2**63, "seed", "invalid_value"),
    ("seed", -(2**80), "seed", "invalid_value"),
    ("stop", 5, "stop", "invalid_type"),
    ("stop", "", "stop", "invalid_value"),
    ("stop", ["a", ""], "stop.1", "invalid_value"),
    ("stop", ["a", 1], "stop.1", "invalid_type"),
    ("stop", ["a"] * 17, "stop", "invalid_value"),
    ("stop", "x" * 257, "stop", "invalid_value"),
    ("ignore_eos", "yes", "ignore_eos", "invalid_type"),
    ("logit_bias", {"a": 1}, "logit_bias.a", "invalid_value"),
    ("logit_bias", {"1": 101}, "logit_bias.1", "invalid_value"),
    ("logit_bias", {"1": NAN}, "logit_bias.1", "invalid_value"),
    ("logit_bias", [], "logit_bias", "invalid_type"),
    ("response_format", {}, "response_format.type", "missing_required_parameter"),
    ("response_format", {"type": "xml"}, "response_format.type", "unsupported_value"),
    ("response_format", "json", "response_format", "invalid_type"),
    (
        "response_format",
        {"type": "json_schema"},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    ("nonsense", 1, "nonsense", "unknown_parameter"),
]
# What OpenAI's routes take and ours do not: (field, value, code), at every other value than those it is harmless at.
REFUSED: dict[str, list[tuple[str, Any, str]]] = {
    CHAT: [
        ("tools", {}, "invalid_type"),
        ("tool_choice", "required", "invalid_value"),
        ("functions", [{"name": "f"}], "unsupported_value"),
        ("function_call", {"name": "f"}, "unsupported_value"),
        ("audio", {"voice": "alloy", "format": "wav"}, "unsupported_parameter"),
        ("modalities", ["text", "audio"], "unsupported_value"),
        ("web_search_options", {}, "unsupported_parameter"),
        ("logprobs", 0, "invalid_type"),
        ("top_logprobs", 21, "invalid_value"),
        ("top_logprobs", 5, "invalid_value"),  # without logprobs
        ("store", True, "unsupported_value"),
        ("service_tier", "flex", "unsupported_value"),
        ("reasoning_effort", "utmost", "unsupported_value"),
        ("verbosity", "low", "unsupported_value"),
        ("prediction", {"type": "content", "content": "x"}, "unsupported_parameter"),
        ("prompt_cache_retention", "24h", "unsupported_value"),
    ],
    COMPLETION: [
        ("best_of", 3, "unsupported_value"),
        ("suffix", "x", "unsupported_parameter"),
        ("logprobs", True, "invalid_type"),
        ("logprobs", 21, "invalid_value"),
    ],
}
# The same for the fields of one route: (route, field, value, param, code).
FIELDS: list[tuple[str, str, Any, str | None, str]] = [
    *(
        (route, field, value, field, code)
        for route, refused in REFUSED.items()
        for field, value, code in refused
    ),
    *((route, *one) for route in (CHAT, COMPLETION) for one in SAMPLING),
    *(
        (NATIVE, "params", {field: value}, f"params.{param}", code)
        for field, value, param, code in SAMPLING
    ),
    *(
        (route, *one)
        for route in GOOD
        for one in [
            ("model", 5, "model", "invalid_type"),
            ("model", "", "model", "invalid_value"),
            ("model", None, "model", "invalid_type"),
            ("model", "m" * 161, "model", "invalid_value"),
            ("priority", "urgent", "priority", "invalid_value"),
            ("deadline_s", 0, "deadline_s", "invalid_value"),
            ("deadline_s", -5, "deadline_s", "invalid_value"),
            ("deadline_s", NAN, "deadline_s", "invalid_value"),
            ("deadline_s", INFINITY, "deadline_s", "invalid_value"),
            ("deadline_s", 10**8, "deadline_s", "invalid_value"),
            ("on_disconnect", "explode", "on_disconnect", "invalid_value"),
            ("x" * 5000, 1, "x" * MAX_PARAM_LENGTH, "unknown_parameter"),
        ]
    ),
    *(
        (route, "messages", value, param, code)
        for route in (NATIVE, CHAT)
        for value, param, code in [
            ([], "messages", "invalid_value"),
            ("hello", "messages", "invalid_type"),
            ([5], "messages.0", "invalid_type"),
            ([{"role": "user"}], "messages.0.content", "missing_required_parameter"),
            ([{"content": "x"}], "messages.0.role", "missing_required_parameter"),
            ([{"role": "function", "content": "x"}], "messages.0.role", "unsupported_value"),
            ([{"role": "user", "content": 5}], "messages.0.content", "invalid_type"),
            ([{"role": "user", "content": None}], "messages.0.content", "invalid_type"),
            ([{"role": "user", "content": []}], "messages.0.content", "invalid_value"),
            (
                [{"role": "user", "content": [{"type": "input_audio", "text": ""}]}],
                "messages.0.content.0.type",
                "unsupported_value",
            ),
            (
                [{"role": "user", "content": [{"text": ""}]}],
                "messages.0.content.0.type",
                "missing_required_parameter",
            ),
            (
                [*MESSAGES, {"role": "user", "content": "x", "tool_calls": [{"id": "x"}]}],
                "messages.1.tool_calls.0.type",
                "missing_required_parameter",
            ),
            (
                [*MESSAGES, {"role": "user", "content": "x", "name": "n" * 257}],
                "messages.1.name",
                "invalid_value",
            ),
            (MESSAGES * 2049, "messages", "invalid_value"),
        ]
    ),
    *(
        (COMPLETION, "prompt", value, param, code)
        for value, param, code in [
            ("", "prompt", "invalid_value"),
            ([], "prompt", "invalid_value"),
            ([""], "prompt.0", "invalid_value"),
            (["a"] * 129, "prompt", "invalid_value"),
            (["a", 1], "prompt.1", "invalid_type"),
            ([1, "a"], "prompt.1", "invalid_type"),
            ([[1], "a"], "prompt.1", "invalid_type"),
            ([[1], [2, "a"]], "prompt.1.1", "invalid_type"),
            ([-1], "prompt.0", "invalid_value"),
            ([2**31], "prompt.0", "invalid_value"),
            ([1.5], "prompt.0", "invalid_type"),
            ({}, "prompt", "invalid_type"),
            (None, "prompt", "invalid_type"),
        ]
    ),
    (NATIVE, "messages", None, None, "invalid_value"),
    (NATIVE, "prompt", "both", None, "invalid_value"),
    (NATIVE, "params", [], "params", "invalid_type"),
    (NATIVE, "stream", True, "stream", "unknown_parameter"),
    (CHAT, "prompt", "x", "prompt", "unknown_parameter"),
    (CHAT, "metadata", {"a": 1}, "metadata.a", "invalid_type"),
    (CHAT, "metadata", {"a": "v" * 513}, "metadata.a", "invalid_value"),
    (
        CHAT,
        "stream_options",
        {"include_obfuscation": True},
        "stream_options.include_obfuscation",
        "unsupported_value",
    ),
    (CHAT, "stream", "yes", "stream", "invalid_type"),
    (CHAT, "stream_options", {"include_usage": True}, "stream_options", "invalid_value"),
    (CHAT, "max_completion_tokens", 0, "max_completion_tokens", "invalid_value"),
    (CHAT, "user", "u" * 513, "user", "invalid_value"),
    (
        CHAT,
        "chat_template_kwargs",
        {"a b": 1},
        "chat_template_kwargs.a b",
        "invalid_value",
    ),
    (
        CHAT,
        "chat_template_kwargs",
        {f"a{number}": 1 for number in range(17)},
        "chat_template_kwargs",
        "invalid_value",
    ),
    (CHAT, "chat_template_kwargs", {"a": 2**70}, "chat_template_kwargs", "invalid_value"),
    (COMPLETION, "chat_template_kwargs", {}, "chat_template_kwargs", "unknown_parameter"),
]


async def test_wrong_fields_are_refused_by_name(front: Front) -> None:
    wrong = []
    for route, field, value, param, code in FIELDS:
        async with front.post(route, {**GOOD[route], field: value}) as response:
            error = await refusal(response, 400)
        seen = (error["type"], error["param"], error["code"])
        if seen != ("invalid_request_error", param, code):
            wrong.append((route, field, value, seen))
    assert wrong == []


@pytest.mark.parametrize("route", GOOD)
async def test_missing_fields_are_named(front: Front, route: str) -> None:
    for field in GOOD[route]:
        body = {name: value for name, value in GOOD[route].items() if name != field}
        async with front.post(route, body) as response:
            error = await refusal(response, 400)
        if route == NATIVE and field == "messages":
            assert "exactly one of" in error["message"]
        else:
            assert (error["param"], error["code"]) == (field, "missing_required_parameter")


async def test_unknown_model_is_404_and_named(front: Front) -> None:
    for route, body in GOOD.items():
        async with front.post(route, {**body, "model": "nobody/knows"}) as response:
            error = await refusal(response, 404)
        assert (error["param"], error["code"]) == ("model", "model_not_found")
    async with front.get("/v1/models/nobody/knows") as response:
        assert (await refusal(response, 404))["code"] == "model_not_found"


# Whatever else is no JSON, or no object: tests/unit/orchestrator/test_parsing.py.
@pytest.mark.parametrize("route", GOOD)
async def test_what_is_no_json_object_is_400(front: Front, route: str) -> None:
    for body, code in (
        (b"{", "invalid_json"),
        (b"[" * 50_000, "invalid_json"),
        (b"[]", "invalid_type"),
    ):
        async with front.post(route, body) as response:
            error = await refusal(response, 400)
        assert (error["param"], error["code"]) == (None, code)


@pytest.mark.parametrize("route", GOOD)
async def test_of_a_key_given_twice_the_last_counts(front: Front, route: str) -> None:
    body = json.dumps(GOOD[route]).replace("{", '{"model": "org/other", ', 1)
    body = body[:-1] + ', "model": "nobody/knows"}'
    async with front.post(route, body.encode()) as response:
        assert "nobody/knows" in (await refusal(response, 404))["message"]


async def test_deep_json_schema_is_refused_or_carried_but_never_breaks(front: Front) -> None:
    for depth in (50, 100, 150, 190, 260, 2000):
        schema: Any = b'{"a":' * depth + b"1" + b"}" * depth
        body = b'{"model":"nobody/knows","messages":[{"role":"user","content":"x"}],' + (
            b'"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":%b}}}'
            % schema
        )
        async with front.post(CHAT, body) as response:
            assert response.status in (400, 404)


@pytest.mark.parametrize("route", GOOD)
async def test_body_over_the_bound_is_413(stack: Stack, route: str) -> None:
    front = await stack.front(MAX_BODY_BYTES="100000")
    for size in (100_001, 10 << 20):
        body = io.BytesIO(b" " * size)
        headers = {"Content-Type": "application/json"}
        async with front.session.post(route, data=body, headers=headers) as response:
            error = await refusal(response, 413)
        assert error["code"] == "request_too_large"
        assert "100000" in error["message"]


async def test_body_of_unknown_length_is_cut_off_at_the_bound(stack: Stack) -> None:
    front = await stack.front(MAX_BODY_BYTES="100000")
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 16
            yield b" " * (1 << 16)

    headers = {"Content-Type": "application/json"}
    try:
        async with front.session.post(NATIVE, data=endless(), headers=headers) as response:
            assert (await refusal(response, 413))["code"] == "request_too_large"
    except ConnectionError:
        pass  # the server closed while we were still writing
    assert sent < 64 << 20


@pytest.mark.parametrize("route", GOOD)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x"]
)
async def test_other_content_types_are_415(front: Front, route: str, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    async with front.post(route, GOOD[route], headers=headers) as response:
        assert (await refusal(response, 415))["code"] == "unsupported_media_type"


async def test_compressed_bodies_are_415_and_no_error_of_ours(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    for encoding in ("gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip", "x"):
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": encoding,
            "Connection": "close",
        }
        async with front.session.post(NATIVE, data=b"{}" * 50, headers=headers) as response:
            assert (await refusal(response, 415))["param"] == "Content-Encoding"
    # Meanwhile what is left of their bodies has been read and dropped.
    async with front.get("/healthz") as response:
        assert response.status == 200
    assert [record for record in caplog.records if record.name == "aiohttp.server"] == []


CHANNELS = {
    "never existed": new_channel_id(MODEL),
    "of a model nobody declared": new_channel_id("nobody/knows"),
    "a word": "hello",
    "a dot": "%2e",
    "dots": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "an encoded slash": "org%2fmodel." + "a" * 22,
    "a null byte": "org~2fmodel.%00" + "a" * 21,
    "a newline": new_channel_id(MODEL) + "%0a",
    "a brace": "%7borg~2fmodel%7d." + "a" * 22,
    "invalid UTF-8": "%ff%fe." + "a" * 22,
    "a half escape": "a%2." + "a" * 22,
    "a star": "*",
    "very long": "a" * 7000 + "." + "a" * 22,
    "a tag that is no UTF-8": "~ff~fe." + "a" * 22,
    "upper-case hexadecimal": "org~2Fmodel." + "a" * 22,
}


async def test_channels_that_cannot_be_are_404(front: Front) -> None:
    from yarl import URL

    for name, channel in CHANNELS.items():
        url = f"{front.url}/v1/channels/{channel}"
        for request in (
            front.session.get(URL(url, encoded=True)),
            front.session.get(URL(f"{url}/events", encoded=True)),
            front.session.delete(URL(url, encoded=True)),
        ):
            async with request as response:
                error = await refusal(response, 404)
            assert error["code"] in ("channel_not_found", "not_found"), name


async def test_last_event_id_that_is_none_is_400(front: Front, stack: Stack) -> None:
    channel_id = await front.submit(chat_request())
    path = f"/v1/channels/{channel_id}/events"
    for value in ("x", "-1", "1.5", "1e3", "0x1", "٣", "9" * 13, "9" * 5000, "1 2", "+1"):
        async with front.get(path, headers={"Last-Event-ID": value}) as response:
            error = await refusal(response, 400)
        assert (error["param"], error["code"]) == ("Last-Event-ID", "invalid_value")
        async with front.get(path, params={"last_event_id": value[:4000]}) as response:
            await refusal(response, 400)
    await remove(front, stack, channel_id)


async def test_last_event_id_past_the_end_is_409(front: Front, stack: Stack) -> None:
    channel_id = await front.submit(chat_request())
    path = f"/v1/channels/{channel_id}/events"
    async with front.get(path, headers={"Last-Event-ID": "2"}) as response:
        error = await refusal(response, 409)
    assert (error["param"], error["code"]) == ("Last-Event-ID", "log_rewound")
    await remove(front, stack, channel_id)


async def remove(front: Front, stack: Stack, channel_id: str) -> None:
    """Take a well-formed request out of the queue again, and out of sight."""
    async with front.delete(f"/v1/channels/{channel_id}") as response:
        assert response.status == 200
    await stack.store.redis.delete(*await stack.store.redis.keys("relais:*:job:*"))


@pytest.mark.parametrize("route", GOOD)
async def test_idempotency_key_that_is_too_long_or_empty_is_400(front: Front, route: str) -> None:
    for key in ("k" * 257, "", "é", "a\tb"):
        headers = {"Idempotency-Key": key}
        async with front.post(route, GOOD[route], headers=headers) as response:
            assert (await refusal(response, 400))["param"] == "Idempotency-Key"


async def test_wrong_methods_are_405_and_say_what_is_allowed(front: Front) -> None:
    for method, path, allowed in (
        ("GET", NATIVE, "POST"),
        ("PUT", CHAT, "POST"),
        ("PATCH", COMPLETION, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/channels/x", "DELETE, GET, HEAD"),
        ("DELETE", "/v1/channels/x/events", "GET"),
        ("HEAD", "/v1/channels/x/events", "GET"),
        ("OPTIONS", NATIVE, "POST"),
    ):
        async with front.session.request(method, path) as response:
            assert response.status == 405
            assert response.headers["Allow"] == allowed
            if method != "HEAD":
                assert (await refusal(response, 405))["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/v1", "/v2/requests", "/v1/requestz", "/v1//requests", "/é"])
async def test_unknown_paths_are_404(front: Front, path: str) -> None:
    async with front.get(path) as response:
        assert (await refusal(response, 404))["code"] == "not_found"


async def raw(front: Front, request: bytes) -> bytes:
    """Bytes that no client library would send; the answer's bytes."""
    port = front.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


CLOSE = b"Host: x\r\nConnection: close\r\n"


async def test_a_long_path_is_not_repeated_whole(front: Front) -> None:
    """Anybody may send 8 KB of it, and what is answered and logged is multiplied by that."""
    response = await front.get("/" + "x" * 5000)
    assert response.status == 404
    assert len(await response.read()) < 500


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/models HTTP/1.1\r\n%bAuthorization: Bearer \xff\xfe\r\n\r\n" % CLOSE,
        b"GET /v1/\xff\xfe HTTP/1.1\r\n%b\r\n" % CLOSE,
        b"GET /v1/models/\xff HTTP/1.1\r\n%b\r\n" % CLOSE,
        b"GET /v1/models/%%ed%%a0%%80 HTTP/1.1\r\n%b\r\n" % CLOSE,
        b"GET /v1/channels/\xff HTTP/1.1\r\n%b\r\n" % CLOSE,
        b"GET /v1/channels/a/events?token=99999999999.\xff HTTP/1.1\r\n%b\r\n" % CLOSE,
        b"GET /v1/channels/a/events?token=99999999999.%%ff HTTP/1.1\r\n%b\r\n" % CLOSE,
        b"GET /v1/channels/a/events?last_event_id=\xff HTTP/1.1\r\n%b\r\n" % CLOSE,
        b"GET /v1/models?%%00=\x7f HTTP/1.1\r\n%b\r\n" % CLOSE,
        b"POST /v1/requests HTTP/1.1\r\n%bContent-Type: \xff\r\nContent-Length: 2\r\n\r\n{}"
        % CLOSE,
        b"POST /v1/requests HTTP/1.1\r\n%bContent-Length: -5\r\n\r\n{}" % CLOSE,
        b"POST /v1/requests HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n" % CLOSE,
        b"nonsense\r\n\r\n",
    ],
)
async def test_bytes_that_no_client_sends_never_break_the_server(
    front: Front, request_bytes: bytes
) -> None:
    answer = await raw(front, request_bytes)
    status = int(answer.split()[1])
    assert 200 <= status < 500, answer
    async with front.get("/healthz") as response:
        assert response.status == 200


TOO_LARGE = {
    "path": b"GET /v1/models/%b HTTP/1.1\r\n%b\r\n" % (b"m" * 9000, CLOSE),
    "query": b"GET /v1/models?a=%b HTTP/1.1\r\n%b\r\n" % (b"m" * 9000, CLOSE),
    "header": b"GET /v1/models HTTP/1.1\r\n%bX-A: %b\r\n\r\n" % (CLOSE, b"m" * 9000),
    "name of a header": b"GET /v1/models HTTP/1.1\r\n%b%b: a\r\n\r\n" % (CLOSE, b"m" * 9000),
    "number of headers": b"GET /v1/models HTTP/1.1\r\n%b%b\r\n" % (CLOSE, b"X-A: a\r\n" * 200),
}


@pytest.mark.parametrize("request_bytes", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_headers_over_their_bounds_are_431(front: Front, request_bytes: bytes) -> None:
    head, _, body = (await raw(front, request_bytes)).partition(b"\r\n\r\n")
    assert head.split()[1] == b"431", head
    assert b"X-Request-Id: req-" in head
    assert json.loads(body)["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    "request_bytes",
    [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\na b\r\n\r\n"],
)
async def test_what_is_no_http_is_a_typed_400(front: Front, request_bytes: bytes) -> None:
    head, _, body = (await raw(front, request_bytes)).partition(b"\r\n\r\n")
    assert head.split()[1] == b"400", head
    assert json.loads(body)["error"]["code"] == "invalid_http"


async def test_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(front: Front) -> None:
    port = front.port
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{"model"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    async def alive() -> bool:
        async with front.get("/readyz") as response:
            return bool(response.status == 200)

    await wait_until(alive)
