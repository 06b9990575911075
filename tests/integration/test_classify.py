"""Classification models by HTTP: vLLM's route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from relais_embedding_worker.encoder import Input, Vectors
from relais_testing.builders import MODEL
from relais_testing.embedding_jobs import FORMS
from relais_testing.embedding_worker import EmbeddingWorker, open_embedding_worker
from relais_testing.encoders import WatchedClassifier, whole
from relais_testing.keys import KeyFile, bearer
from relais_testing.stack import Front, Stack, chat_request

CLASSIFIER, EMBEDDER = "classifier", "embedder"


@pytest.fixture
async def front(stack: Stack) -> Front:
    return await stack.front(
        CLASSIFY_MODELS=CLASSIFIER,
        EMBEDDING_MODELS=EMBEDDER,
        MODEL_ALIASES=f'{{"other-name": "{CLASSIFIER}"}}',
        EMBEDDING_TOKEN_IDS="accept",
    )


@pytest.fixture
async def classifier(redis_url: str) -> AsyncIterator[EmbeddingWorker]:
    encoder = WatchedClassifier()
    async with open_embedding_worker(redis_url, model=CLASSIFIER, encoder=encoder) as worker:
        yield worker


async def ask(front: Front, path: str = "/v1/classify", **body: Any) -> tuple[int, dict[str, Any]]:
    return await front.ask(path, {"model": CLASSIFIER, **body})


def alone(*inputs: Input, most: int = 64, special_tokens: bool = True) -> Vectors:
    encoder = WatchedClassifier()
    tokens = [
        encoder.complete(one, most, special_tokens=special_tokens and isinstance(given, str))
        for given, one in zip(inputs, whole(encoder, inputs), strict=True)
    ]
    return np.concatenate([encoder.encode([one]) for one in tokens])


@pytest.mark.parametrize("path", ["/v1/classify", "/classify"])
@pytest.mark.parametrize(
    ("given", "inputs"), [*FORMS, ([list(range(1100))], (tuple(range(1100)),))]
)
@pytest.mark.usefixtures("classifier")
async def test_each_input_has_its_probabilities_and_a_label(
    front: Front, path: str, given: Any, inputs: tuple[Input, ...]
) -> None:
    status, body = await ask(front, path, input=given, user="someone", priority="high")
    assert status == 200, body
    expected = alone(*inputs)
    np.testing.assert_allclose([one["probs"] for one in body["data"]], expected, atol=1e-6)
    labels = list(WatchedClassifier.LABELS)
    assert [(one["index"], one["label"], one["num_classes"]) for one in body["data"]] == [
        (at, labels[best], 3) for at, best in enumerate(expected.argmax(axis=1))
    ]
    assert (body["object"], body["model"], body["labels"]) == ("list", CLASSIFIER, labels)
    assert body["id"].startswith("classify-")
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0
    assert body["usage"]["truncated_inputs"] == sum(len(one) > 1000 for one in inputs)


@pytest.mark.usefixtures("classifier")
async def test_special_tokens_and_truncation_are_as_asked_for(front: Front) -> None:
    text = "one two three four"
    for fields, expected, tokens, truncated in (
        ({"add_special_tokens": False}, alone(text, special_tokens=False), 4, 0),
        ({"truncate_prompt_tokens": 3}, alone(text, most=3), 3, 1),
        ({"truncate_prompt_tokens": -1, "use_activation": True}, alone(text), 5, 0),
        ({"truncate_prompt_tokens": 100_000, "truncation_side": "right"}, alone(text), 5, 0),
    ):
        status, body = await ask(front, input=text, **fields)
        assert status == 200, body
        np.testing.assert_allclose([one["probs"] for one in body["data"]], expected, atol=1e-6)
        assert body["usage"]["prompt_tokens"] == tokens
        assert body["usage"]["truncated_inputs"] == truncated


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 400, "missing_required_parameter", "input"),
        ({"input": []}, 400, "invalid_value", "input"),
        ({"input": ["x"] * 10_000}, 413, "request_too_large", "input"),
        ({"input": [10**9]}, 400, "invalid_value", "input"),
        ({"input": "", "add_special_tokens": False}, 400, "invalid_value", "input"),
        ({"input": "x", "truncate_prompt_tokens": 0}, 400, None, "truncate_prompt_tokens"),
        ({"input": "x", "truncate_prompt_tokens": -2}, 400, None, "truncate_prompt_tokens"),
        ({"input": "x", "truncation_side": "left"}, 400, "unsupported_value", "truncation_side"),
        ({"input": "x", "use_activation": False}, 400, "unsupported_value", "use_activation"),
        ({"input": "x", "padding": "max_length"}, 400, "unsupported_value", "padding"),
        ({"input": "x", "messages": []}, 400, "unsupported_parameter", "messages"),
        ({"input": "x", "priority": "batch"}, 400, "invalid_value", "priority"),
        ({"input": "x", "model": MODEL}, 400, "wrong_operation", "model"),
        ({"input": "x", "model": EMBEDDER}, 400, "wrong_operation", "model"),
        ({"input": "x", "model": "nobody"}, 404, "model_not_found", "model"),
    ],
)
@pytest.mark.usefixtures("classifier")
async def test_what_cannot_be_classified_is_a_typed_error(
    front: Front, body: dict[str, Any], status: int, code: str | None, param: str
) -> None:
    got, answer = await ask(front, **body)
    assert (got, answer["error"]["param"]) == (status, param), answer
    assert code in (None, answer["error"]["code"]), answer


@pytest.mark.usefixtures("classifier")
async def test_document_of_a_megabyte_is_cut_and_told(front: Front) -> None:
    status, body = await ask(front, input=["word " * 200_000, "x"])
    assert status == 200, body
    assert body["usage"]["truncated_inputs"] == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/requests", {"input": "x"}),
        ("/v1/score", {"text_1": "x", "text_2": "y"}),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}),
        ("/v1/chat/completions", chat_request()),
    ],
)
async def test_classifier_gives_nothing_else(front: Front, path: str, body: dict[str, Any]) -> None:
    status, answer = await ask(front, path, **{**body, "model": CLASSIFIER})
    error = answer["error"]
    assert (status, error["code"], error["param"]) == (400, "wrong_operation", "model")
    assert "/v1/classify" in error["message"]


async def test_worker_s_model_of_another_kind_refuses(front: Front, redis_url: str) -> None:
    async with open_embedding_worker(redis_url, model=CLASSIFIER):
        status, answer = await ask(front, input="x")
    assert (status, answer["error"]["code"]) == (400, "wrong_operation")


@pytest.mark.usefixtures("classifier")
async def test_aliases_and_rights_are_those_of_any_model(
    front: Front, stack: Stack, tmp_path: Any
) -> None:
    _, body = await ask(front, model="other-name", input="x")
    assert body["model"] == CLASSIFIER
    keys = KeyFile(tmp_path / "keys.json", other={"models": [MODEL]}, one={"models": [CLASSIFIER]})
    guarded = await stack.front(CLASSIFY_MODELS=CLASSIFIER, **keys.settings)
    asked = {"model": CLASSIFIER, "input": "x"}
    for name, status in (("other", 404), ("one", 200)):
        async with guarded.post("/v1/classify", asked, headers=bearer(name)) as response:
            assert response.status == status


async def test_request_expires_at_its_deadline(front: Front) -> None:
    status, answer = await ask(front, input="x", deadline_s=0.2)
    assert (status, answer["error"]["code"]) == (504, "expired")


async def test_event_has_the_labels_and_packed_probabilities(
    front: Front, classifier: EmbeddingWorker
) -> None:
    _, body = await ask(front, input=["a", "b"], on_disconnect="continue")
    channel_id = body["id"].removeprefix("classify-")
    async with front.get(f"/v1/channels/{channel_id}") as response:
        state = await response.json()
    assert state["operation"] == "classify"
    assert state["result"]["vectors"]["labels"] == list(classifier.encoder.info.labels)
    async with front.get(f"/v1/channels/{channel_id}/vectors") as response:
        rows = (await response.json())["vectors"]
    assert rows == [one["probs"] for one in body["data"]]
