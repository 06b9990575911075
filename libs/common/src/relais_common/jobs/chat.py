"""Chats: messages, tools and answers in the shape of OpenAI's chat completions. Every dialect maps to and from it.

These types are structs of msgspec: in JSON, what is left at its default is left out, as clients of that API expect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import msgspec
from msgspec import Struct

Kind = Literal["reasoning", "text", "call"]
KINDS: tuple[Kind, ...] = ("reasoning", "text", "call")
"""What an answer is made of, in the order of one that does not alternate."""


class FunctionCall(Struct, frozen=True):
    """A call of a function. `arguments` is JSON as the model wrote it, which may be wrong."""

    name: str
    arguments: str


class ToolCall(Struct, frozen=True, tag_field="type", tag="function"):
    """A call of a tool, in a message."""

    id: str
    function: FunctionCall


class TextPart(Struct, frozen=True, tag_field="type", tag="text"):
    """Text beside images."""

    text: str


class ImageUrl(Struct, frozen=True, omit_defaults=True):
    """Where an image is, and how closely OpenAI's own models would look at it."""

    url: str
    detail: str | None = None


class ImagePart(Struct, frozen=True, tag_field="type", tag="image_url"):
    """An image. In a job its URL has the bytes: `data:image/png;base64,...`."""

    image_url: ImageUrl


class Message(Struct, frozen=True, omit_defaults=True):
    """One message of a conversation, or an answer.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        content: parts if it has images; None for an assistant's message that only calls tools.
        name: of the participant, or of the function whose result this is.
        reasoning: what the assistant thought before its answer.
        tool_call_id: the call whose result this is.
        stretches: of an answer in which reasoning, text and calls alternate: each stretch, and how many characters or
            calls it has. Empty where they come in this order.
    """

    role: str
    content: str | tuple[TextPart | ImagePart, ...] | None = None
    name: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    stretches: tuple[tuple[Kind, int], ...] = ()

    @property
    def text(self) -> str:
        """Return the content without its images."""
        if isinstance(self.content, tuple):
            return "".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""

    def parts(self) -> Iterator[tuple[Literal["reasoning", "text"], str] | ToolCall]:
        """Yield an answer's reasoning, text and calls in the order in which they came."""
        reasoning, text, calls = self.reasoning or "", self.text, iter(self.tool_calls)
        plain = zip(KINDS, (len(reasoning), len(text), len(self.tool_calls)), strict=True)
        for kind, length in self.stretches or plain:
            if kind == "call":
                yield from islice(calls, length)
            elif kind == "reasoning" and length:
                yield kind, reasoning[:length]
                reasoning = reasoning[length:]
            elif kind == "text" and length:
                yield kind, text[:length]
                text = text[length:]


def images_of(messages: Iterable[Message]) -> Iterator[tuple[str, ImagePart]]:
    """Yield the images of a conversation, each with the path of its field."""
    for place, turn in enumerate(messages):
        if isinstance(turn.content, tuple):
            for at, part in enumerate(turn.content):
                if isinstance(part, ImagePart):
                    yield f"messages.{place}.content.{at}", part


def with_images(messages: Iterable[Message], urls: Mapping[str, str]) -> tuple[Message, ...]:
    """Return a conversation with these images in place of those at the same paths."""
    changed = []
    for place, turn in enumerate(messages):
        if isinstance(turn.content, tuple):
            parts = tuple(
                ImagePart(ImageUrl(url, part.image_url.detail))
                if isinstance(part, ImagePart)
                and (url := urls.get(f"messages.{place}.content.{at}")) is not None
                else part
                for at, part in enumerate(turn.content)
            )
            turn = msgspec.structs.replace(turn, content=parts)
        changed.append(turn)
    return tuple(changed)


class FunctionDelta(Struct, frozen=True, omit_defaults=True):
    """The next part of a call's name or arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, frozen=True, omit_defaults=True):
    """The next part of one of an answer's tool calls. Id, type and name come once, with the call's first part."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta = FunctionDelta()


