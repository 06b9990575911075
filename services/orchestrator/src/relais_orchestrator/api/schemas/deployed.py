"""Fields whose schemas depend on the deployment: they hold placeholders, which its OpenAPI document fills in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from relais_orchestrator.api.schemas.messages import ModelName

MODELS = "{models}"
EMBEDDING_MODELS = "{embedding_models}"
MAX_DEADLINE_S = "{max_deadline_s}"

NO_MODEL: dict[str, JsonValue] = {"not": {"enum": MODELS}}
NO_EMBEDDING_MODEL: dict[str, JsonValue] = {"not": {"enum": EMBEDDING_MODELS}}

TextModelName = Annotated[ModelName, Field(json_schema_extra=NO_EMBEDDING_MODEL)]
EmbeddingModelName = Annotated[ModelName, Field(json_schema_extra=NO_MODEL)]
Deadline = Annotated[float, Field(gt=0, json_schema_extra={"maximum": MAX_DEADLINE_S})]
