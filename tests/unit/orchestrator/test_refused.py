"""Refused bodies use up a bucket of their key's, and of nobody else's."""

from __future__ import annotations

import pytest

from relais_common.config.api_keys import ApiKey
from relais_common.jobs.errors import RateLimited
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.refused import BODIES_PER_MINUTE, LEAST_BYTES, Refused
from relais_orchestrator.http import key_buckets
from relais_testing.clock import Clock

LARGEST = 1 << 20
ONE, OTHER = (Caller(name, ApiKey(digests=())) for name in ("one", "other"))
SLOW = Caller("slow", ApiKey(digests=(), requests_per_minute=6))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bucket(clock: Clock) -> Refused:
    return Refused(LARGEST, clock)


def used_up(bucket: Refused, caller: Caller, body_bytes: int) -> int:
    """How many refused bodies it takes until the key is refused unseen."""
    for count in range(100_000):
        try:
            bucket.check(caller)
        except RateLimited:
            return count
        bucket.charge(caller, body_bytes)
    raise AssertionError("never")


@pytest.mark.parametrize(
    ("caller", "body_bytes", "most"),
    [
        (ONE, LARGEST, BODIES_PER_MINUTE),
        (ONE, 0, BODIES_PER_MINUTE * LARGEST // LEAST_BYTES),
        (SLOW, 0, 6),
        (SLOW, LARGEST, 6),
    ],
)
def test_so_many_refused_bodies_pass_in_a_minute(
    bucket: Refused, clock: Clock, caller: Caller, body_bytes: int, most: int
) -> None:
    assert used_up(bucket, caller, body_bytes) == most
    bucket.check(OTHER)
    clock.now_s += 60
    assert used_up(bucket, caller, body_bytes) == most


def test_retry_after_is_when_the_next_request_is_looked_at(bucket: Refused, clock: Clock) -> None:
    used_up(bucket, ONE, LARGEST)
    with pytest.raises(RateLimited) as caught:
        bucket.check(ONE)
    clock.now_s += caught.value.retry_after_s or 0
    bucket.check(ONE)


def test_keys_that_it_remembers_are_bounded(
    bucket: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_buckets, "MAX_KEYS", 10)
    for number in range(50):
        bucket.charge(Caller(f"key-{number}", ApiKey(digests=())), 1)
    assert list(bucket._buckets._used) == [f"key-{number}" for number in range(40, 50)]


def test_key_that_is_remembered_costs_the_same_however_many_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    monkeypatch.setattr(key_buckets, "MAX_KEYS", 100)
    buckets = key_buckets.KeyBuckets(60, clock)
    for number in range(200):
        looks = 0
        buckets.charge(f"key-{number}", 1)
        assert looks <= 2


def test_small_bound_on_bodies_leaves_room_for_small_mistakes(clock: Clock) -> None:
    assert used_up(Refused(1024, clock), ONE, 100) > 1000
