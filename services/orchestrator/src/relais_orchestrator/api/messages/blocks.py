"""Messages of a request and their content blocks, and what they are inside: chat messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from pydantic_core import PydanticCustomError

from relais_common.jobs.chat import (
    FunctionCall,
    ImagePart,
    ImageUrl,
    Message,
    TextPart,
    ToolCall,
)
from relais_orchestrator.api.schemas.branches import TAGGED, branch
from relais_orchestrator.api.schemas.hints import CACHED, Hint, Parsed
from relais_orchestrator.api.schemas.images import ImageAddress, few_images, from_base64
from relais_orchestrator.api.schemas.messages import MAX_PARTS, CallId, fault
from relais_orchestrator.api.schemas.sampling import MAX_KEYWORDS, STRICT
from relais_orchestrator.api.schemas.structure_bounds import json_bytes
from relais_orchestrator.api.schemas.tools import ToolName
from relais_orchestrator.api.schemas.unsupported import NotSupported

ATTRIBUTION = "x-anthropic-billing-header"
"""How a coding agent begins a block of the system prompt that names itself. It differs in every request, so that no
prefix of the prompt would ever be cached; vLLM leaves it out as well."""

Content = str | tuple[TextPart | ImagePart, ...]


def _fits_a_job(told: dict[str, Any]) -> dict[str, Any]:
    """Refuse values that a job cannot carry."""
    json_bytes(told)
    return told


class _Block(BaseModel):
    model_config = STRICT

    cache_control: Hint = Field(default=None, description=CACHED)


class TextBlock(_Block):
    type: Literal["text"]
    text: str
    citations: Annotated[list[Any], Field(fail_fast=True, max_length=MAX_PARTS)] | None = Field(
        default=None, description="No effect."
    )
    parsed_output: Parsed = None


class ImageSource(BaseModel):
    model_config = STRICT

    type: Literal["base64", "url"]
    media_type: Literal["image/png", "image/jpeg", "image/webp", "image/gif"] | None = Field(
        default=None, description="No effect: the first bytes of the data say it."
    )
    data: Annotated[str, AfterValidator(from_base64)] | None = None
    url: ImageAddress | None = None

    @model_validator(mode="after")
    def _field_of_its_type(self) -> Self:
        if not self.address:
            raise fault("data" if self.type == "base64" else "url", "missing")
        return self

    @property
    def address(self) -> str:
        """The image's URL; validation has made one of the data."""
        return (self.data if self.type == "base64" else self.url) or ""


class ImageBlock(_Block):
    type: Literal["image"]
    source: ImageSource
    transformations: Hint = None


class ThinkingBlock(BaseModel):
    """Reasoning of an earlier answer. Chat templates may show it to the model."""

    model_config = STRICT

    type: Literal["thinking"]
    thinking: str
    signature: str | None = Field(default=None, description="Not checked.")


class RedactedThinkingBlock(BaseModel):
    """Reasoning that only its maker can read: left out."""

    model_config = STRICT

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(_Block):
    """What an earlier answer called."""

    type: Literal["tool_use"]
    id: CallId
    name: ToolName
    input: Annotated[dict[str, Any], Field(max_length=MAX_KEYWORDS), AfterValidator(_fits_a_job)]
    caller: Hint = Field(default=None, description="No effect.")
    toolset_name: Annotated[None, NotSupported("toolsets are not supported")] = None


class ToolReferenceBlock(_Block):
    """The name of a tool that a search for tools found. All tools are in the prompt already."""

    type: Literal["tool_reference"]
    tool_name: ToolName


class ToolResultBlock(_Block):
    type: Literal["tool_result"]
    tool_use_id: CallId
    content: (
        Annotated[str, branch("text")]
        | Annotated[
            list[
                Annotated[TextBlock | ImageBlock | ToolReferenceBlock, Field(discriminator="type")]
            ],
            Field(fail_fast=True, max_length=MAX_PARTS),
            branch(TAGGED),
        ]
        | None
    ) = None
    is_error: bool | None = Field(default=None, description="No effect: the content says so.")
    toolset_name: Annotated[None, NotSupported("toolsets are not supported")] = None

    @property
    def shown(self) -> Content:
        """What the model gets of it."""
        return self.content if isinstance(self.content, str) else _content(self.content or ())


Block = Annotated[
    TextBlock | ImageBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
]
_TYPES = {
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
"""The types of blocks that messages of each role may have."""


_DOUBLED_CALL = "`tool_use` ids must be unique"
_DOUBLED_RESULT = (
    "each `tool_use` must have a single result: found multiple `tool_result` blocks with this id"
)
_NO_CALL = (
    "each `tool_result` block must have a corresponding `tool_use` block in the previous message"
)


def _of_its_role(role: str, types: tuple[str, ...]) -> dict[str, JsonValue]:
    block: dict[str, JsonValue] = {"properties": {"type": {"enum": [*types]}}}
    content: dict[str, JsonValue] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": block}]
    }
    return {"properties": {"role": {"const": role}, "content": content}}


