"""Jobs that leave a trace, and their traces."""

from __future__ import annotations

from relais_common.jobs.job import Job, TakenJob
from relais_common.jobs.traces import Trace, Tracing, WaitingTrace
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports
from relais_testing.steps import LONG_S, take_one

TRACING = Tracing(max_waiting=1000)
WITH_CONTENT = Tracing(content=True, max_waiting=1000)


async def enqueue_traced(ports: Ports, *jobs: Job, tracing: Tracing = TRACING) -> None:
    for job in jobs:
        await ports.intake.enqueue(job, max_waiting=1000, tracing=tracing)


async def running_traced(
    ports: Ports, job: Job | None = None, tracing: Tracing = TRACING
) -> TakenJob:
    """Return a job held by a worker."""
    await enqueue_traced(ports, make_job() if job is None else job, tracing=tracing)
    return await take_one(ports)


async def collect(
    ports: Ports,
    writer: str = "writer-1",
    *,
    limit: int = 1000,
    claim_after_s: float = LONG_S,
) -> list[WaitingTrace]:
    batch = await ports.traces.collect(
        MODEL, writer=writer, limit=limit, claim_after_s=claim_after_s
    )
    return list(batch.traces)


async def the_trace(ports: Ports) -> Trace:
    """Collect the only trace."""
    (one,) = await collect(ports)
    await ports.traces.written(MODEL, [one.entry_id])
    return one.trace
