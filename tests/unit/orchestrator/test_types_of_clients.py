"""What the official clients' own types dump to may be sent back, with every null that they add."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import anthropic.types as claude
import openai.types.chat as chats
import openai.types.responses as responses
import orjson
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat.parsed_chat_completion import ParsedChatCompletionMessage
from openai.types.chat.parsed_function_tool_call import ParsedFunction, ParsedFunctionToolCall
from openai.types.responses import parsed_response as parsed_responses
from openai.types.responses.response_input_item import ResponseInputItem
from openai.types.responses.response_item import ResponseItem
from pydantic import BaseModel

from relais_common.jobs.errors import InvalidRequest
from relais_orchestrator.api.messages import blocks
from relais_orchestrator.api.messages.schemas import MessagesRequest
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest
from relais_orchestrator.api.parsing import parse_body
from relais_orchestrator.api.responses import schemas as items
from relais_orchestrator.api.responses.schemas import ResponsesRequest
from relais_orchestrator.api.schemas import images, messages

DUMPS: list[dict[str, Any]] = [
    {"by_alias": by_alias, "exclude_none": bare}
    for by_alias in (False, True)
    for bare in (False, True)
]
IMAGE = "data:image/png;base64,iVBORw0KGgo="
VALUES = {"arguments": "{}", "image_url": IMAGE, "call_id": "a", "encrypted_content": None}
"""Of fields that must say more than their type does, or may say less."""

CALL = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
TOOL: chats.ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "f",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {},
            "required": [],
            "additionalProperties": False,
        },
    },
}
ITEMS = {"message", "function_call", "function_call_output", "reasoning"}
PARTS = {
    "input_text",
    "input_image",
    "output_text",
    "refusal",
    "summary_text",
    "reasoning_text",
}
BLOCKS = {"text", "thinking", "redacted_thinking", "tool_use"}


def kinds(kind: Any) -> Iterator[Any]:
    """The types that a type is a union of."""
    if get_origin(kind) is Annotated:
        yield from kinds(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from kinds(one)
    else:
        yield kind


def samples(kind: Any) -> Iterator[Any]:
    """Values of a type: of a union, of each of its types."""
    plain = {str: "x", int: 1, float: 1.0, bool: False}
    for one in kinds(kind):
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield from objects(one)
        elif get_origin(one) is list:
            yield from ([inner] for inner in samples(get_args(one)[0]))
        elif get_origin(one) is Literal:
            yield get_args(one)[0]
        elif one is not NoneType:
            yield plain.get(one, {})


def objects(kind: type[BaseModel]) -> Iterator[BaseModel]:
    """Objects of a type, with nothing but what must be there: each of its fields has each type once."""
    fields: dict[str, list[Any]] = {
        name: [VALUES[name]] if name in VALUES else list(samples(field.annotation))
        for name, field in kind.model_fields.items()
        if field.is_required() or name in VALUES
    }
    usual: dict[str, Any] = {name: values[0] for name, values in fields.items()}
    yield kind.model_construct(None, **usual)
    for name, values in fields.items():
        for other in values[1:]:
            yield kind.model_construct(None, **{**usual, name: other})


def id_of(value: Any) -> str:
    return type(value).__name__


def unsupported(item: Any) -> str | None:
    """The type of this item, or of its part, that is none of ours."""
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind not in ITEMS:
        return str(kind)
    content = item.get("output", item.get("content"))
    parts = content if isinstance(content, list) else []
    return next((one["type"] for one in parts if one["type"] not in PARTS), None)


@pytest.mark.parametrize(
    "item",
    [*samples(ResponseInputItem), *samples(responses.ResponseOutputItem), *samples(ResponseItem)],
    ids=id_of,
)
def test_items_of_responses_may_be_sent_back(item: BaseModel) -> None:
    for how in DUMPS:
        told = item.model_dump(mode="json", warnings=False, **how)
        before = [CALL] if told.get("type") == "function_call_output" else []
        body = orjson.dumps({"model": "m", "input": [*before, told]})
        other = unsupported(told)
        if other is None:
            parse_body(ResponsesRequest, body)
            continue
        with pytest.raises(InvalidRequest, match=f"type '{other}'") as refused:
            parse_body(ResponsesRequest, body)
        assert str(refused.value.param).endswith(".type")


@pytest.mark.parametrize("how", DUMPS)
def test_what_a_response_repeats_may_be_sent_back(how: Any) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {}}
    tool = responses.FunctionTool(type="function", name="f", parameters=schema, strict=True)
    shape = responses.ResponseFormatTextJSONSchemaConfig(
        type="json_schema", name="n", schema=schema
    )
    text = responses.ResponseTextConfig(format=shape)
    parsed = parse_body(
        ResponsesRequest,
        orjson.dumps(
            {
                "model": "m",
                "input": "x",
                "tools": [tool.model_dump(**how)],
                "text": text.model_dump(**how),
            }
        ),
    )
    assert parsed.text is not None
    assert parsed.text.to_response_format() == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": schema},
    }


@pytest.mark.parametrize("how", DUMPS)
@pytest.mark.parametrize("block", [*samples(claude.ContentBlock)], ids=id_of)
def test_blocks_of_messages_may_be_sent_back(block: BaseModel, how: Any) -> None:
    told = block.model_dump(mode="json", warnings=False, **how)
    turns: list[Any] = [{"role": "assistant", "content": [told]}]
    result = {"type": "tool_result", "tool_use_id": told.get("id")}
    turns.append({"role": "user", "content": [result] if told["type"] == "tool_use" else "x"})
    body = orjson.dumps({"model": "m", "max_tokens": 1, "messages": turns})
    if told["type"] in BLOCKS:
        parse_body(MessagesRequest, body)
        return
    with pytest.raises(InvalidRequest, match=f"type '{told['type']}'"):
        parse_body(MessagesRequest, body)


@pytest.mark.parametrize("how", DUMPS)
def test_an_answer_of_a_chat_may_be_sent_back(how: Any) -> None:
    call = chats.ChatCompletionMessageFunctionToolCall.model_validate(
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    )
    answer = chats.ChatCompletionMessage(role="assistant", tool_calls=[call])
    turns = [answer.model_dump(**how), {"role": "tool", "tool_call_id": "a", "content": "x"}]
    parse_body(ChatCompletionRequest, orjson.dumps({"model": "m", "messages": turns}))


@pytest.mark.parametrize(
    ("ours", "client"),
    [
        (items.InputMessage, responses.EasyInputMessageParam),
        (items.InputMessage, responses.ResponseOutputMessageParam),
        (items.TextPart, responses.ResponseInputTextParam),
        (items.TextPart, responses.ResponseOutputTextParam),
        (items.ImagePart, responses.ResponseInputImageParam),
        (items.RefusalPart, responses.ResponseOutputRefusalParam),
        (items.InputCall, responses.ResponseFunctionToolCallParam),
        (items.InputCallOutput, responses.response_input_param.FunctionCallOutput),
        (items.InputReasoning, responses.ResponseReasoningItemParam),
        (items.FunctionTool, responses.FunctionToolParam),
        (messages.TextPart, chats.ChatCompletionContentPartTextParam),
        (images.ImagePart, chats.ChatCompletionContentPartImageParam),
        (messages.ChatMessage, chats.ChatCompletionAssistantMessageParam),
        (messages.ChatMessage, chats.ChatCompletionToolMessageParam),
        (messages.CalledTool, chats.ChatCompletionMessageFunctionToolCallParam),
        (blocks.TextBlock, claude.TextBlockParam),
        (blocks.ImageBlock, claude.ImageBlockParam),
        (blocks.ThinkingBlock, claude.ThinkingBlockParam),
        (blocks.RedactedThinkingBlock, claude.RedactedThinkingBlockParam),
        (blocks.ToolUseBlock, claude.ToolUseBlockParam),
        (blocks.ToolResultBlock, claude.ToolResultBlockParam),
    ],
)
def test_no_field_of_the_client_is_unknown(ours: type[BaseModel], client: type) -> None:
    known = {field.alias or name for name, field in ours.model_fields.items()}
    assert get_type_hints(client).keys() <= known


@pytest.mark.parametrize(
    ("ours", "client"),
    [
        (items.TextPart, parsed_responses.ParsedResponseOutputText),
        (items.InputCall, parsed_responses.ParsedResponseFunctionToolCall),
        (items.InputMessage, parsed_responses.ParsedResponseOutputMessage),
        (messages.ChatMessage, ParsedChatCompletionMessage),
        (messages.CalledTool, ParsedFunctionToolCall),
        (messages.CalledFunction, ParsedFunction),
        (blocks.TextBlock, claude.parsed_message.ParsedTextBlock),
    ],
)
def test_what_the_client_parsed_may_be_sent_back(
    ours: type[BaseModel], client: type[BaseModel]
) -> None:
    assert client.model_fields.keys() <= ours.model_fields.keys()


PARSED = {"a": [{"b": None}]}


@pytest.mark.parametrize("parsed", [None, PARSED, "x"])
def test_a_parsed_response_is_the_same_request(parsed: object) -> None:
    text = {"type": "output_text", "text": "{}", "annotations": []}
    call = CALL | {"id": "fc", "status": "completed"}
    message = {"type": "message", "role": "assistant"}
    bare, added = (
        parse_body(ResponsesRequest, orjson.dumps({"model": "m", "input": turns}))
        for turns in (
            [message | {"content": [text]}, call],
            [
                message | {"content": [text | {"parsed": parsed}]},
                call | {"parsed_arguments": parsed},
            ],
        )
    )
    assert [one.to_item() for one in added.input] == [one.to_item() for one in bare.input]  # type: ignore[union-attr]


@pytest.mark.parametrize("parsed", [None, PARSED, "x"])
def test_a_parsed_message_is_the_same_request(parsed: object) -> None:
    text = {"type": "text", "text": "{}", "parsed_output": parsed}
    turn = {"role": "assistant", "content": [text]}
    turns = [turn, {"role": "user", "content": "x"}]
    body = {"model": "m", "max_tokens": 1, "messages": turns}
    assert parse_body(MessagesRequest, orjson.dumps(body)).messages[0].blocks[0].type == "text"


def test_a_message_that_a_client_put_together_of_a_stream_may_be_sent_back() -> None:
    chunk: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": "x", "reasoning": "y"},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState(input_tools=[TOOL])
    for place, delta in enumerate(deltas, 1):
        end = "tool_calls" if place == len(deltas) else None
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        told = chunk | {"model": "m", "choices": [choice]}
        state.handle_chunk(chats.ChatCompletionChunk.model_validate(told))
    answer = state.get_final_completion().choices[0].message.model_dump(mode="json")
    turns = [answer, {"role": "tool", "tool_call_id": "a", "content": "x"}]
    parsed = parse_body(ChatCompletionRequest, orjson.dumps({"model": "m", "messages": turns}))
    assert answer["tool_calls"][0]["function"]["parsed_arguments"] == {}
    assert parsed.messages[0].to_message().tool_calls[0].function.arguments == "{}"


def test_a_refusal_is_a_text_and_an_assistant_s() -> None:
    part = {"type": "refusal", "refusal": "no"}

    def body(role: str) -> bytes:
        return orjson.dumps({"model": "m", "input": [{"role": role, "content": [part]}]})

    given = parse_body(ResponsesRequest, body("assistant")).input
    assert given is not None
    message = given[0]
    assert isinstance(message, items.InputMessage)
    assert message.to_item()["content"][0]["text"] == "no"
    with pytest.raises(InvalidRequest) as refused:
        parse_body(ResponsesRequest, body("user"))
    assert refused.value.param == "input.0.content.0.type"
