"""Short forms of the steps of a job. Leases far in the past or future replace waiting."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from relais_common.jobs.events import Event, Terminal
from relais_common.jobs.job import Accepted, Append, Job, Lease, Take, TakenJob, Verdict
from relais_common.queue import codec
from relais_common.queue.ports import Reaped, TakeRequest
from relais_testing.builders import COMPLETED, MODEL, make_job, token_line
from relais_testing.ports import Ports

LONG_S = 3600.0
PAST_S = -1.0

_call_numbers = count(1)


async def enqueue(ports: Ports, *jobs: Job, max_waiting: int = 100_000) -> list[Accepted]:
    """Queue jobs."""
    return [await ports.intake.enqueue(job, max_waiting=max_waiting) for job in jobs]


async def take(
    ports: Ports,
    limit: int = 1,
    *,
    worker_id: str = "worker-1",
    call_id: str | None = None,
    lease_s: float = LONG_S,
    idle: bool = False,
    model: str = MODEL,
) -> list[TakenJob]:
    """Take jobs, with a new call id by default."""
    call_id = f"call-{next(_call_numbers)}" if call_id is None else call_id
    answer = await ports.source.take(
        TakeRequest(model, limit, worker_id=worker_id, call_id=call_id, lease_s=lease_s, idle=idle)
    )
    return list(answer.jobs)


async def ask(
    ports: Ports,
    worker_id: str,
    *,
    held: int = 0,
    room: int = 64,
    waited: int | None = 0,
    stays_s: float = LONG_S,
) -> Take:
    """Take what this worker gets beside others. What is at home elsewhere stays there, unless `stays_s` is short."""
    return await ports.source.take(
        TakeRequest(
            MODEL,
            room,
            worker_id=worker_id,
            call_id=f"call-{next(_call_numbers)}",
            lease_s=LONG_S,
            idle=held == 0,
            held=held,
            waited=waited,
            stays_s=stays_s,
        )
    )


async def take_one(ports: Ports, *, worker_id: str = "worker-1", idle: bool = False) -> TakenJob:
    """Take one job."""
    (taken,) = await take(ports, worker_id=worker_id, idle=idle)
    return taken


async def running(ports: Ports, job: Job | None = None) -> TakenJob:
    """Return a job held by a worker."""
    await enqueue(ports, make_job() if job is None else job)
    return await take_one(ports)


async def start(ports: Ports, lease: Lease) -> Verdict:
    """Start a job."""
    return await ports.source.start(lease, prompts=[[1, 2, 3]], model_revision="r1")


async def append(
    ports: Ports, lease: Lease, first_seq: int, *lines: bytes, emits: bool = True
) -> Verdict:
    """Append events."""
    item = Append(lease, first_seq, lines or (token_line(),), emits)
    (verdict,) = await ports.source.append([item])
    return verdict


async def finish(
    ports: Ports,
    lease: Lease,
    first_seq: int,
    terminal: Terminal = COMPLETED,
    text: str = "whole answer",
    vectors: bytes = b"",
) -> Verdict:
    """Finish a job."""
    return await ports.source.finish(
        lease, first_seq=first_seq, terminal=terminal, text=text, vectors=vectors
    )


async def reap(ports: Ports, *, max_failures: int = 3, limit: int = 1000) -> Reaped:
    """Run the reaper once."""
    return await ports.recovery.reap(MODEL, max_failures=max_failures, limit=limit)


async def let_expire(ports: Ports, *leases: Lease) -> None:
    """Let leases expire."""
    verdicts = await ports.source.renew(leases, lease_s=PAST_S)
    assert all(verdict.held for verdict in verdicts)


async def crash(ports: Ports, *leases: Lease, max_failures: int = 3) -> Reaped:
    """Let the holder die, its leases expire, and the reaper run."""
    await let_expire(ports, *leases)
    return await reap(ports, max_failures=max_failures)


async def read_all(ports: Ports, channel_id: str) -> list[bytes]:
    """Return all lines of the log."""
    return await ports.log.read(channel_id, after=0, limit=100_000)


async def events(ports: Ports, channel_id: str) -> list[Event]:
    """Return the decoded events of the log."""
    return [codec.decode_event(line) for line in await read_all(ports, channel_id)]


async def names(ports: Ports, channel_id: str) -> list[str]:
    """Return the names of the channel's events, in order."""
    lines = await read_all(ports, channel_id)
    return [codec.split_event(line)[0].decode() for line in lines]


def ids(items: Iterable[Job | TakenJob]) -> list[str]:
    """Return channel ids, in order."""
    jobs = (item.job if isinstance(item, TakenJob) else item for item in items)
    return [job.channel_id for job in jobs]
