"""Fields whose schemas depend on the deployment: they hold placeholders, which its OpenAPI document fills in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from relais_orchestrator.api.schemas.messages import ModelName

TEXT_MODELS = "{text_models}"
NO_TEXT_MODELS = "{no_text_models}"
NO_EMBEDDING_MODELS = "{no_embedding_models}"
MAX_DEADLINE_S = "{max_deadline_s}"

WRITES_TEXT: dict[str, JsonValue] = {"not": {"enum": NO_TEXT_MODELS}}
EMBEDS: dict[str, JsonValue] = {"not": {"enum": NO_EMBEDDING_MODELS}}
SCORES: dict[str, JsonValue] = {"not": {"enum": TEXT_MODELS}}

TextModelName = Annotated[ModelName, Field(json_schema_extra=WRITES_TEXT)]
EmbeddingModelName = Annotated[ModelName, Field(json_schema_extra=EMBEDS)]
ScoringModelName = Annotated[ModelName, Field(json_schema_extra=SCORES)]
Deadline = Annotated[float, Field(gt=0, json_schema_extra={"maximum": MAX_DEADLINE_S})]