class ChatOptions(Struct, frozen=True, omit_defaults=True):
    """How a chat is to be answered, beside its messages and the sampling.

    Attributes:
        tools: the functions that the answer may call, in OpenAI's shape.
        tool_choice: `none`, `auto`, `required`, or the function to be called, in OpenAI's shape.
        parallel_tool_calls: whether the answer may have several calls.
        reasoning_effort: for models whose chat templates know it; `none` asks for no reasoning.
        include_reasoning: whether the answer tells it.
        add_generation_prompt: the template ends with what begins an answer.
        continue_final_message: the answer continues the last message.
        documents: for templates that know them.
        as_streamed: whether the whole answer is what its stream told, and not read anew: for APIs in which a client may
            see both.
    """

    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    include_reasoning: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    documents: tuple[dict[str, str], ...] = ()
    as_streamed: bool = False

    @property
    def may_call(self) -> bool:
        """Whether the answer may call a tool."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def named(self) -> str | None:
        """The only function that the answer may, and must, call."""
        if not isinstance(self.tool_choice, dict):
            return None
        name: str = self.tool_choice["function"]["name"]
        return name

    @property
    def must_call(self) -> bool:
        """Return whether the answer must be a tool call."""
        return self.may_call and self.tool_choice != "auto"


class Chat(Struct, frozen=True):
    """A conversation that waits for its answer.

    Attributes:
        template_kwargs: further variables of the model's chat template.
    """

    messages: tuple[Message, ...]
    template_kwargs: dict[str, Any] = {}
    options: ChatOptions = ChatOptions()


def parts_of(calls: Iterable[ToolCall]) -> tuple[ToolCallDelta, ...]:
    """Return whole calls as one part each."""
    return tuple(
        ToolCallDelta(
            index, call.id, "function", FunctionDelta(call.function.name, call.function.arguments)
        )
        for index, call in enumerate(calls)
    )


def joined(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """Return the calls that these parts make, in order of their index."""
    ids: dict[int, str] = {}
    names: dict[int, str] = {}
    arguments: dict[int, list[str]] = {}
    for delta in deltas:
        ids[delta.index] = ids.get(delta.index) or delta.id or ""
        names[delta.index] = names.get(delta.index) or delta.function.name or ""
        arguments.setdefault(delta.index, []).append(delta.function.arguments or "")
    return tuple(
        ToolCall(ids[index], FunctionCall(names[index], "".join(arguments[index])))
        for index in sorted(ids)
    )


class Streamed:
    """An answer as its stream tells it, piece by piece."""

    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._deltas: list[ToolCallDelta] = []
        self._stretches: list[tuple[Kind, int]] = []
        self._calls: set[int] = set()

    def add(self, reasoning: str, text: str, deltas: Iterable[ToolCallDelta]) -> None:
        """Note what one piece says, in this order."""
        self._reasoning.append(reasoning)
        self._content.append(text)
        if reasoning:
            self._stretch("reasoning", len(reasoning))
        if text:
            self._stretch("text", len(text))
        for delta in deltas:
            self._deltas.append(delta)
            self._stretch("call", int(delta.index not in self._calls))
            self._calls.add(delta.index)

    def _stretch(self, kind: Kind, length: int) -> None:
        if self._stretches and self._stretches[-1][0] == kind:
            length += self._stretches.pop()[1]
        if length:
            self._stretches.append((kind, length))

    @property
    def says_something(self) -> bool:
        return bool(self._stretches)

    def message(self) -> Message:
        """Return what was told so far."""
        kinds = [kind for kind, _ in self._stretches]
        alternates = kinds != [kind for kind in KINDS if kind in kinds]
        return Message(
            "assistant",
            "".join(self._content) or None,
            reasoning="".join(self._reasoning) or None,
            tool_calls=joined(self._deltas),
            stretches=tuple(self._stretches) if alternates else (),
        )
