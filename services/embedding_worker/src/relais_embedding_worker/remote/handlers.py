"""Runs jobs through models behind servers, in requests that a server takes."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from relais_common.jobs.errors import EngineFailed, EngineRefused, UpstreamRefused
from relais_common.jobs.job import Embedding, InputType, Job, Operation
from relais_common.queue.ports import JobSource
from relais_common.remote.client import Client
from relais_common.remote.errors import Misplaced, TryFailed
from relais_common.remote.pool import Pool
from relais_common.remote.refusals import exceeds_context
from relais_common.remote.server import Server
from relais_common.remote.tries import Tries
from relais_common.runtime.backoff import Backoff
from relais_embedding_worker.encoder import Vectors
from relais_embedding_worker.handler import JobHandler, Result
from relais_embedding_worker.remote.answers import (
    Rows,
    are_too_long,
    most_bytes,
    read_classes,
    read_scores,
    read_vectors,
)
from relais_embedding_worker.remote.bodies import (
    CLASSIFY,
    EMBEDDINGS,
    RERANK,
    Piece,
    at_path,
    pieces_of_classify,
    pieces_of_embedding,
    pieces_of_rerank,
)
from relais_embedding_worker.settings import Bounds
from relais_embedding_worker.vectors import cosines, shortened

MOST_AT_ONCE = 8
"""Requests of one job at servers, so that one with thousands of inputs leaves places to others."""
_NOT_THERE = (404, 405)


@dataclass(frozen=True, slots=True)
class Access:
    """One model behind servers, and how to use them.

    Attributes:
        read_timeout_s: of one answer, once it has begun.
        max_failures: consecutive tries of a request that may lose a server.
        batch_size: inputs of one request.
    """

    model: str
    pool: Pool
    client: Client
    read_timeout_s: float
    max_failures: int
    batch_size: int


class RemoteHandler(JobHandler):
    """Splits jobs into requests, sends them to servers, and tries those that fail again."""

    _paths: tuple[str, ...]
    _read: Callable[[bytes, int, int], Rows]
    _param: str
    """The field that a context length is exceeded in."""

    def __init__(self, access: Access, source: JobSource, bounds: Bounds) -> None:
        super().__init__(source, bounds)
        self._access = access
        self._path_of: dict[Server, str] = {}

    def room(self, held: int) -> int:
        return min(super().room(held), self._access.pool.room(held))

    @abstractmethod
    def _pieces(self, job: Job, asked: Embedding) -> Sequence[Piece]:
        """Return the requests for a job's rows."""

    def _check(self, asked: Embedding, columns: int) -> None:
        """Raise a RelaisError if the server's rows cannot have so many columns."""

    async def _run(self, job: Job, asked: Embedding) -> Result:
        pieces = self._pieces(job, asked)
        places = asyncio.Semaphore(MOST_AT_ONCE)
        table: Vectors | None = None
        tokens: int | None = 0
        truncated = 0
        labels: dict[int, str] = {}

        async def run(piece: Piece) -> None:
            nonlocal table, tokens, truncated
            async with places:
                got = await self._in_tries(job, piece)
            columns = got.rows.shape[1]
            if table is None:
                self._check(asked, columns)
                table = np.empty((sum(len(one.at) for one in pieces), columns), np.float32)
            if columns != table.shape[1]:
                raise EngineFailed("the model's servers give vectors of different lengths")
            table[piece.at] = got.rows
            tokens = None if tokens is None or got.tokens is None else tokens + got.tokens
            truncated += got.truncated
            labels.update(got.labels)
            if are_too_long(labels):
                raise EngineFailed("the model's servers give labels that are too long together")

        try:
            async with asyncio.TaskGroup() as group:
                for piece in pieces:
                    group.create_task(run(piece))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        assert table is not None
        named = table.shape[1] if self.kind is Operation.CLASSIFY else 0
        return Result(table, tokens, truncated, tuple(labels.get(at) for at in range(named)))

    async def _in_tries(self, job: Job, piece: Piece) -> Rows:
        backoff = Backoff()
        tries = Tries(self._access.max_failures, job.deadline_s)
        last: Server | None = None
        while True:
            async with self._access.pool.place(job.key_id, tries, avoid=last) as server:
                last = server
                try:
                    rows = await self._try(server, piece)
                except TryFailed as error:
                    server.heed(error, job, inputs=len(piece.at))
                    tries.note(server, error)
                else:
                    server.note_good(job.key_id)
                    return rows
            if not tries.put_off:
                await backoff.pause()

    async def _try(self, server: Server, piece: Piece) -> Rows:
        known = self._path_of.get(server)
        *first, last = sorted(self._paths, key=lambda path: path != known)
        for path in first:
            try:
                return await self._ask(server, path, piece)
            except Misplaced as error:
                if error.status not in _NOT_THERE:
                    raise
        return await self._ask(server, last, piece)

    async def _ask(self, server: Server, path: str, piece: Piece) -> Rows:
        access = self._access
        try:
            answer = await access.client.call(
                server,
                path,
                at_path(path, piece.body),
                most_bytes=most_bytes(len(piece.at), piece.size),
                timeout_s=access.read_timeout_s,
            )
        except UpstreamRefused as error:
            limit = server.served(access.model).max_model_len
            raise exceeds_context(error, limit, self._param) from None
        rows = self._read(answer, len(piece.at), piece.size)
        self._path_of[server] = path
        return rows


