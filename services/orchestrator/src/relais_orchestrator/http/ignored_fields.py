"""Names the unknown fields of a body that were ignored (`UNKNOWN_FIELDS=ignore`) in a response header."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from aiohttp import web

HEADER = "X-Relais-Ignored-Fields"
MAX_NAMES = 16
MAX_NAME_LENGTH = 64
MORE = "..."
"""Stands last where there were more."""

_IGNORED: web.RequestKey[Sequence[str]] = web.RequestKey("ignored_fields", Sequence)


def note(request: web.Request, ignored: Sequence[str]) -> None:
    """Have the response to this request name these fields."""
    if ignored:
        request[_IGNORED] = ignored


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Add the header; for `Application.on_response_prepare`."""
    ignored = request.get(_IGNORED)
    if ignored:
        response.headers[HEADER] = header_value(ignored)


def header_value(ignored: Sequence[str]) -> str:
    """Return the names, percent-encoded because clients choose them, and bounded."""
    names = [quote(name[:MAX_NAME_LENGTH], errors="replace") for name in ignored[:MAX_NAMES]]
    return ", ".join([*names, MORE] if len(ignored) > MAX_NAMES else names)
