"""Fields whose schemas depend on the deployment: they hold placeholders, which its OpenAPI document fills in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from relais_common.jobs.job import ModelOperation, Operation
from relais_orchestrator.api.schemas.messages import ModelName

MAX_DEADLINE_S = "{max_deadline_s}"


def not_for(asked: ModelOperation) -> str:
    """Return the placeholder for the models that do not answer this."""
    return f"{{not_for_{asked}}}"


def _answers(asked: ModelOperation) -> dict[str, JsonValue]:
    return {"not": {"enum": not_for(asked)}}


WRITES_TEXT = _answers(Operation.CHAT)
EMBEDS = _answers(Operation.EMBEDDINGS)

TextModelName = Annotated[ModelName, Field(json_schema_extra=WRITES_TEXT)]
EmbeddingModelName = Annotated[ModelName, Field(json_schema_extra=EMBEDS)]
ScoringModelName = Annotated[ModelName, Field(json_schema_extra=_answers(Operation.RERANK))]
ClassifyingModelName = Annotated[ModelName, Field(json_schema_extra=_answers(Operation.CLASSIFY))]
Deadline = Annotated[float, Field(gt=0, json_schema_extra={"maximum": MAX_DEADLINE_S})]
