"""Encodes jobs and events as bytes.

An encoded event is one line, `<name> <JSON object>`: an orchestrator turns it into an SSE frame without
parsing it. A live message is the number of its first event, a newline, and its lines, joined by newlines
(JSON escapes newlines inside strings). A job is one JSON object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from relais_common.jobs.chat import ChatOptions, Message, ToolCallDelta
from relais_common.jobs.errors import DecodeError, ErrorInfo, ImageLost, Unreadable, WorkerLost
from relais_common.jobs.events import (
    AnswerEnd,
    Cancelled,
    Completed,
    Event,
    Expired,
    Failed,
    Prompt,
    Queued,
    RankedToken,
    Restarted,
    Started,
    Timings,
    Token,
    TokenLogprob,
    Usage,
    Vectors,
)
from relais_common.jobs.job import (
    Embedding,
    InputType,
    Job,
    OnDisconnect,
    OnWorkerLoss,
    Operation,
    Priority,
    PromptOptions,
    Sampling,
    StopReason,
    WorkerState,
)
from relais_common.queue.ports import LiveBatch

NAMES: dict[type[Event], bytes] = {
    Queued: b"queued",
    Started: b"started",
    Prompt: b"prompt",
    Token: b"token",
    Restarted: b"restarted",
    Completed: b"completed",
    Failed: b"failed",
    Cancelled: b"cancelled",
    Expired: b"expired",
}
_TUPLES = ("stop", "stop_token_ids", "bad_words", "allowed_token_ids")  # of a job's sampling
TERMINAL_NAMES = frozenset((b"completed", b"failed", b"cancelled", b"expired"))
APART = "images_apart"
"""The field of an encoded job whose images lie apart. It is no field of `Job`: older versions refuse to decode it."""
_WRONG = (ValueError, TypeError, msgspec.ValidationError)
_PROMPT = msgspec.json.Decoder(Prompt)  # of all its candidates; by orjson this takes twice as long
_MOST_DIGITS = 15  # of an event's number; int() itself refuses far longer ones with another error


def encode_event(event: Event) -> bytes:
    """Encode an event as one line, without its newline."""
    if isinstance(event, Token):
        # In a third of the time of a dump of the whole. This runs for every token.
        text, token_ids = orjson.dumps(event.text), orjson.dumps(event.token_ids)
        return b'token {"text":%b,"token_ids":%b%b}' % (text, token_ids, _rest_of(event))
    if isinstance(event, Completed):
        return b"completed " + _dumps(_completed_fields(event))
    if isinstance(event, Prompt):
        return b"prompt " + msgspec.json.encode(event)
    return NAMES[type(event)] + b" " + orjson.dumps(event)


def _rest_of(token: Token) -> bytes:
    """Encode what only some tokens have."""
    rest = b""
    if token.logprobs is not None:
        rest += b',"logprobs":' + orjson.dumps(token.logprobs)
    if token.reasoning:
        rest += b',"reasoning":' + orjson.dumps(token.reasoning)
    if token.tool_calls:
        rest += b',"tool_calls":' + _dumps(token.tool_calls)
    if token.index:
        rest += b',"index":%d' % token.index
    if token.end is not None:
        rest += b',"end":' + _dumps(_end_fields(token.end))
    return rest


def _end_fields(end: AnswerEnd) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "finish_reason": end.finish_reason,
        "output_tokens": end.output_tokens,
        "stop_reason": end.stop_reason,
    }
    if end.message is not None:
        fields["message"] = end.message
    if end.reasoning_tokens is not None:
        fields["reasoning_tokens"] = end.reasoning_tokens
    return fields


def _completed_fields(event: Completed) -> dict[str, Any]:
    """Return the fields, without those that only some operations have, or only jobs with several answers."""
    names = (field.name for field in dataclasses.fields(event))
    fields = {name: getattr(event, name) for name in names}
    if event.message is None:
        del fields["message"]
    if event.vectors is not None and not event.vectors.labels:
        fields["vectors"] = dataclasses.asdict(event.vectors)
        del fields["vectors"]["labels"]
    if event.answers:
        fields["answers"] = [_end_fields(one) for one in event.answers]
    else:
        del fields["answers"]
    usage = dataclasses.asdict(event.usage)
    if event.usage.reasoning_tokens is None:
        del usage["reasoning_tokens"]
    if not event.usage.images:
        del usage["images"]
    fields["usage"] = usage
    return fields


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=msgspec.to_builtins)


def split_event(line: bytes) -> tuple[bytes, bytes]:
    """Split an encoded event into its name and JSON object.

    Raises:
        DecodeError: the line does not have this form.
    """
    name, separator, data = line.partition(b" ")
    if not separator:
        raise DecodeError("an event without data")
    return name, data


def decode_event(line: bytes) -> Event:
    """Decode an event from `encode_event`. Raises DecodeError."""
    name, data = split_event(line)
    try:
        if name == b"prompt":
            return _PROMPT.decode(data)
        fields = orjson.loads(data)
        match name:
            case b"token":
                token = Token(fields["text"], tuple(fields["token_ids"]))
                if (logprobs := fields.get("logprobs")) is not None:
                    token.logprobs = tuple(map(_token_logprob, logprobs))
                token.reasoning = fields.get("reasoning", "")
                if (tool_calls := fields.get("tool_calls")) is not None:
                    token.tool_calls = msgspec.convert(tool_calls, tuple[ToolCallDelta, ...])
                token.index = fields.get("index", 0)
                if (end := fields.get("end")) is not None:
                    token.end = _end(end)
                return token
            case b"queued":
                return Queued(**fields)
            case b"started":
                return Started(**fields)
            case b"restarted":
                return Restarted(**fields)
            case b"completed":
                return Completed(
                    finish_reason=fields["finish_reason"],
                    usage=Usage(**fields["usage"]),
                    timings=Timings(**fields["timings"]),
                    stop_reason=fields["stop_reason"],
                    vectors=msgspec.convert(fields.get("vectors"), Vectors | None),
                    message=msgspec.convert(fields.get("message"), Message | None),
                    answers=tuple(map(_end, fields.get("answers", ()))),
                )
            case b"failed":
                return Failed(ErrorInfo(**fields["error"]))
            case b"cancelled":
                return Cancelled(StopReason(fields["reason"]))
            case b"expired":
                return Expired(StopReason(fields["reason"]))
    except (*_WRONG, KeyError) as error:
        raise DecodeError(f"event {name!r}: {error}") from error
    raise DecodeError(f"unknown event {name!r}")


def _end(fields: dict[str, Any]) -> AnswerEnd:
    message = msgspec.convert(fields.pop("message", None), Message | None)
    return AnswerEnd(**fields, message=message)


def _token_logprob(fields: dict[str, Any]) -> TokenLogprob:
    ranked = tuple(RankedToken(one["token"], one["logprob"]) for one in fields["top_logprobs"])
    return TokenLogprob(fields["token"], fields["logprob"], ranked)


def decode_live(message: bytes, received_s: float | None = None) -> LiveBatch:
    """Decode a live message of the append script that was received at this time. Raises DecodeError."""
    first_seq, *lines = message.split(b"\n")
    if not first_seq.isdigit() or len(first_seq) > _MOST_DIGITS or not lines:
        raise DecodeError("a live message without number or events")
    return LiveBatch(int(first_seq), lines, received_s)


def encode_job(job: Job) -> bytes:
    """One JSON object."""
    return _dumps(job)


def decode_job(payload: bytes) -> Job:
    """Decode a job from `encode_job`, or from `take_out` with its images put back. Raises DecodeError."""
    try:
        fields: dict[str, Any] = orjson.loads(payload)
        fields.pop(APART, None)
        messages, prompt = fields.pop("messages"), fields.pop("prompt")
        sampling = fields.pop("sampling")
        for name in _TUPLES:
            if name in sampling:
                sampling[name] = tuple(sampling[name])
        return Job(
            operation=Operation(fields.pop("operation")),
            priority=Priority(fields.pop("priority")),
            on_disconnect=OnDisconnect(fields.pop("on_disconnect")),
            on_worker_loss=OnWorkerLoss(fields.pop("on_worker_loss", OnWorkerLoss.FAIL)),
            messages=msgspec.convert(messages, tuple[Message, ...] | None),
            prompt=_text_or_ids(prompt),
            prompts=tuple(map(_text_or_ids, fields.pop("prompts", ()))),
            embedding=_embedding(fields.pop("embedding", None)),
            sampling=Sampling(**sampling),
            prompting=PromptOptions(**fields.pop("prompting", {})),
            chat=msgspec.convert(fields.pop("chat", {}), ChatOptions),
            **fields,
        )
    except (*_WRONG, KeyError, AttributeError) as error:
        raise DecodeError(f"job: {error}") from error


def _text_or_ids(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _embedding(fields: dict[str, Any] | None) -> Embedding | None:
    if fields is None:
        return None
    input_type = fields.pop("input_type")
    return Embedding(
        inputs=tuple(_text_or_ids(one) for one in fields.pop("inputs")),
        queries=tuple(fields.pop("queries")),
        input_type=None if input_type is None else InputType(input_type),
        **fields,
    )


def encode_prompts(prompts: Sequence[Sequence[int]]) -> bytes:
    """Encode the token ids of a job's prompts: of one as a JSON array, of several as an array of arrays."""
    return orjson.dumps(list(prompts[0]) if len(prompts) == 1 else [list(one) for one in prompts])


