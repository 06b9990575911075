"""Answers as Anthropic's objects. Pure."""

from __future__ import annotations

import orjson

from relais_common.jobs.channels import channel_model
from relais_common.jobs.chat import Message, ToolCall
from relais_common.jobs.events import Completed, Usage
from relais_orchestrator.api.answering import Whole
from relais_orchestrator.api.messages.objects import (
    Content,
    MessageObject,
    Stopped,
    ToolUseContent,
    UsageObject,
)


def usage_object(usage: Usage) -> UsageObject:
    """Return Anthropic's `usage`, whose input tokens are those that no cache had."""
    counts: UsageObject = {
        "input_tokens": max(0, (usage.input_tokens or 0) - usage.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens is not None:
        counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return counts


def message_object(channel_id: str, content: list[Content], usage: Usage) -> MessageObject:
    """Return a message without its end. As elsewhere, it has the model's own name, whichever alias was used."""
    return {
        "id": f"msg_{channel_id}",
        "type": "message",
        "role": "assistant",
        "model": channel_model(channel_id),
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_object(usage),
    }


def stopped(completed: Completed) -> Stopped:
    """Return why an answer ended. It ends with a call if calls could be read, also where OpenAI's reason is `stop`."""
    if completed.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if any(one["type"] == "tool_use" for one in _called(completed)):
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if isinstance(completed.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": completed.stop_reason}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def whole_message(channel_id: str, whole: Whole) -> MessageObject:
    """Return the response to a request that is not streamed."""
    answer = whole.completed.message or Message("assistant", whole.text)
    content: list[Content] = []
    for part in answer.parts():
        if isinstance(part, ToolCall):
            content.append(_tool_use(part))
        elif part[0] == "reasoning":
            content.append({"type": "thinking", "thinking": part[1], "signature": channel_id})
        else:
            content.append(_text(part[1]))
    content = content or [_text("")]
    return {
        **message_object(channel_id, content, whole.completed.usage),
        **stopped(whole.completed),
    }


def _called(completed: Completed) -> list[Content]:
    return [] if completed.message is None else [*map(_tool_use, completed.message.tool_calls)]


def _tool_use(call: ToolCall) -> Content:
    """Return a call; as text, if its arguments are no object, which is all that a client could run."""
    try:
        arguments = orjson.loads(call.function.arguments or b"{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        return _text(call.function.arguments)
    made: ToolUseContent = {
        "type": "tool_use",
        "id": call.id,
        "name": call.function.name,
        "input": arguments,
    }
    return made


def _text(text: str) -> Content:
    return {"type": "text", "text": text, "citations": None}
