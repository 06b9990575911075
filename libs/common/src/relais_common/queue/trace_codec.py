"""Decodes the stream entries that scripts write at a job's end (`hand_over_trace` in `lua/traces.lua`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from relais_common.jobs.channels import channel_model
from relais_common.jobs.errors import DecodeError
from relais_common.jobs.job import Operation, Priority, Status
from relais_common.jobs.records import ApiRecord, StoredAnswer
from relais_common.jobs.traces import Phases, Trace
from relais_common.queue import codec
from relais_common.queue.images import stand_in

_ASKED = ("messages", "chat", "prompt", "prompts", "embedding")


def decode_entry(entry: Sequence[bytes]) -> tuple[Trace, StoredAnswer | None]:
    """Decode the trace of one entry (name, value, name, value), and the answer if it is stored. Raises DecodeError."""
    pairs = zip(entry[::2], entry[1::2], strict=False)
    try:
        fields = {name.decode(): value for name, value in pairs}
        trace = _trace(fields)
        return trace, _answer(trace, fields) if "record" in fields else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DecodeError(f"trace: {type(error).__name__}: {error}") from error


def _answer(trace: Trace, fields: dict[str, bytes]) -> StoredAnswer:
    return StoredAnswer(
        channel_id=trace.channel_id,
        key_id=trace.key_id,
        status=trace.status,
        record=ApiRecord(fields["record"], fields["record_input"], stored=True),
        text=fields["text"].decode(),
        outcome=fields["outcome"],
    )


def _trace(fields: dict[str, bytes]) -> Trace:
    channel_id = fields["channel_id"].decode()
    outcome = _outcome(fields["outcome"])
    message, error = outcome.get("message") or {}, outcome.get("error") or {}
    ends = outcome.get("answers", ())
    answers = [one["message"] for one in ends]
    input_tokens, output_tokens, cached_tokens, wasted_tokens = map(int, fields["usage"].split())
    queue_s, prefill_s, decode_s, stalled_s = map(float, fields["phases"].split())
    first_token_at, revision = fields["first_token_at"], fields["model_revision"].decode()
    return Trace(
        channel_id=channel_id,
        key_id=fields["key_id"].decode(),
        model=channel_model(channel_id),
        model_revision=revision or None,
        operation=Operation(fields["operation"].decode()),
        priority=Priority(fields["priority"].decode()),
        status=Status(fields["status"].decode()),
        error_type=error.get("code"),
        error_status=error.get("status"),
        finish_reason=outcome.get("finish_reason"),
        cancel_reason=outcome.get("reason"),
        takes=int(fields["takes"]),
        failures=int(fields["failures"]),
        preemptions=int(fields.get("preemptions", b"0")),
        answers=int(fields.get("answers", b"1")),
        longest_answer_tokens=max((one["output_tokens"] for one in ends), default=None),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        wasted_tokens=wasted_tokens,
        reasoning_tokens=(outcome.get("usage") or {}).get("reasoning_tokens") or 0,
        images=(outcome.get("usage") or {}).get("images") or 0,
        tool_calls=sum(len(one.get("tool_calls", ())) for one in answers or [message]),
        accepted_at_s=float(fields["accepted_at"]),
        first_token_at_s=float(first_token_at) if first_token_at else None,
        finished_at_s=float(fields["finished_at"]),
        phases=Phases(queue_s=queue_s, prefill_s=prefill_s, decode_s=decode_s, stalled_s=stalled_s),
        content=_content(fields, message, answers),
    )


def _outcome(line: bytes) -> dict[str, Any]:
    """Return a terminal event's fields, as they are written. Decoding all of it would cost too much."""
    name, data = codec.split_event(line)
    if name == b"expired":
        return {}
    outcome: dict[str, Any] = orjson.loads(data)
    return outcome


def _content(
    fields: dict[str, bytes], message: dict[str, Any], answers: list[dict[str, Any]]
) -> dict[str, Any] | None:
    if "omitted_bytes" in fields:
        return {"omitted_bytes": int(fields["omitted_bytes"])}
    if "request" not in fields:
        return None
    return content_of(fields["request"], fields["answer"].decode(), message, answers)


def content_of(
    payload: bytes, answer: str, message: dict[str, Any], answers: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the prompt, if the request can be decoded, and the answer.

    Args:
        message: the whole answer, where it is more than its text.
        answers: all of them, where there are several.
    """
    try:
        request = orjson.loads(payload)
    except orjson.JSONDecodeError:
        request = {}
    asked = {name: request[name] for name in _ASKED if request.get(name) not in (None, {}, [])}
    for turn in asked.get("messages", ()):
        _leave_out_images(turn)
    told = {name: value for name, value in (("message", message), ("answers", answers)) if value}
    return {**asked, "answer": answer, **told}


def _leave_out_images(turn: dict[str, Any]) -> None:
    """Put the type and the length of each image in place of its bytes, where they are not there already."""
    content = turn.get("content")
    for part in content if isinstance(content, list) else ():
        if part.get("type") == "image_url":
            kind, _, data = part["image_url"]["url"].partition(",")
            if not data.startswith("("):
                part["image_url"]["url"] = f"{kind},{stand_in(len(data))}"
