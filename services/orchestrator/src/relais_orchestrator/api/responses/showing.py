"""Makes response objects of what is kept with a request and of what has become of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from relais_common.jobs.channels import channel_model
from relais_common.jobs.chat import Message, ToolCall
from relais_common.jobs.errors import ErrorInfo
from relais_common.jobs.events import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    RankedToken,
    Terminal,
    TokenLogprob,
    Usage,
)
from relais_orchestrator.api.field_names import FieldNames
from relais_orchestrator.api.responses.objects import (
    FunctionCallItem,
    IncompleteDetails,
    ItemStatus,
    Logprob,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ResponseError,
    ResponseObject,
    ResponseStatus,
    ResponseUsage,
    TopLogprob,
)
from relais_orchestrator.api.responses.schemas import Item
from relais_orchestrator.submission.responses import Head

PREFIX = "resp_"
_CUT: dict[str, Literal["max_output_tokens", "content_filter"]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
"""Finish reasons of answers that are not whole."""


def response_id(channel_id: str) -> str:
    """Return the id of the response on this channel."""
    return PREFIX + channel_id


def item_id(kind: str, channel_id: str, place: str | int) -> str:
    """Return the id of an item: always the same, whoever makes it."""
    return f"{kind}_{channel_id.rpartition('.')[2]}_{place}"


class Shown:
    """One response, whatever has become of it."""

    __slots__ = ("channel_id", "head", "stored")

    def __init__(self, channel_id: str, head: Head, *, stored: bool) -> None:
        self.channel_id = channel_id
        self.head = head
        self.stored = stored

    @property
    def background(self) -> bool:
        return bool(self.head.fields["background"])

    def body(
        self,
        status: ResponseStatus,
        output: Sequence[OutputItem] = (),
        *,
        completed: Completed | None = None,
        error: ResponseError | None = None,
    ) -> ResponseObject:
        """Return the response with this status."""
        incomplete: IncompleteDetails | None = None
        if completed is not None and completed.finish_reason in _CUT:
            incomplete = {"reason": _CUT[completed.finish_reason]}
        body: Any = {
            "id": response_id(self.channel_id),
            "object": "response",
            "created_at": self.head.created_at,
            "status": status,
            "completed_at": None,
            "error": error,
            "incomplete_details": incomplete,
            "model": channel_model(self.channel_id),
            "output": list(output),
            "store": self.stored,
            "usage": None,
            **self.head.fields,
        }
        if completed is not None:
            timings = completed.timings
            took_s = timings.queue_s + timings.prefill_s + timings.decode_s
            body["completed_at"] = self.head.created_at + round(took_s)
            body["usage"] = usage_object(completed.usage)
            body["timings"] = timings
        response: ResponseObject = body
        return response

    def ended(self, outcome: Terminal, text: str, told: Sequence[Logprob] = ()) -> ResponseObject:
        """Return the response of a request that has ended.

        Args:
            text: what was published of its text.
            told: details of each token, if they were asked for and are still known.
        """
        match outcome:
            case Completed():
                status = status_of(outcome)
                output = self.output(text, outcome.message, status, told)
                return self.body(status, output, completed=outcome)
            case Cancelled():
                return self.body("cancelled", self._partial(text))
            case Failed(info):
                return self.body("failed", self._partial(text), error=error_object(info))
            case Expired():
                return self.body("failed", self._partial(text), error=error_object(EXPIRED))

    def _partial(self, text: str) -> list[OutputItem]:
        return self.output(text, None, "incomplete") if text else []

    def output(
        self,
        text: str,
        message: Message | None,
        status: ItemStatus,
        told: Sequence[Logprob] = (),
    ) -> list[OutputItem]:
        """Return the items of an answer. Only the last can be incomplete."""
        whole = Message("assistant", text) if message is None else message
        output: list[OutputItem] = []
        # Among others, it is not known which tokens are the text's.
        shown = [] if message is not None else list(told)
        for part in whole.parts():
            place = len(output)
            if isinstance(part, ToolCall):
                output.append(self.call(place, part, "completed"))
            elif part[0] == "reasoning":
                output.append(self.reasoning(place, part[1], "completed"))
            else:
                output.append(self.message(place, part[1], "completed", shown))
        if not output:
            output.append(self.message(0, "", "completed", shown))
        output[-1]["status"] = status
        return output

    def reasoning(self, index: int, text: str, status: ItemStatus) -> ReasoningItem:
        return {
            "id": item_id("rs", self.channel_id, index),
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text}] if text else [],
            "encrypted_content": None,
            "status": status,
        }

    def message(
        self, index: int, text: str, status: ItemStatus, logprobs: list[Logprob]
    ) -> MessageItem:
        return {
            "id": item_id("msg", self.channel_id, index),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [output_text(text, logprobs)],
        }

    def call(self, index: int, call: ToolCall, status: ItemStatus) -> FunctionCallItem:
        return {
            "id": item_id("fc", self.channel_id, index),
            "type": "function_call",
            "status": status,
            "call_id": call.id,
            "name": call.function.name,
            "arguments": call.function.arguments,
        }

    def input_items(self, items: Sequence[Item]) -> list[Any]:
        """Return kept items with their ids."""
        return [
            {"id": item_id(_KINDS[one["type"]], self.channel_id, f"i{at}"), "status": "completed"}
            | ({"encrypted_content": None} if one["type"] == "reasoning" else {})
            | one
            for at, one in enumerate(items)
        ]


_KINDS = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
EXPIRED = ErrorInfo("the request's deadline passed", "timeout_error", "deadline_s", "expired", 504)


def status_of(completed: Completed) -> Literal["completed", "incomplete"]:
    return "incomplete" if completed.finish_reason in _CUT else "completed"


def output_text(text: str, logprobs: list[Logprob]) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def logprob(one: TokenLogprob) -> Logprob:
    return {
        "token": one.token,
        "logprob": one.logprob,
        "bytes": list(one.token.encode()),
        "top_logprobs": [_top(top) for top in one.top_logprobs],
    }


def _top(one: RankedToken) -> TopLogprob:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode())}


def usage_object(usage: Usage) -> ResponseUsage | None:
    """Return OpenAI's `usage`; None if a remote server does not count, because all counts are required."""
    if usage.input_tokens is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def error_object(info: ErrorInfo) -> ResponseError:
    """Return why a response has failed, in its own words."""
    own = FIELDS.info(info)
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"] = "server_error"
    if info.status in (400, 413, 422):
        code = "invalid_prompt"
    elif info.status == 429:
        code = "rate_limit_exceeded"
    return {"code": code, "message": own.message, "param": own.param, "type": info.code}


FIELDS = FieldNames(
    (r"response_format\.json_schema\.schema", "text.format.schema"),
    (r"response_format", "text.format"),
    (r"messages\b.*", "input"),
    (r"max_completion_tokens|max_tokens", "max_output_tokens"),
    (r"reasoning_effort", "reasoning.effort"),
    (r"(tools\.\d+)\.function", r"\1"),
)
"""What whoever runs a request names otherwise."""
