"""Whatever a body holds, every route's reading of it ends in a draft or a typed refusal, after bounded work.

`FUZZ_EXAMPLES=1000000 pytest tests/fuzz` looks for hours. A body that was once read wrongly, or nearly, stays in
tests/fuzz/corpus, and is tried on every route from then on.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relais_common.jobs.errors import InvalidRequest, PayloadTooLarge
from relais_common.queue import codec
from relais_orchestrator.api.parsing import MAX_PARAM_LENGTH, model_of
from relais_orchestrator.api.table import ROUTES
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading
from relais_orchestrator.submission.reading.messages import answer_of
from relais_testing.builders import MODEL, make_job
from relais_testing.worst_bodies import PATHS

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
pytestmark = pytest.mark.timeout(120 + EXAMPLES)
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
SCHEMAS = {route.path: route.body for route in ROUTES if route.body is not None}
CODES = {
    "invalid_json",
    "invalid_type",
    "invalid_value",
    "missing_required_parameter",
    "request_too_large",
    "unknown_parameter",
    "unsupported_parameter",
    "unsupported_value",
}
LEAST: dict[Reading, dict[str, Any]] = {
    Reading.NATIVE: {"messages": [{"role": "user", "content": "x"}]},
    Reading.CHAT: {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
    Reading.COMPLETION: {"prompt": [1, 2.0]},
    Reading.EMBEDDINGS: {"input": [[1], [2]]},
    Reading.RERANK: {"query": "x", "documents": ["x"]},
    Reading.SCORE: {"text_1": "x", "text_2": ["x"]},
    Reading.COHERE_RERANK: {"query": "x", "documents": ["x"]},
    Reading.CLASSIFY: {"input": "x"},
    Reading.TOKENIZE: {"prompt": "x"},
    Reading.DETOKENIZE: {"tokens": [1, 2.0]},
    Reading.MESSAGES: {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
    Reading.COUNT_TOKENS: {"messages": [{"role": "user", "content": "x"}]},
    Reading.RESPONSES: {"input": "x"},
    Reading.RESPONSES_INPUT_TOKENS: {"input": "x"},
}


def _names(schema: Any) -> set[str]:
    """Every name that a JSON schema has for a field."""
    if isinstance(schema, dict):
        found = set(schema.get("properties", ()))
        return found.union(*map(_names, schema.values()))
    if isinstance(schema, list):
        return set().union(*map(_names, schema))
    return set()


NAMES = {
    route: sorted(_names(SCHEMAS[path].model_json_schema(by_alias=True)))
    for route, path in PATHS.items()
}
KNOWN = [
    *("user", "system", "assistant", "text", "json_object", "json_schema", "high", "low", "cancel"),
    *("continue", "restart", "base64", "float", "query", "passage", "none", "auto", "chat", MODEL),
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.integers()
    | st.sampled_from([2**31, 2**53, 2**63, -(2**63) - 1, 10**400, 1.0, 5.0, 1e300, 2.0**53])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(KNOWN)
)


@cache
def values(route: Reading) -> st.SearchStrategy[Any]:
    names = st.sampled_from(NAMES[route]) | st.text(max_size=5)
    return st.recursive(
        scalars | st.builds(lambda one, many: [one] * many, scalars, st.integers(0, 3000)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
        max_leaves=12,
    )


# Strategies are built once: to build one for each body takes longer than to draw from it.
@cache
def fields(route: Reading) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(NAMES[route]), values(route), max_size=3)


@cache
def extra_fields(route: Reading) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.text(max_size=8), values(route), max_size=1)


@cache
def names_of_needed(route: Reading) -> st.SearchStrategy[str]:
    return st.sampled_from(["model", *LEAST[route]])


@st.composite
def written(draw: st.DrawFn, route: Reading) -> bytes:
    """A body: a good one with fields that are not, as JSON of one style or another, and at times damaged."""
    body = {"model": MODEL} | LEAST[route] | draw(fields(route)) | draw(extra_fields(route))
    text = json.dumps(body, ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        name = draw(names_of_needed(route))
        text = f'{text[:-1]}, "{name}": {json.dumps(draw(values(route)))}}}'  # twice
    if draw(st.integers(0, 9)) == 0:
        nested = draw(st.integers(0, 600))
        text = text[:-1] + ', "x": ' + "[" * nested + "]" * nested + "}"
    data = text.encode(errors="surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
    return data


class Steps:
    """Calls of functions while it counts."""

    count = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        self.count += event in ("call", "c_call")


def check(route: Reading, body: bytes) -> None:
    steps = Steps()
    sys.setprofile(steps)
    try:
        model = model_of(body)
        answer = answer_of(route, body)
    finally:
        sys.setprofile(None)
    assert steps.count < 2_000 + 20 * 2048, "work for each of many elements"
    if isinstance(answer, Asked):
        draft = answer.draft
        # Rights are checked by the model that was read first: it has to be the one that is asked for.
        assert model == draft.model
        job = make_job(
            model="m",
            messages=draft.messages,
            prompts=draft.prompts,
            n=draft.n,
            prompting=draft.prompting,
            embedding=draft.embedding,
            sampling=draft.sampling,
            chat_template_kwargs=draft.chat_template_kwargs,
            chat=draft.chat,
        )
        assert codec.decode_job(codec.encode_job(job)) == job
        return
    assert isinstance(answer, InvalidRequest | PayloadTooLarge), answer
    assert answer.code in CODES
    assert len(answer.param or "") <= MAX_PARAM_LENGTH
    orjson.dumps(answer.info)


@pytest.mark.parametrize("route", Reading, ids=lambda route: route.name)
def test_bodies_that_are_nearly_good(route: Reading) -> None:
    @given(body=written(route))
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
    def look(body: bytes) -> None:
        check(route, body)

    look()


@pytest.mark.parametrize("route", Reading, ids=lambda route: route.name)
@given(body=st.binary(max_size=300))
@settings(max_examples=EXAMPLES // 3, deadline=None)
def test_bytes(route: Reading, body: bytes) -> None:
    check(route, body)


@pytest.mark.parametrize("route", Reading, ids=lambda route: route.name)
@pytest.mark.parametrize("kept", CORPUS, ids=lambda path: path.stem)
def test_bodies_of_the_corpus(route: Reading, kept: Path) -> None:
    check(route, kept.read_bytes())
