"""Servers' vectors, scores and classes: read where they are right, and refused where they are not."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest

from relais_common.remote.errors import Lost
from relais_embedding_worker.remote.answers import (
    MAX_CLASSES,
    MAX_LABELS_SIZE,
    read_classes,
    read_scores,
    read_vectors,
)

SIZE = 100


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def vectors(*embeddings: Any, **usage: Any) -> bytes:
    data = [{"embedding": one, "index": at} for at, one in enumerate(embeddings)]
    return json.dumps({"data": data, "usage": usage}).encode()


def test_numbers_and_base64_are_the_same_vectors() -> None:
    for answer in (vectors([1, 0.5], [2.0, 3]), vectors(packed(1, 0.5), packed(2, 3))):
        assert read_vectors(answer, 2, SIZE).rows.tolist() == [[1, 0.5], [2, 3]]


def test_rows_are_in_the_order_of_the_inputs() -> None:
    data = [{"embedding": [float(at)], "index": at} for at in (2, 0, 1)]
    answer = json.dumps({"data": data}).encode()
    assert read_vectors(answer, 3, SIZE).rows[:, 0].tolist() == [0, 1, 2]
    bare = json.dumps({"data": [{"embedding": [3]}, {"embedding": [4]}]}).encode()
    assert read_vectors(bare, 2, SIZE).rows[:, 0].tolist() == [3, 4]


@pytest.mark.parametrize(
    "answer",
    [
        vectors([1.0]),
        vectors([1.0], [2.0], [3.0]),
        vectors([1.0], [2.0, 3.0]),
        vectors([], []),
        vectors("", ""),
        vectors([1e300], [1.0]),
        vectors(packed(float("nan")), packed(1)),
        vectors(packed(float("inf")), packed(1)),
        vectors("AAA", packed(1)),
        vectors("!!!!", packed(1)),
        vectors(["1"], [1.0]),
        vectors([[1.0]], [[1.0]]),
        vectors(None, [1.0]),
        b'{"data": [{"embedding": [NaN], "index": 0}, {"embedding": [1], "index": 1}]}',
        b'{"data": [{"embedding": [1], "index": 0}, {"embedding": [1], "index": 0}]}',
        b'{"data": [{"embedding": [1], "index": -1}, {"embedding": [1], "index": 0}]}',
        b'{"data": [{"embedding": [1], "index": 1}, {"embedding": [1]}]}',
        b'{"data": []}',
        b'{"data": ' + b"[" * 100_000,
        b'{"x": ' + b'{"x":' * 100_000,
        b"[]",
        b"",
        b"\xff",
    ],
)
def test_vectors_that_are_not_what_was_asked_for_are_refused(answer: bytes) -> None:
    with pytest.raises(Lost):
        read_vectors(answer, 2, SIZE)


@pytest.mark.parametrize(
    "answer",
    [
        b'{"data":[' + b'{"embedding":[1]},' * 200_000 + b"0]}",
        b'{"data":[{"embedding":[' + b"1," * 2_000_000 + b"1]}]}",
    ],
    ids=["rows", "numbers"],
)
def test_answers_that_would_take_long_are_not_read(answer: bytes) -> None:
    with pytest.raises(Lost, match="too many"):
        read_vectors(answer, 1, SIZE)


def test_scores_of_both_forms_are_in_the_order_of_the_documents() -> None:
    scores = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.25}]
    jina = json.dumps({"results": scores, "usage": {"total_tokens": 7}}).encode()
    tei = json.dumps([{"index": 1, "score": 0.9}, {"index": 0, "score": 0.25}]).encode()
    assert (read_scores(jina, 2, SIZE).tokens, read_scores(tei, 2, SIZE).tokens) == (7, None)
    for answer in (jina, tei):
        rows = read_scores(answer, 2, SIZE).rows
        np.testing.assert_allclose(rows, [[0.25], [0.9]], rtol=1e-6)


@pytest.mark.parametrize(
    "answer",
    [
        [{"index": 0, "score": 1}],
        [{"index": 0, "score": 1}, {"index": 2, "score": 1}],
        [{"index": 0, "score": 1}, {"index": 1}],
        [{"index": 0, "score": 1e300}, {"index": 1, "score": 1}],
        [{"index": 0, "score": "1"}, {"index": 1, "score": 1}],
        {"results": []},
        {"results": None},
        {"results": [[0, 1.0], [1, 1.0]]},
        {},
        7,
    ],
)
def test_scores_that_are_not_what_was_asked_for_are_refused(answer: Any) -> None:
    with pytest.raises(Lost):
        read_scores(json.dumps(answer).encode(), 2, SIZE)


@pytest.mark.parametrize("told", [-1, 1.5, True, "7", None, 10**18, SIZE + 2 * 64 + 1, [7]])
def test_token_counts_that_cannot_be_are_unknown(told: Any) -> None:
    assert read_vectors(vectors([1.0], [2.0], prompt_tokens=told), 2, SIZE).tokens is None
    assert read_vectors(vectors([1.0], [2.0], prompt_tokens=9), 2, SIZE).tokens == 9


def classes(*rows: tuple[Any, str | None], **more: Any) -> bytes:
    data = [{"index": at, "probs": probs, "label": label} for at, (probs, label) in enumerate(rows)]
    return json.dumps({"data": data[::-1], **more}).encode()


def test_classes_are_in_the_order_of_the_inputs_and_named_as_far_as_is_told() -> None:
    rows: list[tuple[Any, str | None]] = [
        ([0.25, 0.75, 0], "b"),
        ([0, 1, 0], "b"),
        ([0.5, 0, 0], None),
    ]
    read = read_classes(classes(*rows, usage={"prompt_tokens": 7}), 3, SIZE)
    assert read.rows.tolist() == [one for one, _ in rows]
    assert (read.labels, read.tokens) == ({1: "b"}, 7)
    named = read_classes(classes(*rows, labels=["a", None, "c", "d"]), 3, SIZE)
    assert named.labels == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize(
    "answer",
    [
        classes(([0.5, 0.5], "a")),
        classes(([0.5, 0.5], "a"), ([1.0], "a")),
        classes(([0.5], 7), ([0.5], "a")),  # type: ignore[arg-type]
        classes(([None], "a"), ([0.5], "a")),
        classes(([1e300], "a"), ([0.5], "a")),
        classes(([0.5], "x" * MAX_LABELS_SIZE * 2), ([0.5], None)),
        classes(([0.5], "a"), ([0.5], "a"), labels="ab"),
        classes(*2 * [([0.0] * (MAX_CLASSES + 1), None)]),
        vectors([0.5], [0.5]),
        b"[]",
    ],
)
def test_classes_that_are_not_what_was_asked_for_are_refused(answer: bytes) -> None:
    with pytest.raises(Lost):
        read_classes(answer, 2, SIZE)
