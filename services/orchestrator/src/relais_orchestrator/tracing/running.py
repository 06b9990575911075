"""Runs a trace writer while the orchestrator serves."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from relais_common.insights.mongo import open_database
from relais_common.queue.ports import TraceOutbox
from relais_common.runtime.lifecycle import background
from relais_orchestrator.metrics.traces import TraceMetrics
from relais_orchestrator.tracing.mongo_sink import MongoTraceSink
from relais_orchestrator.tracing.settings import TraceSettings
from relais_orchestrator.tracing.sink import AnswerSink
from relais_orchestrator.tracing.writer import TraceWriter

DRAIN_S = 3.0
"""Limit for the last write. What still waits stays in Redis for other orchestrators."""


@asynccontextmanager
async def writing_traces(
    settings: TraceSettings | None,
    outbox: TraceOutbox,
    queues: Sequence[str],
    metrics: TraceMetrics,
    answers: AnswerSink | None,
) -> AsyncIterator[None]:
    """Write traces until the context ends, then drain. Does nothing without settings. Raises SettingsError."""
    if settings is None or answers is None:
        yield
        return
    async with open_database(settings.mongo) as database:
        writer = TraceWriter(
            outbox,
            MongoTraceSink(database, retention_days=settings.retention_days),
            answers,
            queues,
            metrics,
            name=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            every_s=settings.write_every_s,
            claim_after_s=3 * settings.mongo.timeout_s,
        )
        async with background(writer.run()):
            yield
            await writer.drain(DRAIN_S)