def decode_prompts(payload: bytes) -> tuple[tuple[int, ...], ...]:
    """Decode token ids from `encode_prompts`. Raises DecodeError."""
    try:
        found = orjson.loads(payload)
        return tuple(map(tuple, found if found and isinstance(found[0], list) else [found]))
    except (ValueError, TypeError) as error:
        raise DecodeError(f"token ids: {error}") from error


def encode_worker(state: WorkerState) -> bytes:
    """One JSON object."""
    return orjson.dumps(state)


def decode_worker(payload: bytes) -> WorkerState:
    """Decode a state from `encode_worker`, ignoring fields of newer workers. Raises DecodeError."""
    try:
        fields: dict[str, Any] = orjson.loads(payload)
        known = (field.name for field in dataclasses.fields(WorkerState))
        return WorkerState(**{name: fields[name] for name in known if name in fields})
    except (ValueError, TypeError) as error:
        raise DecodeError(f"worker state: {error}") from error


EXPIRED_LINE = encode_event(Expired())
"""Appended by a script that ends a job past its deadline."""

DISCONNECTED_LINE = encode_event(Cancelled(StopReason.DISCONNECT))
"""Appended by a script that ends a job without a reader."""

CANCELLED_LINE = encode_event(Cancelled(StopReason.CLIENT))
"""Appended by a script that ends a job that its client cancelled."""

WORKER_LOST_LINE = encode_event(
    Failed(WorkerLost("workers died while they ran this request; it was set aside").info)
)
"""Appended by the reaper when it sets a job aside."""

UNREADABLE = Failed(
    Unreadable("no worker could read this request; it was made by another version").info
)
"""The terminal event of a job whose payload cannot be decoded."""

IMAGE_LOST = Failed(ImageLost("an image of this request is no longer stored; send it again").info)
"""The terminal event of a job of which an image is gone from Redis."""
