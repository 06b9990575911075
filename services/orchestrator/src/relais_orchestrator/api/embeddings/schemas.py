"""Requests and responses of `/v1/embeddings`, `/v1/rerank`, `/v2/rerank`, `/v1/score` and `/v1/classify`."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, Field, ValidationInfo, field_validator, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from relais_common.jobs.events import Timings
from relais_common.jobs.job import InputType, OnDisconnect, Priority
from relais_orchestrator.api.openai.schemas import Label
from relais_orchestrator.api.schemas.branches import branch
from relais_orchestrator.api.schemas.closed import CLOSED
from relais_orchestrator.api.schemas.deployed import (
    ClassifyingModelName,
    Deadline,
    EmbeddingModelName,
    ScoringModelName,
)
from relais_orchestrator.api.schemas.nulls import OrNull
from relais_orchestrator.api.schemas.numbers import Whole
from relais_orchestrator.api.schemas.priorities import RequestPriority
from relais_orchestrator.api.schemas.sampling import MAX_TOKENS, STRICT, TokenIds
from relais_orchestrator.api.schemas.unsupported import NotSupported
from relais_orchestrator.settings import MAX_INPUTS

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
    """Relais's own three fields."""

    model_config = STRICT

    priority: RequestPriority = Field(
        default=Priority.NORMAL, description="High goes before normal before low, with ageing."
    )
    deadline_s: Deadline | None = Field(
        default=None, description="Seconds after which the request expires."
    )
    on_disconnect: OrNull[OnDisconnect] = Field(
        default=OnDisconnect.CANCEL,
        description="What becomes of the request when the client leaves.",
    )


class _OfInputs(_Common):
    """What routes share that answer for each text alone."""

    input: Inputs = Field(
        description="A text, or a list of them; where the deployment accepts them (`EMBEDDING_TOKEN_IDS`), token ids of"
        " the model, or a list of such."
    )
    user: Label | None = Field(default=None, description="No effect.")


class EmbeddingRequest(_OfInputs):
    """`POST /v1/embeddings`."""

    model: EmbeddingModelName
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="`base64`: packed little-endian float32."
    )
    dimensions: Annotated[int, Whole(1, 65_536)] | None = Field(
        default=None, description="Where the model allows fewer than it has."
    )
    input_type: InputType | None = Field(
        default=None, description="Relais's own: the model's prompt for queries or passages first."
    )


class TextDocument(BaseModel):
    """A document as Cohere's first version and Jina write it."""

    model_config = STRICT

    text: str


Documents = Annotated[
    list[Annotated[str, branch("text")] | Annotated[TextDocument, branch("document")]],
    Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS),
]
_CUT = "documents are cut at the model's own limit, and scored whole"


class _Ranking(_Common):
    """What all rerank routes share."""

    model: ScoringModelName
    query: str
    top_n: Annotated[int, Whole(1, 2**31 - 1)] | None = Field(
        default=None, description="The best so many; default: all."
    )
    max_tokens_per_doc: Annotated[Literal[4096] | None, NotSupported(_CUT)] = None


class RerankRequest(_Ranking):
    """`POST /v1/rerank`: rank passages by relevance to a query."""

    documents: Documents
    return_documents: bool | None = Field(
        default=None, description="False leaves the texts out of the answer."
    )
    truncation: Annotated[Literal[True] | None, NotSupported(_CUT)] = None
    max_chunks_per_doc: Annotated[None, NotSupported(_CUT)] = None
    rank_fields: Annotated[None, NotSupported("documents have one field, text")] = None


class CohereRerankRequest(_Ranking):
    """`POST /v2/rerank`: what Cohere's client sends."""

    documents: Texts


