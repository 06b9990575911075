"""Converts jobs to bodies of requests to servers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relais_common.jobs.job import Embedding, InputType, PromptOptions
from relais_common.runtime.grouping import groups
from relais_embedding_worker.encoder import Input

EMBEDDINGS = ("/v1/embeddings", "/embeddings")
RERANK = ("/v1/rerank", "/rerank")
"""Paths of OpenAI, Jina and vLLM; then those of infinity, and of TEI for reranking."""
CLASSIFY = ("/classify",)

MAX_BATCH_BYTES = 1 << 20
"""Size of one request's texts, above which it has a single input; TEI takes two megabytes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One request to one server.

    Attributes:
        at: which of the job's rows it gives.
        size: bytes of its texts.
    """

    at: Sequence[int]
    body: Mapping[str, Any]
    size: int


def pieces_of_embedding(
    model: str,
    asked: Embedding,
    prompts: Mapping[InputType, str],
    dimensions: int | None,
    batch_size: int,
) -> list[Piece]:
    """Return the requests for a job's vectors, queries first.

    Args:
        prompts: what goes before texts of each kind; token ids are left as they are.
        dimensions: None for what the server gives.
    """
    prompt = prompts.get(asked.input_type, "") if asked.input_type else ""
    query_prompt = prompts.get(InputType.QUERY, "")
    texts = [
        *(query_prompt + query for query in asked.queries),
        *(prompt + one if isinstance(one, str) else one for one in asked.inputs),
    ]
    # Base64 is a third of the size of numbers, and OpenAI's own client asks for it.
    common: dict[str, Any] = {"model": model, "encoding_format": "base64"}
    if dimensions is not None:
        common["dimensions"] = dimensions
    return _pieces(texts, common, batch_size)


def pieces_of_classify(
    model: str, asked: Embedding, options: PromptOptions, batch_size: int
) -> list[Piece]:
    """Return the requests for the probabilities of a job's inputs."""
    fields = {
        "add_special_tokens": options.add_special_tokens,
        "truncate_prompt_tokens": options.truncate_prompt_tokens,
    }
    wanted = {name: value for name, value in fields.items() if value is not None}
    return _pieces(asked.inputs, {"model": model, **wanted}, batch_size)


def _pieces(texts: Sequence[Input], common: dict[str, Any], batch_size: int) -> list[Piece]:
    return [
        Piece(at, common | {"input": [texts[index] for index in at]}, size)
        for at, size in groups(enumerate(map(_size, texts)), MAX_BATCH_BYTES, batch_size)
    ]


def pieces_of_rerank(model: str, asked: Embedding, batch_size: int) -> list[Piece]:
    """Return the requests for a job's scores: of one query each, since not every server takes pairs."""
    queries = asked.queries * len(asked.inputs) if len(asked.queries) == 1 else asked.queries
    by_query: dict[str, list[int]] = {}
    for index, query in enumerate(queries):
        by_query.setdefault(query, []).append(index)
    return [
        Piece(
            at,
            {
                "model": model,
                "query": query,
                "documents": [asked.inputs[index] for index in at],
                "return_documents": False,
            },
            size + len(at) * _size(query),
        )
        for query, indexes in by_query.items()
        for at, size in groups(
            ((index, _size(asked.inputs[index])) for index in indexes), MAX_BATCH_BYTES, batch_size
        )
    ]


def at_path(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body for this path. Documents are `texts` at TEI's, which ignores what it does not know."""
    return {**body, "texts": body["documents"]} if path == RERANK[1] else dict(body)


def _size(one: Input) -> int:
    # At most: UTF-8 takes four bytes, and an id with its comma eight.
    return len(one) * (4 if isinstance(one, str) else 8)
