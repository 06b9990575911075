"""Limits per key and minute, and what each key took in a day: reserved with the acceptance, settled with the end."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest

from relais_common.jobs.errors import RateLimited, RelaisError, TokensOverLimit, TooManyInFlight
from relais_common.jobs.events import (
    Completed,
    Failed,
    RankedToken,
    Restarted,
    Timings,
    Token,
    TokenLogprob,
    Usage,
)
from relais_common.jobs.job import Accepted, Idempotency, Job, Lease, Priority, StopReason
from relais_common.jobs.limits import Bucket, Buckets, DayUsage, Quota
from relais_common.queue import codec, keys
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import MODEL, make_job, token_line
from relais_testing.memory import MemoryStore
from relais_testing.ports import Ports, memory_ports, redis_ports
from relais_testing.steps import append, crash, enqueue, finish, reap, start, take_one
from relais_testing.waiting import wait_until

# A minute holds so many that what trickles back while a test runs is far less than one.
SLOW = partial(Quota, requests_per_minute=1)
HOUR_OF_TOKENS = 1_000_000


async def ask(ports: Ports, quota: Quota, *, key_id: str = "a", job: Job | None = None) -> Accepted:
    job = make_job(key_id) if job is None else job
    return await ports.intake.enqueue(job, max_waiting=1000, quota=quota)


async def refused(ports: Ports, quota: Quota, *, key_id: str = "a") -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await ask(ports, quota, key_id=key_id)
    return caught.value


def completed(input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Completed:
    usage = Usage(input_tokens, output_tokens, cached_tokens)
    return Completed("stop", usage, Timings(queue_s=0.0, prefill_s=0.0, decode_s=0.0))


def tokens_used(accepted: Accepted) -> float:
    assert accepted.buckets is not None
    assert accepted.buckets.tokens is not None
    return accepted.buckets.tokens.used


async def tokens_used_now(ports: Ports, key_id: str = "a") -> float:
    """Asked by a request that needs none, and is taken and ended at once."""
    quota = Quota(tokens_per_minute=HOUR_OF_TOKENS)
    accepted = await ask(ports, quota, key_id=key_id)
    await ports.intake.cancel(accepted.channel_id, StopReason.CLIENT)
    return tokens_used(accepted)


def tokens(count: int) -> Quota:
    return Quota(tokens_per_minute=HOUR_OF_TOKENS, tokens=count)


def today() -> date:
    return datetime.now(UTC).date()


async def usage_of(ports: Ports, key_id: str | None) -> list[DayUsage]:
    day = timedelta(days=1)  # of either side: a test may run over midnight
    return await ports.accounts.usage(
        MODEL, since=today() - day, until=today() + day, key_id=key_id
    )


async def account(ports: Ports, key_id: str = "a") -> tuple[int, ...]:
    """Requests, input, output and cached tokens of a key."""
    days = await usage_of(ports, key_id)
    names = ("requests", "input_tokens", "output_tokens", "cached_tokens")
    return tuple(sum(getattr(one, name) for one in days) for name in names)


async def test_so_many_requests_pass_and_the_next_is_told_when_to_come_back(ports: Ports) -> None:
    quota = Quota(requests_per_minute=3)
    for left in (2, 1, 0):
        accepted = await ask(ports, quota)
        assert accepted.buckets is not None
        assert accepted.buckets.tokens is None
        assert accepted.buckets.requests is not None
        assert accepted.buckets.requests.remaining == left
    error = await refused(ports, quota)
    assert (error.status, error.type, error.code) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 20  # a third of a minute makes room for one
    assert error.buckets is not None
    assert error.buckets.requests is not None
    assert error.buckets.requests.remaining == 0
    assert 20 < error.buckets.requests.reset_s <= 60
    assert (await ports.intake.depth(MODEL)).waiting == 3


async def test_key_s_limit_is_its_own_and_each_model_s(ports: Ports) -> None:
    quota = SLOW()
    await ask(ports, quota, key_id="a")
    await ask(ports, quota, key_id="b")
    await ask(ports, quota, job=make_job("a", model="other"))
    await refused(ports, quota, key_id="a")
    await refused(ports, quota, key_id="b")


async def test_key_without_limits_has_no_buckets(ports: Ports) -> None:
    for _ in range(5):
        assert (await ask(ports, Quota())).buckets is None


async def test_tokens_that_do_not_fit_are_refused_and_take_nothing(ports: Ports) -> None:
    quota = partial(Quota, requests_per_minute=1000, tokens_per_minute=100)
    await ask(ports, quota(tokens=60))
    error = await refused(ports, quota(tokens=60))
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 12
    accepted = await ask(ports, quota(tokens=40))
    assert accepted.buckets is not None
    assert accepted.buckets.requests is not None
    assert 998 <= accepted.buckets.requests.remaining <= 999


async def test_request_that_needs_more_than_a_minute_ever_has_is_no_429(ports: Ports) -> None:
    with pytest.raises(TokensOverLimit) as caught:
        await ask(ports, Quota(tokens_per_minute=100, tokens=101))
    assert (caught.value.status, caught.value.code) == (400, "tokens_over_limit")
    assert (await ports.intake.depth(MODEL)).waiting == 0
    await ask(ports, Quota(tokens_per_minute=100, tokens=100))


async def test_lines_of_batches_leave_half_of_a_minute_s_tokens_to_others(ports: Ports) -> None:
    def line() -> Job:
        return make_job("a", priority=Priority.BATCH)

    quota = partial(Quota, tokens_per_minute=HOUR_OF_TOKENS)
    # One line may take more than half at once: it would never run otherwise.
    await ask(ports, quota(tokens=700_000), job=line())
    with pytest.raises(RateLimited, match="lines of batches leave half of them") as refusal:
        await ask(ports, quota(tokens=1), job=line())
    # Until 200,000 more than half have trickled back.
    assert refusal.value.retry_after_s is not None
    assert 0 < refusal.value.retry_after_s <= 12
    await ask(ports, quota(tokens=200_000))
    await ask(ports, quota(tokens=1), key_id="b", job=make_job("b", priority=Priority.BATCH))


async def test_line_of_a_batch_is_told_the_longest_of_its_waits() -> None:
    ports = memory_ports(MemoryStore(lambda: 1_000_000.0))
    tokens_alone = partial(Quota, tokens_per_minute=600)
    requests_too = partial(Quota, tokens_per_minute=600, requests_per_minute=1)

    async def wait_s(quota: Quota) -> float | None:
        with pytest.raises(RateLimited) as refusal:
            await ask(ports, quota, job=make_job("a", priority=Priority.BATCH))
        return refusal.value.retry_after_s

    await ask(ports, requests_too(tokens=400))
    assert await wait_s(tokens_alone(tokens=1)) == pytest.approx(10)
    assert await wait_s(tokens_alone(tokens=500)) == pytest.approx(30)
    assert await wait_s(requests_too(tokens=1)) == pytest.approx(60)


async def test_day_has_so_many_tokens(ports: Ports) -> None:
    quota = partial(Quota, tokens_per_day=100)
    await ask(ports, quota(tokens=60))
    # Requests count when they end.
    await ask(ports, quota(tokens=60))
    for _ in range(2):
        await finish(ports, (await take_one(ports)).lease, 2, completed(20, 25))
    error = await refused(ports, quota(tokens=11))
    assert "100 tokens a day" in error.message
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 86400
    await ask(ports, quota(tokens=10))
    await ask(ports, quota(tokens=100), key_id="b")
    with pytest.raises(TokensOverLimit):
        await ask(ports, quota(tokens=101), key_id="c")


async def test_day_s_tokens_are_there_again_after_midnight() -> None:
    now_s = 1_000_000.0
    ports = memory_ports(MemoryStore(lambda: now_s))
    quota = Quota(tokens_per_day=100, tokens=50)
    await ask(ports, quota)
    await finish(ports, (await take_one(ports)).lease, 2, completed(40, 60))
    error = await refused(ports, quota)
    assert error.retry_after_s == 86400 - now_s % 86400
    now_s += error.retry_after_s
    await ask(ports, quota)


async def test_minute_fills_evenly() -> None:
    now_s = 1_000_000.0
    ports = memory_ports(MemoryStore(lambda: now_s))
    quota = Quota(requests_per_minute=6)
    for _ in range(6):
        await ask(ports, quota)
    await refused(ports, quota)
    now_s += 10
    await ask(ports, quota)
    assert (await refused(ports, quota)).retry_after_s == pytest.approx(10)
    now_s += 59
    for _ in range(5):
        await ask(ports, quota)
    await refused(ports, quota)


async def test_refused_request_passes_once_it_has_waited(ports: Ports) -> None:
    quota = Quota(requests_per_minute=300)
    with pytest.raises(RateLimited) as caught:
        for _ in range(900):
            await ask(ports, quota)
    assert caught.value.retry_after_s is not None
    await asyncio.sleep(caught.value.retry_after_s + 0.01)
    await ask(ports, quota)


async def test_many_at_once_get_what_there_is_and_no_more(ports: Ports) -> None:
    quota = Quota(requests_per_minute=10, tokens_per_minute=10_000, tokens=100)
    began_s = time.monotonic()
    answers = await asyncio.gather(*(ask(ports, quota) for _ in range(50)), return_exceptions=True)
    trickled_back = int((time.monotonic() - began_s) / 6)
    passed = sum(isinstance(one, Accepted) for one in answers)
    assert 10 <= passed <= 10 + trickled_back
    assert sum(isinstance(one, RateLimited) for one in answers) == 50 - passed


async def test_duplicate_takes_nothing_and_is_answered_though_nothing_is_left(
    ports: Ports,
) -> None:
    quota, idempotency = SLOW(), Idempotency("hash", "body")
    job = make_job("a")
    await ports.intake.enqueue(job, max_waiting=10, quota=quota, idempotency=idempotency)
    for again in (job, make_job("a")):
        accepted = await ports.intake.enqueue(
            again, max_waiting=10, quota=quota, idempotency=idempotency
        )
        assert accepted.duplicate
        assert accepted.channel_id == job.channel_id


async def test_request_refused_for_another_reason_takes_nothing(ports: Ports) -> None:
    quota = SLOW()
    await enqueue(ports, make_job("a"))
    with pytest.raises(TooManyInFlight):
        await ports.intake.enqueue(
            make_job("a"), max_waiting=10, max_inflight_per_key=1, quota=quota
        )
    await ask(ports, quota)


async def test_end_gives_back_what_was_not_needed(ports: Ports) -> None:
    await ask(ports, tokens(50_000))
    taken = await take_one(ports)
    await finish(ports, taken.lease, 2, completed(300, 200))
    assert await account(ports) == (1, 300, 200, 0)
    assert await tokens_used_now(ports) <= 500


async def test_end_charges_what_was_not_foreseen(ports: Ports) -> None:
    await ask(ports, tokens(10))
    taken = await take_one(ports)
    await finish(ports, taken.lease, 2, completed(300_000, 200_000, 100_000))
    assert await account(ports) == (1, 300_000, 200_000, 100_000)
    # It takes half a minute for as much to trickle back.
    assert 300_000 < await tokens_used_now(ports) <= 500_000


async def test_end_told_twice_is_settled_once(ports: Ports) -> None:
    await ask(ports, tokens(600_000))
    await ask(ports, tokens(300_000))
    taken = await take_one(ports)
    for _ in range(3):
        await finish(ports, taken.lease, 2, completed(1, 1))
    assert await account(ports) == (1, 1, 1, 0)
    assert 200_000 < await tokens_used_now(ports) <= 300_002


async def test_cancelled_while_it_waited_it_took_nothing(ports: Ports) -> None:
    accepted = await ask(ports, tokens(50_000))
    for _ in range(2):
        await ports.intake.cancel(accepted.channel_id, StopReason.CLIENT)
    (day,) = await usage_of(ports, "a")
    assert (day.requests, day.cancelled, day.input_tokens, day.output_tokens) == (1, 1, 0, 0)
    assert await tokens_used_now(ports) == 0


async def begin(ports: Ports, key_id: str = "a", reserved: int = 50_000) -> Lease:
    """A job with three tokens of prompt and five of answer in its log, in three events."""
    await ask(ports, tokens(reserved), key_id=key_id)
    taken = await take_one(ports)
    await start(ports, taken.lease)
    tricky = token_line('"token_ids":[1,2,3,4]} [7]', 1, 2, 3)
    await append(ports, taken.lease, 3, tricky, token_line("", 4), token_line("é", 5))
    return taken.lease


async def test_failed_one_is_charged_what_its_log_has(ports: Ports) -> None:
    lease = await begin(ports)
    await finish(ports, lease, 6, Failed(RelaisError("no").info))
    (day,) = await usage_of(ports, "a")
    assert (day.failed, day.input_tokens, day.output_tokens) == (1, 3, 5)
    assert await tokens_used_now(ports) <= 8


async def test_log_probabilities_beside_tokens_are_not_taken_for_tokens(ports: Ports) -> None:
    await ask(ports, Quota())
    taken = await take_one(ports)
    await start(ports, taken.lease)
    told = (TokenLogprob('x","token_ids":[1,1,1]', -0.5, (RankedToken("[1,2]", -1.0),)),) * 2
    await append(ports, taken.lease, 3, codec.encode_event(Token("a\\", (7, 8), told)))
    await finish(ports, taken.lease, 4, Failed(RelaisError("no").info))
    assert await account(ports) == (1, 3, 2, 0)


async def test_end_that_no_holder_tells_is_charged_what_the_log_has(ports: Ports) -> None:
    for key_id in ("cancelled", "expired", "requeued"):
        lease = await begin(ports, key_id)
        if key_id == "cancelled":
            await ports.intake.cancel(lease.channel_id, StopReason.CLIENT)
        await crash(ports, lease)
        if key_id != "cancelled":
            await ports.intake.cancel(lease.channel_id, StopReason.CLIENT)
        assert await account(ports, key_id) == (1, 3, 5, 0)
        assert await tokens_used_now(ports, key_id) <= 8


async def test_dead_letter_is_charged_its_prompt_and_its_replay_asks_for_no_room(
    ports: Ports,
) -> None:
    quota = Quota(requests_per_minute=1, tokens_per_minute=HOUR_OF_TOKENS, tokens=50_000)
    await ask(ports, quota)
    taken = await take_one(ports)
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=1)
    (day,) = await usage_of(ports, "a")
    assert (day.failed, day.input_tokens, day.output_tokens) == (1, 3, 0)
    new = make_job().channel_id
    assert await ports.inspector.replay(taken.job.channel_id, new_channel_id=new, max_waiting=9)
    again = await take_one(ports)
    await finish(ports, again.lease, 2, completed(3, 4))
    assert await account(ports) == (2, 6, 4, 0)


async def test_void_tokens_of_an_answer_that_began_again_are_not_charged(ports: Ports) -> None:
    lease = await begin(ports)
    restarted = codec.encode_event(Restarted("its worker died"))
    await append(ports, lease, 6, restarted, token_line("b", 9, 9))
    await finish(ports, lease, 8, Failed(RelaisError("no").info))
    assert await account(ports) == (1, 3, 2, 0)


async def test_text_of_a_server_that_tells_no_ids_counts_as_a_token_each_time(
    ports: Ports,
) -> None:
    await ask(ports, Quota())
    taken = await take_one(ports)
    await start(ports, taken.lease)
    lines = [codec.encode_event(Token(text, ())) for text in ("some", "", '"', "words")]
    await append(ports, taken.lease, 3, *lines)
    await finish(ports, taken.lease, 7, Failed(RelaisError("no").info))
    assert await account(ports) == (1, 3, 3, 0)


async def test_expired_ones_give_everything_back(ports: Ports) -> None:
    late = make_job("a", deadline_s=-1.0)
    await ask(ports, tokens(50_000), job=late)
    await reap(ports)
    (day,) = await usage_of(ports, "a")
    assert (day.expired, day.requests) == (1, 1)
    assert await tokens_used_now(ports) == 0


async def test_account_is_kept_by_key_and_a_longer_name_is_another_key(ports: Ports) -> None:
    for key_id, count in (("a", 1), ("a:b", 2), ("@", 3)):
        for _ in range(count):
            await ask(ports, Quota(), key_id=key_id)
            taken = await take_one(ports)
            await finish(ports, taken.lease, 2, completed(10, 5, 2))
    assert await account(ports, "a") == (1, 10, 5, 2)
    assert await account(ports, "a:b") == (2, 20, 10, 4)
    everybody = await usage_of(ports, None)
    assert sorted({one.key_id for one in everybody}) == ["@", "a", "a:b"]
    assert sum(one.completed for one in everybody) == 6
    assert await usage_of(ports, "nobody") == []


async def test_account_of_other_days_and_models_is_not_shown(ports: Ports) -> None:
    await ask(ports, Quota())
    await finish(ports, (await take_one(ports)).lease, 2, completed(1, 1))
    far = today() - timedelta(days=10)
    assert await ports.accounts.usage(MODEL, since=far, until=far, key_id="a") == []
    assert await ports.accounts.usage("other", since=far, until=today(), key_id="a") == []
    assert await ports.accounts.usage(MODEL, since=today(), until=far, key_id=None) == []


async def test_what_is_kept_of_limits_and_days_goes_by_itself(redis_store: RedisStore) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    await ask(ports, Quota(requests_per_minute=2, tokens_per_minute=60, tokens=30))
    for limit in ("requests", "tokens"):
        assert 0 < await redis.ttl(keys.used(MODEL, limit, "a")) <= 32
    await finish(ports, (await take_one(ports)).lease, 2, completed(1, 1))
    (name,) = await redis.keys("*:usage:*")
    assert 91 * 86400 < await redis.ttl(name) <= 92 * 86400


async def test_kept_of_a_limit_is_gone_once_the_minute_is_full_again(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    await ask(ports, Quota(requests_per_minute=600))

    async def gone() -> bool:
        return not await redis_store.redis.exists(keys.used(MODEL, "requests", "a"))

    await wait_until(gone)


async def test_limit_that_was_changed_counts_from_what_was_used(ports: Ports) -> None:
    for _ in range(3):
        await ask(ports, Quota(requests_per_minute=3))
    await refused(ports, Quota(requests_per_minute=3))
    accepted = await ask(ports, Quota(requests_per_minute=5))
    assert accepted.buckets is not None
    assert accepted.buckets.requests is not None
    assert accepted.buckets.requests.remaining == 1


def test_buckets_say_what_is_left_and_when() -> None:
    bucket = Bucket(60, 45.5)
    assert (bucket.remaining, bucket.reset_s, bucket.wait_s(1)) == (14, 45.5, 0)
    assert bucket.wait_s(20) == pytest.approx(5.5)
    assert Bucket(60, 75.0).remaining == 0
    assert Buckets(Bucket(60, 60.0), Bucket(600, 600.0)).wait_s(100) == pytest.approx(10)
