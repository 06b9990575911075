"""Scripts that fail at a chosen command, and what must always hold of a store."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from relais_common.jobs.job import Priority
from relais_common.queue import codec, keys, scripts
from relais_common.queue.client.calls import Commands
from relais_common.queue.client.packing import Argument
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.inspection.redis_inspector import RedisInspector
from relais_common.queue.intake.redis_intake import RedisJobIntake
from relais_common.queue.recovery.redis_recovery import RedisRecovery
from relais_common.queue.redis_store import RedisStore
from relais_common.queue.source.redis_source import RedisJobSource
from relais_common.queue.traces.redis_traces import RedisTraceOutbox
from relais_testing.builders import COMPLETED, MODEL
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import read_all, reap, take

FAULT = "ERR a fault of the test"
HIT = "the-fault-came"
_FAULTY = """
local real, seen = redis, 0
local redis = {}
local function fails()
  seen = seen + 1
  return seen == %(at)d and real.call('SET', '%(hit)s', 1, 'EX', 60)
end
function redis.call(...)
  if fails() then error({err = '%(fault)s'}) end
  return real.call(...)
end
function redis.pcall(...)
  if fails() then return {err = '%(fault)s'} end
  return real.pcall(...)
end
"""


class FaultyScripts(Scripts):
    """Runs one script with a fault at its n-th command, then none.

    Attributes:
        name: of the script; `at`: which command fails.
    """

    def __init__(self, calls: Commands) -> None:
        super().__init__(calls)
        self.name = ""
        self.at = 0

    def words(self, name: str) -> tuple[Argument, Argument]:
        if name != self.name:
            return super().words(name)
        self.name = ""
        fault = _FAULTY % {"at": self.at, "fault": FAULT, "hit": HIT}
        return "EVAL", fault + scripts.source(name)


def faulty_ports(store: RedisStore) -> tuple[Ports, FaultyScripts]:
    """Return every port whose steps are scripts, and the object that makes them fail."""
    faulty = FaultyScripts(store.calls)
    ports = replace(
        redis_ports(store),
        intake=RedisJobIntake(faulty),
        source=RedisJobSource(faulty, store.source._blocking),
        recovery=RedisRecovery(faulty),
        inspector=RedisInspector(faulty),
        traces=RedisTraceOutbox(faulty),
    )
    return ports, faulty


def _account(job: dict[bytes, bytes]) -> bytes:
    """Return the name under which a job counts towards its key's bounds and turns."""
    return (b"batch " if job[b"priority"] == b"batch" else b"") + job[b"key_id"]


_Jobs = dict[str, dict[bytes, bytes]]


async def check_whole(redis: Any) -> None:
    """Check that every job is where its status says, and that all counts are right."""
    base = keys.model_base(MODEL)
    jobs: _Jobs = {}
    async for name in redis.scan_iter(match="*:job:*", count=1000):
        assert await redis.ttl(name) > 0, f"{name!r} stays for ever"
        jobs[name.decode().rpartition(":job:")[2]] = await redis.hgetall(name)
    statuses = {one: fields[b"status"].decode() for one, fields in jobs.items()}
    living = {one for one, status in statuses.items() if status in ("queued", "running")}
    queued = [one for one in living if statuses[one] == "queued"]

    lanes: list[str] = [one.decode() for one in await redis.lrange(keys.suspects(MODEL), 0, -1)]
    for priority in Priority:
        turns = await redis.lrange(keys.turns(MODEL, priority), 0, -1)
        assert len(turns) == len(set(turns)), "a key has one turn"
        for owner in turns:
            lane = await redis.lrange(keys.lane(MODEL, priority, owner.decode()), 0, -1)
            lanes += [one.decode() for one in lane if one.decode() in queued]
    assert sorted(lanes) == sorted(queued), "each waiting job has one place"
    inflight = {one.decode() for one in await redis.zrange(keys.inflight(MODEL), 0, -1)}
    assert inflight == living - set(queued)
    deadlines = {one.decode() for one in await redis.zrange(keys.deadlines(MODEL), 0, -1)}
    assert set(queued) <= deadlines <= living
    watched = {one.decode() for one in await redis.zrange(keys.watched(MODEL), 0, -1)}
    assert watched <= living

    await _check_counts(redis, jobs, queued=queued, running=inflight)
    await _check_bytes(redis, jobs, living)
    assert await redis.exists(f"{base}:redo") == 0, "something was left to do"


