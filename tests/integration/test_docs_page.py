"""`/docs`: a page whose every file is served here, and that a browser lets ask nobody else.

That it works in a browser, "Try it out" with a key included, was seen by hand: CI has no browser.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urljoin

from relais_testing.stack import Front, Stack
from relais_testing.worker import Worker


async def test_page_and_all_that_it_loads_are_served_here(front: Front) -> None:
    async with front.get("/docs") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        page = await response.text()
    assert not re.search(r"https?://|<script>|style=", page)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) == 6
    for path in loaded:
        async with front.get(urljoin("/docs", path)) as response:
            assert response.status == 200, path
            assert await response.read()
    async with front.get("/docs/start.js") as response:
        assert b'url: "openapi.json"' in await response.read()


async def test_page_begins_with_a_request_that_this_server_answers(
    stack: Stack, worker: Worker, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"client1": "a-long-enough-key-of-client-1"}))
    for settings, any_key in (({}, True), ({"ENV": "prod", "API_KEYS": str(keys)}, False)):
        front = await stack.front(**settings)
        async with front.get("/openapi.json") as response:
            first = (await response.json())["info"]["x-relais-first-request"]
        assert first["any_key"] is any_key
        headers = {"Authorization": "Bearer a-long-enough-key-of-client-1"}
        async with front.post(first["path"], first["body"], headers=headers) as response:
            assert response.status == 200
            assert b"[DONE]" in await response.read()


async def test_where_only_embeddings_are_served_the_first_request_is_for_one(stack: Stack) -> None:
    front = await stack.front(EMBEDDING_MODELS="v", MODELS="v")
    async with front.get("/openapi.json") as response:
        first = (await response.json())["info"]["x-relais-first-request"]
    assert (first["path"], first["body"]["model"]) == ("/v1/embeddings", "v")


async def test_page_follows_dark_mode(front: Front) -> None:
    async with front.get("/docs/docs.css") as response:
        assert "prefers-color-scheme: dark" in await response.text()


async def test_browser_lets_the_page_ask_its_own_server_only(front: Front) -> None:
    async with front.get("/docs") as response:
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"connect-src ([^;]+)", policy) == ["'self'"]


async def test_files_are_asked_for_again_and_sent_only_when_they_changed(front: Front) -> None:
    path = "/docs/swagger-ui-bundle.js"
    async with front.get(path) as response:
        assert response.headers["Cache-Control"] == "no-cache"
        etag = response.headers["ETag"]
    async with front.get(path, headers={"If-None-Match": etag}) as response:
        assert response.status == 304
        assert response.headers["ETag"] == etag


async def test_no_other_file_of_the_package_is_served(front: Front) -> None:
    for path in ("/docs/swagger-editor-bundle.js", "/docs/..%2f__init__.py"):
        async with front.get(path) as response:
            assert response.status == 404
