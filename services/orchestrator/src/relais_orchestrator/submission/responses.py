"""Turns validated requests into drafts of jobs, and what is kept with them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
import orjson

from relais_common.jobs.chat import (
    FunctionCall,
    ImagePart,
    ImageUrl,
    Message,
    TextPart,
    ToolCall,
    images_of,
)
from relais_common.jobs.errors import InvalidRequest
from relais_common.jobs.job import ChannelState, OnDisconnect, Operation, Priority, Sampling
from relais_common.jobs.records import ApiRecord
from relais_orchestrator.api.responses.schemas import (
    InputCall,
    InputCallOutput,
    InputMessage,
    InputReasoning,
    InputTokensRequest,
    Item,
    ResponsesRequest,
)
from relais_orchestrator.api.schemas.images import MAX_IMAGES
from relais_orchestrator.submission.drafts import Asked, Draft

MAX_SHOWN_ID = 64
"""Length to which ids of calls are cut in errors."""


class CallStep(NamedTuple):
    """A call among the items of an input, or its output."""

    place: int
    call_id: str
    is_output: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedResponse(Asked):
    """What the body of a response asks for.

    Attributes:
        fields: what the response repeats of it, as JSON.
        input: its items, as JSON.
        previous: the id of the response that it goes on from.
        calls: places and ids of its calls and their outputs, in order.
        instructed: whether the first message has its instructions.
        store: whether it asks for being stored; None for the deployment's default.
    """

    fields: bytes = b"{}"
    input: bytes = b"[]"
    previous: str | None = None
    calls: tuple[CallStep, ...] = ()
    instructed: bool = False
    background: bool = False
    store: bool | None = None

    def after(self, messages: Sequence[Message]) -> AskedResponse:
        """Return the same with these messages between the instructions and its own.

        Raises:
            InvalidRequest: together they have more images than a request may have, or one of its outputs has no call.
        """
        check_calls(self.calls, open_calls(messages))
        own = self.draft.messages or ()
        at = int(self.instructed)
        draft = replace(self.draft, messages=(*own[:at], *messages, *own[at:]), image_fields=())
        if sum(1 for _ in images_of(draft.messages or ())) > MAX_IMAGES:
            raise InvalidRequest(
                f"previous_response_id: more than {MAX_IMAGES} images in the conversation",
                param="previous_response_id",
                code="chain_too_long",
            )
        return replace(self, draft=draft)

    def with_images_of(self, draft: Draft) -> AskedResponse:
        """Return the same with this draft, and with its images, which are the input's in order, in what is kept."""
        items = orjson.loads(self.input)
        images = [part for item in items for part in _images(item)]
        for part, (_, image) in zip(images, images_of(draft.messages or ()), strict=True):
            part["image_url"] = image.image_url.url
        return replace(self, draft=draft, input=orjson.dumps(items))

    def with_record(self, record: ApiRecord) -> AskedResponse:
        return replace(self, draft=replace(self.draft, record=record))


def response(wanted: ResponsesRequest) -> AskedResponse:
    sampling = wanted.to_sampling(
        max_tokens=wanted.max_output_tokens, logprobs=wanted.told_logprobs
    )
    if wanted.text is not None:
        sampling = replace(sampling, response_format=wanted.text.to_response_format())
    background = bool(wanted.background)
    asked = _asked(
        wanted,
        priority=wanted.priority,
        deadline_s=wanted.deadline_s,
        on_disconnect=OnDisconnect.CONTINUE if background else OnDisconnect.CANCEL,
        sampling=sampling,
    )
    return replace(
        asked,
        stream=bool(wanted.stream),
        fields=orjson.dumps(_repeated(wanted)),
        background=background,
        store=wanted.store,
    )


def input_tokens(wanted: InputTokensRequest) -> AskedResponse:
    return _asked(
        wanted,
        priority=Priority.NORMAL,
        deadline_s=None,
        on_disconnect=OnDisconnect.CANCEL,
        sampling=Sampling(max_tokens=1),
        is_delivered=True,
        operation=Operation.TOKENIZE,
    )


