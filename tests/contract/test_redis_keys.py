"""What the jobs leave in Redis: names in one slot, and nothing for ever."""

from __future__ import annotations

import pytest

from relais_common.jobs.channels import new_channel_id, queue_of, queue_tag
from relais_common.jobs.events import Failed
from relais_common.jobs.inspection import ChannelFilter
from relais_common.jobs.job import Idempotency, OnDisconnect, Priority, StopReason
from relais_common.queue import keys
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import append, crash, enqueue, events, finish, ids, reap, start, take
from relais_testing.traced import enqueue_traced

HOSTILE_MODEL = "org/mo{d}el é:x"


async def key_names(store: RedisStore) -> list[str]:
    return [bytes(name).decode() async for name in store.redis.scan_iter("*")]


async def whole_life(ports: Ports, model: str) -> None:
    """Every script, and every way a job may end."""
    jobs = [
        make_job(key_id, model=model, priority=priority, on_disconnect=OnDisconnect.CANCEL)
        for key_id in ("a", "{b}")
        for priority in Priority
    ]
    await enqueue(ports, *jobs)
    await enqueue(ports, make_job(model=model, deadline_s=-1.0))
    await ports.intake.enqueue(
        make_job("{b}", model=model), max_waiting=100, idempotency=Idempotency("h", "b")
    )
    await ports.recovery.reap(model, max_failures=1, limit=100)
    taken = await take(ports, 5, model=model)
    for one in taken:
        await start(ports, one.lease)
    await append(ports, taken[0].lease, 3)
    await finish(ports, taken[0].lease, 4)
    await ports.intake.watch(taken[1].job.channel_id, lease_s=60.0)
    await ports.intake.cancel(taken[1].job.channel_id, StopReason.CLIENT)
    await ports.source.release([taken[1].lease])
    await ports.source.renew([taken[2].lease], lease_s=-1.0)
    await ports.recovery.reap(model, max_failures=1, limit=100)  # dead
    await ports.source.renew([taken[3].lease], lease_s=-1.0)
    await ports.recovery.reap(model, max_failures=9, limit=100)  # suspect
    for job in jobs:
        await ports.intake.state(job.channel_id)
    await enqueue_traced(ports, *[traced := make_job(model=model), make_job(model=model)])
    await ports.intake.cancel(traced.channel_id, StopReason.CLIENT)
    batch = await ports.traces.collect(model, writer="w", limit=9, claim_after_s=60.0)
    await ports.traces.set_aside(model, [one.entry_id for one in batch.traces])


@pytest.mark.parametrize("shard", [0, 3])
async def test_every_key_of_a_queue_has_its_hash_tag(redis_store: RedisStore, shard: int) -> None:
    queue = queue_of(HOSTILE_MODEL, shard)
    await whole_life(redis_ports(redis_store), queue)
    names = await key_names(redis_store)
    base = f"relais:{{{queue_tag(queue)}}}:"
    assert [name for name in names if not name.startswith(base)] == []
    kinds = {name.removeprefix(base).split(":")[0] for name in names}
    assert kinds >= {"counts", "dead", "deadlines", "idempotency", "inflight", "job", "log"}
    assert kinds >= {"queue", "suspects", "take", "traces", "turns", "watched"}


async def test_operators_steps_stay_in_the_slot_of_their_model(redis_store: RedisStore) -> None:
    ports, model = redis_ports(redis_store), HOSTILE_MODEL
    await whole_life(ports, model)
    (letter,) = await ports.inspector.dead_letters(model, limit=10)
    new = new_channel_id(model)
    await ports.inspector.replay(letter.channel_id, new_channel_id=new, max_waiting=100)
    await ports.inspector.drop(letter.channel_id)
    await ports.inspector.queue(model, top_keys=5)
    listed = await ports.inspector.channels(model, which=ChannelFilter.QUEUED, limit=100)
    assert new in [view.channel_id for view in listed]
    base = f"relais:{{{queue_tag(model)}}}:"
    assert [name for name in await key_names(redis_store) if not name.startswith(base)] == []


async def test_keys_without_expiry_are_the_bounded_ones(redis_store: RedisStore) -> None:
    # The fixture looks at the end of every test; here at the fullest moment of a life.
    await whole_life(redis_ports(redis_store), HOSTILE_MODEL)
    for name in await redis_store.redis.keys("*:job:*"):
        assert 0 < await redis_store.redis.ttl(name) <= 7 * 24 * 3600 + 1


