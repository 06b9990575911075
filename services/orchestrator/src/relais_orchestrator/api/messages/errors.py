"""Errors in Anthropic's shape. Pure."""

from __future__ import annotations

from relais_common.jobs.errors import ErrorInfo
from relais_orchestrator.api.field_names import FieldNames
from relais_orchestrator.api.messages.objects import ErrorEnvelope

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
FIELDS = FieldNames(
    (r"response_format\.json_schema", "output_config.format"),
    (r"response_format", "output_config.format"),
    (r"reasoning_effort", "output_config.effort"),
    (r"thinking_token_budget", "thinking.budget_tokens"),
    (r"chat_template_kwargs\.enable_thinking", "thinking"),
    (r"(tools\.\d+)\.function\.parameters", r"\1.input_schema"),
    (r"(tools\.\d+)\.function", r"\1"),
    # A job's messages are at other places than the client's: `to_messages`. Of images these are known: `image_fields`.
    (r"messages\.(?!.*\.source$).*", "messages"),
)
"""What whoever runs a request names otherwise."""

NO_THREADS = "thread_unsupported_request"
"""At this code Anthropic's clients send the request again without its `thread`; their tool runner begins with one."""

TOO_LONG = "prompt is too long"
"""What clients look for before they make a conversation shorter."""


def error_envelope(info: ErrorInfo, request_id: str) -> ErrorEnvelope:
    """Return Anthropic's error object, with our code and the field at fault among its details."""
    message = info.message
    if info.code == "context_length_exceeded":
        message = f"{TOO_LONG}: {message}"
    is_thread = info.param == "thread" and info.code == "unsupported_parameter"
    other = "invalid_request_error" if info.status < 500 else "api_error"
    return {
        "type": "error",
        "error": {
            "type": _TYPES.get(info.status, other),
            "message": message,
            "details": {"error_code": NO_THREADS if is_thread else info.code, "param": info.param},
        },
        "request_id": request_id,
    }
