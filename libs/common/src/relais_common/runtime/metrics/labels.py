"""Label values that all services share."""

from __future__ import annotations

from collections.abc import Iterator

from relais_common.jobs.errors import RelaisError

FINISHED_REASONS = ("stop", "length", "content_filter", "tool_calls", "function_call")
"""OpenAI's."""

# Codes given where an error is raised, or for an end that is not our error.
_MORE_ERROR_TYPES = (
    "chain_too_long",
    "events_expired",
    "invalid_body",
    "invalid_json",
    "invalid_type",
    "missing_required_parameter",
    "not_cancellable",
    "previous_response_not_completed",
    "previous_response_not_found",
    "unknown_parameter",
    "unsupported_parameter",
    "unsupported_value",
    "context_length_exceeded",
    "content_filter",
    "content_policy_violation",
    "wrong_operation",
    "cancelled",
    "expired",
)


def error_types() -> frozenset[str]:
    """Return every `code` that our errors can have."""
    return frozenset({*_codes(RelaisError), *_MORE_ERROR_TYPES})


def _codes(kind: type[RelaisError]) -> Iterator[str]:
    if kind.code is not None:
        yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)
