"""What a request is taken to need, and how what is left is written down."""

from __future__ import annotations

import pytest

from relais_common.api_keys import ApiKey
from relais_common.jobs import Message, Sampling
from relais_common.limits import NO_QUOTA, Bucket, Buckets
from relais_orchestrator.quotas import quota_of
from relais_orchestrator.rate_headers import duration, rate_headers

LIMITED = ApiKey(digests=(), requests_per_minute=5, tokens_per_minute=1000)


def tokens(prompt: str | tuple[int, ...] | tuple[Message, ...], max_tokens: int | None = 0) -> int:
    messages = prompt if prompt and isinstance(prompt[0], Message) else None
    return quota_of(
        LIMITED,
        messages,  # type: ignore[arg-type]
        None if messages else prompt,  # type: ignore[arg-type]
        Sampling(max_tokens=max_tokens),
        output_tokens=200,
    ).tokens


def test_key_without_limits_needs_no_estimate() -> None:
    free = ApiKey(digests=(), concurrent_requests=3)
    assert quota_of(free, None, "x", Sampling(), output_tokens=9) is NO_QUOTA


def test_prompt_counts_by_its_bytes_or_its_ids() -> None:
    assert tokens((1, 2, 3, 4)) == 4
    assert tokens("abcdefg") == 3
    assert tokens("ééé") == 2
    assert tokens((Message("user", "abc"), Message("user", "abcd"))) == 8 + 1 + 8 + 2


def test_answer_counts_what_it_may_have() -> None:
    assert tokens((1, 2), 300) == 302
    assert tokens((1, 2), None) == 202
    # What was not asked for is reserved only as far as the limit goes, so that it refuses nothing for ever.
    assert tokens(tuple(range(900)), None) == 1000
    assert tokens(tuple(range(1100)), None) == 1100


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
