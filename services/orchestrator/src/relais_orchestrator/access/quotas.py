"""How much of its key's minute a request is taken to need, before an engine has seen it. Pure."""

from __future__ import annotations

import json

from relais_common.config.api_keys import ApiKey
from relais_common.jobs.job import Job
from relais_common.jobs.limits import NO_QUOTA, Quota

BYTES_PER_TOKEN = 3
"""Fewer than ordinary text has, so that the estimate is seldom too low; the request's end corrects it."""

TOKENS_PER_MESSAGE = 8
"""What a chat template may add to each."""


def quota_of(key: ApiKey, job: Job, *, output_tokens: int) -> Quota:
    """What a request of this key is measured against.

    Args:
        output_tokens: what is reserved for an answer whose request names no `max_tokens`, as far as the limit allows.
    """
    per_minute = key.tokens_per_minute
    if per_minute is None:
        if key.requests_per_minute is None:
            return NO_QUOTA
        return Quota(requests_per_minute=key.requests_per_minute)
    tokens = _input_tokens(job)
    if job.sampling.max_tokens is not None:
        tokens += job.sampling.max_tokens
    elif job.embedding is None:
        tokens = max(tokens, min(tokens + output_tokens, per_minute))
    return Quota(
        requests_per_minute=key.requests_per_minute, tokens_per_minute=per_minute, tokens=tokens
    )


def _input_tokens(job: Job) -> int:
    if job.embedding is not None:
        return sum(map(_tokens, (*job.embedding.inputs, *job.embedding.queries)))
    if job.prompt is not None:
        return _tokens(job.prompt)
    told = job.chat_template_kwargs
    return sum(TOKENS_PER_MESSAGE + _tokens(turn.content) for turn in job.messages or ()) + (
        _tokens(json.dumps(told)) if told else 0
    )


def _tokens(text: str | tuple[int, ...]) -> int:
    if isinstance(text, tuple):
        return len(text)
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
