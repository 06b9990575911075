"""`Inspector` over Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from relais_common.jobs.channels import channel_model
from relais_common.jobs.errors import DecodeError, ImageLost, Unreadable
from relais_common.jobs.events import Failed
from relais_common.jobs.inspection import (
    ChannelFilter,
    ChannelView,
    DeadLetter,
    KeyBacklog,
    QueueView,
)
from relais_common.jobs.job import Accepted, OnDisconnect, Operation, Priority, Status, StopReason
from relais_common.queue import codec, keys
from relais_common.queue.client.packing import Argument
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.script_values import JobArguments, read_acceptance, read_seconds


class RedisInspector:
    """Reads queues; replays and drops dead letters."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def queue(self, model: str, *, top_keys: int) -> QueueView:
        answer = await self._scripts.run("queue", keys.model_base(model), top_keys)
        waiting = answer[0]
        by_priority = zip(Priority, answer[1 : 1 + len(Priority)], strict=True)
        suspects, running, dead, service, wait, oldest, *rest = answer[1 + len(Priority) :]
        stored, traces, oldest_trace, *backlogs = rest
        return QueueView(
            model=model,
            waiting=waiting,
            waiting_by_priority={priority.value: number for priority, number in by_priority},
            waiting_by_key=tuple(
                KeyBacklog(key_id.decode(), number)
                for key_id, number in zip(backlogs[::2], backlogs[1::2], strict=True)
            ),
            oldest_waiting_s=read_seconds(oldest),
            suspects=suspects,
            running=running,
            dead_letters=dead,
            stored_bytes=stored,
            waiting_traces=traces,
            oldest_trace_s=read_seconds(oldest_trace),
            service_s=read_seconds(service),
            estimated_wait_s=read_seconds(wait),
        )

    async def channels(
        self, model: str, *, which: ChannelFilter, limit: int, latest: bool = False
    ) -> list[ChannelView]:
        base = keys.model_base(model)
        answer = await self._scripts.run("channels", base, which, limit, int(latest))
        return [_channel(fields) for fields in answer]

    async def dead_letters(self, model: str, *, limit: int) -> list[DeadLetter]:
        answer = await self._scripts.run(
            "dead", keys.model_base(model), limit, "", step="dead_letters"
        )
        return [_dead_letter(fields) for fields in answer]

    async def dead_letter(self, channel_id: str) -> DeadLetter | None:
        answer = await self._scripts.run(
            "dead", keys.channel_base(channel_id), 1, channel_id, step="dead_letter"
        )
        return _dead_letter(answer[0]) if answer else None

    async def replay(
        self, channel_id: str, *, new_channel_id: str, max_waiting: int
    ) -> Accepted | None:
        base = keys.channel_base(channel_id)
        with self._scripts.step("replay"):
            payload = await self._scripts.calls.send("HGET", keys.job(channel_id), "payload")
            # Without a stored request, the script finds nothing to replay, or that it was replayed before.
            again = () if payload is None else _again(payload, new_channel_id)
            answer = await self._scripts.evaluate("replay", base, channel_id, max_waiting, *again)
        if answer == [b"image_lost"]:
            raise ImageLost("this request was set aside without its images; it can only be dropped")
        return None if answer is None else read_acceptance(channel_model(channel_id), answer)

    async def drop(self, channel_id: str) -> bool:
        base = keys.channel_base(channel_id)
        return bool(await self._scripts.run("drop", base, channel_id))


def _again(payload: bytes, channel_id: str) -> tuple[Argument, ...]:
    try:
        job = codec.decode_job(payload)
    except DecodeError as error:
        raise Unreadable("this request was made by another version") from error
    again = replace(job, channel_id=channel_id, on_disconnect=OnDisconnect.CONTINUE)
    return JobArguments.of(again, codec.encode_job(again), watch_grace_s=0.0)


def _channel(fields: list[Any]) -> ChannelView:
    (
        channel_id,
        key_id,
        priority,
        operation,
        status,
        age,
        deadline_in,
        running,
        worker,
        takes,
        failures,
        tail,
        stop,
    ) = fields
    return ChannelView(
        channel_id=channel_id.decode(),
        key_id=key_id.decode(),
        priority=Priority(priority.decode()),
        operation=Operation(operation.decode()),
        status=Status(status.decode()),
        age_s=float(age),
        deadline_in_s=float(deadline_in),
        running_s=read_seconds(running),
        worker=worker.decode() or None,
        takes=int(takes),
        failures=int(failures),
        tail=tail,
        stop=StopReason(stop.decode()) if stop else None,
    )


def _dead_letter(fields: list[Any]) -> DeadLetter:
    (
        channel_id,
        key_id,
        priority,
        operation,
        accepted_at,
        failed_at,
        takes,
        failures,
        worker,
        outcome,
        request_bytes,
        replayed_as,
    ) = fields
    end = codec.decode_event(outcome)
    assert isinstance(end, Failed), "a dead letter has failed"
    return DeadLetter(
        channel_id=channel_id.decode(),
        key_id=key_id.decode(),
        priority=Priority(priority.decode()),
        operation=Operation(operation.decode()),
        accepted_at_s=float(accepted_at),
        failed_at_s=float(failed_at),
        takes=int(takes),
        failures=int(failures),
        worker=worker.decode(),
        code=end.error.code,
        message=end.error.message,
        request_bytes=request_bytes,
        replayed_as=replayed_as.decode() or None,
    )
