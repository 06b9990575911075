"""Names the unknown fields of a body that were ignored (`UNKNOWN_FIELDS=ignore`) in a response header."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from urllib.parse import quote

from aiohttp import web

HEADER = "X-Relais-Ignored-Fields"
MAX_NAMES = 16
MAX_NAME_LENGTH = 64
"""Of a name as the header has it. Proxies and clients bound headers: nginx, all of a response's at 4 KiB."""
MORE = "..."
"""Stands last where there were more."""

_CUT_ESCAPE = re.compile("%.?$")
_IGNORED: web.RequestKey[str] = web.RequestKey("ignored_fields", str)


def shown(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that the header shows: percent-encoded because clients choose them, and bounded."""
    first = tuple(map(_shown, islice(dict.fromkeys(names), MAX_NAMES + 1)))
    return (*first[:MAX_NAMES], MORE) if len(first) > MAX_NAMES else first


def _shown(name: str) -> str:
    encoded = quote(name[:MAX_NAME_LENGTH], errors="replace")
    return _CUT_ESCAPE.sub("", encoded[:MAX_NAME_LENGTH])


def note(request: web.Request, names: Sequence[str]) -> None:
    """Have the response to this request name these fields, which are as `shown` returns them."""
    if names:
        request[_IGNORED] = ", ".join(names)


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Add the header; for `Application.on_response_prepare`."""
    names = request.get(_IGNORED)
    if names is not None:
        response.headers[HEADER] = names
