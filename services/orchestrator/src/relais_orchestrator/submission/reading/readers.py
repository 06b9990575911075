"""A few processes that parse large bodies, which keys share in turns."""

from __future__ import annotations

import asyncio
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from weakref import WeakValueDictionary

import structlog

from relais_common.jobs.errors import InternalError, RelaisError
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading, read
from relais_orchestrator.submission.reading.messages import ANSWER, REQUEST

log = structlog.get_logger(__name__)

SMALL_BYTES = 32_768
"""Bodies up to this size are parsed here: they take a few milliseconds, about the cost of another process."""

PROCESSES = 2
"""Number of processes. One key uses at most one; each is started on demand."""

TIMEOUT_S = 30.0
"""Many times the cost of the worst body. A process that takes longer counts as hung and is killed."""

IDLE_S = 30.0
"""A process without a body for so long ends. It has 34 MB, and more where a body left holes in its memory."""

PIPE_BYTES = 1 << 20


class Readers:
    """Parses bodies. Large ones wait their turn: one of each key at a time, with keys in rotation.

    Args:
        ignore_unknown: fields, instead of refusing them.
    """

    def __init__(
        self, processes: int = PROCESSES, *, ignore_unknown: bool = False, idle_s: float = IDLE_S
    ) -> None:
        self._idle_s = idle_s
        self._ignore_unknown = ignore_unknown
        # The last used comes first, so that others are not started before they are needed.
        self._idle: asyncio.LifoQueue[_Reader] = asyncio.LifoQueue()
        self._readers = [_Reader(ignore_unknown) for _ in range(processes)]
        for one in self._readers:
            self._idle.put_nowait(one)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._reading: set[asyncio.Task[Asked | RelaisError]] = set()

    async def read(self, route: Reading, body: bytes, key_id: str) -> Asked:
        """What a body asks for. Raises RelaisError where it is refused."""
        if len(body) <= SMALL_BYTES:
            return read(route, body, ignore_unknown=self._ignore_unknown)
        turn = self._turns.setdefault(key_id, asyncio.Lock())
        await turn.acquire()
        try:
            reader = await self._idle.get()
        except BaseException:
            turn.release()
            raise
        reader.stay()
        # A client that leaves does not interrupt a process that parses its body.
        reading = asyncio.create_task(reader.ask(route, body))
        self._reading.add(reading)
        reading.add_done_callback(partial(self._finished, reader, turn))
        answer = await asyncio.shield(reading)
        if isinstance(answer, RelaisError):
            raise answer
        return answer

    def _finished(
        self, reader: _Reader, turn: asyncio.Lock, reading: asyncio.Task[Asked | RelaisError]
    ) -> None:
        self._reading.discard(reading)
        reader.retire_in(self._idle_s)
        self._idle.put_nowait(reader)
        turn.release()

    async def close(self) -> None:
        """End the processes."""
        for reading in tuple(self._reading):
            await cancel_and_wait(reading)
        for one in self._readers:
            await one.stop()


class _Reader:
    """One process, started when a body needs it."""

    def __init__(self, ignore_unknown: bool) -> None:
        self._ignore_unknown = ignore_unknown
        self._process: Process | None = None
        self._retiring: asyncio.TimerHandle | None = None

    def retire_in(self, seconds: float) -> None:
        """End the process then; the next body starts another."""
        self._retiring = asyncio.get_running_loop().call_later(seconds, self._retire)

    def stay(self) -> None:
        if self._retiring is not None:
            self._retiring.cancel()

    def _retire(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            # It ends with its standard input.
            process.stdin.close()

    async def ask(self, route: Reading, body: bytes) -> Asked | RelaisError:
        """Return what the body asks for, or why it is refused."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._exchange(route, body)
        except (OSError, EOFError, TimeoutError) as error:
            log.error("body_reader_failed", error=repr(error))
            await self.stop()
            return InternalError("something went wrong on our side")

    async def _exchange(self, route: Reading, body: bytes) -> Asked | RelaisError:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "relais_orchestrator.submission.reading"),
                stdin=PIPE,
                stdout=PIPE,
                limit=PIPE_BYTES,
                start_new_session=True,  # Ctrl-C is for its parent; it ends with its standard input
            )
        bodies, answers = self._process.stdin, self._process.stdout
        assert bodies is not None
        assert answers is not None
        bodies.write(REQUEST.pack(route, self._ignore_unknown, len(body)))
        bodies.write(body)
        await bodies.drain()
        (length,) = ANSWER.unpack(await answers.readexactly(ANSWER.size))
        # Written by our own child process, from values that it made itself.
        answer: Asked | RelaisError = pickle.loads(await answers.readexactly(length))  # noqa: S301
        return answer

    async def stop(self) -> None:
        """Kill the process; the next body starts another."""
        self.stay()
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def open_readers(*, ignore_unknown: bool = False) -> AsyncIterator[Readers]:
    """Yield readers whose processes end with this context."""
    readers = Readers(ignore_unknown=ignore_unknown)
    try:
        yield readers
    finally:
        await readers.close()
