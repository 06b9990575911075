"""What is left when all is quiet: in Redis, in memory, in the logs."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from redis import Redis
from redis.exceptions import RedisError

from benchmarks.soaking.fleet import Fleet
from relais_common.insights.mongo import MongoSettings, open_database
from relais_common.jobs.traces import COLLECTION
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_testing.key_leaks import keys_without_expiry
from relais_testing.process_stack import MODEL
from relais_testing.waiting import wait_until

MIDDLE = 20
"""Tokens after which an answer counts as cut in the middle."""

WRITTEN_WITHIN_S = 60.0

OF_UNFINISHED = frozenset(
    {"inflight", "deadlines", "watched", "open", "suspects", "turns", "queue"}
)
FORESEEN = frozenset({"hand_back_failed"})
"""Errors that a worker logs where Redis is away while it drains."""


def log_lines(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """Every JSON line of these log files; what is none, a cut one among them, is left out."""
    for path in sorted(folder.glob(pattern)):
        with path.open(errors="replace") as file:
            for line in file:
                try:
                    fields = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(fields, dict):
                    yield fields


def continued(folder: Path) -> dict[str, int]:
    """By channel, the most tokens after which a worker went on with an answer that another had begun."""
    most: dict[str, int] = {}
    for line in log_lines(folder, "llm_worker-*.log"):
        if line.get("event") == "job_continued":
            channel_id = line["channel_id"]
            most[channel_id] = max(line["tokens"], most.get(channel_id, 0))
    return most


def errors(folder: Path) -> Counter[str]:
    """Errors in the logs that nobody foresaw, by name."""
    return Counter(
        str(line.get("event"))
        for line in log_lines(folder, "*.log")
        if line.get("level") in ("error", "critical") and line.get("event") not in FORESEEN
    )


def expiring(redis_url: str) -> list[str]:
    """Jobs, logs and idempotency keys whose time is not up yet."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        return [
            f"{name} is still there, for {redis.ttl(name)} s"
            for name in sorted(redis.scan_iter(count=1000))
            if _kind(name) in ("job", "log", "idempotency")
        ]


def leftovers(redis_url: str) -> list[str]:
    """What a store without work should not have: lanes, leases, counts, keys without expiry."""
    found: list[str] = []
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        for name in sorted(redis.scan_iter(count=1000)):
            if _kind(name) in OF_UNFINISHED:
                found.append(f"{name} is not empty")
            elif _kind(name) == "counts":
                counts: dict[str, str] = redis.hgetall(name)
                found += [
                    f"{name} {field} is {value}"
                    for field, value in sorted(counts.items())
                    if field.startswith("lane:")
                    or (field.startswith(("waiting", "passed")) and value != "0")
                ]
    with Redis.from_url(redis_url) as redis:
        found += [f"{name} never expires" for name in keys_without_expiry(redis)]
    return found


async def traces(
    redis_url: str,
    database_url: str,
    ends: dict[str, str],
    strangers: frozenset[str] = frozenset(),
) -> list[str]:
    """Where the database has not one trace of each request, as it ended, and no other. Waits until all are written.

    Args:
        ends: how each channel ended.
        strangers: ids of keys whose requests are nobody's here.
    """
    async with open_store(RedisSettings(redis_url)) as store:

        async def all_written() -> bool:
            view = await store.inspector.queue(MODEL, top_keys=0)
            return view.waiting_traces == 0

        await wait_until(all_written, WRITTEN_WITHIN_S)
    settings = MongoSettings(url=database_url, database="relais")
    async with open_database(settings) as database:
        query = {"key_id": {"$nin": sorted(strangers)}}
        documents = await database[COLLECTION].find(query).to_list(None)
    found = {one["_id"]: one["status"] for one in documents}
    doubled = [one for one, times in Counter(one["_id"] for one in documents).items() if times > 1]
    return [
        *(f"{one} has no trace" for one in sorted(ends.keys() - found.keys())),
        *(f"{one} has a trace and no client" for one in sorted(found.keys() - ends.keys())),
        *(f"{one} has several traces" for one in doubled),
        *(
            f"{one} ended {end}, says its client; {found[one]}, says its trace"
            for one, end in sorted(ends.items())
            if found.get(one, end) != end
        ),
    ]


def _kind(name: str) -> str:
    """`job` of `relais:{model}:job:...`."""
    return name.rpartition("}:")[2].partition(":")[0]


@dataclass
class Growth:
    """Memory over time, in bytes."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    def between(self, begin_s: float, end_s: float) -> float:
        """Median of the samples taken then."""
        taken = [size for at_s, size in self.samples if begin_s <= at_s <= end_s]
        return statistics.median(taken) if taken else 0.0


class MemoryWatch:
    """Samples the processes that live through, and what Redis has stored."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.growth: dict[str, Growth] = {}

    def sample(self, at_s: float) -> None:
        for place in self._fleet.places:
            if not place.mortal and place.process is not None:
                size = psutil.Process(place.process.pid).memory_info().rss
                self._note(place.name, at_s, size)
        try:
            with Redis.from_url(self._fleet.redis.url, socket_timeout=1) as redis:
                memory: Any = redis.info("memory")
                # What holds the data; buffers of clients and of the append-only file come and go.
                self._note("redis", at_s, memory["used_memory_dataset"])
        except (RedisError, OSError):
            pass  # it is down, or frozen: a fault

    def _note(self, name: str, at_s: float, size: int) -> None:
        self.growth.setdefault(name, Growth()).samples.append((at_s, size))