class ScoreRequest(_Common):
    """`POST /v1/score`: compare one text with each of the second ones, or each with its own."""

    model: ScoringModelName
    text_1: Annotated[str, branch("text")] | Annotated[Texts, branch("texts")]
    text_2: Annotated[str, branch("text")] | Annotated[Texts, branch("texts")] = Field(
        description="As many as `text_1` has, unless that is one text."
    )

    @field_validator("text_2")
    @classmethod
    def _pairs(cls, given: str | list[str], info: ValidationInfo) -> str | list[str]:
        first = info.data.get("text_1")
        if isinstance(first, list) and len(first) not in (1, len(given := as_list(given))):
            raise PydanticCustomError(
                "pairs", "{first} texts in text_1 need as many here", {"first": len(first)}
            )
        return given


class ClassifyRequest(_OfInputs):
    """`POST /v1/classify`: vLLM's, for texts."""

    model: ClassifyingModelName
    add_special_tokens: bool | None = Field(
        default=None, description="False leaves out the model's special tokens. Token ids get none."
    )
    truncate_prompt_tokens: Annotated[int, Whole(-1, MAX_TOKENS)] | None = Field(
        default=None,
        description="Keep so many of each input's first tokens; default, and -1: what the model reads.",
    )
    truncation_side: Annotated[
        Literal["right"] | None, NotSupported("inputs are cut at their end")
    ] = None
    padding: Annotated[
        Literal["do_not_pad"] | None, NotSupported("inputs are padded to no fixed length")
    ] = None
    use_activation: Annotated[
        Literal[True] | None, NotSupported("the answer has probabilities")
    ] = None
    messages: Annotated[None, NotSupported("send texts, as input")] = None


def as_list(given: str | list[str]) -> list[str]:
    """Return one text, or several, as several."""
    return [given] if isinstance(given, str) else given


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


_SCORE = "A cosine, -1 to 1, or a reranker's own score: of most models 0 to 1."
ScoreType = Annotated[
    Literal["cosine", "cross_encoder"],
    Field(
        description="`cosine`: of the vectors of an embedding model; `cross_encoder`: the score of a reranker, which"
        " reads both texts together."
    ),
]


@with_config(CLOSED)
class Document(TypedDict):
    text: str


@with_config(CLOSED)
class RerankResult(TypedDict):
    index: Annotated[int, Field(description="Its place among the documents of the request.")]
    relevance_score: Annotated[float, Field(description=_SCORE)]
    document: NotRequired[Document]


@with_config(CLOSED)
class RerankResponse(TypedDict):
    """Documents, the most relevant first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: EmbeddingUsage
    score_type: ScoreType
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
    relevance_score: Annotated[float, Field(description=_SCORE)]


@with_config(CLOSED)
class CohereRerankResponse(TypedDict):
    """Documents, the most relevant first, as Cohere's client reads them."""

    id: str
    results: list[CohereResult]
    meta: CohereMeta
    score_type: ScoreType
    timings: Timings


@with_config(CLOSED)
class ScoreObject(TypedDict):
    object: Literal["score"]
    index: int
    score: Annotated[float, Field(description=_SCORE)]


@with_config(CLOSED)
class ScoreList(TypedDict):
    """One score for each second text, in order."""

    object: Literal["list"]
    data: list[ScoreObject]
    model: str
    usage: EmbeddingUsage
    id: str
    created: int
    score_type: ScoreType
    timings: Timings


@with_config(CLOSED)
class ClassifiedInput(TypedDict):
    index: int
    label: Annotated[str | None, Field(description="The most probable class.")]
    probs: Annotated[list[float], Field(description="Of each class, in the model's order.")]
    num_classes: int


@with_config(CLOSED)
class ClassificationList(TypedDict):
    """The probabilities of each input's classes, in order."""

    object: Literal["list"]
    data: list[ClassifiedInput]
    model: str
    usage: EmbeddingUsage
    id: str
    created: int
    labels: Annotated[
        list[str | None],
        Field(
            description="Relais's own: the names of the classes, in the order of `probs`; null where the model's server"
            " has not told it."
        ),
    ]
    timings: Timings
