"""`/openapi.json`: the document, built once at start."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson
from aiohttp import web

from relais_orchestrator.api.docs.components import Json


@dataclass(frozen=True, slots=True)
class ApiDocument:
    """The document's bytes, and their ETag."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, document: Json) -> ApiDocument:
        body = orjson.dumps(document)
        return cls(body, hashlib.sha256(body).hexdigest()[:32])


DOCUMENT: web.AppKey[ApiDocument] = web.AppKey("openapi_document", ApiDocument)


async def document(request: web.Request) -> web.Response:
    """`GET /openapi.json`."""
    found = request.app[DOCUMENT]
    known = request.if_none_match or ()
    current = any(tag.value in (found.etag, "*") for tag in known)
    response = (
        web.Response(status=304)
        if current
        else web.Response(body=found.body, content_type="application/json")
    )
    response.etag = found.etag
    response.headers["Cache-Control"] = "no-cache"
    return response
