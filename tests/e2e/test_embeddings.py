"""The default model in a real worker process: the vectors are sentence-transformers' own, whatever shares a batch."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest

from relais_common.jobs.events import Completed
from relais_common.jobs.job import Embedding, InputType, Job, Operation
from relais_common.queue import codec
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_embedding_worker.settings import read_settings
from relais_testing.builders import make_job
from relais_testing.process_stack import Starter, make_starter
from relais_testing.tiny_encoder import MAX_TOKENS, make_encoder, make_reranker
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = "all-MiniLM-L6-v2"
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
WORDS = "the town hall opens at nine on monday and the cat sleeps émoji 🦄 où".split()


@pytest.fixture(scope="module")
def reference() -> Any:
    """The model as its makers' library runs it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(read_settings({}).encoders[0].model, device="cpu")


@pytest.fixture(scope="module")
def redis_of_a_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with ValkeyServer(tmp_path_factory.mktemp("redis")) as redis, ExitStack() as stack:
        make_starter(stack, redis, tmp_path_factory.mktemp("logs"))("embedding_worker", **OFFLINE)
        yield redis.url


@pytest.fixture
async def store(redis_of_a_worker: str) -> AsyncIterator[RedisStore]:
    """Of a Redis with a worker at work."""
    async with open_store(RedisSettings(redis_of_a_worker)) as store:
        yield store


def job_for(*inputs: Any, **fields: Any) -> Job:
    operation = Operation.SCORE if fields.get("queries") else Operation.EMBEDDINGS
    embedding = Embedding(inputs=inputs, **fields)
    return make_job(model=MODEL, operation=operation, messages=None, embedding=embedding)


async def answer(store: RedisStore, job: Job) -> tuple[Completed, Any]:
    await store.intake.enqueue(job, max_waiting=1000)

    async def outcome() -> bytes:
        state = await store.intake.state(job.channel_id)
        return b"" if state is None else state.outcome or b""

    end = codec.decode_event(await wait_until(outcome))
    assert isinstance(end, Completed), end
    assert end.vectors is not None
    packed = await store.intake.vectors(job.channel_id) or b""
    return end, np.frombuffer(packed, "<f4").reshape(end.vectors.count, end.vectors.dimensions)


async def test_vectors_are_the_library_s_own_under_mixed_load(
    store: RedisStore, reference: Any
) -> None:
    rng = random.Random(7)
    texts = [
        [" ".join(rng.choices(WORDS, k=rng.choice((0, 1, 5, 20, 80, 300)))) for _ in range(n)]
        for n in (1, 1, 1, 2, 5, 9, 40)
    ]
    texts.append(["", "🦄" * 40, "lorem ipsum " * 9000, "\n\t", "word\x00word"])
    answers = await asyncio.gather(*(answer(store, job_for(*several)) for several in texts))
    for several, (end, rows) in zip(texts, answers, strict=True):
        np.testing.assert_allclose(rows, reference.encode(several), atol=1e-5)
        lengths = [len(ids) for ids in reference.tokenizer(several, verbose=False)["input_ids"]]
        assert end.usage.input_tokens == sum(min(length, 256) for length in lengths)
        assert end.vectors is not None
        assert end.vectors.truncated == sum(length > 256 for length in lengths)


async def test_token_ids_and_scores(store: RedisStore, reference: Any) -> None:
    text = "the town hall opens at nine"
    ids = tuple(reference.tokenizer(text, add_special_tokens=False)["input_ids"])
    _, rows = await answer(store, job_for(ids))
    np.testing.assert_allclose(rows, reference.encode([text]), atol=1e-5)
    passages = ("The town hall opens at nine.", "Cats sleep all day.")
    query = "When can I go to the town hall?"
    _, scores = await answer(
        store, job_for(*passages, queries=(query,), input_type=InputType.PASSAGE)
    )
    expected = reference.encode(list(passages)) @ reference.encode(query)
    np.testing.assert_allclose(scores[:, 0], expected, atol=1e-5)
    assert scores[0, 0] > 0.5 > scores[1, 0]


