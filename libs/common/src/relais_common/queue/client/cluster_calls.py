"""Calls to a Redis Cluster: each is sent to the node that has its key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from redis import exceptions

from relais_common.queue.client.calls import Calls
from relais_common.queue.client.packing import Argument
from relais_common.queue.client.topology import Node, Topology
from relais_common.runtime.lifecycle import cancel_and_wait

log = structlog.get_logger(__name__)

PAUSE_S = 0.1
"""Pause before the slots are looked up again."""

_ELSEWHERE = (
    exceptions.MovedError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.ConnectionError,
)
"""Errors that mean that another node may have the key."""

_KEY_AT = {"EVALSHA": 3, "EVAL": 3, "PING": None}


class _Call:
    """One call and its current attempt."""

    __slots__ = ("answer", "asked_s", "trial", "words")

    def __init__(
        self, words: tuple[Argument, ...], answer: asyncio.Future[Any], asked_s: float
    ) -> None:
        self.words = words
        self.answer = answer
        self.asked_s = asked_s
        self.trial: asyncio.Future[Any] | None = None

    @property
    def key(self) -> str | bytes | None:
        """Return the call's key; None if any node will do."""
        at = _KEY_AT.get(str(self.words[0]), 1)
        if at is None:
            return None
        key = self.words[at]
        return key if isinstance(key, bytes) else str(key)

    def give_up(self, answer: asyncio.Future[Any]) -> None:
        """Cancel the attempt if the caller has cancelled the call."""
        if answer.cancelled() and self.trial is not None:
            self.trial.cancel()


class ClusterCalls:
    """Keeps `Calls` for each node, and moves calls between them.

    A call whose node has lost the slot, or is unreachable, waits until the cluster names the new one, up to the timeout
    of a call. Every call must therefore be safe to send twice.

    Args:
        make_calls: returns the `Calls` of one node, by its URL.
        timeout_s: how long one call may take before it counts as lost.
    """

    def __init__(
        self, topology: Topology, make_calls: Callable[[str], Calls], *, timeout_s: float
    ) -> None:
        self._topology = topology
        self._make_calls = make_calls
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[Node, tuple[Calls, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._parked: list[_Call] = []
        self._wanted = asyncio.Event()
        self._closed = False

    def send(self, *words: Argument) -> asyncio.Future[Any]:
        """Send a command, as `Calls.send` does."""
        call = _Call(words, self._loop.create_future(), self._loop.time())
        call.answer.add_done_callback(call.give_up)
        self._send(call)
        return call.answer

    async def run(self) -> None:
        """Send calls and receive replies. Slots are looked up at the first call, and again after they have moved."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                while True:
                    await self._wanted.wait()
                    await self._learn()
                    self._send_parked()
                    await asyncio.sleep(PAUSE_S)
        finally:
            self._closed = True
            for call in self._parked:
                _fail(call, _closed())

    async def _learn(self) -> None:
        try:
            await self._topology.refresh()
        except exceptions.RedisError as error:
            log.warning("redis_cluster_refresh_failed", error=str(error))
            return
        known = self._topology.nodes
        for node in [one for one in self._nodes if one not in known]:
            _, task = self._nodes.pop(node)
            # What it has not answered fails, and comes back here.
            await cancel_and_wait(task)

    def _send_parked(self) -> None:
        self._wanted.clear()
        parked, self._parked = self._parked, []
        for call in parked:
            if self._loop.time() - call.asked_s >= self._timeout_s:
                _fail(call, exceptions.TimeoutError("no answer in time"))
            elif not call.answer.done():
                self._send(call)

    def _park(self, call: _Call) -> None:
        if self._closed:
            _fail(call, _closed())
            return
        self._parked.append(call)
        self._wanted.set()

    def _send(self, call: _Call) -> None:
        key = call.key
        node = self._topology.next_node() if key is None else self._topology.node_of(key)
        if node is None or self._group is None or self._closed:
            self._park(call)
        else:
            self._try(call, node)

    def _try(self, call: _Call, node: Node, *, asking: bool = False) -> None:
        calls = self._calls_to(node)
        call.trial = (calls.send_asking if asking else calls.send)(*call.words)
        call.trial.add_done_callback(partial(self._tried, call))

    def _calls_to(self, node: Node) -> Calls:
        if node not in self._nodes:
            assert self._group is not None
            calls = self._make_calls(self._topology.url_of(node))
            self._nodes[node] = calls, self._group.create_task(calls.run())
        return self._nodes[node][0]

    def _tried(self, call: _Call, trial: asyncio.Future[Any]) -> None:
        error = None if trial.cancelled() else trial.exception()
        if call.answer.done() or trial.cancelled():
            return
        if error is None:
            call.answer.set_result(trial.result())
        elif isinstance(error, _ELSEWHERE):
            self._park(call)
        elif isinstance(error, exceptions.AskError):
            # The slot is on its way to another node, and this key has gone already.
            self._try(call, error.node_addr, asking=True)
        else:
            call.answer.set_exception(error)


def _closed() -> Exception:
    return exceptions.ConnectionError("the store was closed")


def _fail(call: _Call, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)