async def test_finished_jobs_leave_nothing_without_expiry(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await enqueue(ports, *[make_job(f"key-{number}") for number in range(20)])
    for one in await take(ports, 20):
        await finish(ports, one.lease, 2)
    names = await key_names(redis_store)
    lasting = {name for name in names if await redis_store.redis.ttl(name) == -1}
    spans = [name for name in names if name.startswith(keys.fading(MODEL) + ":")]
    # Sums that the reaper takes back once they are over.
    assert lasting == {keys.counts(MODEL), keys.held(MODEL), keys.fading(MODEL), *spans}
    assert len(spans) <= 4
    fields = await redis_store.redis.hgetall(keys.counts(make_job().model))
    assert "lane:" not in str(fields)


async def test_log_and_result_expire_as_the_job_says(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    job = make_job(log_ttl_s=50.0, result_ttl_s=500.0)
    await enqueue(ports, job)
    (taken,) = await take(ports)
    await finish(ports, taken.lease, 2)
    assert 45 < await redis_store.redis.ttl(keys.log(job.channel_id)) <= 50
    assert 450 < await redis_store.redis.ttl(keys.job(job.channel_id)) <= 500


async def test_idempotency_key_is_forgotten_with_the_result(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    job = make_job("a", result_ttl_s=500.0)
    await ports.intake.enqueue(job, max_waiting=9, idempotency=Idempotency("h", "b"))
    name = keys.idempotency(job.model, "a", "h")
    assert await redis_store.redis.ttl(name) > 500 + job.deadline_s
    (taken,) = await take(ports)
    await finish(ports, taken.lease, 2)
    assert 450 < await redis_store.redis.ttl(name) <= 500


async def test_result_outlives_the_log(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    job = make_job()
    await enqueue(ports, job)
    (taken,) = await take(ports)
    await finish(ports, taken.lease, 2, text="kept")
    await redis_store.redis.delete(keys.log(job.channel_id))
    state = await ports.intake.state(job.channel_id)
    assert state is not None
    assert (state.text, state.tail) == ("kept", 2)


async def test_prompt_is_forgotten_when_the_job_ends(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await enqueue(ports, make_job())
    (taken,) = await take(ports)
    await start(ports, taken.lease)
    await finish(ports, taken.lease, 3)
    fields = await redis_store.redis.hkeys(keys.job(taken.job.channel_id))
    assert b"payload" not in fields
    assert b"prompt_token_ids" not in fields


async def test_dead_letter_keeps_its_payload_and_is_listed(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await enqueue(ports, make_job())
    (taken,) = await take(ports)
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=1)
    channel_id = taken.job.channel_id
    assert await redis_store.redis.lrange(keys.dead(taken.job.model), 0, -1) == [
        channel_id.encode()
    ]
    assert await redis_store.redis.hexists(keys.job(channel_id), "payload")


async def test_start_stores_what_a_successor_needs(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await enqueue(ports, make_job())
    (taken,) = await take(ports)
    await start(ports, taken.lease)
    stored = await redis_store.redis.hmget(
        keys.job(taken.job.channel_id), "prompt_token_ids", "model_revision"
    )
    assert stored == [b"[1,2,3]", b"r1"]


async def test_tombstones_do_not_pile_up(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await enqueue(ports, first := make_job("a"))
    for _ in range(500):
        await enqueue(ports, job := make_job("a"))
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    assert await redis_store.redis.llen(keys.lane(first.model, "normal", "a")) < 130


async def test_tombstone_whose_state_expired_does_not_block(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    gone, alive = make_job(), make_job()
    await enqueue(ports, gone, alive)
    await ports.intake.cancel(gone.channel_id, StopReason.CLIENT)
    await redis_store.redis.delete(keys.job(gone.channel_id))
    (taken,) = await take(ports, 5)
    assert taken.job == alive
    assert (await ports.intake.depth(alive.model)).waiting == 0


async def test_reaper_survives_ids_whose_state_expired(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await enqueue(ports, job := make_job(on_disconnect=OnDisconnect.CANCEL))
    (taken,) = await take(ports)
    await ports.source.renew([taken.lease], lease_s=-1.0)
    await ports.intake.watch(job.channel_id, lease_s=-1.0)
    await redis_store.redis.delete(keys.job(job.channel_id))
    await reap(ports)
    assert await redis_store.redis.zcard(keys.inflight(job.model)) == 0


async def test_counts_of_jobs_whose_state_expired_before_anybody_ended_them_are_mended(
    redis_store: RedisStore,
) -> None:
    """As after hours in which Redis ran and nothing else did."""
    ports = redis_ports(redis_store)
    doomed = [make_job(key, deadline_s=-1.0) for key in "aab"]
    kept = [make_job(key, priority=priority) for key in "abc" for priority in Priority]
    await enqueue(ports, doomed[0], *kept, *doomed[1:])
    running, crashed = await take(ports, 2)
    await ports.source.start(crashed.lease, prompts=[[1]], model_revision="r")
    await ports.source.release([crashed.lease], max_failures=9)
    for job in doomed:
        await redis_store.redis.delete(keys.job(job.channel_id), keys.log(job.channel_id))
    before = await ports.intake.depth(MODEL)
    await reap(ports)
    after = await ports.intake.depth(MODEL)
    assert (before.waiting, after.waiting) == (14, 11)
    unfinished = await redis_store.redis.hgetall(keys.open_jobs(MODEL))
    assert unfinished == {
        b"a": b"3",
        b"b": b"3",
        b"c": b"3",
        b"batch a": b"1",
        b"batch b": b"1",
        b"batch c": b"1",
    }
    assert ids(await take(ports, 12, idle=True)) == ids([crashed])
    left = await take(ports, 12)
    assert sorted(ids([running, crashed, *left])) == sorted(ids(kept))
    assert (await ports.intake.depth(MODEL)).waiting == 0


async def test_job_that_cannot_be_read_fails_and_the_others_are_taken(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    strange, usual = make_job(), make_job()
    await enqueue(ports, strange, usual)
    await redis_store.redis.hset(keys.job(strange.channel_id), "payload", b'{"from":"tomorrow"}')
    assert ids(await take(ports, 5)) == ids([usual])
    (*_, failed) = await events(ports, strange.channel_id)
    assert isinstance(failed, Failed)
    assert failed.error.code == "unreadable_request"


async def test_all_orchestrators_share_one_signing_secret(redis_store: RedisStore) -> None:
    secrets = {await redis_store.signing_secret() for _ in range(3)}
    assert len(secrets) == 1
    assert len(secrets.pop()) >= 32
