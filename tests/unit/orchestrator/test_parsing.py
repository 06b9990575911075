"""What is wrong with a body is told by field and code, in our words, without repeating what was sent."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from pydantic import BaseModel

from relais_common.jobs.chat import Message
from relais_common.jobs.errors import InvalidRequest, PayloadTooLarge
from relais_common.jobs.job import OnDisconnect, Priority, Sampling
from relais_orchestrator.api.messages.schemas import MessagesRequest
from relais_orchestrator.api.native.schemas import SubmitRequest
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest, CompletionRequest
from relais_orchestrator.api.parsing import (
    MAX_CONTAINERS,
    MAX_PARAM_LENGTH,
    MAX_STRINGS,
    MAX_VALUES,
    parse_body,
    parse_leniently,
)
from relais_orchestrator.api.responses.schemas import ResponsesRequest
from relais_orchestrator.api.schemas.sampling import SamplingParams

SECRET = "s3cr3t-value"
MESSAGES = [{"role": "user", "content": "x"}]
GOOD: dict[type[BaseModel], dict[str, Any]] = {
    SubmitRequest: {"model": "m", "messages": MESSAGES},
    ChatCompletionRequest: {"model": "m", "messages": MESSAGES},
    CompletionRequest: {"model": "m", "prompt": "x"},
}


def refusal(schema: type[BaseModel], body: Any) -> InvalidRequest:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as caught:
        parse_body(schema, data)
    return caught.value


def chat(**fields: Any) -> InvalidRequest:
    return refusal(ChatCompletionRequest, GOOD[ChatCompletionRequest] | fields)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"seed": 10**300}, "seed", "invalid_value"),
        ({"nope": 1}, "nope", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages.0.content.0.text",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
            "missing_required_parameter",
        ),
        ({"stop": ["a", 2]}, "stop.1", "invalid_type"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1", "invalid_type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "unsupported_value"),
        ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "text", "more": 1}},
            "response_format.more",
            "unknown_parameter",
        ),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_type",
        ),
    ],
)
def test_field_at_fault_is_named_with_a_code(fields: dict[str, Any], param: str, code: str) -> None:
    error = chat(**fields)
    assert (error.param, error.code, error.status) == (param, code, 400)
    assert error.message.startswith(f"{param}: ")


def test_unknown_fields_are_taken_out_wherever_they_are_and_named_once() -> None:
    def body(*, extra: bool) -> bytes:
        more: dict[str, Any] = {"more": {"a": 1}} if extra else {}
        part = {"type": "text", "text": "x", **more}
        turns = [
            {"role": "user", "content": [part]},
            *({"role": "user", "content": "x", **more} for _ in range(2)),
        ]
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, **more}}
        asked = {"model": "m", "messages": turns, "response_format": form, **more}
        return json.dumps(asked).encode()

    wanted, ignored = parse_leniently(ChatCompletionRequest, body(extra=True))
    assert sorted(ignored) == [
        "messages.content.more",
        "messages.more",
        "more",
        "response_format.json_schema.more",
    ]
    plain = parse_body(ChatCompletionRequest, body(extra=False))
    assert (wanted.messages, wanted.to_sampling()) == (plain.messages, plain.to_sampling())
    assert parse_leniently(ChatCompletionRequest, body(extra=False)) == (plain, ())


def test_what_is_known_and_wrong_is_refused_whatever_is_ignored() -> None:
    for field, value, code in (("audio", {}, "unsupported_parameter"), ("n", "1", None)):
        body = GOOD[ChatCompletionRequest] | {"nope": 1, field: value}
        with pytest.raises(InvalidRequest) as caught:
            parse_leniently(ChatCompletionRequest, json.dumps(body).encode())
        assert caught.value.param == field
        assert code in (None, caught.value.code)


def test_native_parameters_are_named_by_their_path() -> None:
    error = refusal(SubmitRequest, GOOD[SubmitRequest] | {"params": {"top_p": 2}})
    assert (error.param, error.code) == ("params.top_p", "invalid_value")


@pytest.mark.parametrize("fields", [{}, {"messages": MESSAGES, "prompt": "x"}])
def test_native_request_has_exactly_one_input(fields: dict[str, Any]) -> None:
    error = refusal(SubmitRequest, {"model": "m"} | fields)
    assert (error.param, error.message) == (None, "give exactly one of messages, prompt and input")


@pytest.mark.parametrize(
    ("prompt", "param"),
    [([], "prompt"), ("", "prompt"), (["a"] * 129, "prompt"), ([1, -1], "prompt.1"), (5, "prompt")],
)
def test_prompt_of_many_types_is_refused_where_it_is_wrong(prompt: Any, param: str) -> None:
    assert refusal(CompletionRequest, {"model": "m", "prompt": prompt}).param == param


MALFORMED = {
    "empty": b"",
    "cut": b'{"model": "m"',
    "a word": b"hello",
    "invalid UTF-8": b'{"model": "\xff\xfe"}',
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a lone surrogate in a key": b'{"\\udfff": 1}',
    "a control character": b'{"model": "\x00"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"model": "m"}'.encode("utf-16"),
    "deeply nested lists": b"[" * 50_000,
    "deeply nested objects": b'{"a":' * 50_000,
    "deep and well formed": b'{"model":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "a number without end": b'{"max_tokens": ' + b"9" * 10_000 + b"}",
    "two values": b"{} {}",
    "a comment": b"{} // hello",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("schema", GOOD)
def test_what_is_not_json_has_no_param(schema: type[BaseModel], name: str) -> None:
    error = refusal(schema, MALFORMED[name])
    assert (error.param, error.code, error.status) == (None, "invalid_json", 400)
    deep = name.startswith("deep")
    assert error.message == f"the body is {'nested too deeply' if deep else 'not valid JSON'}"


@pytest.mark.parametrize("body", [[SECRET], b"[]", b"null", b"5", b'"text"', b"NaN", b"true"])
@pytest.mark.parametrize("schema", GOOD)
def test_json_that_is_no_object_is_of_the_wrong_type(schema: type[BaseModel], body: Any) -> None:
    error = refusal(schema, body)
    assert (error.param, error.code) == (None, "invalid_type")


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": SECRET},
        {"max_tokens": SECRET},
        {"stop": {"x": SECRET}},
        {"logit_bias": {"1": SECRET}},
        {"response_format": {"type": SECRET}},
        {"response_format": SECRET},
        {"priority": SECRET},
        {"on_disconnect": SECRET},
        {"n": SECRET},
        {"stream": SECRET},
        {"user": [SECRET]},
        {"messages": SECRET},
        {"messages": [SECRET]},
        {"messages": [{"role": SECRET, "content": "x"}]},
        {"messages": [{"role": "user", "content": {"x": SECRET}}]},
        {"messages": [{"role": "user", "content": [{"type": SECRET, "text": "x"}]}]},
        {"unknown": SECRET},
    ],
)
def test_no_value_that_was_sent_is_repeated(fields: dict[str, Any]) -> None:
    error = chat(**fields)
    assert SECRET not in error.message
    assert SECRET not in (error.param or "")


@pytest.mark.parametrize("fields", [{"stop": 5}, {"messages": [{"role": "user", "content": 5}]}])
def test_unions_leak_no_type_names(fields: dict[str, Any]) -> None:
    error = chat(**fields)
    for name in ("list[", "constrained", "str]", "function-", "ChatMessage", "TextPart"):
        assert name not in f"{error.param} {error.message}"


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": 5}]}),
        (ResponsesRequest, {"input": 5}),
        (MessagesRequest, {"max_tokens": 1, "messages": [{"role": "user", "content": 5}]}),
        (MessagesRequest, {"max_tokens": 1, "messages": MESSAGES, "system": 5}),
    ],
)
def test_all_types_of_a_field_are_named(schema: type[BaseModel], fields: Any) -> None:
    message = refusal(schema, {"model": "m", **fields}).message
    assert "Input should be a valid string or array" in message


def test_a_type_that_is_not_supported_is_named() -> None:
    part = {"type": "input_audio", "input_audio": {}}
    error = chat(messages=[{"role": "user", "content": [part]}])
    assert "'input_audio'" in error.message


@pytest.mark.parametrize(
    ("schema", "fields", "named"),
    [
        (ResponsesRequest, {"tools": [{"type": "web_search"}]}, "web_search"),
        (ResponsesRequest, {"include": ["file_search_call.results"]}, "file_search_call.results"),
        (MessagesRequest, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
        (
            MessagesRequest,
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            "document",
        ),
    ],
)
def test_what_other_servers_have_is_refused_by_name(
    schema: type[BaseModel], fields: Any, named: str
) -> None:
    good = {"model": "m", "max_tokens": 1, "messages": MESSAGES}
    error = refusal(
        schema, (good if schema is MessagesRequest else {"model": "m", "input": "x"}) | fields
    )
    assert (repr(named) in error.message, error.code) == (True, "unsupported_value")


def test_long_names_of_unknown_fields_are_cut() -> None:
    error = chat(**{"x" * 100_000: 1})
    assert error.param == "x" * MAX_PARAM_LENGTH
    assert len(error.message) < MAX_PARAM_LENGTH + 100


def test_every_parameter_of_a_job_has_a_field_of_its_name() -> None:
    # `to_sampling` goes by names. Logprobs are said differently on each route, clipping on one; the last is engines'.
    assert {
        field.name for field in dataclasses.fields(Sampling)
    } - SamplingParams.model_fields.keys() == {"logprobs", "adapts_bounds", "structures_reasoning"}


def test_good_bodies_become_requests() -> None:
    native = parse_body(SubmitRequest, json.dumps(GOOD[SubmitRequest]).encode())
    assert (native.priority, native.on_disconnect) == (Priority.NORMAL, OnDisconnect.CONTINUE)
    body = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}] * 2},
            {"role": "user", "content": "é"},
        ],
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "stop": "x",
        "response_format": {"type": "text"},
        "logit_bias": {"5": -1},
    }
    wanted = parse_body(ChatCompletionRequest, json.dumps(body).encode())
    assert wanted.on_disconnect is OnDisconnect.CANCEL
    assert [turn.to_message() for turn in wanted.messages] == [
        Message("system", "aa"),
        Message("user", "é"),
    ]
    sampling = wanted.to_sampling(max_tokens=wanted.max_completion_tokens)
    assert (sampling.max_tokens, sampling.stop, sampling.response_format) == (6, ("x",), None)
    assert sampling.logit_bias == {"5": -1.0}


def test_json_schema_reaches_the_engine_under_its_own_name() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = json.dumps(GOOD[CompletionRequest] | {"response_format": response_format}).encode()
    assert parse_body(CompletionRequest, body).to_sampling().response_format == response_format


def test_whole_numbers_are_integers_however_they_are_written() -> None:
    body = b'{"model": "m", "prompt": [5.0, 7], "seed": 1e3, "max_tokens": 2.0, "temperature": 1.0}'
    wanted = parse_body(CompletionRequest, body)
    assert (wanted.prompt, wanted.seed, wanted.max_tokens) == ([5, 7], 1000, 2)
    for value in (2.5, 1e300, float("inf"), True, "2"):
        error = chat(max_tokens=value)
        assert (error.param, error.code) == ("max_tokens", "invalid_type")


MANY = {
    "lists": b"[" + b"[]," * MAX_CONTAINERS + b"1]",
    "objects": b"[" + b"{}," * MAX_CONTAINERS + b"1]",
    "texts": b"[" + b'"",' * MAX_STRINGS + b"1]",
    "names": b"{" + b'"a":1,' * MAX_STRINGS + b'"a":1}',
    "values": b"[" + b"1," * (MAX_VALUES + 1) + b"1]",
}


@pytest.mark.parametrize("many", MANY.values(), ids=MANY)
def test_body_of_too_many_parts_is_refused_before_it_is_parsed(
    many: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"model":"m","prompt":"","x":' + many + b"}"
    monkeypatch.setattr(CompletionRequest, "model_validate_json", None)
    with pytest.raises(PayloadTooLarge):
        parse_body(CompletionRequest, body)


@pytest.mark.parametrize("many", MANY.values(), ids=MANY)
def test_the_same_within_a_text_is_a_text(many: bytes) -> None:
    for text in (many.decode(), many.decode().replace('"', "\\"), "\\\\" + many.decode()):
        body = json.dumps({"model": "m", "prompt": text}).encode()
        assert parse_body(CompletionRequest, body).prompt == text
