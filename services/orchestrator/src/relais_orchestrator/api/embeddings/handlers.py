"""`/v1/embeddings`, `/v1/rerank`, `/v2/rerank`, `/v1/score`, `/v1/classify`: each runs one job."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from relais_common.jobs.channels import channel_model
from relais_common.jobs.errors import ChannelNotFound
from relais_common.jobs.events import Completed, Vectors
from relais_common.jobs.job import OnDisconnect, Operation
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.answering import QUEUE_MS, PendingAnswer, open_answer
from relais_orchestrator.api.embeddings.schemas import (
    ClassifiedInput,
    CohereRerankResponse,
    EmbeddingUsage,
    RerankResponse,
    RerankResult,
    ScoreList,
    ScoreType,
)
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.batches.endpoints import Endpoint, Wait
from relais_orchestrator.http.large_answers import send_json
from relais_orchestrator.http.responses import json_response
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading

FLOAT_BYTES = 4
"""Of a number in packed vectors."""
PARTS_AT_ONCE = 16
"""Vectors that a line of a batch turns into JSON before others have their turn."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A completed request.

    Attributes:
        score_type: of its results, if they are scores.
    """

    channel_id: str
    completed: Completed
    shape: Vectors
    packed: bytes
    score_type: ScoreType

    @property
    def model(self) -> str:
        return channel_model(self.channel_id)

    @property
    def usage(self) -> EmbeddingUsage:
        tokens = self.completed.usage.input_tokens or 0
        return {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "truncated_inputs": self.shape.truncated,
        }

    @property
    def headers(self) -> dict[str, str]:
        return {QUEUE_MS: str(int(self.completed.timings.queue_s * 1000))}


async def embeddings(request: web.Request) -> web.StreamResponse:
    """One vector for each input."""
    asked, done = await _ask(request, Reading.EMBEDDINGS)
    return await _send(request, done, _embeddings_json(asked, done))


def _embeddings_json(asked: Asked, done: _Done) -> Iterator[bytes]:
    rows = (
        b'{"object":"embedding","index":%d,"embedding":%b}' % one
        for one in enumerate(as_json(done.packed, done.shape, base64_rows=asked.base64))
    )
    return _list_json(done, rows, id=f"embd-{done.channel_id}")


async def classify(request: web.Request) -> web.StreamResponse:
    """The probabilities of each input's classes."""
    asked, done = await _ask(request, Reading.CLASSIFY)
    return await _send(request, done, _classes_json(asked, done))


def _classes_json(_: Asked, done: _Done) -> Iterator[bytes]:
    return _list_json(
        done,
        _classified(done),
        id=f"classify-{done.channel_id}",
        created=int(time.time()),
        labels=done.shape.labels,
    )


def _classified(done: _Done) -> Iterator[bytes]:
    labels = done.shape.labels
    for index, row in enumerate(_rows(done.packed, done.shape)):
        probs = unpack(row)
        one: ClassifiedInput = {
            "index": index,
            "label": labels[probs.index(max(probs))],
            "probs": probs,
            "num_classes": len(probs),
        }
        yield orjson.dumps(one)


async def _send(request: web.Request, done: _Done, text: Iterator[bytes]) -> web.StreamResponse:
    return await send_json(request, text, holds_bytes=len(done.packed), headers=done.headers)


def _list_json(done: _Done, rows: Iterable[bytes], **fields: Any) -> Iterator[bytes]:
    """Yield a list's text, whose rows may be many.

    Args:
        fields: what it has beside what all lists have.
    """
    told = {"model": done.model, "usage": done.usage, "timings": done.completed.timings}
    yield b'{"object":"list","data":['
    for index, row in enumerate(rows):
        yield b",%b" % row if index else row
    yield b"],%b" % orjson.dumps(told | fields)[1:]


async def rerank(request: web.Request) -> web.Response:
    """Rank documents by relevance to a query."""
    asked, done = await _ask(request, Reading.RERANK)
    return json_response(_rerank(asked, done), headers=done.headers)


def _rerank(asked: Asked, done: _Done) -> RerankResponse:
    documents = () if asked.draft.embedding is None else asked.draft.embedding.inputs
    results: list[RerankResult] = []
    for index, one in _nearest(asked, done):
        result: RerankResult = {"index": index, "relevance_score": one}
        if asked.return_documents:
            result["document"] = {"text": str(documents[index])}
        results.append(result)
    return {
        "id": f"rerank-{done.channel_id}",
        "model": done.model,
        "results": results,
        "usage": done.usage,
        "score_type": done.score_type,
        "timings": done.completed.timings,
    }


