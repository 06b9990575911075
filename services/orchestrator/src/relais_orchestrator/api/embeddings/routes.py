"""Routes of embedding models, rerankers and classifiers: OpenAI's, vLLM's, Cohere's."""

from __future__ import annotations

from dataclasses import replace

from relais_common.jobs.errors import RequestCancelled, RequestExpired
from relais_common.jobs.job import Operation
from relais_orchestrator.api.embeddings import handlers as embeddings
from relais_orchestrator.api.embeddings.schemas import (
    ClassificationList,
    ClassifyRequest,
    CohereRerankRequest,
    CohereRerankResponse,
    EmbeddingList,
    EmbeddingRequest,
    RerankRequest,
    RerankResponse,
    ScoreList,
    ScoreRequest,
)
from relais_orchestrator.api.route import ResponseSpec, Route
from relais_orchestrator.api.shared import (
    IDEMPOTENCY_KEY,
    NOT_ACCEPTED,
    NOT_ANSWERED,
    QUEUE_MS,
)

TAG = "Embeddings"
ERRORS = (*NOT_ACCEPTED, *NOT_ANSWERED, RequestCancelled, RequestExpired)


_CLASSIFY = Route(
    method="POST",
    path="/v1/classify",
    handler=embeddings.classify,
    batch=embeddings.CLASSIFY_LINES,
    tag=TAG,
    summary="Classify texts",
    description="By a classification model, which gives each of its classes a probability.",
    body=ClassifyRequest,
    example={"input": ["We waited far too long.", "Everybody was friendly."]},
    asks=Operation.CLASSIFY,
    headers=(IDEMPOTENCY_KEY,),
    responses=(
        ResponseSpec(200, "The probabilities, in order.", ClassificationList, headers=(QUEUE_MS,)),
    ),
    errors=ERRORS,
)

ROUTES = [
    _CLASSIFY,
    replace(_CLASSIFY, path="/classify", operation_id="post_vllm_classify", batch=None),
    Route(
        method="POST",
        path="/v1/embeddings",
        handler=embeddings.embeddings,
        batch=embeddings.EMBEDDINGS_LINES,
        tag=TAG,
        summary="Turn texts into vectors",
        body=EmbeddingRequest,
        example={"input": ["How long is the wait?", "The queue is short today."]},
        asks=Operation.EMBEDDINGS,
        headers=(IDEMPOTENCY_KEY,),
        responses=(
            ResponseSpec(200, "The vectors, in order.", EmbeddingList, headers=(QUEUE_MS,)),
        ),
        errors=ERRORS,
    ),
    Route(
        method="POST",
        path="/v1/rerank",
        handler=embeddings.rerank,
        batch=embeddings.RERANK_LINES,
        tag=TAG,
        summary="Sort passages by relevance to a query",
        description="By the score that a reranker gives each of them with the query. With an embedding model, by the"
        " cosine of their vectors; queries and passages get the model's own prompts. `score_type` says which.",
        body=RerankRequest,
        example={"query": "opening hours", "documents": ["We open at nine.", "Cats sleep."]},
        asks=Operation.RERANK,
        headers=(IDEMPOTENCY_KEY,),
        responses=(ResponseSpec(200, "The best first.", RerankResponse, headers=(QUEUE_MS,)),),
        errors=ERRORS,
    ),
    Route(
        method="POST",
        path="/v2/rerank",
        handler=embeddings.cohere_rerank,
        batch=embeddings.COHERE_RERANK_LINES,
        tag=TAG,
        summary="Sort passages, for Cohere's client",
        description="As `/v1/rerank`, with what Cohere's client sends and reads.",
        body=CohereRerankRequest,
        example={"query": "opening hours", "documents": ["We open at nine.", "Cats sleep."]},
        asks=Operation.RERANK,
        headers=(IDEMPOTENCY_KEY,),
        responses=(
            ResponseSpec(200, "The best first.", CohereRerankResponse, headers=(QUEUE_MS,)),
        ),
        errors=ERRORS,
    ),
    Route(
        method="POST",
        path="/v1/score",
        handler=embeddings.score,
        batch=embeddings.SCORE_LINES,
        tag=TAG,
        summary="Compare a text with others",
        description="By a reranker's score, or by the cosine of an embedding model's vectors; the first is a query, the"
        " second a passage.",
        body=ScoreRequest,
        example={"text_1": "opening hours", "text_2": ["We open at nine.", "Cats sleep."]},
        asks=Operation.RERANK,
        headers=(IDEMPOTENCY_KEY,),
        responses=(
            ResponseSpec(200, "One score for each second text.", ScoreList, headers=(QUEUE_MS,)),
        ),
        errors=ERRORS,
    ),
]
