"""Remote models over test servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from relais_common.config.server_table import TableEntry
from relais_common.jobs.job import Job
from relais_common.remote.settings import RemoteSettings
from relais_llm_worker.engine import Chunk
from relais_llm_worker.model import Cut, Model
from relais_llm_worker.remote.model import Limits, RemoteModel
from relais_llm_worker.remote.opening import open_remote_models
from relais_testing.fake_openai import FakeServer
from relais_testing.waiting import LIVENESS_S, wait_until

NAME = "m"


@dataclass
class Said:
    """The answer to a job so far."""

    prompt_token_ids: tuple[int, ...] = ()
    revision: str = ""
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def token_ids(self) -> list[int]:
        return [one for chunk in self.chunks for one in chunk.token_ids]

    @property
    def last(self) -> Chunk:
        return self.chunks[-1]


async def say(model: Model, job: Job, cut: Cut | None = None, said: Said | None = None) -> Said:
    """Read the whole answer; `said` has what came before an error."""
    said = Said() if said is None else said
    async with model.answer(job, cut) as answer:
        said.prompt_token_ids = tuple(answer.prompt_token_ids)
        said.revision = answer.model_revision
        async for chunk in answer.chunks:
            said.chunks.append(chunk)
    return said


@asynccontextmanager
async def open_remote(
    *servers: FakeServer,
    ready: bool = True,
    max_concurrency: int = 4,
    max_output_tokens: int = 1000,
    read_timeout_s: float = LIVENESS_S,
    api_key: str | None = None,
) -> AsyncIterator[RemoteModel]:
    """Yield the model of these servers, once all were probed."""
    table = [TableEntry(NAME, server.url, api_key) for server in servers]
    async with open_table(
        table,
        max_concurrency=max_concurrency,
        max_output_tokens=max_output_tokens,
        read_timeout_s=read_timeout_s,
    ) as (model,):
        if ready:
            await wait_until(lambda: model.status().capacity == max_concurrency * len(servers))
        yield model


@asynccontextmanager
async def open_table(
    table: Sequence[TableEntry],
    *,
    max_concurrency: int = 4,
    max_output_tokens: int = 1000,
    read_timeout_s: float = LIVENESS_S,
) -> AsyncIterator[Sequence[RemoteModel]]:
    """Yield the models of a table."""
    settings = RemoteSettings(
        table=tuple(table),
        max_concurrency=max_concurrency,
        connect_timeout_s=LIVENESS_S,
        read_timeout_s=read_timeout_s,
        probe_every_s=0.2,
    )
    limits = Limits(max_output_tokens=max_output_tokens, max_failures=3)
    async with open_remote_models(settings, limits, CollectorRegistry()) as models:
        yield models
