"""Fields that are unknown: refused by name, or ignored and named, as the deployment says."""

from __future__ import annotations

from typing import Any

import pytest

from relais_orchestrator.http.ignored_fields import HEADER
from relais_testing.builders import MODEL
from relais_testing.stack import Stack, chat_request

EMBEDDER, CLASSIFIER = "embedder", "classifier"
KINDS = {"EMBEDDING_MODELS": EMBEDDER, "CLASSIFY_MODELS": CLASSIFIER}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/requests": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3},
    "/v1/completions": {"prompt": "a", "max_tokens": 3},
    "/v1/embeddings": {"model": EMBEDDER, "input": "a"},
    "/v1/rerank": {"model": EMBEDDER, "query": "a", "documents": ["b"]},
    "/v2/rerank": {"model": EMBEDDER, "query": "a", "documents": ["b"]},
    "/v1/classify": {"model": CLASSIFIER, "input": "a"},
    "/v1/score": {"model": EMBEDDER, "text_1": "a", "text_2": "b"},
}


@pytest.mark.parametrize("path", BODIES)
async def test_they_are_refused_or_ignored(stack: Stack, path: str) -> None:
    body = {"model": MODEL, **BODIES[path], "no\nsuch": {"a": 1}}
    makes_vectors = body["model"] in KINDS.values()
    if makes_vectors:
        # Nobody makes any here, so that these requests expire.
        body["deadline_s"] = 1
    refusing = await stack.front(**KINDS)
    async with refusing.post(path, body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "unknown_parameter"
        assert HEADER not in response.headers
    ignoring = await stack.front(**KINDS, UNKNOWN_FIELDS="ignore")
    await stack.worker()
    async with ignoring.post(path, body) as response:
        assert response.status in ((504,) if makes_vectors else (200, 202))
        assert response.headers[HEADER] == "no%0Asuch"


async def test_a_stream_names_them_too_and_a_page_may_read_it(stack: Stack) -> None:
    front = await stack.front(UNKNOWN_FIELDS="ignore", CORS_ALLOW_ORIGINS="https://page.example")
    await stack.worker()
    body = chat_request("a", stream=True, max_tokens=2, nope=1)
    origin = {"Origin": "https://page.example"}
    async with front.post("/v1/chat/completions", body, headers=origin) as response:
        assert response.headers[HEADER] == "nope"
        assert HEADER in response.headers["Access-Control-Expose-Headers"].split(", ")
        await response.read()
