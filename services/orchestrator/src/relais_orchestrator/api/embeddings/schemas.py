"""Requests and responses of `/v1/embeddings`, `/v1/rerank`, `/v2/rerank` and `/v1/score`."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, Field, with_config
from typing_extensions import TypedDict

from relais_common.jobs.events import Timings
from relais_common.jobs.job import InputType, OnDisconnect, Priority
from relais_orchestrator.api.openai.schemas import Label
from relais_orchestrator.api.schemas.branches import branch
from relais_orchestrator.api.schemas.closed import CLOSED
from relais_orchestrator.api.schemas.deployed import Deadline, EmbeddingModelName
from relais_orchestrator.api.schemas.numbers import Whole
from relais_orchestrator.api.schemas.priorities import RequestPriority
from relais_orchestrator.api.schemas.sampling import STRICT, TokenIds
from relais_orchestrator.api.schemas.unsupported import NotSupported

MAX_INPUTS = 32_768
"""The highest allowed value of `MAX_EMBEDDING_INPUTS`."""

Texts = Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
Inputs = (
    Annotated[str, branch("text")]
    | Annotated[Texts, branch("texts")]
    | Annotated[TokenIds, branch("ids")]
    | Annotated[
        list[TokenIds],
        Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS),
        branch("lists of ids"),
    ]
)


class _Common(BaseModel):
    """The model, and Relais's own three fields."""

    model_config = STRICT

    model: EmbeddingModelName
    priority: RequestPriority = Field(
        default=Priority.NORMAL, description="High goes before normal before low, with ageing."
    )
    deadline_s: Deadline | None = Field(
        default=None, description="Seconds after which the request expires."
    )
    on_disconnect: OnDisconnect = Field(
        default=OnDisconnect.CANCEL,
        description="What becomes of the request when the client leaves.",
    )


class EmbeddingRequest(_Common):
    """`POST /v1/embeddings`."""

    input: Inputs = Field(
        description="A text, or a list of them; where the deployment accepts them (`EMBEDDING_TOKEN_IDS`), token ids of"
        " the model, or a list of such."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="`base64`: packed little-endian float32."
    )
    dimensions: Annotated[int, Whole(1, 65_536)] | None = Field(
        default=None, description="Where the model allows fewer than it has."
    )
    user: Label | None = Field(default=None, description="No effect.")
    input_type: InputType | None = Field(
        default=None, description="Relais's own: the model's prompt for queries or passages first."
    )


class RerankRequest(_Common):
    """`POST /v1/rerank`: rank passages by similarity to a query."""

    query: str
    documents: Texts
    top_n: Annotated[int, Whole(1, 2**31 - 1)] | None = Field(
        default=None, description="The best so many; default: all."
    )
    return_documents: bool | None = Field(
        default=None, description="False leaves the texts out of the answer."
    )


class CohereRerankRequest(_Common):
    """`POST /v2/rerank`: what Cohere's client sends."""

    query: str
    documents: Texts
    top_n: Annotated[int, Whole(1, 2**31 - 1)] | None = Field(
        default=None, description="The best so many; default: all."
    )
    max_tokens_per_doc: Annotated[
        Literal[4096] | None, NotSupported("documents are cut at the model's own limit")
    ] = None


class ScoreRequest(_Common):
    """`POST /v1/score`: compare one text with each of the second ones."""

    text_1: str
    text_2: Annotated[str, branch("text")] | Annotated[Texts, branch("texts")]


@with_config(CLOSED)
class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int
    truncated_inputs: Annotated[
        int, Field(description="Inputs longer than the model reads: their ends were left out.")
    ]


@with_config(CLOSED)
class EmbeddingObject(TypedDict):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


@with_config(CLOSED)
class EmbeddingList(TypedDict):
    """One vector for each input, in order."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
    id: str
    timings: Timings


@with_config(CLOSED)
class Document(TypedDict):
    text: str


@with_config(CLOSED)
class RerankResult(TypedDict):
    index: Annotated[int, Field(description="Its place among the documents of the request.")]
    relevance_score: Annotated[float, Field(description="Cosine with the query, -1 to 1.")]
    document: NotRequired[Document]


@with_config(CLOSED)
class RerankResponse(TypedDict):
    """Documents, most similar first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: EmbeddingUsage
    timings: Timings


@with_config(CLOSED)
class ApiVersion(TypedDict):
    version: Literal["2"]


@with_config(CLOSED)
class InputTokens(TypedDict):
    input_tokens: int


@with_config(CLOSED)
class CohereMeta(TypedDict):
    api_version: ApiVersion
    tokens: InputTokens


@with_config(CLOSED)
class CohereResult(TypedDict):
    index: Annotated[int, Field(description="Its place among the documents of the request.")]
    relevance_score: Annotated[float, Field(description="Cosine with the query, -1 to 1.")]


@with_config(CLOSED)
class CohereRerankResponse(TypedDict):
    """Documents, most similar first, as Cohere's client reads them."""

    id: str
    results: list[CohereResult]
    meta: CohereMeta
    timings: Timings


@with_config(CLOSED)
class ScoreObject(TypedDict):
    object: Literal["score"]
    index: int
    score: Annotated[float, Field(description="Cosine, -1 to 1.")]


@with_config(CLOSED)
class ScoreList(TypedDict):
    """One score for each second text, in order."""

    object: Literal["list"]
    data: list[ScoreObject]
    model: str
    usage: EmbeddingUsage
    id: str
    created: int
    timings: Timings
