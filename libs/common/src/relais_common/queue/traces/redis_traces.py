"""`TraceOutbox` over Redis."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from relais_common.jobs.channels import queue_model
from relais_common.jobs.errors import DecodeError
from relais_common.jobs.traces import SET_ASIDE_KEPT, SET_ASIDE_TTL_S, TraceBatch, WaitingTrace
from relais_common.queue import keys, trace_codec
from relais_common.queue.client.scripting import Scripts

log = structlog.get_logger(__name__)

MOST_BYTES = 8 << 20
"""Bytes handed over at once, which ten traces with long contents may exceed."""


class RedisTraceOutbox:
    """One stream per model, read by a consumer group of writers."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def collect(
        self, model: str, *, writer: str, limit: int, claim_after_s: float
    ) -> TraceBatch:
        more, answer = await self._scripts.run(
            "collect", keys.model_base(model), writer, limit, MOST_BYTES, int(claim_after_s * 1000)
        )
        waiting, unreadable = [], []
        for raw_id, fields in answer:
            entry_id = raw_id.decode()
            try:
                waiting.append(WaitingTrace(entry_id, *trace_codec.decode_entry(fields)))
            except DecodeError as error:
                log.error(
                    "trace_unreadable",
                    model=queue_model(model),
                    entry_id=entry_id,
                    error=str(error),
                )
                unreadable.append(entry_id)
        if unreadable:
            await self.set_aside(model, unreadable)
        return TraceBatch(tuple(waiting), more=bool(more), unreadable=len(unreadable))

    async def written(self, model: str, entry_ids: Sequence[str]) -> None:
        if entry_ids:
            await self._scripts.run("written", keys.model_base(model), *entry_ids)

    async def set_aside(self, model: str, entry_ids: Sequence[str]) -> None:
        if entry_ids:
            await self._scripts.run(
                "shelve",
                keys.model_base(model),
                SET_ASIDE_KEPT,
                SET_ASIDE_TTL_S,
                *entry_ids,
                step="set_aside",
            )