class RemoteEmbedHandler(RemoteHandler):
    """Runs embedding jobs, and scores texts by the cosine of their vectors.

    Args:
        prompts: what goes before texts of each kind.
    """

    kind = Operation.EMBEDDINGS
    _paths = EMBEDDINGS
    _read = staticmethod(read_vectors)
    _param = "input"

    def __init__(
        self,
        access: Access,
        source: JobSource,
        bounds: Bounds,
        prompts: Mapping[InputType, str],
    ) -> None:
        super().__init__(access, source, bounds)
        self._prompts = prompts

    def _asked(self, job: Job) -> Embedding:
        asked = super()._asked(job)
        self._require_fits(len(asked.inputs), asked.dimensions or 1)
        return asked

    def _cuts(self, asked: Embedding) -> bool:
        """Whether vectors are cut here, as of a model of this worker's own: to dimensions that are declared."""
        return asked.dimensions in self._bounds.dimensions

    def _pieces(self, job: Job, asked: Embedding) -> Sequence[Piece]:
        return pieces_of_embedding(
            self._access.model,
            asked,
            self._prompts,
            None if self._cuts(asked) else asked.dimensions,
            self._access.batch_size,
        )

    def _check(self, asked: Embedding, columns: int) -> None:
        wanted = asked.dimensions
        if wanted is not None and (columns < wanted if self._cuts(asked) else columns != wanted):
            raise EngineRefused(
                f"dimensions: this model's server gives {columns}",
                param="dimensions",
                code="unsupported_value",
            )
        self._require_fits(len(asked.queries) + len(asked.inputs), columns)

    async def _run(self, job: Job, asked: Embedding) -> Result:
        result = await super()._run(job, asked)
        rows = result.rows
        if asked.dimensions is not None:
            rows = shortened(rows, asked.dimensions)
        if asked.queries:
            rows = cosines(rows, len(asked.queries))
        return replace(result, rows=rows)


class RemoteRerankHandler(RemoteHandler):
    """Scores documents by a query."""

    kind = Operation.RERANK
    _paths = RERANK
    _read = staticmethod(read_scores)
    _param = "documents"

    def _pieces(self, job: Job, asked: Embedding) -> Sequence[Piece]:
        return pieces_of_rerank(self._access.model, asked, self._access.batch_size)


class RemoteClassifyHandler(RemoteHandler):
    """Classifies texts."""

    kind = Operation.CLASSIFY
    _paths = CLASSIFY
    _read = staticmethod(read_classes)
    _param = "input"

    def _pieces(self, job: Job, asked: Embedding) -> Sequence[Piece]:
        access = self._access
        return pieces_of_classify(access.model, asked, job.prompting, access.batch_size)

    def _check(self, asked: Embedding, columns: int) -> None:
        if columns < 2:
            raise EngineRefused(
                "this model has one label: it is a reranker, which RERANK_TABLE declares",
                param="model",
                code="wrong_operation",
            )
        self._require_fits(len(asked.inputs), columns)
