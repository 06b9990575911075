"""A model's tokens over one queue and over two, in a Redis Cluster: what each node spends on them.

Workers of 64 streams with 30 tokens/s each append 50 times a second, as those that make many tokens do. Nobody reads,
so the cost of delivery is left out; what each `PUBLISH` costs the other nodes is not. All run in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server
from relais_common.jobs.channels import new_channel_id, queue_of
from relais_common.jobs.job import Append, Lease
from relais_common.queue import keys
from relais_common.queue.ports import JobSource, TakeRequest
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.builders import make_job, token_line
from relais_testing.cluster import running_cluster

HELP = "one model over several queues in a Redis Cluster"
MODEL = "relais-demo"
SHARDS = (1, 2)
STREAMS = 64
TOKENS_PER_S = 30
CALL_EVERY_S = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8)


async def run(*, workers: list[int], rounds: int, seconds: float) -> None:
    """Print the share of a core of each node that has a queue, and of one that has none."""
    print(
        "| workers | queues | tokens/s | of a node's core, each that has a queue | one that has none |"
    )
    print("| --- | --- | --- | --- | --- |")
    for count in workers:
        for _ in range(rounds):
            for shards in SHARDS:
                found = await _measure(count, shards, seconds)
                with_queue = ", ".join(f"{one:.0%}" for one in found.with_queue)
                print(
                    f"| {count} | {shards} | {found.tokens_per_s:,.0f} | {with_queue} | {found.without:.0%} |",
                    flush=True,
                )
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


@dataclass(frozen=True, slots=True)
class _Found:
    """Shares of a core, of the nodes that have a queue, and of one that has none."""

    tokens_per_s: float
    with_queue: Sequence[float]
    without: float


async def _measure(workers: int, shards: int, seconds: float) -> _Found:
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder)) as cluster:
        async with open_store(RedisSettings(cluster.url)) as store:
            groups = [
                await _leases(store, f"worker-{number}", queue_of(MODEL, shard), STREAMS // shards)
                for number in range(workers)
                for shard in range(shards)
            ]
            nodes = Server(cluster.url, {one.url: one.pid for one in cluster.primaries})
            before, began_s = nodes.cpu_s(), time.monotonic()
            sent = await asyncio.gather(
                *(
                    _append(store.source, group, seconds, CALL_EVERY_S * at / len(groups))
                    for at, group in enumerate(groups)
                )
            )
            took_s = time.monotonic() - began_s
            after = nodes.cpu_s()
    share = {name: (after[name] - before[name]) / took_s for name in after}
    homes = {
        cluster.primary_of(keys.model_base(queue_of(MODEL, shard))).url for shard in range(shards)
    }
    return _Found(
        sum(sent) / took_s,
        [share[url] for url in sorted(homes)],
        max(share[url] for url in share if url not in homes),
    )


async def _leases(store: RedisStore, worker_id: str, queue: str, count: int) -> list[Lease]:
    for number in range(count):
        job = make_job(f"key-{number}", model=MODEL, channel_id=new_channel_id(queue))
        await store.intake.enqueue(job, max_waiting=count)
    take = await store.source.take(
        TakeRequest(queue, count, worker_id=worker_id, call_id="c", lease_s=3600, idle=False)
    )
    return [one.lease for one in take.jobs]


async def _append(source: JobSource, leases: list[Lease], seconds: float, offset_s: float) -> int:
    """Append a token to some streams after the other, at their pace; return how many."""
    line, tails, sent = (token_line(" word", 1234),), dict.fromkeys(leases, 1), 0
    begin_s = time.monotonic() + offset_s
    call = 0
    while time.monotonic() < begin_s + seconds:
        call += 1
        await asyncio.sleep(max(0.0, begin_s + call * CALL_EVERY_S - time.monotonic()))
        due = int(call * CALL_EVERY_S * len(leases) * TOKENS_PER_S) - sent
        turn = [leases[(sent + at) % len(leases)] for at in range(min(due, len(leases)))]
        for lease in turn:
            tails[lease] += 1
        await source.append([Append(one, tails[one], line, True) for one in turn])
        sent += len(turn)
    return sent
