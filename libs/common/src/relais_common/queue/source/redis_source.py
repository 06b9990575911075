"""`JobSource` over Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from relais_common.jobs.errors import DecodeError
from relais_common.jobs.events import STATUS_OF, Started, Terminal, counted_usage
from relais_common.jobs.job import (
    Append,
    Interrupted,
    Lease,
    StopReason,
    Take,
    TakenJob,
    Verdict,
)
from relais_common.queue import codec, keys
from relais_common.queue.client.clients import Clients
from relais_common.queue.client.connection import (
    CONFIRM_TIMEOUT_S,
    LONGEST_BLOCK_S,
    store_errors,
)
from relais_common.queue.client.packing import Argument
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.ports import TakeRequest
from relais_common.queue.script_values import parting

log = structlog.get_logger(__name__)

PATIENCE = 8
"""How many jobs may overtake a waiting lower priority before it is served."""

MOST_BYTES = 4 << 20
"""Bytes of payloads in one take, which only the last one may exceed. """

LARGE_BYTES = 64 << 10
"""Size of a payload whose decoding takes long enough to yield to the event loop before the next one."""


def _verdict(answer: list[Any]) -> Verdict:
    held, tail, stop = answer
    return Verdict(held=bool(held), tail=tail, stop=StopReason(stop.decode()) if stop else None)


class RedisJobSource:
    """Takes jobs, appends to their logs, and ends them.

    Args:
        blocking: clients for pops and subscriptions that block.
    """

    def __init__(self, scripts: Scripts, blocking: Clients) -> None:
        self._scripts = scripts
        self._blocking = blocking

    async def take(self, request: TakeRequest) -> Take:
        make_way, answer, left, gone = await self._scripts.run(
            "take",
            keys.model_base(request.model),
            request.limit,
            request.worker_id,
            request.call_id,
            request.lease_s,
            int(request.idle),
            PATIENCE,
            codec.EXPIRED_LINE,
            request.held,
            "" if request.waited is None else request.waited,
            MOST_BYTES,
            request.stays_s,
            len(request.without),
            *request.without,
            *_flat(request.offers),
        )
        jobs = [job for item in answer if (job := await self._taken(*item)) is not None]
        preempted = tuple(channel_id.decode() for channel_id in gone)
        return Take(
            tuple(jobs),
            bool(make_way),
            left=left == 1,
            left_at_home=left == 2,
            preempted=preempted,
        )

    async def _taken(
        self,
        channel_id: bytes,
        fence: bytes,
        failures: bytes,
        tail: int,
        payload: bytes | list[bytes],
        deadline_in: bytes,
        queued: bytes,
        prompts: bytes,
        revision: bytes,
        suspect: bytes,
        preempted: bytes,
    ) -> TakenJob | None:
        """Return the job, or None if it lacks an image or cannot be decoded: it is then ended here."""
        lease = Lease(channel_id.decode(), int(fence))
        if isinstance(payload, list):
            payload = b"".join(payload)
        if len(payload) > LARGE_BYTES:
            await asyncio.sleep(0)
        if not payload:
            log.error("job_image_lost", channel_id=lease.channel_id)
            await self.finish(lease, first_seq=tail + 1, terminal=codec.IMAGE_LOST, text="")
            return None
        try:
            return TakenJob(
                job=codec.decode_job(payload),
                lease=lease,
                tail=tail,
                failures=int(failures),
                suspect=suspect == b"1",
                preempted=int(preempted),
                deadline_in_s=float(deadline_in),
                queued_s=float(queued),
                interrupted=Interrupted(codec.decode_prompts(prompts), revision.decode())
                if prompts
                else None,
            )
        except DecodeError as error:
            log.error("job_unreadable", channel_id=lease.channel_id, error=str(error))
            await self.finish(lease, first_seq=tail + 1, terminal=codec.UNREADABLE, text="")
            return None

    async def start(
        self, lease: Lease, *, prompts: Sequence[Sequence[int]], model_revision: str
    ) -> Verdict:
        return _verdict(
            await self._scripts.run_for_one(
                "start",
                keys.channel_base(lease.channel_id),
                lease.channel_id,
                lease.fence,
                codec.encode_event(Started.with_prompts(prompts)),
                codec.encode_prompts(prompts),
                model_revision,
            )
        )

    async def append(self, appends: Sequence[Append]) -> list[Verdict]:
        if not appends:
            return []
        arguments: list[Argument] = []
        for item in appends:
            arguments += (item.lease.channel_id, item.lease.fence, item.first_seq)
            arguments += (int(item.emits), len(item.lines))
            arguments += item.lines
        base = keys.channel_base(appends[0].lease.channel_id)
        return [_verdict(answer) for answer in await self._scripts.run("append", base, *arguments)]

    async def finish(
        self,
        lease: Lease,
        *,
        first_seq: int,
        lines: Sequence[bytes] = (),
        terminal: Terminal,
        text: str,
        vectors: bytes = b"",
    ) -> Verdict:
        return _verdict(
            await self._scripts.run_for_one(
                "finish",
                keys.channel_base(lease.channel_id),
                lease.channel_id,
                lease.fence,
                first_seq,
                STATUS_OF[type(terminal)],
                text,
                _usage(terminal),
                vectors,
                *lines,
                codec.encode_event(terminal),
            )
        )

    async def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Verdict]:
        if not leases:
            return []
        answers = await self._scripts.run(
            "renew", keys.channel_base(leases[0].channel_id), lease_s, *_flat(leases)
        )
        return [_verdict(answer) for answer in answers]

    async def release(
        self, leases: Sequence[Lease], *, max_failures: int | None = None, blamed: bool = False
    ) -> None:
        if leases:
            await self._scripts.run(
                "release",
                keys.channel_base(leases[0].channel_id),
                "blamed" if blamed else int(max_failures is not None),
                *parting(max_failures or 0),
                *_flat(leases),
            )

    async def wait_for_work(self, model: str, *, worker_id: str, timeout_s: float) -> None:
        # Zero would block for ever.
        block_s = min(max(timeout_s, 0.001), LONGEST_BLOCK_S)
        own, name = keys.wakeup_of(model, worker_id), keys.wakeup(model)
        with self._scripts.step("wait_for_work"):
            async with self._blocking.of(name) as redis:
                await redis.blpop([own, name], timeout=block_s)

    @asynccontextmanager
    async def stop_requests(self, model: str) -> AsyncIterator[AsyncIterator[str]]:
        name = keys.control(model)
        async with AsyncExitStack() as stack:
            with store_errors():
                redis = await stack.enter_async_context(self._blocking.of(name))
                pubsub = await stack.enter_async_context(redis.pubsub())
                await pubsub.subscribe(name)
                # A stop request made before the confirmation could be missed.
                await pubsub.get_message(timeout=CONFIRM_TIMEOUT_S)

            async def ids() -> AsyncIterator[str]:
                while True:
                    with store_errors():
                        message = await pubsub.get_message(timeout=None)
                    if message is not None and message["type"] == "message":
                        yield message["data"].decode()
                    else:
                        await asyncio.sleep(0)

            yield ids()


def _usage(terminal: Terminal) -> str:
    """Return the usage for the scripts; '' if they must count it themselves."""
    usage = counted_usage(terminal)
    if usage is None:
        return ""
    return f"{usage.input_tokens} {usage.output_tokens} {usage.cached_tokens}"


def _flat(leases: Sequence[Lease]) -> list[Argument]:
    return [part for lease in leases for part in (lease.channel_id, lease.fence)]
