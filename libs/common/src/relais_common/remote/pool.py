"""Chooses among the servers of one model, and waits for one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext

from relais_common.jobs.errors import NotResumable
from relais_common.remote.server import Server
from relais_common.remote.tries import Tries
from relais_common.worker.status import ModelStatus

FULL_REST_S = 5.0


class Changes:
    """Wakes everybody who waits for a change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake all waiters."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()


class Pool:
    """Hands out places at the server with the largest free share. A job may hold several."""

    def __init__(self, model: str, servers: Sequence[Server], changes: Changes) -> None:
        self._model = model
        self.servers = servers
        self._changes = changes
        self._placed = 0
        self._resting: Counter[str] = Counter()
        self._most_resting = sum(server.max_concurrency for server in servers)
        self._full_until_s = 0.0

    def room(self, held: int) -> int:
        """Return the free places, minus our jobs that wait for one.

        Requests that a server has put off occupy no place. If a key has the maximum of such requests, a job is still
        taken now and then, because it may belong to another key.
        """
        free = sum(server.free for server in self._up())
        room = free - max(0, held - self._placed - self._resting.total())
        if max(self._resting.values(), default=0) < self._most_resting:
            return room
        return min(1, room) if asyncio.get_running_loop().time() >= self._full_until_s else 0

    def status(self) -> ModelStatus:
        """Return capacity, context and readiness."""
        return ModelStatus(
            capacity=self.capacity, max_model_len=self.max_model_len, not_ready=self.not_ready
        )

    @property
    def capacity(self) -> int:
        """Return the places of all servers that answer."""
        return sum(server.max_concurrency for server in self._up())

    @property
    def max_model_len(self) -> int | None:
        """Return the shortest context among the servers that answer."""
        lengths = [server.served(self._model).max_model_len for server in self._up()]
        return min((length for length in lengths if length is not None), default=None)

    @property
    def not_ready(self) -> str | None:
        """Return why no server can run the model; None if one can."""
        reasons = []
        for server in self.servers:
            reason = server.why_not(self._model)
            if reason is None:
                return None
            reasons.append(f"{server.shown}: {reason}")
        return f"no server of {self._model} can be used ({'; '.join(reasons)})"

    @asynccontextmanager
    async def place(
        self,
        key_id: str,
        tries: Tries,
        *,
        revision: str | None = None,
        avoid: Server | None = None,
    ) -> AsyncIterator[Server]:
        """Return a context that waits for a place at a server and holds it.

        Args:
            key_id: the key of the request.
            tries: its earlier tries.
            revision: the required weights.
            avoid: a server to use only if there is no other.

        Raises:
            NotResumable: no server is known to have this revision.
            RelaisError: every server has refused the request, or put it off while too many others wait.
        """
        server = self._choose(key_id, tries, revision, avoid)
        if server is None:
            rests = tries.put_off or not all(one.takes(key_id) for one in self.servers)
            with self._rest(key_id, tries) if rests else nullcontext():
                server = await self._wait(key_id, tries, revision, avoid)
        server.begin(key_id)
        self._placed += 1
        try:
            yield server
        finally:
            self._placed -= 1
            server.end()

    async def _wait(
        self, key_id: str, tries: Tries, revision: str | None, avoid: Server | None
    ) -> Server:
        while True:
            if revision is not None and not any(
                one.served(self._model).revision == revision for one in self.servers
            ):
                raise NotResumable("the model has changed since its server was lost")
            refused = [one for one in self.servers if tries.refused_by(one)]
            if refused and all(one in refused or one.why_down for one in self.servers):
                raise tries.given_up()
            try:
                async with asyncio.timeout_at(tries.next_s()):
                    await self._changes.wait()
            except TimeoutError:
                pass  # a server that it kept away from may be asked again
            if (server := self._choose(key_id, tries, revision, avoid)) is not None:
                return server

    @contextmanager
    def _rest(self, key_id: str, tries: Tries) -> Iterator[None]:
        """Count a request that was put off: at most one per place for each key, and two in all."""
        most = self._most_resting
        if self._resting[key_id] >= most or self._resting.total() >= 2 * most:
            self._full_until_s = asyncio.get_running_loop().time() + FULL_REST_S
            raise tries.given_up()
        self._resting[key_id] += 1
        try:
            yield
        finally:
            self._resting[key_id] -= 1
            self._resting = +self._resting  # keys that wait no more are forgotten

    def revisions(self) -> set[str]:
        """Return the last known revisions of the servers that report token ids."""
        found = (server.served(self._model) for server in self.servers)
        return {served.revision for served in found if served.tells_ids}

    def _up(self) -> list[Server]:
        return [server for server in self.servers if server.why_not(self._model) is None]

    def _choose(
        self, key_id: str, tries: Tries, revision: str | None, avoid: Server | None
    ) -> Server | None:
        fit = [
            server
            for server in self._up()
            if server.free
            and revision in (None, server.served(self._model).revision)
            and tries.fits(server)
            and server.takes(key_id)
        ]
        # One that refuses is quick, and so nearly always free: it must not draw all requests.
        return min(
            fit,
            key=lambda one: (
                one is avoid,
                one.refuses,
                one.running / one.max_concurrency,
                one.running,
            ),
            default=None,
        )
