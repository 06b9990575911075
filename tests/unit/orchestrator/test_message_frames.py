"""Events to Anthropic's stream events, by the types of Anthropic's own package."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message as ClientMessage
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from relais_common.jobs.chat import (
    FunctionCall,
    FunctionDelta,
    Message,
    ToolCall,
    ToolCallDelta,
    parts_of,
)
from relais_common.jobs.errors import ErrorInfo, ModelNotFound
from relais_common.jobs.events import AnswerEnd, Completed, Event, Started, Timings, Token, Usage
from relais_orchestrator.api.answering import Whole, WholeAnswer
from relais_orchestrator.api.messages.errors import error_envelope
from relais_orchestrator.api.messages.formats import whole_message
from relais_orchestrator.api.messages.frames import PING, MessageFrames
from relais_orchestrator.streams import sse

CHANNEL = "org~2fm.abcdefghijklmnopqrstuv"
TIMINGS = Timings(queue_s=0, prefill_s=0, decode_s=0)
USAGE = Usage(7, 5, 3)
CALLS = (
    ToolCall("call_1", FunctionCall("weather", '{"city":"Lyon"}')),
    ToolCall("call_2", FunctionCall("time", "")),
)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def completed(reason: str = "stop", **more: Any) -> Completed:
    return Completed(reason, USAGE, TIMINGS, **more)


def events_of(data: bytes) -> list[Any]:
    """The events of these frames, without pings; each name is its type."""
    found = []
    for frame in data.split(b"\n\n")[:-1]:
        name, line = frame.split(b"\n")
        event = orjson.loads(line.removeprefix(b"data: "))
        assert name == f"event: {event['type']}".encode()
        found.append(event)
    return [event for event in found if event["type"] != "ping"]


def streamed(*events: Event) -> ClientMessage:
    """The message as the official client puts it together, with every event of its declared type."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events_of(MessageFrames(CHANNEL).of([Started(7), *events])):
        snapshot = accumulate_event(
            event=EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=buffers
        )
    assert isinstance(snapshot, ClientMessage)
    return snapshot


def whole(text: str, end: Completed) -> ClientMessage:
    message = whole_message(CHANNEL, Whole([WholeAnswer(text, end=end)], end))
    return ClientMessage.model_validate(orjson.loads(orjson.dumps(message)), strict=True)


def kinds(message: ClientMessage) -> list[str]:
    return [block.type for block in message.content]


def test_the_stream_and_the_whole_are_the_same_message() -> None:
    answer = Message("assistant", "I look.", reasoning="Hm.", tool_calls=CALLS)
    end = completed("tool_calls", message=answer)
    seen = streamed(
        Token("", (1,), reasoning="H"),
        Token("", (2,), reasoning="m."),
        Token("I ", (3,)),
        Token("look.", (4,)),
        Token("", (5,), tool_calls=parts_of(CALLS)),
        end,
    )
    assert kinds(seen) == ["thinking", "text", "tool_use", "tool_use"]
    assert seen.stop_reason == "tool_use"
    told = whole("I look.", end)
    for one, other in zip(seen.content, told.content, strict=True):
        assert one.model_dump() == other.model_dump()
    assert (seen.id, seen.model, seen.usage.output_tokens) == (told.id, told.model, 5)
    assert told.usage.input_tokens == 4
    assert seen.usage.cache_read_input_tokens == told.usage.cache_read_input_tokens == 3


def test_arguments_come_in_parts() -> None:
    parts = ['{"ci', 'ty":"Ly', 'on"}']
    first = ToolCallDelta(0, "call_1", "function", FunctionDelta("weather", ""))
    tokens = [
        Token("", (1,), tool_calls=(ToolCallDelta(0, function=FunctionDelta(None, part)),))
        for part in parts
    ]
    data = MessageFrames(CHANNEL).of([Token("", (0,), tool_calls=(first,)), *tokens])
    told = [one["delta"]["partial_json"] for one in events_of(data) if "delta" in one]
    assert told == parts


def test_text_within_calls_waits_for_their_end() -> None:
    first, second = parts_of(CALLS)
    message = Message("assistant", " and ", tool_calls=CALLS)
    seen = streamed(
        Token("", (1,), tool_calls=(first,)),
        Token(" and ", (2,)),
        Token("", (3,), tool_calls=(second,)),
        completed("tool_calls", message=message),
    )
    assert kinds(seen) == ["tool_use", "text", "tool_use"]


