"""`/docs`: Swagger UI over `/openapi.json`. All files are served from here; the page loads nothing else.

The files come from the package `swagger-ui-py`; none of its code is run.
"""

from __future__ import annotations

import mimetypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from relais_orchestrator.http.fixed import Fixed

OURS = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_docs_page(app: web.Application, root_path: str) -> None:
    """Add the page, its files, and a redirect from the root."""
    theirs = _swagger_ui()
    files = {
        "/docs": OURS / "docs.html",
        **{f"/docs/{name}": OURS / name for name in ("start.js", "docs.css")},
        **{
            f"/docs/{name}": theirs / name
            for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
        },
    }
    app.add_routes(web.get(path, _fixed(file).send) for path, file in files.items())
    for path in ("/", "/docs/"):
        app.add_routes([web.get(path, _leads_to(f"{root_path}/docs"))])


@cache
def _fixed(file: Path) -> Fixed:
    content_type, _ = mimetypes.guess_type(file.name)
    assert content_type is not None
    return Fixed(file.read_bytes(), content_type, HEADERS)


def _leads_to(location: str) -> Handler:
    async def lead(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": location})

    return lead


def _swagger_ui() -> Path:
    spec = find_spec("swagger_ui")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"
