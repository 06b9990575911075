"""Schemas of the OpenAPI document: made by pydantic, with the values of one deployment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from relais_common.jobs.job import ANSWERED, ModelOperation, Operation
from relais_orchestrator.api.route import Route
from relais_orchestrator.api.schemas import deployed

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What the document says of this deployment.

    Attributes:
        version: of the API.
        root_path: where a proxy serves it, without a slash at the end; empty at the root.
        models: the declared ones, with what each is for; examples name the first of a kind.
        any_token: a key is not asked for.
        ignore_unknown: unknown fields of bodies are ignored, not refused.
        max_deadline_s: the bound on `deadline_s`.
    """

    version: str
    root_path: str
    models: tuple[tuple[str, ModelOperation], ...]
    any_token: bool
    ignore_unknown: bool
    max_deadline_s: float

    def models_for(self, asked: ModelOperation | None) -> tuple[str, ...]:
        """Return the models that answer this; the fittest first."""
        # Embedding models score texts, too.
        kinds = (asked, Operation.EMBEDDINGS) if asked is Operation.RERANK else (asked,)
        return tuple(name for kind in kinds for name, own in self.models if own is kind)


class Plain(GenerateJsonSchema):
    """Without a title on every field, which would repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class Lenient(Plain):
    """With any field in requests."""

    def model_schema(self, schema: Any) -> Json:
        made = super().model_schema(schema)
        if self.mode == "validation":
            made.pop("additionalProperties", None)
        return made


@cache
def inline_schema(kind: Any) -> Json:
    """The schema of a type that needs no name. Shared: do not change it."""
    return TypeAdapter[Any](kind).json_schema(schema_generator=Plain)


Body = tuple[Any, JsonSchemaMode]
"""The type of a body, and whether it is read or written."""


@cache
def schemas_of(bodies: tuple[Body, ...], *, ignore_unknown: bool) -> Schemas:
    """The schemas of these bodies. All deployments share them: pydantic takes 0.3 s of CPU to make them."""
    return Schemas(bodies, ignore_unknown=ignore_unknown)


class Schemas:
    """JSON schemas of bodies, made in one go so that they share their parts."""

    def __init__(self, bodies: Iterable[Body], *, ignore_unknown: bool) -> None:
        wanted = [(kind, mode, TypeAdapter[Any](kind)) for kind, mode in bodies]
        self._of, definitions = TypeAdapter.json_schemas(
            wanted,
            ref_template="#/components/schemas/{model}",
            schema_generator=Lenient if ignore_unknown else Plain,
        )
        self.components: dict[str, Json] = definitions.get("$defs", {})

    def of(self, kind: Any, mode: JsonSchemaMode) -> Json:
        """Return a reference to the schema of a type."""
        return dict(self._of[kind, mode])


def bodies_of(routes: Iterable[Route]) -> tuple[Body, ...]:
    """All bodies that the routes name, once each."""
    return tuple(dict.fromkeys(_bodies(routes)))


def _bodies(routes: Iterable[Route]) -> Iterable[Body]:
    for route in routes:
        yield route.error, "serialization"
        if route.body is not None:
            yield route.body, "validation"
        if route.form is not None:
            yield route.form, "validation"
        for response in route.responses:
            if response.body is not None:
                yield response.body, "serialization"
            if response.events is not None:
                for _, kind in response.events.data:
                    yield kind, "serialization"


def filled(schemas: Json, deployment: Deployment) -> Any:
    """The schemas with this deployment's values in place of their placeholders."""
    values = {
        **{
            deployed.not_for(asked): [
                one for one, _ in deployment.models if one not in deployment.models_for(asked)
            ]
            for asked in ANSWERED
        },
        deployed.MAX_DEADLINE_S: deployment.max_deadline_s,
    }

    def fill(part: Any) -> Any:
        match part:
            case dict():
                made = {name: fill(one) for name, one in part.items()}
                return {name: one for name, one in made.items() if one != {"enum": []}}
            case list():
                return [fill(one) for one in part]
            case str():
                return values.get(part, part)
        return part

    return fill(schemas)