def test_parts_of_interleaved_calls_are_all_told() -> None:
    def part(index: int, arguments: str) -> Token:
        return Token(
            "", (1,), tool_calls=(ToolCallDelta(index, function=FunctionDelta(None, arguments)),)
        )

    calls = (CALLS[0], ToolCall("call_2", FunctionCall("time", '{"at":{"hour":1}}')), CALLS[1])
    heads = [
        ToolCallDelta(index, f"call_{index}", "function", FunctionDelta(one.function.name, ""))
        for index, one in enumerate(calls)
    ]
    seen = streamed(
        Token("", (1,), tool_calls=tuple(heads)),
        part(1, '{"at":{"hour"'),
        part(0, '{"city":'),
        Token("and", (2,)),
        part(1, ":1}}"),
        part(0, '"}Lyon"}'),
        part(0, " "),
        completed("tool_calls", message=Message("assistant", None, tool_calls=calls)),
    )
    assert kinds(seen) == ["tool_use", "tool_use", "tool_use", "text"]
    inputs = [block.input for block in seen.content if block.type == "tool_use"]
    assert inputs == [{"city": "}Lyon"}, {"at": {"hour": 1}}, {}]


def test_a_call_is_told_at_once_after_one_that_is_whole() -> None:
    frames = MessageFrames(CHANNEL)
    frames.of([Token("", (1,), tool_calls=parts_of(CALLS[:1]))])
    for blank in ("\n", ""):
        part = ToolCallDelta(0, function=FunctionDelta(None, blank))
        frames.of([Token("", (1,), tool_calls=(part,))])
    _, second = parts_of(CALLS)
    assert b"call_2" in frames.of([Token("", (2,), tool_calls=(second,))])


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        (completed("stop"), "end_turn", None),
        (completed("stop", stop_reason=17), "end_turn", None),
        (completed("length"), "max_tokens", None),
        (completed("stop", stop_reason="END"), "stop_sequence", "END"),
        # After a call that was demanded by name, OpenAI's reason is `stop`.
        (
            completed("stop", message=Message("assistant", None, tool_calls=CALLS)),
            "tool_use",
            None,
        ),
        # The model began a call that could not be read in the end.
        (completed("tool_calls", message=Message("assistant", "<tool")), "end_turn", None),
    ],
)
def test_reasons_to_stop(end: Completed, reason: str, sequence: str | None) -> None:
    for message in (streamed(end), whole("", end)):
        assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


def test_of_several_answers_the_first_is_told() -> None:
    end = completed(answers=(AnswerEnd("stop", 1), AnswerEnd("stop", 1)))
    seen = streamed(Token("one", (1,)), Token("two", (2,), index=1), end)
    assert [block.text for block in seen.content if block.type == "text"] == ["one"]


def test_an_empty_answer_has_a_block() -> None:
    for message in (streamed(completed()), whole("", completed())):
        assert [block.text for block in message.content if block.type == "text"] == [""]


@pytest.mark.parametrize("arguments", ["[1]", "{", "nul", '{"a":NaN}'])
def test_a_call_that_no_client_could_run_is_text(arguments: str) -> None:
    calls = (ToolCall("call_1", FunctionCall("f", arguments)),)
    message = whole(
        "", completed("tool_calls", message=Message("assistant", None, tool_calls=calls))
    )
    assert (kinds(message), message.stop_reason) == (["text"], "end_turn")


def test_nothing_precedes_the_start_and_pings_follow_it() -> None:
    frames = MessageFrames(CHANNEL)
    assert (frames.head(), frames.keepalive) == (b"", sse.KEEPALIVE)
    assert frames.of([Started(7)]).endswith(PING)
    assert frames.keepalive == PING
    # Where the log is gone, the start is not told.
    first, *_ = events_of(MessageFrames(CHANNEL).of([Token("all", ()), completed()]))
    assert first["type"] == "message_start"


def test_reasoning_tokens_are_told_where_they_are_known() -> None:
    message = whole("", Completed("stop", Usage(None, 5, 0, 2), TIMINGS))
    assert message.usage.input_tokens == 0
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_error_types(status: int, kind: str) -> None:
    body = error_envelope(ErrorInfo("no", status=status, code="c", param="p"), "req-1")
    assert (body["error"]["type"], body["request_id"]) == (kind, "req-1")
    assert body["error"]["details"] == {"error_code": "c", "param": "p"}


def test_a_failure_is_an_event() -> None:
    (event,) = events_of(MessageFrames(CHANNEL).failure(ModelNotFound("no", param="model")))
    assert (event["type"], event["error"]["type"]) == ("error", "not_found_error")
