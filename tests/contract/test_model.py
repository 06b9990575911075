"""Random steps over both stores side by side: the same answers, and nothing lost, doubled or stuck.

Redis has its own clock, so leases and deadlines lie far in the future or in the past; the memory
store's clock moves with every step, as Redis's does.

`STORE_EXAMPLES=10000` takes so many walks of 50 steps, in place of a few.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import astuple, replace
from typing import Any, TypeVar, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from relais_common.jobs.chat import Message
from relais_common.jobs.errors import (
    IdempotencyConflict,
    QueueFull,
    RelaisError,
    TooManyInFlight,
)
from relais_common.jobs.events import Cancelled, Expired, Failed, Queued, Terminal
from relais_common.jobs.job import (
    Accepted,
    Append,
    ChannelState,
    Idempotency,
    Job,
    Lease,
    OnDisconnect,
    Priority,
    Status,
    StopReason,
    Take,
    TakenJob,
    Verdict,
)
from relais_common.jobs.traces import Phases, Trace
from relais_common.queue import codec, keys
from relais_common.queue.images import take_out
from relais_common.queue.ports import JobSource, TakeRequest
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.builders import COMPLETED, MODEL, make_job, picture, token_line
from relais_testing.memory import MemoryStore
from relais_testing.ports import Ports, memory_ports, redis_ports
from relais_testing.steps import LONG_S, PAST_S, read_all
from relais_testing.traced import TRACING
from relais_testing.waiting import LIVENESS_S

T = TypeVar("T")

EXAMPLES = int(os.environ.get("STORE_EXAMPLES", "40"))
BOUND = 12
KEY_BOUND = 7
WORKERS = st.sampled_from(["w1", "w2"])
LEASES_S = st.sampled_from([LONG_S, LONG_S, PAST_S])
PICKS = st.integers(0, 60)
FAILED = Failed(RelaisError("no").info)
TERMINALS: list[Terminal] = [COMPLETED, FAILED, Cancelled(StopReason.CLIENT), Expired()]


class _SmallFences:
    """Redis makes its fences by the clock; here the takes of each channel count from one, as in memory."""

    def __init__(self, source: JobSource) -> None:
        self._source = source
        self._fences: dict[str, list[int]] = {}

    def _own(self, lease: Lease) -> Lease:
        return Lease(lease.channel_id, self._fences[lease.channel_id][lease.fence - 1])

    async def take(self, request: TakeRequest) -> Take:
        offers = [self._own(lease) for lease in request.offers]
        answer = await self._source.take(replace(request, offers=offers))
        return replace(answer, jobs=tuple(map(self._small, answer.jobs)))

    def _small(self, taken: TakenJob) -> TakenJob:
        channel_id, fence = taken.lease.channel_id, taken.lease.fence
        fences = self._fences.setdefault(channel_id, [])
        if fence not in fences:
            assert fence > max(fences, default=0)
            fences.append(fence)
        return replace(taken, lease=Lease(channel_id, fences.index(fence) + 1))

    async def start(self, lease: Lease, **kwargs: Any) -> Verdict:
        return await self._source.start(self._own(lease), **kwargs)

    async def append(self, appends: list[Append]) -> list[Verdict]:
        return await self._source.append(
            [replace(item, lease=self._own(item.lease)) for item in appends]
        )

    async def finish(self, lease: Lease, **kwargs: Any) -> Verdict:
        return await self._source.finish(self._own(lease), **kwargs)

    async def renew(self, leases: list[Lease], **kwargs: Any) -> list[Verdict]:
        return await self._source.renew([self._own(lease) for lease in leases], **kwargs)

    async def release(self, leases: list[Lease], **kwargs: Any) -> None:
        await self._source.release([self._own(lease) for lease in leases], **kwargs)


class TwoStores(RuleBasedStateMachine):
    """Every rule is one step, done to both; `redis_url` is set by the test."""

    redis_url: str

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._now_s = time.time()
        self._memory = memory_ports(MemoryStore(lambda: self._now_s))
        self._store: RedisStore = self._runner.run(self._open())
        ports = redis_ports(self._store)
        self._redis = replace(ports, source=cast("JobSource", _SmallFences(ports.source)))
        self._jobs: list[Job] = []
        self._leases: list[Lease] = []
        self._last_calls: dict[str, str] = {}
        self._calls = 0

    async def _open(self) -> RedisStore:
        # A machine that is busy for seconds is not what this is about.
        settings = RedisSettings(self.redis_url, timeout_s=LIVENESS_S)
        store = await self._stack.enter_async_context(open_store(settings))
        await store.redis.flushall()
        return store

    def _both(self, step: Callable[[Ports], Awaitable[T]]) -> tuple[T, T]:
        """The step's answers of memory and of Redis."""
        self._now_s += 0.001

        async def ask_both() -> tuple[T, T]:
            return await step(self._memory), await step(self._redis)

        return self._runner.run(ask_both())

    def _same(self, step: Callable[[Ports], Awaitable[T]]) -> T:
        memory, redis = self._both(step)
        assert memory == redis
        return memory

    def _job(self, pick: int) -> Job | None:
        return self._jobs[pick % len(self._jobs)] if self._jobs else None

    def _lease(self, pick: int) -> Lease | None:
        """Any lease ever given; late ones more often, and early ones as stale as can be."""
        return self._leases[-1 - pick % len(self._leases)] if self._leases else None

    def _enqueue(self, job: Job, idempotency: Idempotency | None) -> Accepted | None:
        async def step(ports: Ports) -> Accepted | type[RelaisError]:
            try:
                return await ports.intake.enqueue(
                    job,
                    max_waiting=BOUND,
                    max_inflight_per_key=KEY_BOUND,
                    idempotency=idempotency,
                    tracing=TRACING,
                )
            except (QueueFull, TooManyInFlight, IdempotencyConflict) as error:
                return type(error)

        memory, redis = self._both(step)
        if not isinstance(memory, Accepted) or not isinstance(redis, Accepted):
            assert memory == redis
            return None
        # Not the bound: jobs that come back wait beside as many as may.
        depth = self._same(lambda ports: ports.intake.depth(MODEL))
        assert memory.queue_position <= redis.queue_position <= depth.waiting
        assert _without_estimates(memory) == _without_estimates(redis)
        return memory

    @rule(
        key_id=st.sampled_from("abc"),
        priority=st.sampled_from(Priority),
        deadline_s=st.sampled_from([600.0, 600.0, 600.0, PAST_S]),
        on_disconnect=st.sampled_from(OnDisconnect),
        idempotency=st.none()
        | st.builds(Idempotency, st.sampled_from("kl"), st.sampled_from("xy")),
        n=st.sampled_from([1, 1, 3]),
        pictures=st.sampled_from(["", "", "A", "B", "AB", "AA"]),
    )
    def enqueue(
        self,
        key_id: str,
        priority: Priority,
        deadline_s: float,
        on_disconnect: OnDisconnect,
        idempotency: Idempotency | None,
        n: int = 1,
        pictures: str = "",
    ) -> None:
        job = make_job(
            key_id,
            messages=(Message("user", "What?"), *(picture(letter=one) for one in pictures)),
            priority=priority,
            deadline_s=deadline_s,
            on_disconnect=on_disconnect,
            n=n,
        )
        accepted = self._enqueue(job, idempotency)
        if accepted is not None and not accepted.duplicate:
            self._jobs.append(job)

    @rule(key_ids=st.lists(st.sampled_from("aab"), min_size=2, max_size=5))
    def enqueue_several(self, key_ids: list[str]) -> None:
        for key_id in key_ids:
            self.enqueue(key_id, Priority.NORMAL, 600.0, OnDisconnect.CONTINUE, None)

    @rule(pick=PICKS)
    def enqueue_again(self, pick: int) -> None:
        if job := self._job(pick):
            accepted = self._enqueue(job, None)
            assert accepted is not None
            assert accepted.duplicate

    @rule(
        limit=st.integers(0, 4),
        worker_id=WORKERS,
        lease_s=LEASES_S,
        idle=st.booleans(),
        held=st.integers(0, 3),
        waited=st.none() | st.integers(0, 3),
        without=st.just("") | st.sampled_from(["a", "bc", "abc"]),
        stays_s=st.sampled_from([0.0, LONG_S]),
    )
    def take(
        self,
        limit: int,
        worker_id: str,
        lease_s: float,
        idle: bool,
        held: int,
        waited: int | None,
        without: str,
        stays_s: float,
    ) -> None:
        self._calls += 1
        self._last_calls[worker_id] = f"call-{self._calls}"
        self._take(limit, worker_id, lease_s, idle, held, waited, without, stays_s=stays_s)

    @rule(picks=st.lists(PICKS, min_size=1, max_size=6), worker_id=WORKERS, lease_s=LEASES_S)
    def offer(self, picks: list[int], worker_id: str, lease_s: float) -> None:
        """A worker without room asks whether places are to change hands."""
        if leases := [lease for pick in dict.fromkeys(picks) if (lease := self._lease(pick))]:
            self._calls += 1
            self._last_calls[worker_id] = f"call-{self._calls}"
            self._take(0, worker_id, lease_s, False, 0, None, offers=list(dict.fromkeys(leases)))

    @rule(worker_id=WORKERS)
    def take_again(self, worker_id: str) -> None:
        if worker_id in self._last_calls:
            self._take(2, worker_id, LONG_S, False, 0, None)

    def _take(
        self,
        limit: int,
        worker_id: str,
        lease_s: float,
        idle: bool,
        held: int,
        waited: int | None,
        without: str = "",
        offers: Sequence[Lease] = (),
        stays_s: float = LONG_S,
    ) -> None:
        async def step(ports: Ports) -> Take:
            take = await ports.source.take(
                TakeRequest(
                    MODEL,
                    limit,
                    worker_id=worker_id,
                    call_id=self._last_calls[worker_id],
                    lease_s=lease_s,
                    idle=idle,
                    held=held,
                    waited=waited,
                    without=tuple(without),
                    offers=offers,
                    stays_s=stays_s,
                )
            )
            jobs = (replace(one, deadline_in_s=0.0, queued_s=0.0) for one in take.jobs)
            return replace(take, jobs=tuple(jobs))

        for one in self._same(step).jobs:
            if one.lease not in self._leases:
                self._leases.append(one.lease)

    @rule(pick=PICKS)
    def start(self, pick: int) -> None:
        if lease := self._lease(pick):
            self._same(
                lambda ports: ports.source.start(lease, prompts=[[1, 2]], model_revision="r")
            )

    @rule(pick=PICKS, ahead=st.integers(-2, 2), count=st.integers(0, 3), emits=st.booleans())
    def append(self, pick: int, ahead: int, count: int, emits: bool) -> None:
        if lease := self._lease(pick):
            first_seq = max(1, self._tail(lease) + 1 + ahead)
            lines = tuple(token_line(f"{first_seq + number}") for number in range(count))
            item = Append(lease, first_seq, lines, emits)
            self._same(lambda ports: ports.source.append([item, item]))

    @rule(
        pick=PICKS,
        ahead=st.integers(-2, 1),
        count=st.integers(0, 2),
        terminal=st.sampled_from(TERMINALS),
    )
    def finish(self, pick: int, ahead: int, count: int, terminal: Terminal) -> None:
        if lease := self._lease(pick):
            first_seq = self._tail(lease) + 1 + ahead
            lines = [token_line(f"{first_seq + number}") for number in range(count)]

            async def step(ports: Ports) -> list[Verdict]:
                finish = ports.source.finish
                return [
                    await finish(
                        lease, first_seq=first_seq, lines=lines, terminal=terminal, text="é"
                    )
                    for _ in range(2)
                ]

            once, again = self._same(step)
            assert once == again

    @rule(picks=st.lists(PICKS, max_size=4), lease_s=LEASES_S)
    def renew(self, picks: list[int], lease_s: float) -> None:
        leases = [lease for pick in picks if (lease := self._lease(pick))]
        self._same(lambda ports: ports.source.renew(leases, lease_s=lease_s))

    @rule(
        picks=st.lists(PICKS, max_size=4),
        max_failures=st.none() | st.integers(1, 3),
        blamed=st.booleans(),
    )
    def release(self, picks: list[int], max_failures: int | None, blamed: bool) -> None:
        leases = [lease for pick in picks if (lease := self._lease(pick))]
        blamed = blamed and max_failures is not None
        self._same(
            lambda ports: ports.source.release(leases, max_failures=max_failures, blamed=blamed)
        )

    @rule(pick=PICKS, reason=st.sampled_from(StopReason))
    def cancel(self, pick: int, reason: StopReason) -> None:
        if job := self._job(pick):
            self._same(lambda ports: ports.intake.cancel(job.channel_id, reason))

    @rule(pick=PICKS, lease_s=LEASES_S)
    def watch(self, pick: int, lease_s: float) -> None:
        if job := self._job(pick):
            self._same(lambda ports: ports.intake.watch(job.channel_id, lease_s=lease_s))

    @rule(max_failures=st.integers(1, 3), limit=st.sampled_from([1, 2, 100]))
    def reap(self, max_failures: int, limit: int) -> None:
        self._same(lambda ports: ports.recovery.reap(MODEL, max_failures=max_failures, limit=limit))

    @rule(
        first=PICKS,
        count=st.integers(1, 3),
        started=st.booleans(),
        emitted=st.booleans(),
        max_failures=st.integers(1, 3),
    )
    def crash(
        self, first: int, count: int, started: bool, emitted: bool, max_failures: int
    ) -> None:
        """A worker dies with some jobs on board."""
        for pick in range(first, first + count):
            if started:
                self.start(pick)
            if emitted:
                self.append(pick, 0, 1, True)
            self.renew([pick], PAST_S)
        self.reap(max_failures, 100)

    @invariant()
    def depth_counts_the_jobs(self) -> None:
        depth = self._same(lambda ports: ports.intake.depth(MODEL))
        statuses = self._runner.run(self._places_in_redis())
        assert depth.waiting == statuses[Status.QUEUED]
        assert depth.running == statuses[Status.RUNNING]

    @invariant()
    def running_answers_of_each_key_are_counted(self) -> None:
        counted, there = self._runner.run(self._running_in_redis())
        assert counted == there

    async def _running_in_redis(self) -> tuple[dict[str, int], Counter[str]]:
        redis: Any = self._store.redis
        counted = await redis.hgetall(keys.running_jobs(MODEL))
        running = [one.decode() for one in await redis.zrange(keys.inflight(MODEL), 0, -1)]
        owners = {
            job.channel_id: f"batch {job.key_id}" if job.priority is Priority.BATCH else job.key_id
            for job in self._jobs
        }
        answers = {job.channel_id: job.answers for job in self._jobs}
        there: Counter[str] = Counter()
        for one in running:
            there[owners[one]] += answers[one]
        return {owner.decode(): int(count) for owner, count in counted.items()}, there

    @invariant()
    def bytes_are_those_of_each_job_once(self) -> None:
        counted, summed = self._runner.run(self._bytes_in_redis())
        assert counted == summed

    async def _bytes_in_redis(self) -> tuple[Counter[bytes], Counter[bytes]]:
        """By key, in all under no name: what is counted, and what unfinished jobs say of themselves and what fades."""
        redis: Any = self._store.redis
        counted = Counter({b"": int(await redis.hget(keys.counts(MODEL), "bytes") or 0)})
        counted.update(
            {key: int(own) for key, own in (await redis.hgetall(keys.held(MODEL))).items()}
        )
        summed = Counter[bytes]()
        for job, stored in zip(self._jobs, await self._of_jobs("bytes"), strict=True):
            own = int(stored or 0)
            summed.update({b"": own, job.key_id.encode(): own})
        for key_id, digest in await self._images_in_redis():
            own = int(await redis.hget(keys.image(MODEL, key_id, digest), "bytes"))
            summed.update({b"": own, key_id.encode(): own})
        for span in await redis.zrange(keys.fading(MODEL), 0, -1):
            sums = await redis.hgetall(keys.fading_span(MODEL, int(span)))
            summed.update({key: int(own) for key, own in sums.items()})
        return counted, summed

    async def _of_jobs(self, field: str) -> list[Any]:
        """Return this field of each job, all in one round trip."""
        async with self._store.redis.pipeline(transaction=False) as pipeline:
            for job in self._jobs:
                pipeline.hget(keys.job(job.channel_id), field)
            return await pipeline.execute()

    async def _images_in_redis(self) -> set[tuple[str, str]]:
        """Those that are there, each with its key, having checked that they are those of unfinished jobs."""
        redis: Any = self._store.redis
        found: set[tuple[str, str]] = set()
        for job, status in zip(self._jobs, await self._of_jobs("status"), strict=True):
            if not Status(status.decode()).is_terminal:
                found |= {(job.key_id, digest) for digest in take_out(job).images}
        assert await redis.smembers(keys.images(MODEL)) == {":".join(one).encode() for one in found}
        assert len(await redis.keys("*:image:*")) == len(found)
        return found

    async def _places_in_redis(self) -> Counter[str]:
        """How many jobs have each status, having checked that each is where its status says."""
        redis = self._store.redis
        async with redis.pipeline(transaction=False) as pipeline:
            for job in self._jobs:
                pipeline.hget(keys.job(job.channel_id), "status")
            for priority in Priority:
                pipeline.lrange(keys.turns(MODEL, priority), 0, -1)
                for key_id in "abc":
                    pipeline.lrange(keys.lane(MODEL, priority, key_id), 0, -1)
            pipeline.lrange(keys.suspects(MODEL), 0, -1)
            pipeline.zrange(keys.inflight(MODEL), 0, -1)
            answers = await pipeline.execute()
        status_of = {
            job.channel_id.encode(): status.decode()
            for job, status in zip(self._jobs, answers, strict=False)
        }
        *lanes, suspects, inflight = answers[len(self._jobs) :]
        waiting = list(suspects)
        for number in range(len(Priority)):
            turns, *own = lanes[number * 4 : number * 4 + 4]
            alive = [[one for one in lane if status_of[one] == Status.QUEUED] for lane in own]
            with_work = [key.encode() for key, lane in zip("abc", alive, strict=True) if lane]
            assert sorted(turns) == with_work, "a key has one turn as long as it has a job"
            waiting += [one for lane in alive for one in lane]
        counts = Counter(status_of.values())
        assert len(waiting) == len(set(waiting)) == counts[Status.QUEUED]
        assert {status_of[one] for one in waiting} <= {Status.QUEUED}
        assert {status_of[one] for one in inflight} <= {Status.RUNNING}
        assert len(inflight) == counts[Status.RUNNING]
        return counts

    def teardown(self) -> None:
        try:
            self._check_channels()
            self._end_everything()
            self._check_channels()
            self._check_traces()
        finally:
            self._runner.run(self._stack.aclose())
            self._runner.close()

    def _check_channels(self) -> None:
        for job in self._jobs:

            async def look(ports: Ports, job: Job = job) -> ChannelState | None:
                return await ports.intake.state(job.channel_id)

            memory, redis = self._both(look)
            assert memory is not None
            assert redis is not None
            assert _without_estimates(memory) == _without_estimates(redis)
            assert 0 <= memory.queue_position <= redis.queue_position

            async def log(ports: Ports, job: Job = job) -> list[bytes]:
                lines = await read_all(ports, job.channel_id)
                # The position inside is an upper bound, and not the same in both.
                assert isinstance(codec.decode_event(lines[0]), Queued)
                return lines[1:]

            lines = self._same(log)
            assert len(lines) + 1 == memory.tail
            ends = [line for line in lines if codec.split_event(line)[0] in codec.TERMINAL_NAMES]
            assert ends == ([memory.outcome] if memory.status.is_terminal else [])
            assert ends == lines[-1:] or not ends

    def _end_everything(self) -> None:
        """Whatever happened before, healthy workers bring every job to its end."""
        for number in range(2 * len(self._jobs) + 2):
            # Who has a job now does not live to say so.
            self._same(lambda ports: ports.source.renew(self._leases, lease_s=PAST_S))
            self._same(lambda ports: ports.recovery.reap(MODEL, max_failures=9, limit=100))

            async def step(ports: Ports, number: int = number) -> list[Verdict]:
                take = await ports.source.take(
                    TakeRequest(
                        MODEL, 5, worker_id="last", call_id=f"last-{number}", lease_s=9.0, idle=True
                    )
                )
                finish = ports.source.finish
                return [
                    await finish(one.lease, first_seq=one.tail + 1, terminal=COMPLETED, text="")
                    for one in take.jobs
                ]

            assert all(verdict.held for verdict in self._same(step))
        depth = self._same(lambda ports: ports.intake.depth(MODEL))
        assert (depth.waiting, depth.running) == (0, 0)

    def _check_traces(self) -> None:
        """One of each request, with the same words, and no time left out or counted twice."""

        async def step(ports: Ports) -> list[Trace]:
            batch = await ports.traces.collect(
                MODEL, writer="w", limit=len(self._jobs) + 1, claim_after_s=LONG_S
            )
            return sorted((one.trace for one in batch.traces), key=lambda one: one.channel_id)

        memory, redis = self._both(step)
        assert [one.channel_id for one in memory] == sorted(one.channel_id for one in self._jobs)
        assert list(map(_without_times, memory)) == list(map(_without_times, redis))
        for trace in memory + redis:
            assert min(astuple(trace.phases)) >= 0
            assert abs(trace.e2e_s - (trace.finished_at_s - trace.accepted_at_s)) < 1e-4

    def _tail(self, lease: Lease) -> int:
        return self._same(lambda ports: _tail_of(ports, lease.channel_id))


async def _tail_of(ports: Ports, channel_id: str) -> int:
    state = await ports.intake.state(channel_id)
    assert state is not None
    return state.tail


def _without_estimates(answer: Accepted | ChannelState) -> Accepted | ChannelState:
    """Without what depends on a clock or is an upper bound."""
    if isinstance(answer, Accepted):
        return replace(answer, queue_position=0, estimated_wait_s=None)
    return replace(
        answer,
        queue_position=0,
        estimated_wait_s=None,
        accepted_at_s=0.0,
        started_at_s=None if answer.started_at_s is None else 0.0,
        finished_at_s=None if answer.finished_at_s is None else 0.0,
    )


def _without_times(trace: Trace) -> Trace:
    return replace(
        trace,
        accepted_at_s=0.0,
        first_token_at_s=None if trace.first_token_at_s is None else 0.0,
        finished_at_s=0.0,
        phases=Phases(queue_s=0.0, prefill_s=0.0, decode_s=0.0, stalled_s=0.0),
    )


def test_memory_and_redis_answer_alike_whatever_the_steps(redis_url: str) -> None:
    class Machine(TwoStores):
        pass

    Machine.redis_url = redis_url
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=50)
    )
