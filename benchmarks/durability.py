"""What Redis forgets when it dies, and what it costs to have it forget less.

Jobs are accepted and events appended as fast as they go, over the queue's own adapter; then the server is killed. A
loss of power takes the end of the append-only file too: with `appendfsync always` nothing of it (an answer comes after
the disk has it), with `everysec` what was written since the last synchronisation, which began up to a second before.
That age is drawn at random, for an idle disk; one that is busy loses more. Lost is what was answered and is not there
once the server is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.events import Token
from relais_common.jobs.job import Append, Job, Operation, TakenJob
from relais_common.queue import codec
from relais_common.queue.redis_store import AcceptWait, RedisSettings, RedisStore, open_store
from relais_testing.power_loss import lose_power, written
from relais_testing.valkey import ValkeyServer

MODEL = "measured"
LINE = codec.encode_event(Token("word ", (1,)))
LINES_PER_APPEND = 16
SYNC_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Setup:
    """One row of the table."""

    name: str
    appendfsync: str
    accept_wait: AcceptWait = field(default_factory=AcceptWait)
    power_loss: bool = True


SETUPS = (
    Setup("everysec, process killed", "everysec", power_loss=False),
    Setup("everysec, power lost", "everysec"),
    Setup("everysec, power lost, ACCEPT_WAIT_FSYNC", "everysec", AcceptWait(fsync=True)),
    Setup("always, power lost", "always"),
    Setup("always, power lost, ACCEPT_WAIT_FSYNC", "always", AcceptWait(fsync=True)),
)


@dataclass(slots=True)
class Run:
    """What was answered until the server died, and what of it is gone."""

    accepted: list[str] = field(default_factory=list)
    accept_s: list[float] = field(default_factory=list)
    tails: dict[str, int] = field(default_factory=dict)
    lasted_s: float = 0.0
    lost_jobs: int = 0
    lost_events: int = 0


def _job() -> Job:
    return Job(
        channel_id=new_channel_id(MODEL),
        model=MODEL,
        key_id="key",
        operation=Operation.TEXT_COMPLETION,
        prompt="measure",
        messages=None,
        deadline_s=3600,
        log_ttl_s=600,
        result_ttl_s=3600,
    )


async def _accept(store: RedisStore, run: Run) -> None:
    while True:
        job, began_s = _job(), time.perf_counter()
        await store.intake.enqueue(job, max_waiting=1_000_000)
        run.accept_s.append(time.perf_counter() - began_s)
        run.accepted.append(job.channel_id)


async def _append(store: RedisStore, run: Run, number: int) -> None:
    """A worker with one job, whose engine never rests."""
    taken: tuple[TakenJob, ...] = ()
    while not taken:
        take = await store.source.take(
            MODEL, 1, worker_id=f"w{number}", call_id="once", lease_s=3600, idle=True
        )
        taken = take.jobs
    (one,) = taken
    tail = one.tail
    while True:
        append = Append(one.lease, tail + 1, (LINE,) * LINES_PER_APPEND, emits=True)
        [verdict] = await store.source.append([append])
        tail = run.tails[one.job.channel_id] = verdict.tail


async def _sample(server: ValkeyServer, sizes: list[tuple[float, int]]) -> None:
    while True:
        sizes.append((time.monotonic(), written(server)))
        await asyncio.sleep(0.005)


async def _one_loss(setup: Setup, folder: Path, *, clients: int) -> Run:
    run = Run()
    sizes: list[tuple[float, int]] = []
    options = {"appendfsync": setup.appendfsync}
    with ValkeyServer(folder, appendonly=True, options=options) as server:
        settings = RedisSettings(server.url)
        async with open_store(settings, accept_wait=setup.accept_wait) as store:
            began_s = time.monotonic()
            work = [
                *(asyncio.create_task(_accept(store, run)) for _ in range(clients)),
                *(asyncio.create_task(_append(store, run, number)) for number in range(4)),
                asyncio.create_task(_sample(server, sizes)),
            ]
            await asyncio.sleep(random.uniform(2.0, 3.0))
            died_s = time.monotonic()
            server.kill()
            run.lasted_s = died_s - began_s
            for task in work:
                task.cancel()
            for task in work:
                with contextlib.suppress(asyncio.CancelledError, StoreUnavailable):
                    await task
        if setup.power_loss and setup.appendfsync == "everysec":
            synced_s = died_s - random.uniform(0.0, SYNC_EVERY_S)
            lose_power(server, max(size for at_s, size in sizes if at_s <= synced_s))
        server.start()
        async with open_store(settings) as store:
            for channel_id in run.accepted:
                run.lost_jobs += await store.intake.state(channel_id) is None
            for channel_id, tail in run.tails.items():
                left = await store.log.read(channel_id, after=0, limit=tail)
                run.lost_events += tail - len(left)
    return run


async def run(*, losses: int, clients: int) -> None:
    """Measure every setup in turns, and print the table."""
    runs: dict[str, list[Run]] = {setup.name: [] for setup in SETUPS}
    for _ in range(losses):
        for setup in SETUPS:
            with tempfile.TemporaryDirectory() as folder:
                runs[setup.name].append(await _one_loss(setup, Path(folder), clients=clients))
    print(f"{losses} deaths of Redis each; {clients} clients that submit without a pause")
    print(f"{'':42}accepts/s  p50 ms   lost accepts    lost events")
    print(f"{'':42}                   median    most  median    most")
    for name, measured in runs.items():
        rate = statistics.median(len(one.accepted) / one.lasted_s for one in measured)
        p50_ms = statistics.median(s for one in measured for s in one.accept_s) * 1000
        jobs = [one.lost_jobs for one in measured]
        events = [one.lost_events for one in measured]
        print(
            f"{name:42}{rate:9,.0f}{p50_ms:8.2f}{statistics.median(jobs):9,.0f}{max(jobs):8,}"
            f"{statistics.median(events):8,.0f}{max(events):8,}"
        )