def _asked(wanted: ResponsesRequest | InputTokensRequest, **more: Any) -> AskedResponse:
    items = items_of(wanted.input)
    messages = messages_of(items)
    if wanted.instructions is not None:
        messages.insert(0, Message("system", wanted.instructions))
    draft = Draft(
        model=wanted.model,
        messages=tuple(messages),
        image_fields=tuple(_image_fields(items)),
        chat_template_kwargs=wanted.chat_template_kwargs,
        chat=wanted.to_options(),
        **more,
    )
    calls = tuple(
        CallStep(place, item["call_id"], item["type"] == "function_call_output")
        for place, item in enumerate(items)
        if "call_id" in item
    )
    if wanted.previous_response_id is None:
        check_calls(calls, set())
    return AskedResponse(
        draft,
        input=orjson.dumps(items),
        calls=calls,
        previous=wanted.previous_response_id,
        instructed=wanted.instructions is not None,
    )


def open_calls(messages: Iterable[Message]) -> set[str]:
    """Return the ids of the calls in a conversation that have no result yet."""
    waiting: set[str] = set()
    for message in messages:
        waiting.update(call.id for call in message.tool_calls)
        waiting.discard(message.tool_call_id or "")
    return waiting


def check_calls(steps: Iterable[CallStep], waiting: set[str]) -> None:
    """Refuse outputs without a call, and ids of calls whose output is still to come. Later ones may have them again.

    Args:
        waiting: ids of the calls before, which have no output yet.

    Raises:
        InvalidRequest: names the first that is wrong.
    """
    for step in steps:
        if step.is_output != (step.call_id in waiting):
            shown = step.call_id[:MAX_SHOWN_ID]
            problem = (
                f"No tool call found for function call output with call_id {shown}."
                if step.is_output
                else f"Another tool call without an output has the call_id {shown}."
            )
            param = f"input.{step.place}.call_id"
            raise InvalidRequest(f"{param}: {problem}", param=param, code="invalid_value")
        (waiting.discard if step.is_output else waiting.add)(step.call_id)


def _repeated(wanted: ResponsesRequest) -> dict[str, Any]:
    """Return what a response repeats of its request."""
    text, choice, effort = wanted.text, wanted.tool_choice or "auto", None
    if wanted.reasoning is not None:
        effort = wanted.reasoning.effort
    form: dict[str, Any] = {"type": "text"}
    if text is not None and text.format is not None:
        form = text.format.model_dump(by_alias=True, exclude_none=True)
    return {
        "background": bool(wanted.background),
        "instructions": wanted.instructions,
        "max_output_tokens": wanted.max_output_tokens,
        "max_tool_calls": wanted.max_tool_calls,
        "metadata": wanted.metadata or {},
        "parallel_tool_calls": wanted.parallel_tool_calls is not False,
        "previous_response_id": wanted.previous_response_id,
        "prompt_cache_key": wanted.prompt_cache_key,
        "reasoning": {"effort": effort, "summary": None},
        "safety_identifier": wanted.safety_identifier,
        "service_tier": "default",
        "temperature": wanted.temperature,
        "text": {"format": form},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.shown() for tool in wanted.tools or ()],
        "top_logprobs": wanted.top_logprobs or 0,
        "top_p": wanted.top_p,
        "truncation": "disabled",
        "user": wanted.user,
    }


class Head(msgspec.Struct, frozen=True):
    """What is kept with a response beside its input.

    Attributes:
        created_at: seconds since the epoch, by the clock of whoever accepted it.
        chain: channels of the responses that it goes on from, the oldest first.
        fields: what it repeats of its request.
    """

    created_at: int
    chain: tuple[str, ...]
    fields: dict[str, Any]

    @classmethod
    def read(cls, record: ApiRecord) -> Head:
        return _HEADS.decode(record.head)


_HEADS = msgspec.json.Decoder(Head)


