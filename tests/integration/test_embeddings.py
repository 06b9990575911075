"""Embedding models by HTTP: OpenAI's route, rerank and score, and the native ones."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from relais_common.jobs.job import InputType
from relais_common.queue import keys
from relais_common.queue.intake.redis_intake import RedisJobIntake
from relais_embedding_worker.encoder import Input, Vectors
from relais_testing.embedding_jobs import FORMS
from relais_testing.embedding_worker import EmbeddingWorker, open_embedding_worker
from relais_testing.encoders import WatchedEncoder, WatchedReranker, whole
from relais_testing.keys import KeyFile, bearer
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.waiting import LIVENESS_S, wait_until

EMBEDDER = "embedder"
RERANKER = "reranker"


@pytest.fixture
async def front(stack: Stack) -> Front:
    """An orchestrator that knows of an embedding model."""
    return await stack.front(
        EMBEDDING_MODELS=EMBEDDER,
        RERANK_MODELS=RERANKER,
        MAX_EMBEDDING_INPUTS="2048",
        EMBEDDING_TOKEN_IDS="accept",
    )


@pytest.fixture
async def embedder(redis_url: str) -> AsyncIterator[EmbeddingWorker]:
    async with open_embedding_worker(redis_url, model=EMBEDDER) as worker:
        yield worker


@pytest.fixture
async def reranker(redis_url: str) -> AsyncIterator[EmbeddingWorker]:
    encoder = WatchedReranker()
    async with open_embedding_worker(redis_url, model=RERANKER, encoder=encoder) as worker:
        yield worker


def alone(*inputs: Input, input_type: InputType | None = None) -> Vectors:
    encoder = WatchedEncoder()
    return np.stack([encoder.encode([one])[0] for one in whole(encoder, inputs, input_type)])


async def ask(front: Front, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    return await front.ask(path, {"model": EMBEDDER, **body})


@pytest.mark.parametrize(("given", "inputs"), FORMS)
@pytest.mark.usefixtures("embedder")
async def test_every_form_of_input_has_its_vectors_in_order(
    front: Front, given: Any, inputs: tuple[Input, ...]
) -> None:
    status, body = await ask(front, "/v1/embeddings", input=given)
    assert status == 200, body
    assert [one["index"] for one in body["data"]] == list(range(len(inputs)))
    np.testing.assert_allclose(
        [one["embedding"] for one in body["data"]], alone(*inputs), atol=1e-6
    )
    encoder = WatchedEncoder()
    tokens = whole(encoder, inputs)
    assert body["usage"] == {
        "prompt_tokens": sum(len(one.ids) for one in tokens),
        "total_tokens": sum(len(one.ids) for one in tokens),
        "truncated_inputs": sum(one.truncated for one in tokens),
    }


@pytest.mark.usefixtures("embedder")
async def test_base64_is_packed_little_endian_float32(front: Front) -> None:
    status, body = await ask(front, "/v1/embeddings", input="text", encoding_format="base64")
    assert status == 200, body
    row = np.frombuffer(base64.b64decode(body["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(row, alone("text")[0], atol=1e-6)


@pytest.mark.usefixtures("embedder")
async def test_official_client_gets_its_vectors(front: Front) -> None:
    async with openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key="any") as client:
        answer = await client.embeddings.create(model=EMBEDDER, input=["one", "two words"])
    np.testing.assert_allclose(
        [one.embedding for one in answer.data], alone("one", "two words"), atol=1e-6
    )


@pytest.mark.usefixtures("embedder")
async def test_rerank_puts_the_nearest_first(front: Front) -> None:
    documents = ["cats sleep", "the town hall opens at nine", "nothing"]
    status, body = await ask(
        front, "/v1/rerank", query="town hall opens", documents=documents, top_n=2
    )
    assert status == 200, body
    (query,) = alone("town hall opens", input_type=InputType.QUERY)
    scores = alone(*documents, input_type=InputType.PASSAGE) @ query
    order = sorted(range(3), key=lambda index: -scores[index])[:2]
    assert [one["index"] for one in body["results"]] == order
    assert [one["document"]["text"] for one in body["results"]] == [documents[i] for i in order]
    np.testing.assert_allclose(
        [one["relevance_score"] for one in body["results"]], scores[order], atol=1e-6
    )


@pytest.mark.usefixtures("embedder")
async def test_cohere_s_client_gets_places_and_scores_without_texts(front: Front) -> None:
    asked = {"query": "town hall opens", "documents": ["cats sleep", "the town hall opens at nine"]}
    _, expected = await ask(front, "/v1/rerank", **asked, top_n=1)
    status, body = await ask(front, "/v2/rerank", **asked, top_n=1, max_tokens_per_doc=4096)
    assert status == 200, body
    (best,) = expected["results"]
    assert body["results"] == [{"index": best["index"], "relevance_score": best["relevance_score"]}]
    assert body["score_type"] == expected["score_type"] == "cosine"
    assert body["meta"] == {
        "api_version": {"version": "2"},
        "tokens": {"input_tokens": expected["usage"]["prompt_tokens"]},
    }


@pytest.mark.usefixtures("embedder")
async def test_score_compares_one_text_with_others(front: Front) -> None:
    _, body = await ask(front, "/v1/score", text_1="a b", text_2=["a b", "c"])
    (query,) = alone("a b", input_type=InputType.QUERY)
    passages = alone("a b", "c", input_type=InputType.PASSAGE)
    np.testing.assert_allclose([one["score"] for one in body["data"]], passages @ query, atol=1e-6)


@pytest.mark.usefixtures("embedder")
async def test_score_compares_pairs(front: Front) -> None:
    _, body = await ask(front, "/v1/score", text_1=["a b", "c"], text_2=["a b", "d"])
    queries = alone("a b", "c", input_type=InputType.QUERY)
    passages = alone("a b", "d", input_type=InputType.PASSAGE)
    expected = np.sum(queries * passages, axis=1)
    np.testing.assert_allclose([one["score"] for one in body["data"]], expected, atol=1e-6)
    assert body["score_type"] == "cosine"


DOCUMENTS = ["cats sleep", "the town hall", "town"]


@pytest.mark.usefixtures("reranker")
async def test_reranker_s_own_scores_rank_and_the_answer_says_so(front: Front) -> None:
    asked = {"model": RERANKER, "query": "town hall", "documents": DOCUMENTS, "top_n": 2}
    status, body = await ask(front, "/v1/rerank", **asked)
    assert status == 200, body
    assert body["results"] == [
        {"index": 1, "relevance_score": 1.0, "document": {"text": "the town hall"}},
        {"index": 2, "relevance_score": 0.5, "document": {"text": "town"}},
    ]
    assert body["score_type"] == "cross_encoder"
    assert body["usage"] == {"prompt_tokens": 18, "total_tokens": 18, "truncated_inputs": 0}

    _, cohere = await ask(front, "/v2/rerank", **asked)
    assert [one["relevance_score"] for one in cohere["results"]] == [1.0, 0.5]
    assert cohere["score_type"] == "cross_encoder"


@pytest.mark.usefixtures("reranker")
async def test_reranker_scores_one_text_with_others_and_pairs(front: Front) -> None:
    for first, expected in (("town hall", [0.0, 1.0, 0.5]), (["cats", "cats", "town"], [1, 0, 1])):
        status, body = await ask(front, "/v1/score", model=RERANKER, text_1=first, text_2=DOCUMENTS)
        assert status == 200, body
        assert [one["score"] for one in body["data"]] == expected
        assert body["score_type"] == "cross_encoder"


@pytest.mark.usefixtures("reranker")
async def test_fields_of_cohere_and_jina_are_taken(front: Front) -> None:
    status, body = await ask(
        front,
        "/v1/rerank",
        model=RERANKER,
        query="town hall",
        documents=[{"text": "the town hall"}, "cats"],
        return_documents=False,
        truncation=True,
        max_tokens_per_doc=4096,
        max_chunks_per_doc=None,
    )
    assert status == 200, body
    assert body["results"] == [
        {"index": 0, "relevance_score": 1.0},
        {"index": 1, "relevance_score": 0.0},
    ]


@pytest.mark.usefixtures("reranker")
async def test_document_that_is_too_long_is_cut_and_told(front: Front) -> None:
    documents = ["word " * 200_000, "", "town"]
    status, body = await ask(
        front, "/v1/rerank", model=RERANKER, query="", documents=documents, return_documents=False
    )
    assert status == 200, body
    assert body["usage"]["truncated_inputs"] == 1


@pytest.mark.usefixtures("embedder", "reranker")
@pytest.mark.parametrize("model", [EMBEDDER, RERANKER])
async def test_long_and_empty_texts_are_scored_by_models_of_either_kind(
    front: Front, model: str
) -> None:
    texts = ["word " * 200_000, ""]
    status, body = await ask(front, "/v1/score", model=model, text_1="", text_2=texts)
    assert status == 200, body
    assert [one["index"] for one in body["data"]] == [0, 1]
    assert body["usage"]["truncated_inputs"] == 1


RANKED = {"query": "x", "documents": ["x"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/v1/rerank", {"max_chunks_per_doc": 10}, 400, "unsupported_parameter", None),
        ("/v1/rerank", {"rank_fields": ["title"]}, 400, "unsupported_parameter", None),
        ("/v1/rerank", {"max_tokens_per_doc": 100}, 400, "unsupported_value", None),
        ("/v2/rerank", {"max_tokens_per_doc": 100}, 400, "unsupported_value", None),
        ("/v1/rerank", {"truncation": False}, 400, "unsupported_value", None),
        ("/v1/rerank", {"documents": ["x"] * 10_000}, 413, "request_too_large", "documents"),
        (
            "/v1/score",
            {"text_1": "x", "text_2": ["x"] * 10_000},
            413,
            "request_too_large",
            "text_2",
        ),
        ("/v1/rerank", {"documents": [{"title": "x"}]}, 400, None, "documents.0.text"),
        ("/v1/rerank", {"documents": [7]}, 400, "invalid_type", "documents.0"),
        ("/v1/rerank", {"model": "org/model"}, 400, "wrong_operation", "model"),
    ],
)
@pytest.mark.usefixtures("reranker")
async def test_what_cannot_be_ranked_is_a_typed_error(
    front: Front, path: str, body: dict[str, Any], status: int, code: str | None, param: str | None
) -> None:
    whole_body = {"model": RERANKER, **({} if path == "/v1/score" else RANKED), **body}
    got, answer = await ask(front, path, **whole_body)
    assert (got, answer["error"]["param"]) == (status, param or next(iter(body))), answer
    assert code in (None, answer["error"]["code"]), answer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/requests", {"input": "x"}),
        ("/v1/chat/completions", chat_request()),
        ("/v1/completions", {"prompt": "x"}),
    ],
)
async def test_reranker_gives_neither_vectors_nor_text(
    front: Front, path: str, body: dict[str, Any]
) -> None:
    status, answer = await ask(front, path, **{**body, "model": RERANKER})
    error = answer["error"]
    assert (status, error["code"], error["param"]) == (400, "wrong_operation", "model")
    assert "/v1/rerank" in error["message"]


async def test_texts_that_are_no_pairs_are_refused(front: Front) -> None:
    status, answer = await ask(front, "/v1/score", text_1=["a", "b"], text_2=["a"])
    assert (status, answer["error"]["param"]) == (400, "text_2")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/v1/embeddings", {"input": ["x"] * 10_000}, 413, "request_too_large", "input"),
        ("/v1/embeddings", {"input": []}, 400, "invalid_value", "input"),
        ("/v1/embeddings", {"input": "x", "dimensions": 5}, 400, "unsupported_value", "dimensions"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "int8"}, 400, None, "encoding_format"),
        ("/v1/embeddings", {"input": [10**9]}, 400, "invalid_value", "input"),
        ("/v1/embeddings", {}, 400, "missing_required_parameter", "input"),
        ("/v1/chat/completions", chat_request(), 400, "wrong_operation", "model"),
        ("/v1/requests", {"prompt": "x"}, 400, "wrong_operation", "model"),
        ("/v1/rerank", {"query": "x", "documents": []}, 400, "invalid_value", "documents"),
    ],
)
@pytest.mark.usefixtures("embedder")
async def test_what_cannot_be_answered_is_a_typed_error(
    front: Front, path: str, body: dict[str, Any], status: int, code: str | None, param: str
) -> None:
    got, answer = await ask(front, path, **{**body, "model": EMBEDDER})
    assert (got, answer["error"]["param"]) == (status, param), answer
    assert code in (None, answer["error"]["code"])


@pytest.mark.parametrize("ids", [[7, 8], [[7, 8], [9]]])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/requests"])
async def test_token_ids_are_refused_unless_the_deployment_accepts_them(
    stack: Stack, path: str, ids: Any
) -> None:
    front = await stack.front(EMBEDDING_MODELS=EMBEDDER)
    status, body = await ask(front, path, input=ids)
    error = body["error"]
    assert (status, error["param"], error["code"]) == (400, "input", "unsupported_value")
    assert "check_embedding_ctx_length=False" in error["message"]


async def test_model_that_writes_text_gives_no_vectors(front: Front) -> None:
    status, body = await ask(front, "/v1/embeddings", input="x", model=chat_request()["model"])
    assert (status, body["error"]["code"]) == (400, "wrong_operation")


@pytest.mark.usefixtures("embedder")
async def test_native_request_leaves_vectors_to_be_fetched(front: Front) -> None:
    channel_id = await front.submit(
        {"model": EMBEDDER, "operation": "embeddings", "input": ["one", "two words"]}
    )
    await wait_until(lambda: front.is_terminal(channel_id))
    state = await front.state(channel_id)
    assert state["operation"] == "embeddings"
    vectors = state["result"]["vectors"]
    url = f"/v1/channels/{channel_id}/vectors"
    assert vectors == {"count": 2, "dimensions": 8, "truncated": 0, "url": url}
    async with front.get(url) as response:
        rows = (await response.json())["vectors"]
    async with front.get(url, headers={"Accept": "application/octet-stream"}) as response:
        assert response.content_type == "application/octet-stream"
        packed = np.frombuffer(await response.read(), "<f4").reshape(2, 8)
    np.testing.assert_array_equal(packed, np.asarray(rows, np.float32))
    np.testing.assert_allclose(rows, alone("one", "two words"), atol=1e-6)


@pytest.mark.usefixtures("embedder")
async def test_vectors_are_not_fetched_for_more_clients_than_may_be_sent_them(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_at_once, size = 3, 2048 * 8 * 4
    front = await stack.front(
        EMBEDDING_MODELS=EMBEDDER,
        MAX_BODY_BYTES="100000",
        MAX_HELD_BYTES_PER_KEY=str(held_at_once * size),
        WRITE_TIMEOUT_S=str(LIVENESS_S),
    )
    inputs = [f"text {number}" for number in range(2048)]
    channel_id = await front.submit({"model": EMBEDDER, "input": inputs})
    await wait_until(lambda: front.is_terminal(channel_id))
    fetch, fetched = RedisJobIntake.vectors, 0

    async def counted(queue: RedisJobIntake, channel_id: str) -> bytes | None:
        nonlocal fetched
        fetched += 1
        return await fetch(queue, channel_id)

    monkeypatch.setattr(RedisJobIntake, "vectors", counted)
    request = f"GET /v1/channels/{channel_id}/vectors HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    statuses = []
    with ExitStack() as opened:
        for _ in range(12):
            client = opened.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", front.port))
            await loop.sock_sendall(client, request)
            statuses.append((await loop.sock_recv(client, 20)).split()[1])
    assert statuses == [b"200"] * held_at_once + [b"429"] * (12 - held_at_once)
    assert fetched == held_at_once


async def test_request_without_vectors_has_none_to_fetch(front: Front, stack: Stack) -> None:
    await stack.worker()
    channel_id = await front.submit(chat_request())
    await wait_until(lambda: front.is_terminal(channel_id))
    assert (await front.state(channel_id))["result"]["vectors"] is None
    async with front.get(f"/v1/channels/{channel_id}/vectors") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "vectors_not_found"


async def test_client_that_leaves_frees_what_waited(
    front: Front, embedder: EmbeddingWorker
) -> None:
    embedder.encoder.gate.clear()
    asking = asyncio.create_task(ask(front, "/v1/embeddings", input=["many words here"] * 500))
    await wait_until(lambda: embedder.batches.waiting_tokens > 1000)
    asking.cancel()
    await wait_until(lambda: embedder.batches.waiting_tokens == 0)
    embedder.encoder.gate.set()


async def ttls_of(stack: Stack, answer: dict[str, Any]) -> list[int]:
    """Seconds for which the result, the events and the vectors are kept."""
    channel_id = answer["id"].partition("-")[2]
    names = keys.job(channel_id), keys.log(channel_id), keys.vectors(channel_id)
    return [await stack.store.redis.ttl(name) for name in names]


@pytest.mark.usefixtures("embedder")
async def test_vectors_that_a_client_waited_for_are_kept_for_a_minute(
    front: Front, stack: Stack
) -> None:
    for path, body in (
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}),
        ("/v1/score", {"text_1": "x", "text_2": "y"}),
    ):
        _, answer = await ask(front, path, **body)
        assert all(0 < ttl_s <= 60 for ttl_s in await ttls_of(stack, answer))
    _, answer = await ask(front, "/v1/embeddings", input="x", on_disconnect="continue")
    result_s, log_s, vectors_s = await ttls_of(stack, answer)
    assert 3500 < result_s <= 3600
    assert 500 < log_s <= 600
    assert 3500 < vectors_s <= 3600


@pytest.mark.usefixtures("embedder")
async def test_repetition_within_the_minute_gets_the_same_vectors(front: Front) -> None:
    answers = []
    for _ in range(2):
        async with front.post(
            "/v1/embeddings",
            {"model": EMBEDDER, "input": "x"},
            headers={"Idempotency-Key": "one"},
        ) as response:
            answers.append(await response.json())
    assert answers[0] == answers[1]


async def test_key_that_fills_the_store_with_vectors_delays_no_other(
    stack: Stack, embedder: EmbeddingWorker, tmp_path: Path
) -> None:
    key_file = KeyFile(tmp_path / "keys.json", greedy={}, victim={})
    front = await stack.front(
        EMBEDDING_MODELS=EMBEDDER,
        MAX_EMBEDDING_INPUTS="2048",
        MAX_BODY_BYTES=str(20_000),
        MAX_STORED_BYTES=str(200_000),
        **key_file.settings,
    )
    body = {"model": EMBEDDER, "input": ["x"] * 200, "dimensions": 8}

    async def refusal() -> tuple[str, int]:
        for _ in range(100):
            async with front.post("/v1/requests", body, headers=bearer("greedy")) as response:
                answer = await response.json()
                if response.status != 202:
                    assert response.status == 429, answer
                    return answer["error"]["code"], int(response.headers["Retry-After"])
        raise AssertionError("never refused")

    async def is_served() -> bool:
        path, one = "/v1/embeddings", {"model": EMBEDDER, "input": "x"}
        async with front.post(path, one, headers=bearer("victim")) as response:
            status: int = response.status
            return status == 200

    embedder.encoder.gate.clear()
    assert (await refusal())[0] == "key_storage_full"
    embedder.encoder.gate.set()
    assert await is_served()

    async def all_over() -> bool:
        depth = await stack.store.intake.depth(EMBEDDER)
        return depth.waiting + depth.running == 0

    retry_after_s = 0
    for _ in range(20):
        await wait_until(all_over)
        code, retry_after_s = await refusal()
        assert code == "key_storage_full"
    # No sooner than the first of its results goes, which are kept for an hour.
    assert retry_after_s > 500
    assert await is_served()
