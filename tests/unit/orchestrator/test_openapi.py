"""The OpenAPI document: valid, whole, and about this deployment."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import orjson
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client import CollectorRegistry

from relais_common.jobs.job import Operation
from relais_common.queue.codec import NAMES
from relais_common.runtime.health import add_health_routes
from relais_common.runtime.metrics.exposition import add_metrics_route
from relais_orchestrator.api.docs.document import build_document
from relais_orchestrator.api.parsing import parse_body
from relais_orchestrator.api.route import Route
from relais_orchestrator.api.table import ROUTES
from relais_testing.documented import DEPLOYMENT, check_json, document


@cache
def paths(**deployment: Any) -> dict[str, Any]:
    found: dict[str, Any] = build_document(ROUTES, replace(DEPLOYMENT, **deployment))["paths"]
    return found


def operation(route: Route, **deployment: Any) -> dict[str, Any]:
    found: dict[str, Any] = paths(**deployment)[route.template][route.method.lower()]
    return found


def test_document_is_valid_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(json.loads(orjson.dumps(document()))).validate()


def test_no_two_routes_have_one_name() -> None:
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_declarations_without_a_handler_are_routes_of_a_shared_part() -> None:
    async def ready() -> str | None:
        return None

    app = web.Application()
    add_health_routes(app, ready)
    add_metrics_route(app, CollectorRegistry())
    shared = {route.resource.canonical for route in app.router.routes() if route.resource}
    assert {route.path for route in ROUTES if route.handler is None} <= shared


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_says_what_it_is_and_how_it_fails(route: Route) -> None:
    said = operation(route)
    assert said["summary"]
    assert {"500"} < said["responses"].keys()
    assert ("401" in said["responses"]) == (said["security"] != [])


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.body], ids=lambda route: route.name
)
def test_examples_work_as_they_are(route: Route) -> None:
    content = operation(route)["requestBody"]["content"]["application/json"]
    assert route.body is not None
    parse_body(route.body, orjson.dumps(content["example"]))
    check_json(content["schema"], content["example"])
    models = DEPLOYMENT.models_for(route.asks)
    if "model" in route.body.model_fields:
        assert content["example"]["model"] == models[0]


def test_every_event_of_a_channel_is_described() -> None:
    (route,) = (one for one in ROUTES if one.path == "/v1/channels/{channel_id}/events")
    stream = operation(route)["responses"]["200"]["content"]["text/event-stream"]
    frames = [one["properties"] for one in stream["schema"]["anyOf"]]
    described = {frame["event"]["const"] for frame in frames if "event" in frame}
    assert {name.decode() for name in NAMES.values()} < described
    # In other formats.
    assert {"message", "message_start", "content_block_delta"} < described
    assert frames[-1]["data"] == {"const": "[DONE]"}


def test_document_names_the_root_path_and_the_bounds_of_this_deployment() -> None:
    built = build_document(ROUTES, replace(DEPLOYMENT, root_path="/relais", max_deadline_s=7))
    assert built["servers"] == [{"url": "/relais"}]
    deadline = built["components"]["schemas"]["SubmitRequest"]["properties"]["deadline_s"]
    assert [one.get("maximum") for one in deadline["anyOf"]] == [7, None]


def test_only_declared_models_of_the_other_kind_are_excluded() -> None:
    def excluded(**deployment: Any) -> dict[str, Any]:
        built = build_document(ROUTES, replace(DEPLOYMENT, **deployment))
        schemas = built["components"]["schemas"]
        return {
            name: schemas[name]["properties"]["model"].get("not")
            for name in (
                "ChatCompletionRequest",
                "EmbeddingRequest",
                "RerankRequest",
                "ClassifyRequest",
            )
        }

    texts = (("a", Operation.CHAT), ("b", Operation.CHAT))
    others = (("e", Operation.EMBEDDINGS), ("r", Operation.RERANK), ("c", Operation.CLASSIFY))
    assert excluded(models=texts + others) == {
        "ChatCompletionRequest": {"enum": ["e", "r", "c"]},
        "EmbeddingRequest": {"enum": ["a", "b", "r", "c"]},
        "RerankRequest": {"enum": ["a", "b", "c"]},
        "ClassifyRequest": {"enum": ["a", "b", "e", "r"]},
    }
    assert excluded(models=texts)["ChatCompletionRequest"] is None


def test_bodies_may_have_unknown_fields_where_those_are_ignored() -> None:
    def closed(*, ignore_unknown: bool) -> set[str]:
        built = build_document(ROUTES, replace(DEPLOYMENT, ignore_unknown=ignore_unknown))
        return {
            name
            for name, schema in built["components"]["schemas"].items()
            if schema.get("additionalProperties") is False
        }

    bodies = {
        "ChatCompletionRequest",
        "ChatMessage",
        "RerankRequest",
        "SubmitRequest",
        "FileUpload",
    }
    refusing, ignoring = closed(ignore_unknown=False), closed(ignore_unknown=True)
    assert bodies <= refusing
    assert not bodies & ignoring
    # Answers have no others.
    assert "ErrorResponse" in ignoring


def test_keys_are_optional_only_where_any_token_does() -> None:
    for route in ROUTES:
        if said := operation(route)["security"]:
            assert {} not in said
            assert {} in operation(route, any_token=True)["security"]
