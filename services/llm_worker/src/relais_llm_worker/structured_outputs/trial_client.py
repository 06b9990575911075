"""The worker's side of the trial server: starts it, talks to it, and restarts it if it dies."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import orjson
import structlog

from relais_common.jobs.errors import EngineFailed
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_llm_worker.structured_outputs.specification import Budget, Library, Specification
from relais_llm_worker.structured_outputs.trial_server import REFUSED, UNDECIDED

log = structlog.get_logger(__name__)

_MODULE = "relais_llm_worker.structured_outputs.trial_server"


@dataclass(frozen=True, slots=True)
class _Server:
    process: Process
    reading: asyncio.Task[None]


class TrialClient:
    """Runs trials in the server's children. Leaving `try_out` early kills its child."""

    def __init__(self, library: Library, budget: Budget) -> None:
        self._first = orjson.dumps({"library": asdict(library), "budget": asdict(budget)})
        self._server: _Server | None = None
        self._starting = asyncio.Lock()
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any] | None]] = {}

    async def try_out(self, specification: Specification) -> str | None:
        """Return why the specification is refused; None if it is accepted.

        Raises:
            EngineFailed: the trial did not finish.
        """
        # A server that has just died is noticed by a trial that gets no answer.
        outcome = await self._ask(specification) or await self._ask(specification)
        if outcome is None or outcome["outcome"] == UNDECIDED:
            raise EngineFailed(
                "the cost of the structured output could not be determined; try again"
            )
        return str(outcome["message"]) if outcome["outcome"] == REFUSED else None

    async def _ask(self, specification: Specification) -> dict[str, Any] | None:
        """Return the server's answer, or None if it died before."""
        stdin = await self._stdin()
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            stdin.write(orjson.dumps({"id": number, **specification.content()}) + b"\n")
            return await answer
        finally:
            del self._waiting[number]
            if not answer.done() or answer.cancelled():
                stdin.write(orjson.dumps({"id": number}) + b"\n")

    async def start(self) -> None:
        """Start the server, so that the first trial does not wait for it."""
        await self._stdin()

    async def close(self) -> None:
        """End the server and its trials."""
        if self._server is not None:
            server, self._server = self._server, None
            await _end(server)

    async def _stdin(self) -> asyncio.StreamWriter:
        async with self._starting:
            server = self._server
            if server is None or server.reading.done():
                if server is not None:
                    log.warning("trial_server_restarted")
                    await self.close()
                server = self._server = await self._start()
        assert server.process.stdin is not None
        return server.process.stdin

    async def _start(self) -> _Server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", _MODULE, str(os.getpid()), stdin=PIPE, stdout=PIPE
        )
        assert process.stdin is not None
        process.stdin.write(self._first + b"\n")
        return _Server(process, asyncio.create_task(self._read(process)))

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                answer = orjson.loads(line)
                waiting = self._waiting.get(answer["id"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(None)


async def _end(server: _Server) -> None:
    if server.process.returncode is None:
        # Its children die with it.
        server.process.kill()
    await cancel_and_wait(server.reading)
    await server.process.wait()


@asynccontextmanager
async def open_trial_client(library: Library, budget: Budget) -> AsyncIterator[TrialClient]:
    """Yield a client whose server starts now and ends with the context."""
    client = TrialClient(library, budget)
    await client.start()
    try:
        yield client
    finally:
        await client.close()