async def _check_counts(
    redis: Any, jobs: _Jobs, *, queued: Collection[str], running: Collection[str]
) -> None:
    """Check the numbers of jobs, of all and of each key."""
    counts = await redis.hgetall(keys.counts(MODEL))
    assert int(counts.get(b"waiting", 0)) == len(queued)
    assert b"drifted" not in counts
    by_priority = Counter(jobs[one][b"priority"].decode() for one in queued)
    for priority in Priority:
        assert int(counts.get(f"waiting:{priority}".encode(), 0)) == by_priority[priority]
    open_jobs = await redis.hgetall(keys.open_jobs(MODEL))
    assert {key: int(number) for key, number in open_jobs.items()} == Counter(
        _account(jobs[one]) for one in (*queued, *running)
    )
    running_jobs = await redis.hgetall(keys.running_jobs(MODEL))
    assert {key: int(number) for key, number in running_jobs.items()} == Counter(
        _account(jobs[one]) for one in running
    )


async def _check_bytes(redis: Any, jobs: _Jobs, living: Collection[str]) -> None:
    """Check what is held, of each key and in all, with what fades."""
    held = Counter[bytes]()
    for one in living:
        held[jobs[one][b"key_id"]] += int(jobs[one].get(b"bytes", 0))
    for owner, own in (await _images(redis, jobs, living)).items():
        held[owner] += own
    for span in await redis.zrange(keys.fading(MODEL), 0, -1):
        sums = await redis.hgetall(keys.fading_span(MODEL, int(span)))
        whole = sums.pop(b"")
        held.update({key: int(own) for key, own in sums.items()})
        assert int(whole) == sum(map(int, sums.values()))
    by_key = await redis.hgetall(keys.held(MODEL))
    assert {key: int(own) for key, own in by_key.items()} == {k: v for k, v in held.items() if v}
    counts = await redis.hgetall(keys.counts(MODEL))
    assert int(counts.get(b"bytes", 0)) == sum(held.values())


async def _images(redis: Any, jobs: _Jobs, living: Collection[str]) -> Counter[bytes]:
    """Return the bytes of each key's images, having checked that those of unfinished jobs are there, and no other."""
    wanted: Counter[tuple[bytes, bytes]] = Counter()
    for one in living:
        places = jobs[one].get(b"images", b"").split()
        owner = jobs[one][b"key_id"]
        wanted.update({(owner, place.partition(b":")[2]) for place in places})
    assert await redis.smembers(keys.images(MODEL)) == {b":".join(one) for one in wanted}
    there = await redis.keys("*:image:*")
    assert len(there) == len(wanted)
    held = Counter[bytes]()
    for (owner, digest), number in wanted.items():
        name = keys.image(MODEL, owner.decode(), digest.decode())
        image = await redis.hgetall(name)
        assert hashlib.sha256(image[b"data"]).hexdigest() == digest.decode()
        assert int(image[b"jobs"]) == number
        assert await redis.ttl(name) > 0, f"{name!r} stays for ever"
        held[owner] += int(image[b"bytes"])
    return held


async def end_everything(ports: Ports, redis: Any) -> None:
    """Let every holder die, and a healthy worker complete all jobs."""
    for number in range(50):
        for one in await redis.zrange(keys.inflight(MODEL), 0, -1):
            await redis.zadd(keys.inflight(MODEL), {one: 1.0})
        await reap(ports, max_failures=99)
        taken = await take(ports, 10, worker_id="last", call_id=f"last-{number}", idle=True)
        for one in taken:
            await ports.source.finish(
                one.lease, first_seq=one.tail + 1, terminal=COMPLETED, text="", vectors=b""
            )
        depth = await ports.intake.depth(MODEL)
        if depth.waiting + depth.running == 0:
            return
    raise AssertionError("a job is stuck")


async def check_ends(ports: Ports, redis: Any) -> None:
    """Check that each job has one terminal event, its last, one `queued`, one trace, and a place in the account."""
    ids = [
        name.decode().rpartition(":job:")[2]
        async for name in redis.scan_iter(match="*:job:*", count=1000)
    ]
    for channel_id in ids:
        names = [codec.split_event(line)[0] for line in await read_all(ports, channel_id)]
        ends = [name for name in names if name in codec.TERMINAL_NAMES]
        assert ends == names[-1:], names
        assert names.count(b"queued") == 1, names
        assert names.count(b"started") <= 1, names
    traced = [
        channel_id for channel_id in ids if await redis.hexists(keys.job(channel_id), "trace")
    ]
    batch = await ports.traces.collect(MODEL, writer="audit", limit=1000, claim_after_s=0.0)
    assert sorted(one.trace.channel_id for one in batch.traces) == sorted(traced)
    ends_counted = 0
    for account in await redis.keys("*:usage:*"):
        for counter, number in (await redis.hgetall(account)).items():
            if counter.split()[1] in codec.TERMINAL_NAMES:
                ends_counted += int(number)
    assert ends_counted == len(ids)