async def cohere_rerank(request: web.Request) -> web.Response:
    """Rank documents, for Cohere's client."""
    asked, done = await _ask(request, Reading.COHERE_RERANK)
    return json_response(_cohere_rerank(asked, done), headers=done.headers)


def _cohere_rerank(asked: Asked, done: _Done) -> CohereRerankResponse:
    return {
        "id": f"rerank-{done.channel_id}",
        "results": [
            {"index": index, "relevance_score": one} for index, one in _nearest(asked, done)
        ],
        "meta": {
            "api_version": {"version": "2"},
            "tokens": {"input_tokens": done.usage["prompt_tokens"]},
        },
        "score_type": done.score_type,
        "timings": done.completed.timings,
    }


def _nearest(asked: Asked, done: _Done) -> list[tuple[int, float]]:
    """Return the documents' places and scores, the nearest first."""
    scores = unpack(done.packed)
    return sorted(enumerate(scores), key=lambda one: -one[1])[: asked.top_n]


async def score(request: web.Request) -> web.Response:
    """Score one text with others, or pairs of texts."""
    asked, done = await _ask(request, Reading.SCORE)
    return json_response(_score(asked, done), headers=done.headers)


def _score(_: Asked, done: _Done) -> ScoreList:
    return {
        "object": "list",
        "data": [
            {"object": "score", "index": index, "score": one}
            for index, one in enumerate(unpack(done.packed))
        ],
        "model": done.model,
        "usage": done.usage,
        "id": f"score-{done.channel_id}",
        "created": int(time.time()),
        "score_type": done.score_type,
        "timings": done.completed.timings,
    }


async def _ask(request: web.Request, route: Reading) -> tuple[Asked, _Done]:
    """Queue the request and wait for its end."""
    with ExitStack() as open_request:
        asked, answer = await open_answer(request, route, open_request)
        return asked, await _end_of(request.app[PARTS], answer)


async def _end_of(parts: Parts, answer: PendingAnswer) -> _Done:
    channel_id = answer.channel_id
    completed = (await answer.whole()).completed
    packed = await parts.queue.vectors(channel_id)
    if packed is None or completed.vectors is None:
        raise ChannelNotFound("the vectors of this request have expired")
    kind = parts.catalogue.operation_of(channel_model(channel_id))
    score_type: ScoreType = "cross_encoder" if kind is Operation.RERANK else "cosine"
    return _Done(channel_id, completed, completed.vectors, packed, score_type)


def _lines(
    json_of: Callable[[Asked, _Done], Iterable[bytes]],
    parts: Parts,
    caller: Caller,
    asked: Asked,
    channel_id: str,
) -> Wait:
    async def wait() -> bytes:
        answer = PendingAnswer(
            parts, channel_id, caller, on_disconnect=OnDisconnect.CONTINUE, repeatable=True
        )
        done = await _end_of(parts, answer)
        body = bytearray()
        for at, part in enumerate(json_of(asked, done)):
            body += part
            if at % PARTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return bytes(body)

    return wait


EMBEDDINGS_LINES = Endpoint(Reading.EMBEDDINGS, partial(_lines, _embeddings_json))
RERANK_LINES = Endpoint(
    Reading.RERANK, partial(_lines, lambda asked, done: [orjson.dumps(_rerank(asked, done))])
)
COHERE_RERANK_LINES = Endpoint(
    Reading.COHERE_RERANK,
    partial(_lines, lambda asked, done: [orjson.dumps(_cohere_rerank(asked, done))]),
)
CLASSIFY_LINES = Endpoint(Reading.CLASSIFY, partial(_lines, _classes_json))
SCORE_LINES = Endpoint(
    Reading.SCORE, partial(_lines, lambda asked, done: [orjson.dumps(_score(asked, done))])
)


def as_json(packed: bytes, shape: Vectors, *, base64_rows: bool) -> Iterator[bytes]:
    """Yield each vector as JSON: an array of numbers, or a base64 string."""
    for row in _rows(packed, shape):
        yield b'"%b"' % base64.b64encode(row) if base64_rows else orjson.dumps(unpack(row))


def _rows(packed: bytes, shape: Vectors) -> Iterator[bytes]:
    size = FLOAT_BYTES * shape.dimensions
    for start in range(0, shape.count * size, size):
        yield packed[start : start + size]


def unpack(packed: bytes) -> list[float]:
    """Unpack little-endian float32 values."""
    floats = array("f", packed)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()
