"""Estimates how much of its key's minute a request needs, before an engine has seen it. Pure."""

from __future__ import annotations

import json

from relais_common.config.api_keys import ApiKey
from relais_common.jobs.chat import Message
from relais_common.jobs.job import Job, Operation
from relais_common.jobs.limits import NO_QUOTA, Quota

BYTES_PER_TOKEN = 3
"""Lower than in ordinary text, so that the estimate is rarely too low; the request's end corrects it."""

TOKENS_PER_MESSAGE = 8
"""Tokens that a chat template may add to each message."""


TOKENS_PER_IMAGE = 256
"""Of small pictures; the request's end corrects it."""


def quota_of(key: ApiKey, job: Job, *, output_tokens: int) -> Quota:
    """Return the limits that apply to a request of this key, and what it reserves.

    Args:
        output_tokens: reserved for the answer if the request has no `max_tokens`, within the limit.
    """
    limits = [most for most in (key.tokens_per_minute, key.tokens_per_day) if most is not None]
    if not limits:
        if key.requests_per_minute is None:
            return NO_QUOTA
        return Quota(requests_per_minute=key.requests_per_minute)
    tokens = _input_tokens(job)
    if job.sampling.max_tokens is not None:
        tokens += job.answers * job.sampling.max_tokens
    elif job.embedding is None:
        tokens = max(tokens, min(tokens + job.answers * output_tokens, *limits))
    return Quota(
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        tokens_per_day=key.tokens_per_day,
        tokens=tokens,
    )


def _input_tokens(job: Job) -> int:
    if job.embedding is not None:
        inputs, queries = job.embedding.inputs, job.embedding.queries
        # A cross-encoder reads a query with each of its documents.
        times = len(inputs) // len(queries) if job.operation is Operation.RERANK else 1
        return sum(map(_tokens, inputs)) + times * sum(map(_tokens, queries))
    if job.messages is None:
        return sum(_tokens(prompt) for prompt in job.prompts or (job.prompt or "",))
    beside = [told for told in (job.chat_template_kwargs, job.chat.tools) if told]
    return (
        sum(TOKENS_PER_MESSAGE + _message_tokens(turn) for turn in job.messages)
        + sum(_tokens(json.dumps(told)) for told in beside)
        + TOKENS_PER_IMAGE * job.images
    )


def _message_tokens(message: Message) -> int:
    calls = (one.function for one in message.tool_calls)
    texts = (
        message.name,
        message.text,
        message.reasoning,
        *(f"{one.name}{one.arguments}" for one in calls),
    )
    return sum(_tokens(text) for text in texts if text)


def _tokens(text: str | tuple[int, ...]) -> int:
    if isinstance(text, tuple):
        return len(text)
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
