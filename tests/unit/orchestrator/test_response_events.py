"""Events of a response follow from the log alone: the same at each reading, whatever came together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from relais_common.jobs.chat import (
    FunctionCall,
    FunctionDelta,
    Message,
    Streamed,
    ToolCall,
    ToolCallDelta,
)
from relais_common.jobs.errors import (
    Draining,
    EndedOtherwise,
    ErrorInfo,
    RelaisError,
    RequestCancelled,
    RequestExpired,
)
from relais_common.jobs.events import (
    Completed,
    Event,
    RankedToken,
    Restarted,
    Started,
    Timings,
    Token,
    TokenLogprob,
    Usage,
)
from relais_common.queue.codec import decode_event, encode_event
from relais_orchestrator.api.answering import remains
from relais_orchestrator.api.responses.events import ResponseFrames
from relais_orchestrator.api.responses.schemas import ResponsesRequest
from relais_orchestrator.api.responses.showing import FIELDS, Shown
from relais_orchestrator.submission.responses import (
    Head,
    items_of,
    messages_of,
    record_of,
    response,
)

CHANNEL = "m.0123456789012345678901"
TIMINGS = Timings(queue_s=1.0, prefill_s=0.5, decode_s=0.5)
STARTED = Started(3)
TYPES: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def completed(reason: str = "stop", message: Message | None = None) -> Completed:
    return Completed(reason, Usage(3, 2, reasoning_tokens=1), TIMINGS, message=message)


def call(index: int, *, name: str | None = None, arguments: str | None = None) -> Token:
    delta = FunctionDelta(name, arguments)
    first = name is not None
    part = ToolCallDelta(index, f"call-{index}" if first else None, None, delta)
    return Token("", (1,), tool_calls=(part,))


def shown(**fields: Any) -> Shown:
    asked = response(ResponsesRequest(model="m", input="x", **fields))
    record = record_of(asked, created_at=1000, chain=(), stored=True)
    return Shown(CHANNEL, Head.read(record), stored=True)


def decoded(data: bytes) -> list[dict[str, Any]]:
    frames = [one.split(b"\n") for one in data.split(b"\n\n") if one]
    events = [json.loads(lines[1].removeprefix(b"data: ")) for lines in frames]
    for lines, event in zip(frames, events, strict=True):
        assert lines[0] == b"event: " + event["type"].encode()
        TYPES.validate_python(event)
    return events


def told(
    *events: Event, by: int = 100, error: RelaisError | None = None, after: int = -1, **fields: Any
) -> list[dict[str, Any]]:
    """What a client gets of this log, read so many events at a time."""
    frames = ResponseFrames(shown(**fields), after=after)
    data = frames.head()
    for at in range(0, len(events), by):
        data += frames.of(events[at : at + by])
    return decoded(data + (frames.failure(error) if error is not None else b""))


MIXED: tuple[Event, ...] = (
    STARTED,
    Token("", (1,), reasoning="Hm"),
    Token("", (2,), reasoning="."),
    Token("I ", (3,)),
    Token("look.", (4,)),
    call(0, name="f", arguments='{"a"'),
    call(0, arguments=":1}"),
    call(1, name="g"),
    call(1, arguments="{}"),
    completed("tool_calls"),
)


def test_items_follow_each_other_with_all_their_events() -> None:
    events = told(*MIXED)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    names = [event["type"].removeprefix("response.") for event in events]
    assert names == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.delta", "reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    final = events[-1]["response"]
    assert final["output"] == done
    assert [item["type"] for item in done] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert [item["id"][:3] for item in done] == ["rs_", "msg", "fc_", "fc_"]
    assert (final["completed_at"], final["usage"]["total_tokens"]) == (1002, 5)


INTERLEAVED: tuple[Event, ...] = (
    STARTED,
    call(0, name="f", arguments='{"a"'),
    call(1, name="g", arguments='{"b":"}'),
    Token("Meanwhile", (1,)),
    call(0, arguments=":{}"),
    call(1, arguments='"}'),
    call(0, arguments="}"),
    call(2, name="h", arguments="{"),
    call(1, arguments=" "),
    completed("tool_calls"),
)


def test_parts_of_interleaved_calls_are_all_told() -> None:
    whole = told(*INTERLEAVED)
    output = whole[-1]["response"]["output"]
    assert [(one.get("name"), one.get("arguments")) for one in output] == [
        ("f", '{"a":{}}'),
        ("g", '{"b":"}"}'),
        (None, None),
        ("h", "{"),
    ]
    for after in range(-1, len(whole)):
        assert told(*INTERLEAVED, by=1, after=after) == whole[after + 1 :]
    deltas = [one for one in whole if one["type"].endswith("arguments.delta")]
    assert [one["output_index"] for one in deltas] == [0, 0, 0, 1, 1, 3]


def test_text_within_a_call_does_not_cut_it() -> None:
    text = Token("x", (1,))
    events = told(STARTED, call(0, name="f", arguments="{"), text, call(0, arguments="}"), text)
    assert [one["item"]["type"] for one in events if one["type"].endswith("item.added")] == [
        "function_call",
        "message",
    ]


def test_what_is_fetched_later_is_what_was_streamed() -> None:
    calls = (
        ToolCall("call-0", FunctionCall("f", '{"a":1}')),
        ToolCall("call-1", FunctionCall("g", "{}")),
    )
    message = Message("assistant", "I look.", reasoning="Hm.", tool_calls=calls)
    fetched = shown().ended(completed("tool_calls", message), "I look.")
    assert told(*MIXED)[-1]["response"] == json.loads(json.dumps(_plain(fetched)))


def _plain(body: Any) -> Any:
    return {**body, "timings": {"queue_s": 1.0, "prefill_s": 0.5, "decode_s": 0.5}}


@pytest.mark.parametrize("background", [True, False])
def test_portions_change_nothing_and_any_number_is_gone_on_from(background: bool) -> None:
    whole = told(*MIXED, background=background)
    for by in (1, 3):
        assert told(*MIXED, by=by, background=background) == whole
    for after in range(-1, len(whole)):
        assert told(*MIXED, by=2, after=after, background=background) == whole[after + 1 :]


def test_answer_that_is_cut_is_incomplete() -> None:
    final = told(STARTED, Token("a", (1,)), completed("length"))[-1]
    assert final["type"] == "response.incomplete"
    assert final["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["response"]["output"][0]["status"] == "incomplete"


def test_answer_without_a_word_has_an_empty_message() -> None:
    final = told(STARTED, completed())[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == ""
    assert final == json.loads(json.dumps(_plain(shown().ended(completed(), ""))))


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestCancelled("cancelled"), "cancelled", None),
        (RequestExpired("late"), "failed", "expired"),
        (EndedOtherwise(ErrorInfo("no", code="not_resumable")), "failed", "not_resumable"),
    ],
)
def test_other_ends_close_what_is_open(error: RelaisError, status: str, kind: str | None) -> None:
    events = told(STARTED, Token("a", (1,)), error=error)
    assert [event["type"] for event in events[-4:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.failed",
    ]
    final = events[-1]["response"]
    assert (final["status"], final["output"][0]["status"]) == (status, "incomplete")
    assert (final["error"] or {}).get("type") == kind


def test_stream_that_ends_before_its_response_takes_no_number() -> None:
    *events, error = told(STARTED, Token("a", (1,)), error=Draining("later"))
    assert (error["type"], error["code"]) == ("error", "draining")
    assert error["sequence_number"] == events[-1]["sequence_number"]
    whole = told(STARTED, Token("a", (1,)), completed())
    assert whole[: len(events)] == events


def test_answer_that_begins_again_leaves_what_was_void_out_of_the_end() -> None:
    events = told(STARTED, Token("a", (1,)), Restarted("x"), Token("b", (2,)), completed())
    (message,) = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == "b"
    indexes = [one["output_index"] for one in events if one["type"].endswith("item.added")]
    assert indexes == [0, 1]


def test_log_probabilities_are_those_of_the_text() -> None:
    def one(text: str) -> tuple[TokenLogprob, ...]:
        return (TokenLogprob(text, -0.5, (RankedToken(text, -0.5),)),)

    events = told(
        STARTED,
        Token("", (1,), one("Hm"), reasoning="Hm"),
        Token("", (2,), one("")),
        Token("é", (3,), one("é")),
        Token("", (4,), one("")),
        completed(),
        include=["message.output_text.logprobs"],
        top_logprobs=1,
    )
    (delta,) = [one for one in events if one["type"] == "response.output_text.delta"]
    assert [token["token"] for token in delta["logprobs"]] == ["", "é"]
    part = events[-1]["response"]["output"][1]["content"][0]
    assert [token["token"] for token in part["logprobs"]] == ["", "é", ""]
    assert part["logprobs"][1]["bytes"] == list("é".encode())


def test_items_become_the_messages_that_a_template_knows() -> None:
    asked = ResponsesRequest.model_validate(
        {
            "model": "m",
            "input": [
                {"role": "user", "content": "a"},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
                    {"type": "reasoning_text", "text": "Hm."}]},
                {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                 "content": [{"type": "output_text", "text": "b", "annotations": []}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "c"},
                {"type": "function_call_output", "call_id": "2", "output": [
                    {"type": "input_text", "text": "d"}, {"type": "input_text", "text": "e"}]},
                {"role": "developer", "content": "f"},
            ],
        }
    )  # fmt: skip
    assert not isinstance(asked.input, str)
    user, answer, first, second, system = messages_of(items_of(asked.input))
    assert user == Message("user", "a")
    assert (answer.content, answer.reasoning) == ("b", "Hm.")
    assert [one.id for one in answer.tool_calls] == ["1", "2"]
    assert first == Message("tool", "c", tool_call_id="1")
    assert second == Message("tool", "de", tool_call_id="2")
    assert system == Message("system", "f")


def test_a_format_and_tools_are_those_of_a_chat() -> None:
    schema = {"type": "object", "properties": {}}
    asked = response(
        ResponsesRequest.model_validate(
            {
                "model": "m",
                "input": "x",
                "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
                "tools": [{"type": "function", "name": "f", "parameters": schema, "strict": None}],
                "tool_choice": {"type": "function", "name": "f"},
                "parallel_tool_calls": False,
                "reasoning": {"effort": "low"},
                "max_output_tokens": 7,
            }
        )
    )
    sampling, chat = asked.draft.sampling, asked.draft.chat
    assert sampling.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": schema},
    }
    assert sampling.max_tokens == 7
    assert chat.tools == ({"type": "function", "function": {"name": "f", "parameters": schema}},)
    assert (chat.named, chat.parallel_tool_calls, chat.reasoning_effort) == ("f", False, "low")


PIECES = st.lists(st.sampled_from(["reasoning", "text", "call", "call in parts"]), max_size=8)


@given(PIECES)
def test_an_answer_is_the_same_live_kept_and_told_once_more(kinds: list[str]) -> None:
    """However its reasoning, text and calls alternate, and in however many parts a call comes."""
    tokens, streamed = [], Streamed()
    for number, kind in enumerate(kinds):
        calls = kinds[:number].count("call") + kinds[:number].count("call in parts")
        if kind == "reasoning":
            tokens.append(Token("", (1,), reasoning=f"why {number}"))
        elif kind == "text":
            tokens.append(Token(f"text {number}", (1,)))
        elif kind == "call":
            tokens.append(call(calls, name="f", arguments="{}"))
        else:
            tokens += [
                call(calls, name="f"),
                call(calls, arguments='{"a":'),
                call(calls, arguments="1}"),
            ]
    for token in tokens:
        streamed.add(token.reasoning, token.text, token.tool_calls)
    message = streamed.message()
    is_more = message.reasoning or message.tool_calls
    end = decode_event(encode_event(completed(message=message if is_more else None)))
    assert isinstance(end, Completed)

    live = output([STARTED, *tokens, end])
    assert shown().ended(end, message.text)["output"] == live
    assert output([STARTED, *remains(end, message.text)]) == live


def output(events: list[Event]) -> Any:
    return decoded(ResponseFrames(shown()).of(events))[-1]["response"]["output"]


@pytest.mark.parametrize(
    ("param", "own"),
    [
        ("messages.3.content", "input"),
        ("tools.0.function.parameters", "tools.0.parameters"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("max_tokens", "max_output_tokens"),
        ("max_tokens_of_another", "max_tokens_of_another"),
        ("temperature", "temperature"),
        (None, None),
    ],
)
def test_errors_name_the_fields_of_responses(param: str | None, own: str | None) -> None:
    named = FIELDS.info(ErrorInfo(f"{param}: wrong", param=param))
    assert (named.param, named.message) == (own, f"{own}: wrong")