def plain_head(state: ChannelState) -> Head:
    """Return the head of a request that was not asked as a response: nothing of what it was asked with is known."""
    goes_on = state.on_disconnect is OnDisconnect.CONTINUE
    wanted = ResponsesRequest(model=state.model, input="", background=goes_on)
    return Head(int(state.accepted_at_s), (), _repeated(wanted))


def record_of(
    asked: AskedResponse, *, created_at: int, chain: Sequence[str], stored: bool
) -> ApiRecord:
    """Return what is kept with a response. Its fields, which may be large, are not encoded again."""
    head = b'{"created_at":%d,"chain":%b,"fields":%b}' % (
        created_at,
        orjson.dumps(list(chain)),
        asked.fields,
    )
    return ApiRecord(head, asked.input, stored)


def items_of(
    given: str | list[InputMessage | InputCall | InputCallOutput | InputReasoning] | None,
) -> list[Item]:
    """Return items as they are kept."""
    if isinstance(given, str):
        return [InputMessage(role="user", content=given).to_item()]
    return [
        ({"id": one.id} if one.id else {}) | one.to_item() | {"status": one.status or "completed"}
        for one in given or ()
    ]


def messages_of(items: Iterable[Item]) -> list[Message]:
    """Return the messages that kept items are. What an assistant thought, said and called in a row is one message."""
    messages: list[Message] = []
    said = _Said()
    for item in items:
        match item["type"]:
            case "reasoning":
                if said.content is not None or said.calls:
                    said.end(messages)
                parts = item["content"] or item["summary"]
                said.reasoning += "".join(part["text"] for part in parts)
            case "function_call":
                call = FunctionCall(item["name"], item["arguments"])
                said.calls.append(ToolCall(item["call_id"], call))
            case "function_call_output":
                said.end(messages)
                output = _content(item["output"])
                messages.append(Message("tool", output, tool_call_id=item["call_id"]))
            case _:
                if item["role"] == "assistant":
                    if said.content is not None or said.calls:
                        said.end(messages)
                    said.content = item["content"][0]["text"]
                else:
                    said.end(messages)
                    # `developer` is OpenAI's newer word for the role that chat templates call `system`.
                    role = "system" if item["role"] == "developer" else item["role"]
                    messages.append(Message(role, _content(item["content"])))
    said.end(messages)
    return messages


def _content(kept: str | list[Item]) -> str | tuple[TextPart | ImagePart, ...]:
    """Return a kept content as a chat has it: text, or parts if there are images."""
    if isinstance(kept, str):
        return kept
    if all(part["type"] == "input_text" for part in kept):
        return "".join(part["text"] for part in kept)
    return tuple(
        TextPart(part["text"])
        if part["type"] == "input_text"
        else ImagePart(ImageUrl(part["image_url"], part["detail"]))
        for part in kept
    )


def _images(item: Item) -> list[Item]:
    """Return an item's parts that are images."""
    return [part for _, part in _placed_images(item)]


def _placed_images(item: Item) -> Iterator[tuple[str, Item]]:
    """Yield an item's parts that are images, each with its place in the item."""
    field = "output" if "output" in item else "content"
    kept = item.get(field)
    for at, part in enumerate(kept if isinstance(kept, list) else ()):
        if part["type"] == "input_image":
            yield f"{field}.{at}", part


def _image_fields(items: Iterable[Item]) -> Iterator[str]:
    for place, item in enumerate(items):
        for at, _ in _placed_images(item):
            yield f"input.{place}.{at}.image_url"


class _Said:
    """What an assistant said since the last message of somebody else."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.content: str | None = None
        self.reasoning = ""
        self.calls: list[ToolCall] = []

    def end(self, messages: list[Message]) -> None:
        if self.content is not None or self.calls or self.reasoning:
            # A template that gets neither text nor calls would render nothing, or fail.
            content = self.content if self.content is not None or self.calls else ""
            messages.append(
                Message(
                    "assistant",
                    content,
                    reasoning=self.reasoning or None,
                    tool_calls=tuple(self.calls),
                )
            )
        self._clear()
