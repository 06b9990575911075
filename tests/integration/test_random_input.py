"""Whatever comes as JSON, the server answers, and never by a fault of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relais_testing.builders import MODEL
from relais_testing.stack import Front

ROUTES = ("/v1/requests", "/v1/chat/completions", "/v1/completions")
FIELDS = (
    "model messages prompt params priority deadline_s on_disconnect stream stream_options n user max_tokens"
    " max_completion_tokens min_tokens temperature top_p top_k min_p presence_penalty frequency_penalty"
    " repetition_penalty seed stop ignore_eos logit_bias response_format role content type text name schema"
    " json_schema include_usage strict"
).split()

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "system", "text", "json_schema", "high", "cancel", MODEL])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant"]), "content": st.text(max_size=10)}
)
NEAR_MISSES = st.fixed_dictionaries(
    {"model": st.just(MODEL)},
    optional={
        "messages": st.lists(message, max_size=2) | values,
        "prompt": st.text(max_size=5) | st.lists(st.integers(), max_size=4) | values,
        "params": st.dictionaries(st.sampled_from(FIELDS), values, max_size=3),
        "stream": st.booleans(),
        **dict.fromkeys(("stop", "seed", "logit_bias", "response_format", "temperature"), values),
        "max_tokens": st.integers(-1, 5),
        "deadline_s": st.floats(0.1, 5),
    },
)


@pytest.mark.usefixtures("worker")
@given(route=st.sampled_from(ROUTES), body=values | NEAR_MISSES)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_json_is_answered_and_never_by_a_500(
    front: Front, route: str, body: Any
) -> None:
    async with front.post(route, body) as response:
        text = await response.text()
    assert response.status < 500, text
    if response.status >= 400:
        error = json.loads(text)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"


@given(route=st.sampled_from(ROUTES), body=st.binary(max_size=200))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_bytes_are_refused(front: Front, route: str, body: bytes) -> None:
    # 404 where they happen to be JSON that names a model.
    async with front.post(route, body) as response:
        assert response.status in (400, 404), await response.text()
