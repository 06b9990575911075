"""`/docs`: Swagger UI over `/openapi.json`, from files on this machine: the page asks nobody else for anything.

The files come from the package `swagger-ui-py`, none of whose code is run.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

OURS = Path(__file__).parent / "page"
HEADERS = {
    # Asked for again each time, and answered 304: an upgrade is seen at once.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_docs_page(app: web.Application, root_path: str) -> None:
    """The page, the few files that it needs, and the way to it from where a visitor may begin."""
    theirs = _swagger_ui()
    files = {
        "/docs": OURS / "docs.html",
        "/docs/start.js": OURS / "start.js",
        **{
            f"/docs/{name}": theirs / name
            for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
        },
    }
    app.add_routes(web.get(path, _sends(file)) for path, file in files.items())
    for path in ("/", "/docs/"):
        app.add_routes([web.get(path, _leads_to(f"{root_path}/docs"))])


def _sends(file: Path) -> Handler:
    async def send(_: web.Request) -> web.FileResponse:
        return web.FileResponse(file, headers=HEADERS)

    return send


def _leads_to(location: str) -> Handler:
    async def lead(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": location})

    return lead


def _swagger_ui() -> Path:
    spec = find_spec("swagger_ui")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"
