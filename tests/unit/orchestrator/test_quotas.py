"""What a request is taken to need, and how what is left is written down."""

from __future__ import annotations

from typing import Any

import pytest

from relais_common.config.api_keys import ApiKey
from relais_common.jobs.chat import ImagePart, ImageUrl, Message, TextPart
from relais_common.jobs.job import Embedding, Operation, Sampling
from relais_common.jobs.limits import NO_QUOTA, Bucket, Buckets, Quota
from relais_orchestrator.access.quotas import quota_of
from relais_orchestrator.http.rate_headers import duration, rate_headers
from relais_testing.builders import make_job

LIMITED = ApiKey(digests=(), requests_per_minute=5, tokens_per_minute=1000)


def tokens(max_tokens: int | None = 0, **asked: Any) -> int:
    job = make_job(sampling=Sampling(max_tokens=max_tokens), **({"prompt": None} | asked))
    return quota_of(LIMITED, job, output_tokens=200).tokens


def test_key_without_limits_needs_no_estimate() -> None:
    free = ApiKey(digests=(), concurrent_requests=3)
    assert quota_of(free, make_job(), output_tokens=9) is NO_QUOTA


def test_limit_of_a_day_alone_needs_an_estimate() -> None:
    key = ApiKey(digests=(), tokens_per_day=1000)
    assert quota_of(key, make_job(prompt=(1, 2)), output_tokens=200) == Quota(
        tokens_per_day=1000, tokens=202
    )


def test_prompt_counts_by_its_bytes_or_its_ids() -> None:
    assert tokens(prompt=(1, 2, 3, 4)) == 4
    assert tokens(prompt="abcdefg") == 3
    assert tokens(prompt="ééé") == 2
    assert tokens(messages=(Message("user", "abc"), Message("user", "abcd"))) == 8 + 1 + 8 + 2


def test_an_image_counts_as_a_small_picture_and_not_by_its_bytes() -> None:
    image = ImagePart(ImageUrl("data:image/png;base64," + "A" * 9000))
    assert tokens(messages=(Message("user", (TextPart("abc"), image)),)) == 8 + 1 + 256


def test_answer_counts_what_it_may_have() -> None:
    assert tokens(300, prompt=(1, 2)) == 302
    assert tokens(None, prompt=(1, 2)) == 202
    # What was not asked for is reserved only as far as the limit goes, so that it refuses nothing for ever.
    assert tokens(None, prompt=tuple(range(900))) == 1000
    assert tokens(None, prompt=tuple(range(1100))) == 1100


def test_each_answer_counts_and_each_prompt_once() -> None:
    assert tokens(100, prompt=(1, 2), n=3) == 302
    assert tokens(100, prompts=((1, 2), (3,)), n=2) == 403
    assert tokens(None, prompt=(1, 2), n=3) == 602


def test_request_for_vectors_counts_its_inputs_and_no_answer() -> None:
    asked = Embedding(inputs=("abcdef", (1, 2, 3)), queries=("abc",))
    assert tokens(None, embedding=asked) == 2 + 3 + 1


def test_reranker_reads_the_query_with_each_document() -> None:
    asked = Embedding(inputs=("abcdef", "abc", "abc"), queries=("abc",))
    assert tokens(None, embedding=asked, operation=Operation.RERANK) == 2 + 1 + 1 + 3 * 1
    asked = Embedding(inputs=("abcdef", "abc"), queries=("abc", "abc"))
    assert tokens(None, embedding=asked, operation=Operation.RERANK) == 2 + 1 + 2 * 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9999, "1s"),
        (1.5, "1.5s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (3661.25, "1h1m1.25s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_headers_are_those_of_the_limits_that_there_are() -> None:
    assert rate_headers(Buckets(None, Bucket(600, 150.0))) == {
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "450",
        "x-ratelimit-reset-tokens": "15s",
    }
    assert rate_headers(Buckets(None, None)) == {}
