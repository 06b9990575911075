"""Runs the Lua scripts by their digest, and times the steps of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from relais_common.queue import scripts
from relais_common.queue.client.calls import Commands
from relais_common.queue.client.connection import store_errors
from relais_common.queue.client.packing import Argument
from relais_common.runtime.grouping import groups

if TYPE_CHECKING:
    from relais_common.queue.metrics import StoreMetrics

_SOURCES = {name: scripts.source(name).encode() for name in scripts.NAMES}
_DIGESTS = {name: scripts.digest(name) for name in scripts.NAMES}

MOST_JOBS = 16
"""How many jobs share a call: a script holds up all others for as long as it runs."""

MOST_BYTES = 256 << 10
"""Bytes in the arguments of jobs that share a call, which a lone job may exceed: they take the script time, too."""


class _One:
    """One job's arguments in a call that several share, and the future of its own answer."""

    __slots__ = ("answer", "arguments")

    def __init__(self, arguments: Sequence[Argument], answer: asyncio.Future[Any]) -> None:
        self.arguments = arguments
        self.answer = answer


class Scripts:
    """Runs the scripts of the protocol.

    Attributes:
        calls: for steps that are not scripts.
        metrics: records durations and errors; None if they are not measured.
    """

    def __init__(self, calls: Commands, metrics: StoreMetrics | None = None) -> None:
        self.calls = calls
        self.metrics = metrics
        self._waiting: dict[tuple[str, str], list[_One]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step of the protocol, under its name in the port.

        Raises:
            StoreUnavailable: Redis cannot be reached; whether the step was done is unknown, so call again.
        """
        with nullcontext() if self.metrics is None else self.metrics.timed(name), store_errors():
            yield

    async def run(self, name: str, base: str, *arguments: Argument, step: str = "") -> Any:
        """Run a step that consists of one script, on the model whose keys begin with `base`.

        Args:
            step: its name, if it differs from the script's.

        Raises:
            StoreUnavailable: as in `step`.
        """
        with self.step(step or name):
            return await self.evaluate(name, base, *arguments)

    async def evaluate(self, name: str, base: str, *arguments: Argument) -> Any:
        """Run a script within a `step`."""
        try:
            return await self.calls.send(*self.words(name), 1, base, *arguments)
        except NoScriptError:
            return await self.calls.send("EVAL", _SOURCES[name], 1, base, *arguments)

    def words(self, name: str) -> tuple[Argument, Argument]:
        """Return how a call of a script begins."""
        return "EVALSHA", _DIGESTS[name]

    async def run_for_one(self, name: str, base: str, *arguments: Argument) -> Any:
        """Run a step of one job, by a script that takes several (`each` in `core.lua`).

        Jobs whose steps begin in the same turn of the event loop share a call. Each has its own answer and error. A
        call that all of its callers leave is cancelled; one that only some leave goes on.

        Raises:
            StoreUnavailable: as in `step`.
        """
        with self.step(name):
            one = _One(arguments, asyncio.get_running_loop().create_future())
            waiting = self._waiting.setdefault((name, base), [])
            if not waiting:
                asyncio.get_running_loop().call_soon(self._send_waiting, name, base)
            waiting.append(one)
            return await one.answer

    def _send_waiting(self, name: str, base: str) -> None:
        # A caller that is gone gets nothing done.
        waiting = [one for one in self._waiting.pop((name, base)) if not one.answer.done()]
        sizes = enumerate(_size(one.arguments) for one in waiting)
        for places, _ in groups(sizes, MOST_BYTES, MOST_JOBS):
            self._send_shared(self.words(name), name, base, [waiting[at] for at in places])

    def _send_shared(
        self, words: tuple[Argument, Argument], name: str, base: str, batch: Sequence[_One]
    ) -> None:
        arguments: list[Argument] = []
        for one in batch:
            arguments += (len(one.arguments), *one.arguments)
        try:
            call = self.calls.send(*words, 1, base, *arguments)
        except Exception as error:  # noqa: BLE001 - its caller gets it
            # An argument that cannot be packed is that of one job; its neighbours are sent without it.
            if len(batch) == 1:
                _answer(batch, [error])
            else:
                for one in batch:
                    self._send_shared(words, name, base, [one])
            return
        call.add_done_callback(partial(self._hand_over, name, base, batch))
        for one in batch:
            one.answer.add_done_callback(partial(_cancel_if_left, batch, call))

    def _hand_over(
        self, name: str, base: str, batch: Sequence[_One], call: asyncio.Future[Any]
    ) -> None:
        if call.cancelled():
            return  # nobody waits for it
        error = call.exception()
        if isinstance(error, NoScriptError):
            self._send_shared(("EVAL", _SOURCES[name]), name, base, batch)
        else:
            _answer(batch, call.result() if error is None else [error] * len(batch))


def _size(arguments: Sequence[Argument]) -> int:
    """Return the size of a job's payload, record and vectors."""
    return sum([len(one) for one in arguments if isinstance(one, bytes)])


def _cancel_if_left(
    batch: Sequence[_One], call: asyncio.Future[Any], _: asyncio.Future[Any]
) -> None:
    """Cancel a shared call once all of its callers have left: one that is not sent yet never is."""
    if all(one.answer.cancelled() for one in batch):
        call.cancel()


def _answer(batch: Sequence[_One], answers: Sequence[Any]) -> None:
    for one, answer in zip(batch, answers, strict=True):
        if one.answer.done():
            continue
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)
