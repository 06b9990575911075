"""Routes of embedding models: OpenAI's, vLLM's rerank and score, and Cohere's rerank."""

from __future__ import annotations

from relais_common.jobs.errors import RequestCancelled, RequestExpired
from relais_orchestrator.api.embeddings import handlers as embeddings
from relais_orchestrator.api.embeddings.schemas import (
    CohereRerankRequest,
    CohereRerankResponse,
    EmbeddingList,
    EmbeddingRequest,
    RerankRequest,
    RerankResponse,
    ScoreList,
    ScoreRequest,
)
from relais_orchestrator.api.route import Answer, Route
from relais_orchestrator.api.shared import (
    IDEMPOTENCY_KEY,
    NOT_ACCEPTED,
    NOT_ANSWERED,
    QUEUE_MS,
)

TAG = "Embeddings"
ERRORS = (*NOT_ACCEPTED, *NOT_ANSWERED, RequestCancelled, RequestExpired)

ROUTES = [
    Route(
        method="POST",
        path="/v1/embeddings",
        handler=embeddings.embeddings,
        batch=embeddings.EMBEDDINGS_LINES,
        tag=TAG,
        summary="Turn texts into vectors",
        body=EmbeddingRequest,
        example={"input": ["How long is the wait?", "The queue is short today."]},
        embeds=True,
        headers=(IDEMPOTENCY_KEY,),
        answers=(Answer(200, "The vectors, in order.", EmbeddingList, headers=(QUEUE_MS,)),),
        errors=ERRORS,
    ),
    Route(
        method="POST",
        path="/v1/rerank",
        handler=embeddings.rerank,
        batch=embeddings.RERANK_LINES,
        tag=TAG,
        summary="Sort passages by nearness to a query",
        description="By the cosine of their vectors; queries and passages get the model's own prompts.",
        body=RerankRequest,
        example={"query": "opening hours", "documents": ["We open at nine.", "Cats sleep."]},
        embeds=True,
        headers=(IDEMPOTENCY_KEY,),
        answers=(Answer(200, "The nearest first.", RerankResponse, headers=(QUEUE_MS,)),),
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
        embeds=True,
        headers=(IDEMPOTENCY_KEY,),
        answers=(Answer(200, "The nearest first.", CohereRerankResponse, headers=(QUEUE_MS,)),),
        errors=ERRORS,
    ),
    Route(
        method="POST",
        path="/v1/score",
        handler=embeddings.score,
        batch=embeddings.SCORE_LINES,
        tag=TAG,
        summary="Compare a text with others",
        description="By the cosine of their vectors; the first is a query, the second a passage.",
        body=ScoreRequest,
        example={"text_1": "opening hours", "text_2": ["We open at nine.", "Cats sleep."]},
        embeds=True,
        headers=(IDEMPOTENCY_KEY,),
        answers=(Answer(200, "One score for each second text.", ScoreList, headers=(QUEUE_MS,)),),
        errors=ERRORS,
    ),
]
