"""Responses whose content never changes: compressed once, and told from what a client has already by their ETag."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Fixed:
    """Content of one type, ready to be sent."""

    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str = field(init=False)
    packed: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "etag", hashlib.sha256(self.body).hexdigest()[:32])
        object.__setattr__(self, "packed", gzip.compress(self.body, 6, mtime=0))

    async def send(self, request: web.Request) -> web.Response:
        """Send it, or a 304 to a client that has it."""
        known = request.if_none_match or ()
        if any(tag.value in (self.etag, "*") for tag in known):
            response = web.Response(status=304)
        else:
            accepted = request.headers.get("Accept-Encoding", "")
            packs = "gzip" in accepted and len(self.packed) < len(self.body)
            response = web.Response(
                body=self.packed if packs else self.body, content_type=self.content_type
            )
            if packs:
                response.headers["Content-Encoding"] = "gzip"
        response.headers.update(self.headers)
        # Browsers ask every time, so that an upgrade is visible at once.
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Vary"] = "Accept-Encoding"
        response.etag = self.etag
        return response