@pytest.mark.slow
async def test_official_client_gets_fewer_dimensions_of_a_model_that_allows_them(
    start: Starter, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = make_encoder(tmp_path, matryoshka_dimensions=[8, 16])
    settings = {"EMBEDDING_MODEL": str(folder), "EMBEDDING_SERVED_NAME": "tiny", **OFFLINE}
    start("embedding_worker", **settings)
    front = start("orchestrator", EMBEDDING_MODELS="tiny")
    texts = ["the town hall opens at nine", "", "cats sleep"]

    async with openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key="any") as client:
        whole = await client.embeddings.create(model="tiny", input=texts)
        cut = await client.embeddings.create(model="tiny", input=texts, dimensions=16)
        query = await client.embeddings.create(
            model="tiny", input=texts[0], extra_body={"input_type": "query"}
        )
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="tiny", input=texts, dimensions=12)

    library = SentenceTransformer(str(folder), device="cpu")
    for answer, expected in (
        (whole, library.encode(texts)),
        (cut, library.encode(texts, truncate_dim=16, normalize_embeddings=True)),
        (query, library.encode(texts[:1], prompt_name="query")),
    ):
        rows = [one.embedding for one in answer.data]
        np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert (refused.value.code, refused.value.param) == ("unsupported_value", "dimensions")
    assert "8, 16, 32" in str(refused.value)


@pytest.mark.slow
async def test_reranker_in_a_process_gives_the_library_s_scores_to_many_clients(
    start: Starter, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    folder = make_reranker(tmp_path)
    settings = {"EMBEDDING_MODEL": str(folder), "EMBEDDING_SERVED_NAME": "judge", **OFFLINE}
    start("embedding_worker", **settings)
    front = start("orchestrator", RERANK_MODELS="judge")
    rng = random.Random(5)
    asked = [
        {
            "model": "judge",
            "query": " ".join(rng.choices(WORDS, k=4)),
            "documents": [
                " ".join(rng.choices(WORDS, k=rng.choice((0, 1, 5, 20, 80)))) for _ in range(count)
            ],
        }
        for count in (1, 1, 2, 5, 9, 40, 100)
    ]

    async with aiohttp.ClientSession() as session:

        async def rerank(body: dict[str, Any]) -> dict[str, Any]:
            async with session.post(f"{front.url}/v1/rerank", json=body) as response:
                answer: dict[str, Any] = await response.json()
                assert response.status == 200, answer
                return answer

        answers = await asyncio.gather(*map(rerank, asked))
        async with session.get(f"{front.url}/v1/models/judge") as response:
            shown = await response.json()

    library = CrossEncoder(str(folder), device="cpu")
    for body, answer in zip(asked, answers, strict=True):
        pairs = [(body["query"], document) for document in body["documents"]]
        expected = library.predict(pairs)
        scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
        np.testing.assert_allclose([scores[at] for at in range(len(pairs))], expected, atol=1e-4)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert answer["score_type"] == "cross_encoder"
        lengths = [
            len(ids) for ids in library.tokenizer(*map(list, zip(*pairs, strict=True)))["input_ids"]
        ]
        assert answer["usage"]["truncated_inputs"] == sum(length > MAX_TOKENS for length in lengths)
    assert shown["relais"]["operation"] == "rerank"
    assert shown["max_model_len"] == MAX_TOKENS


@pytest.mark.slow
async def test_models_that_do_not_fit_together_take_turns_in_one_worker(
    start: Starter, tmp_path: Path
) -> None:
    models = [make_encoder(tmp_path / "encoder"), make_reranker(tmp_path / "reranker")]
    settings = {
        "EMBEDDING_MODEL": ",".join(map(str, models)),
        "EMBEDDING_SERVED_NAME": "tiny,judge",
        "EMBEDDING_MAX_MODEL_BYTES": "1",
        **OFFLINE,
    }
    start("embedding_worker", **settings)
    front = start("orchestrator", EMBEDDING_MODELS="tiny", RERANK_MODELS="judge")
    bodies: dict[str, dict[str, Any]] = {
        "embeddings": {"model": "tiny", "input": ["cats sleep"]},
        "rerank": {"model": "judge", "query": "cats", "documents": ["cats sleep", "the hall"]},
    }

    async with aiohttp.ClientSession() as session:

        async def ask(path: str) -> list[float]:
            async with session.post(f"{front.url}/v1/{path}", json=bodies[path]) as response:
                answer = await response.json()
                assert response.status == 200, answer
                if path == "embeddings":
                    return list(answer["data"][0]["embedding"])
                return [one["relevance_score"] for one in answer["results"]]

        first = {path: await ask(path) for path in bodies}
        paths = [*bodies, *bodies] * 3
        for path, found in zip(paths, await asyncio.gather(*map(ask, paths)), strict=True):
            np.testing.assert_allclose(found, first[path], atol=1e-5)
