"""OpenAI's response objects, for chat and for text completion. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from relais_common.events import Completed, Usage


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


@dataclass(frozen=True, slots=True)
class Identity:
    """What every object of one response repeats."""

    channel_id: str
    model: str
    created_s: int


class Format(Protocol):
    """How one route writes a response."""

    def head(self) -> dict[str, Any] | None:
        """The first chunk of a stream, if there is one before any text."""
        ...

    def text(self, text: str) -> dict[str, Any]:
        """A chunk with text."""
        ...

    def finish(self, reason: str) -> dict[str, Any]:
        """The chunk that says why the text ends."""
        ...

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The chunk after the last, where usage was asked for."""
        ...

    def whole(self, text: str, completed: Completed) -> dict[str, Any]:
        """The response of a request that does not stream."""
        ...


class ChatFormat:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._identity.channel_id}",
            "object": kind,
            "created": self._identity.created_s,
            "model": self._identity.model,
            "choices": choices,
        }

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def head(self) -> dict[str, Any] | None:
        return self._chunk({"role": "assistant", "content": ""}, None)

    def text(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text}, None)

    def finish(self, reason: str) -> dict[str, Any]:
        return self._chunk({}, reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        return {**self._object("chat.completion.chunk", []), "usage": usage_object(usage)}

    def whole(self, text: str, completed: Completed) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": completed.finish_reason,
        }
        usage = usage_object(completed.usage)
        return {**self._object("chat.completion", [choice]), "usage": usage}


class CompletionFormat:
    """`text_completion`."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"cmpl-{self._identity.channel_id}",
            "object": "text_completion",
            "created": self._identity.created_s,
            "model": self._identity.model,
            "choices": choices,
        }

    def _piece(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return self._object(
            [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}]
        )

    def head(self) -> dict[str, Any] | None:
        return None

    def text(self, text: str) -> dict[str, Any]:
        return self._piece(text, None)

    def finish(self, reason: str) -> dict[str, Any]:
        return self._piece("", reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        return {**self._object([]), "usage": usage_object(usage)}

    def whole(self, text: str, completed: Completed) -> dict[str, Any]:
        return {
            **self._piece(text, completed.finish_reason),
            "usage": usage_object(completed.usage),
        }
