"""Interprets a server's refusal: for the request, the server and the client."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import ClientError, ClientResponse

from relais_common.jobs.error_texts import cleaned
from relais_common.jobs.errors import (
    EngineFailed,
    UpstreamMisconfigured,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from relais_common.remote.errors import Busy, Lost, Misplaced

MAX_ERROR_BYTES = 64 << 10
ERROR_TIMEOUT_S = 10.0

_RATE_LIMITED = 429
_UNAVAILABLE = frozenset((408, 425, 503, 529))
_LOST = frozenset((502, 504))
_FAILED = 424
"""What TEI and TGI answer where their engine failed."""
_OURS = frozenset((401, 402, 404, 405, 407))
"""Refusals of this deployment's key, account, address or model, which no client can fix."""
_STATUS_OF = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 503,
    "overloaded": 503,
}
_OUR_KEY = re.compile(
    r"auth|key|permission|account|billing|organization|project|forbidden", re.IGNORECASE
)
_CODES = frozenset(
    (
        "content_filter",
        "content_policy_violation",
        "context_length_exceeded",
        "invalid_type",
        "invalid_value",
        "missing_required_parameter",
        "unknown_parameter",
        "unsupported_parameter",
        "unsupported_value",
    )
)
"""Codes of OpenAI, passed on unchanged."""
CONTEXT = "context_length_exceeded"
_OVERFLOW = re.compile(
    # vLLM, SGLang, llama.cpp, Ollama and OpenAI; then vLLM, TGI, and others.
    r"context[ _](?:length|size|window)|max_model_len|maximum model length|`inputs` (?:tokens|must have less than)"
    r"|max_input_len|(?:prompt|input) is too long|exceeds the maximum number of tokens",
    re.IGNORECASE,
)
_OVERFLOW_WORDS = frozenset((CONTEXT, "exceed_context_size_error"))
_LENGTH = re.compile(
    r"(?:(?:context|model)[ _](?:length|size|window)|max_model_len)(?:'s)?(?: is| of| only| \(| =)*\W{0,2}(\d{1,9})"
    r"|`max_new_tokens` must be <= (\d{1,9})|must have less than (\d{1,9}) tokens|(\d{1,9}) maximum context",
    re.IGNORECASE,
)
_AS_OPENAI = "maximum context length is "
_OF_LENGTH = frozenset(("messages", "prompt", "max_tokens", "max_completion_tokens"))
_ADDRESS = re.compile(r"\bhttps?://\S+")
_PARAM = re.compile(r"[A-Za-z_][\w.\[\]-]{0,99}")
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Said:
    """An error in OpenAI's form, or a similar one.

    Attributes:
        shaped: whether it has that form, unlike a proxy's page.
        words: type and code.
        status: the HTTP status that it names, as a number or a word.
    """

    message: str = ""
    param: str | None = None
    words: tuple[str, ...] = ()
    status: int | None = None
    shaped: bool = False


def read_error(body: Any) -> Said:
    """Parse the body of an error."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return Said(error, status=_STATUS_OF.get(error.lower()), shaped=True)
    if not isinstance(error, dict):
        return Said()
    message, param, code = error.get("message"), error.get("param"), error.get("code")
    words = tuple(
        word for word in (code, error.get("type")) if isinstance(word, str) and len(word) <= 100
    )
    status = code if type(code) is int and 100 <= code <= 599 else None
    if status is None:
        status = next((_STATUS_OF[word] for word in words if word in _STATUS_OF), None)
    return Said(
        message if isinstance(message, str) else "",
        param if isinstance(param, str) and _PARAM.fullmatch(param) else None,
        words,
        status,
        shaped=isinstance(message, str),
    )


async def read_capped(response: ClientResponse, most_bytes: int, timeout_s: float) -> bytes:
    """Read a whole body within these bounds.

    Raises:
        Lost: it exceeds them, or is compressed.
    """
    require_plain(response)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > most_bytes:
                    raise Lost(f"its answer is longer than {most_bytes} bytes")
    except (ClientError, TimeoutError, OSError) as error:
        raise Lost(f"its answer breaks off: {type(error).__name__}") from error
    return bytes(body)


def require_plain(response: ClientResponse) -> None:
    """Raise Lost if the response is compressed: that was not requested, and it may unpack to any size."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise Lost("its answer is compressed")


async def refusal(response: ClientResponse) -> Exception:
    """Return the error that a status other than 200 stands for."""
    try:
        said = read_error(
            orjson.loads(await read_capped(response, MAX_ERROR_BYTES, ERROR_TIMEOUT_S))
        )
    except (Lost, ValueError):
        said = Said()
    return meaning(response.status, said, _retry_after_s(response))


def meaning(status: int, said: Said, retry_after_s: float | None = None) -> Exception:
    """Return the error that this status and body stand for."""
    answers = f"it answers {status}"
    if status != _RATE_LIMITED and _overflows(said):
        # Whatever the status: no other try would go better.
        return _refused(400, said if status < 500 else Said(words=(CONTEXT,)))
    if status == _RATE_LIMITED:
        # What it says of the limit names this deployment's organisation.
        limited = UpstreamRateLimited("the model's server takes no more of this deployment now")
        return Busy(answers, limited, retry_after_s)
    if status in _UNAVAILABLE:
        unavailable = UpstreamUnavailable("the model's server is overloaded or unavailable")
        return Busy(answers, unavailable, retry_after_s)
    if status in _LOST or status < 400:
        return Lost(answers)
    if status >= 500 or status == _FAILED:
        # What a server says of its own faults is for its operator.
        return EngineFailed("the model's server failed while it ran this request")
    if status in _OURS or not (said.shaped or status in (400, 413, 422)):
        return _misplaced(status)
    if status == 403:
        ours = any(map(_OUR_KEY.search, said.words)) or not said.words
        return _misplaced(status) if ours else _refused(status, said)
    return _refused(status, said)


def _misplaced(status: int) -> Misplaced:
    return Misplaced(
        f"it answers {status}: see its key, url and model in the table of servers",
        UpstreamMisconfigured("the model's server does not accept this deployment's requests"),
        status,
    )


def _refused(status: int, said: Said) -> UpstreamRefused:
    message = cleaned(_ADDRESS.sub("", said.message)) or "the model's server refused the request"
    return UpstreamRefused(message, status=status, param=said.param, code=_code(said))


def exceeds_context(
    error: UpstreamRefused, max_model_len: int | None, param: str
) -> UpstreamRefused:
    """Return the refusal of a request that is too long in OpenAI's words; any other is returned unchanged.

    Args:
        max_model_len: if the server reports it.
        param: the field with the prompt.
    """
    if error.code != CONTEXT:
        return error
    message = error.message
    if _AS_OPENAI not in message:
        told = _LENGTH.search(message)
        length = max_model_len or (told and next(filter(None, told.groups())))
        limit = f"{length} tokens" if length else "exceeded"
        message = f"This model's {_AS_OPENAI}{limit}: {message}"
    return UpstreamRefused(
        message,
        status=400,
        param=error.param if error.param in _OF_LENGTH else param,
        code=CONTEXT,
    )


def _overflows(said: Said) -> bool:
    return not _OVERFLOW_WORDS.isdisjoint(said.words) or bool(_OVERFLOW.search(said.message[:2000]))


def _code(said: Said) -> str | None:
    if _overflows(said):
        return CONTEXT
    return next((word for word in said.words if word in _CODES), None)


def _retry_after_s(response: ClientResponse) -> float | None:
    given = response.headers.get("Retry-After", "").strip()
    return float(given) if _SECONDS.fullmatch(given) else None
