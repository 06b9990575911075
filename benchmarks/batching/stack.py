"""An orchestrator with a database, a worker and Redis: one batch at a time, nobody is killed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import end_with
from relais_testing.mongo import MongoServer
from relais_testing.process_stack import MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer


@dataclass(frozen=True, slots=True)
class Stack:
    """One that runs."""

    front: ServiceProcess
    worker: ServiceProcess
    redis_url: str


@contextmanager
def open_stack(engine: dict[str, str]) -> Iterator[Stack]:
    """Start the services with this engine; all end with the context.

    The database does not wait for the disk: `benchmarks.batching.kills` has one that does.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        redis = stack.enter_context(ValkeyServer(folder / "redis", appendonly=True))
        database = stack.enter_context(MongoServer(folder / "database"))
        common = {
            "ENV": "dev",
            "MODELS": MODEL,
            "REDIS_URL": redis.url,
            "MONGODB_URL": database.url,
        }
        front = ServiceProcess("relais_orchestrator", "API_PORT", folder / "front.log", common)
        settings = {**engine, **common}
        worker = ServiceProcess("relais_llm_worker", "HEALTH_PORT", folder / "worker.log", settings)
        for process in (front, worker):
            end_with(stack, process)
            process.wait_ready()
        yield Stack(front, worker, redis.url)