class InputMessage(BaseModel):
    """A message of the conversation. An answer's `content` may be sent back unchanged."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"anyOf": [_of_its_role(*one) for one in _TYPES.items()]}
    )

    role: Literal["user", "assistant", "system"]
    content: (
        Annotated[str, branch("text")]
        | Annotated[
            list[Block], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), branch(TAGGED)
        ]
    )

    @model_validator(mode="after")
    def _blocks_of_its_role(self) -> Self:
        known = _TYPES[self.role]
        for place, block in enumerate(self.blocks):
            if block.type not in known:
                kind = PydanticCustomError(
                    "role", "not in messages of role {role}", {"role": self.role}
                )
                raise fault("content", kind, place, "type")
        return self

    @property
    def blocks(self) -> list[Block]:
        if isinstance(self.content, str):
            return [TextBlock(type="text", text=self.content)]
        return self.content


def image_fields(turns: Iterable[InputMessage]) -> Iterator[str]:
    """Yield the paths of the images in the order in which `to_messages` has them: a turn's results come first."""
    for _, turn in groupby(enumerate(turns), lambda one: one[1].role):
        own: list[str] = []
        for place, message in turn:
            for at, block in enumerate(message.blocks):
                path = f"messages.{place}.content.{at}"
                if isinstance(block, ImageBlock):
                    own.append(f"{path}.source")
                elif isinstance(block, ToolResultBlock) and isinstance(block.content, list):
                    for number, inner in enumerate(block.content):
                        if isinstance(inner, ImageBlock):
                            yield f"{path}.content.{number}.source"
        yield from own


def few_images_in(turns: list[InputMessage]) -> list[InputMessage]:
    """Refuse more images than a request may have."""
    blocks = [block for one in turns for block in one.blocks]
    results = [one.content for one in blocks if isinstance(one, ToolResultBlock)]
    inner = [block for one in results if isinstance(one, list) for block in one]
    few_images(sum(isinstance(one, ImageBlock) for one in (*blocks, *inner)))
    return turns


def check_calls(turns: Iterable[InputMessage]) -> None:
    """Refuse results whose call is not in the turn before, and ids that a turn has twice.

    Raises:
        ValidationError: names the first that is wrong.
    """
    called: set[str] = set()
    answered: set[str] = set()
    role = ""
    for place, turn in enumerate(turns):
        if turn.role != "system":
            if turn.role == "assistant" and role != "assistant":
                called, answered = set(), set()
            role = turn.role
        for at, block in enumerate(turn.blocks):
            if isinstance(block, ToolUseBlock):
                field, is_wrong, why = "id", block.id in called, _DOUBLED_CALL
                called.add(block.id)
            elif isinstance(block, ToolResultBlock):
                field, why = "tool_use_id", _NO_CALL
                is_wrong = block.tool_use_id not in called
                if block.tool_use_id in answered:
                    is_wrong, why = True, _DOUBLED_RESULT
                answered.add(block.tool_use_id)
            else:
                continue
            if is_wrong:
                raise fault(
                    "messages", PydanticCustomError("calls", why), place, "content", at, field
                )


System = (
    Annotated[str, branch("text")]
    | Annotated[list[TextBlock], Field(fail_fast=True, max_length=MAX_PARTS), branch("blocks")]
    | None
)


def to_messages(system: System, turns: Iterable[InputMessage]) -> tuple[Message, ...]:
    """Return the conversation as a job has it: a turn's tool results are messages of their own, which come first."""
    said = system if isinstance(system, str) else _joined(system or ())
    leading = [Message("system", said)] if said else []
    return (*leading, *(message for turn in _turns(turns) for message in _messages(*turn)))


def _turns(turns: Iterable[InputMessage]) -> Iterator[tuple[str, list[Block]]]:
    """Yield roles and blocks; consecutive messages of one role are one turn, as at Anthropic."""
    role, blocks = "", list[Block]()
    for one in turns:
        if one.role != role and blocks:
            yield role, blocks
            blocks = []
        role = one.role
        blocks += one.blocks
    yield role, blocks


def _messages(role: str, blocks: list[Block]) -> Iterator[Message]:
    if role == "assistant":
        yield _answer(blocks)
        return
    results = [one for one in blocks if isinstance(one, ToolResultBlock)]
    for one in results:
        yield Message("tool", one.shown, tool_call_id=one.tool_use_id)
    content = _content(blocks)
    if content or not results:
        yield Message(role, content)


def _answer(blocks: list[Block]) -> Message:
    """Return an earlier answer. Its texts were one text, so nothing comes between them."""
    texts = [one.text for one in blocks if isinstance(one, TextBlock)]
    calls = [one for one in blocks if isinstance(one, ToolUseBlock)]
    thoughts = "".join(one.thinking for one in blocks if isinstance(one, ThinkingBlock))
    return Message(
        "assistant",
        "".join(texts) if texts or not calls else None,
        reasoning=thoughts or None,
        tool_calls=tuple(
            ToolCall(one.id, FunctionCall(one.name, orjson.dumps(one.input).decode()))
            for one in calls
        ),
    )


def _joined(blocks: Iterable[BaseModel]) -> str:
    """Return the text of blocks that a client wrote, each on a line of its own."""
    return "\n".join(
        one.text if isinstance(one, TextBlock) else one.tool_name
        for one in blocks
        if isinstance(one, ToolReferenceBlock)
        or (isinstance(one, TextBlock) and not one.text.startswith(ATTRIBUTION))
    )


def _content(blocks: Iterable[BaseModel]) -> Content:
    """Return text, or parts if there are images; texts between two images are joined as text alone is."""
    parts: list[TextPart | ImagePart] = []
    for is_image, some in groupby(blocks, lambda one: isinstance(one, ImageBlock)):
        if is_image:
            parts += [
                ImagePart(ImageUrl(one.source.address))
                for one in some
                if isinstance(one, ImageBlock)
            ]
        elif text := _joined(some):
            parts.append(TextPart(text))
    if any(isinstance(part, ImagePart) for part in parts):
        return tuple(parts)
    return "".join(part.text for part in parts if isinstance(part, TextPart))
