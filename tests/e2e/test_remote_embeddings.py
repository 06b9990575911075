"""Vectors and scores through a second stack: what the server gives alone, to the last bit that it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from relais_testing.process_stack import Starter, make_starter
from relais_testing.tiny_encoder import make_reranker
from relais_testing.valkey import ValkeyServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MODEL, RERANKER, CLASSIFIER = "all-MiniLM-L6-v2", "tiny-reranker", "tiny-classifier"
TEXTS = ["the town hall opens at nine", "le chat dort", "", "🦄 " * 500, *(["more words"] * 60)]


@pytest.fixture
def stacks(
    make_redis_server: Callable[..., ValkeyServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Starter, Starter]]:
    with ExitStack() as stack:
        starts = [
            make_starter(stack, make_redis_server(), tmp_path_factory.mktemp("logs"))
            for _ in range(2)
        ]
        yield starts[0], starts[1]


async def test_models_of_another_stack_give_the_same_vectors_and_scores(
    stacks: tuple[Starter, Starter], tmp_path: Path
) -> None:
    there, here = stacks
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = there(
        "orchestrator",
        MODELS="",
        EMBEDDING_MODELS=MODEL,
        RERANK_MODELS=RERANKER,
        CLASSIFY_MODELS=CLASSIFIER,
    )
    classifier = make_reranker(tmp_path / "classifier", labels=3)
    there("embedding_worker", **offline)
    there(
        "embedding_worker",
        EMBEDDING_MODEL=f"{make_reranker(tmp_path / 'reranker')},{classifier}",
        EMBEDDING_SERVED_NAME=f"{RERANKER},{CLASSIFIER}",
        **offline,
    )
    tables = {
        "EMBEDDING_TABLE": repr([(MODEL, server.url)]),
        "RERANK_TABLE": repr([(RERANKER, f"{server.url}/v1")]),
        "CLASSIFY_TABLE": repr([(CLASSIFIER, f"{server.url}/v1")]),
    }
    front = here("orchestrator", MODELS="", **tables)
    here("embedding_worker", EMBEDDING_ENGINE="remote", **tables)

    async with aiohttp.ClientSession() as session:

        async def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
            async with session.post(url + path, json=body) as response:
                assert response.status == 200, await response.text()
                answer: dict[str, Any] = await response.json()
                return answer

        asked = {"model": MODEL, "input": TEXTS}
        mine, theirs = [await post(url, "/v1/embeddings", asked) for url in (front.url, server.url)]
        rows, expected = (
            np.array([one["embedding"] for one in given["data"]]) for given in (mine, theirs)
        )
        np.testing.assert_allclose(rows, expected, atol=1e-6)
        assert mine["usage"] == theirs["usage"]
        assert mine["usage"]["truncated_inputs"] == 1

        asked = {"model": RERANKER, "query": "town hall", "documents": TEXTS[:2]}
        mine, theirs = [await post(url, "/v1/rerank", asked) for url in (front.url, server.url)]
        assert [one["index"] for one in mine["results"]] == [
            one["index"] for one in theirs["results"]
        ]
        np.testing.assert_allclose(
            [one["relevance_score"] for one in mine["results"]],
            [one["relevance_score"] for one in theirs["results"]],
            atol=1e-6,
        )
        assert mine["score_type"] == theirs["score_type"] == "cross_encoder"
        assert mine["usage"] == theirs["usage"]

        asked = {"model": CLASSIFIER, "input": TEXTS}
        mine, theirs = [await post(url, "/v1/classify", asked) for url in (front.url, server.url)]
        rows, expected = (
            np.array([one["probs"] for one in given["data"]]) for given in (mine, theirs)
        )
        np.testing.assert_allclose(rows, expected, atol=1e-6)
        for field in ("labels", "usage"):
            assert mine[field] == theirs[field]

        wrong = {"model": MODEL, "input": "text", "dimensions": 7}
        for url in (front.url, server.url):
            async with session.post(f"{url}/v1/embeddings", json=wrong) as response:
                error = (await response.json())["error"]
                assert (response.status, error["param"]) == (400, "dimensions")
