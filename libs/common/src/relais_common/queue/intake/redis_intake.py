"""`JobIntake` over Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, cast

from relais_common.jobs.channels import channel_queue
from relais_common.jobs.errors import IdempotencyConflict, StoreUnavailable, over_quota
from relais_common.jobs.events import Cancelled
from relais_common.jobs.job import (
    Accepted,
    ChannelState,
    Idempotency,
    Job,
    Priority,
    QueueDepth,
    Status,
    StopReason,
)
from relais_common.jobs.limits import NO_QUOTA, Buckets, Quota, buckets
from relais_common.jobs.records import ApiRecord
from relais_common.jobs.traces import Tracing
from relais_common.queue import codec, keys
from relais_common.queue.client.packing import Argument
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.images import take_out
from relais_common.queue.intake.accept_wait import ConfirmedScript
from relais_common.queue.script_values import (
    JobArguments,
    read_acceptance,
    read_state,
)


class EnqueueArguments(NamedTuple):
    """What `enqueue.lua` takes beside the job, which says what each is."""

    trace: str
    max_waiting: int
    max_open: int
    max_bytes: int
    idempotency: str
    body_hash: str
    requests_per_minute: int
    tokens_per_minute: int
    tokens_per_day: int
    tokens: int
    max_traces: int
    watcher: str
    expected_bytes: int
    answers: int
    beginnings: str
    record: bytes
    record_input: bytes
    stored: int
    shards: int
    images: str


class RedisJobIntake:
    """Accepts, cancels and reads jobs."""

    def __init__(
        self,
        scripts: Scripts,
        *,
        watch_grace_s: float = 30.0,
        confirmed: ConfirmedScript | None = None,
    ) -> None:
        self._scripts = scripts
        self._watch_grace_s = watch_grace_s
        self._confirmed = confirmed

    async def enqueue(
        self,
        job: Job,
        *,
        max_waiting: int,
        max_inflight_per_key: int | None = None,
        quota: Quota = NO_QUOTA,
        max_stored_bytes: int | None = None,
        idempotency: Idempotency | None = None,
        tracing: Tracing | None = None,
        watcher_id: str = "",
        record: ApiRecord | None = None,
        shards: int = 1,
    ) -> Accepted:
        idempotency_key = body_hash = ""
        if idempotency is not None:
            idempotency_key = keys.idempotency(
                channel_queue(job.channel_id), job.key_id, idempotency.key_hash
            )
            body_hash = idempotency.body_hash
        # Images are hashed: 2 ms per MB.
        apart = await asyncio.to_thread(take_out, job) if job.images else take_out(job)
        further = EnqueueArguments(
            trace="" if tracing is None else "full" if tracing.content else "none",
            max_waiting=max_waiting,
            max_open=max_inflight_per_key or 0,
            max_bytes=max_stored_bytes or 0,
            idempotency=idempotency_key,
            body_hash=body_hash,
            requests_per_minute=quota.requests_per_minute or 0,
            tokens_per_minute=quota.tokens_per_minute or 0,
            tokens_per_day=quota.tokens_per_day or 0,
            tokens=quota.tokens,
            max_traces=0 if tracing is None else tracing.max_waiting,
            watcher=watcher_id,
            expected_bytes=job.expected_result_bytes,
            answers=job.answers,
            beginnings=" ".join(job.beginnings),
            record=b"" if record is None else record.head,
            record_input=b"" if record is None else record.input,
            stored=int(record is not None and record.stored),
            shards=shards,
            images=apart.places,
        )
        arguments: list[Argument] = [
            *JobArguments.of(job, apart.payload, watch_grace_s=self._watch_grace_s),
            *further,
            *apart.images.values(),
        ]
        answer = await self._accept(arguments, job, findable=idempotency is not None)
        if answer[0] == b"conflict":
            raise IdempotencyConflict(
                "this Idempotency-Key was used with another body", param="Idempotency-Key"
            )
        if answer[0] == b"limited":
            *used, day_full_s = answer[1:]
            raise over_quota(
                quota,
                _buckets(quota, used),
                job.model,
                is_line=job.priority is Priority.BATCH,
                day_full_s=float(day_full_s),
            )
        accepted = read_acceptance(job.model, answer[:5])
        if accepted.duplicate or not quota.limits_anything:
            return accepted
        return replace(accepted, buckets=_buckets(quota, answer[5:]))

    async def _accept(
        self, arguments: Sequence[Argument], job: Job, *, findable: bool
    ) -> list[Any]:
        base = keys.channel_base(job.channel_id)
        if self._confirmed is None:
            return cast("list[Any]", await self._scripts.run_for_one("enqueue", base, *arguments))
        with self._scripts.step("enqueue"):
            (answer,), not_confirmed = await self._confirmed.run(base, len(arguments), *arguments)
            if isinstance(answer, Exception):
                raise answer
            if not_confirmed is not None and answer[0] in (b"accepted", b"duplicate"):
                # Without an idempotency key it would run for nobody, and again at the next attempt.
                if not findable:
                    with suppress(StoreUnavailable):
                        await self.cancel(job.channel_id, StopReason.DISCONNECT)
                raise not_confirmed
        return cast("list[Any]", answer)

    async def cancel(self, channel_id: str, reason: StopReason) -> Status | None:
        status = await self._scripts.run(
            "cancel",
            keys.channel_base(channel_id),
            channel_id,
            reason,
            codec.encode_event(Cancelled(reason)),
        )
        return None if status is None else Status(status.decode())

    async def watch(self, channel_id: str, *, lease_s: float, watcher_id: str = "") -> None:
        base = keys.channel_base(channel_id)
        await self._scripts.run("watch", base, channel_id, lease_s, watcher_id)

    async def unwatch(self, channel_ids: Sequence[str], *, watcher_id: str) -> None:
        if channel_ids:
            base = keys.channel_base(channel_ids[0])
            await self._scripts.run("unwatch", base, watcher_id, *channel_ids)

    async def state(self, channel_id: str) -> ChannelState | None:
        answer = await self._scripts.run("state", keys.channel_base(channel_id), channel_id)
        if answer is None:
            return None
        *fields, text = answer
        return read_state(channel_id, fields, None if text is None else text.decode())

    async def vectors(self, channel_id: str) -> bytes | None:
        with self._scripts.step("vectors"):
            packed = await self._scripts.calls.send("GET", keys.vectors(channel_id))
        return cast("bytes | None", packed)

    async def record(self, channel_id: str) -> ApiRecord | None:
        with self._scripts.step("record"):
            head, asked, stored = await self._scripts.calls.send(
                "HMGET", keys.job(channel_id), "record", "record_input", "stored"
            )
        return None if head is None else ApiRecord(head, asked, stored == b"1")

    async def forget(self, channel_id: str) -> None:
        await self._scripts.run("forget", keys.channel_base(channel_id), channel_id)

    async def knows(self, queue: str, key_id: str, key_hash: str) -> bool:
        with self._scripts.step("knows"):
            name = keys.idempotency(queue, key_id, key_hash)
            return bool(await self._scripts.calls.send("EXISTS", name))

    async def depth(self, model: str) -> QueueDepth:
        send = self._scripts.calls.send
        with self._scripts.step("depth"):
            waiting, running = await asyncio.gather(
                send("HGET", keys.counts(model), "waiting"),
                send("ZCARD", keys.inflight(model)),
            )
        return QueueDepth(waiting=int(waiting or 0), running=running)


def _buckets(quota: Quota, used: list[bytes]) -> Buckets:
    requests, tokens = used
    return buckets(quota, float(requests), float(tokens))
