"""Models that share an engine share its end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import EngineStuck
from relais_common.jobs.events import Terminal
from relais_common.jobs.inspection import ChannelFilter
from relais_common.queue.ports import JobSource
from relais_common.worker.held import HeldJob, HeldJobs
from relais_common.worker.metrics import WorkerMetrics
from relais_common.worker.serving import Desk, Served, read_service_settings, serve
from relais_common.worker.starting import note_start
from relais_common.worker.status import ModelStatus
from relais_testing.builders import make_job
from relais_testing.ports import Ports
from relais_testing.steps import enqueue
from relais_testing.waiting import wait_until

MODELS = ("base", "adapter")


class Endless:
    """A handler whose jobs do not end."""

    def __init__(self, source: JobSource) -> None:
        self._source = source
        self.begun = 0

    def room(self, held: int) -> int:
        return 4 - held

    def enough_of(self, held: Collection[HeldJob]) -> tuple[str, ...]:
        return ()

    def can_preempt(self, held: HeldJob) -> bool:
        return False

    async def handle(self, held: HeldJob) -> Terminal:
        await note_start(self._source, held, prompts=((1,),), model_revision="r")
        self.begun += 1
        never: asyncio.Future[Terminal] = asyncio.get_running_loop().create_future()
        return await never


async def test_engine_that_is_stuck_is_charged_to_the_suspects_of_whichever_model(
    ports: Ports,
) -> None:
    suspects = [make_job(model="base"), make_job(model="base")]
    bystanders = [make_job(model="base"), make_job(model="adapter")]
    await enqueue(ports, *suspects, *bystanders)
    stuck = asyncio.Event()

    async def check_base() -> None:
        if stuck.is_set():
            raise EngineStuck(frozenset(job.channel_id for job in suspects))

    async def check_adapter() -> None:
        """The engine is the base's to look at."""

    def make_handler(desk: Desk) -> Endless:
        handlers.append(Endless(desk.source))
        return handlers[-1]

    settings = replace(read_service_settings({}, health_port=0), lease_s=60.0)
    metrics = WorkerMetrics(CollectorRegistry(), list(MODELS))
    held: list[HeldJobs] = []
    handlers: list[Endless] = []
    checks = (check_base, check_adapter)
    try:
        async with asyncio.TaskGroup() as group:
            for name, check in zip(MODELS, checks, strict=True):
                served = Served(name, lambda: ModelStatus(4), check, make_handler)
                group.create_task(
                    serve(settings, served, True, ports, metrics, asyncio.Event(), held)
                )
            await wait_until(lambda: sum(handler.begun for handler in handlers) == 4)
            stuck.set()
    except* EngineStuck:
        pass

    charged = {
        view.channel_id: view.failures
        for model in MODELS
        for view in await ports.inspector.channels(model, which=ChannelFilter.ALL, limit=10)
    }
    assert charged == {job.channel_id: 1 for job in suspects} | {
        job.channel_id: 0 for job in bystanders
    }
