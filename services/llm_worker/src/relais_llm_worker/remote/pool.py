"""The servers of one model: whose turn it is, and waiting for one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext

from relais_common.jobs.errors import NotResumable
from relais_llm_worker.remote.server import Server
from relais_llm_worker.remote.tries import Tries

FULL_REST_S = 5.0


class Changes:
    """Wakes whoever waits for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Pool:
    """Hands out places, at the server that has the largest share of them free."""

    def __init__(self, model: str, servers: Sequence[Server], changes: Changes) -> None:
        self._model = model
        self._servers = servers
        self._changes = changes
        self._placed = 0
        self._resting: Counter[str] = Counter()
        self._most_resting = sum(server.max_concurrency for server in servers)
        self._full_until_s = 0.0

    def room(self, held: int) -> int:
        """Places free, less the jobs of ours that wait for one already.

        Those that a server has put off take no place from others meanwhile. Where a key has as many of them as may
        wait, one job is taken now and then: it may be another key's.
        """
        free = sum(server.free for server in self._up())
        room = free - (held - self._placed - self._resting.total())
        if max(self._resting.values(), default=0) < self._most_resting:
            return room
        return min(1, room) if asyncio.get_running_loop().time() >= self._full_until_s else 0

    @property
    def capacity(self) -> int:
        return sum(server.max_concurrency for server in self._up())

    @property
    def max_model_len(self) -> int | None:
        """The shortest context among the servers that answer."""
        lengths = [server.served(self._model).max_model_len for server in self._up()]
        return min((length for length in lengths if length is not None), default=None)

    @property
    def not_ready(self) -> str | None:
        """Why no server can run the model; None where one can."""
        reasons = []
        for server in self._servers:
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
        """A place at a server, as soon as there is one.

        Args:
            key_id: whose request it is.
            tries: that it has behind it.
            revision: the only one that will do.
            avoid: the last choice.

        Raises:
            NotResumable: none of the servers has this revision, as far as is known.
            RelaisError: every server has refused the request, or has put it off while too many others wait likewise.
        """
        server = self._choose(key_id, tries, revision, avoid)
        if server is None:
            rests = tries.put_off or not all(one.takes(key_id) for one in self._servers)
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
                one.served(self._model).revision == revision for one in self._servers
            ):
                raise NotResumable("the model has changed since its server was lost")
            refused = [one for one in self._servers if tries.refused_by(one)]
            if refused and all(one in refused or one.why_down for one in self._servers):
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
        """Count a request that was put off: as many of each key, and twice as many in all, as there are places."""
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
        """Of every server, as it was when it answered last; of those that tell token ids."""
        found = (server.served(self._model) for server in self._servers)
        return {served.revision for served in found if served.tells_ids}

    def _up(self) -> list[Server]:
        return [server for server in self._servers if server.why_not(self._model) is None]

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
