"""Schedules trials of specifications, and caches their results."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from relais_common.jobs.errors import EngineRefused, TooManyTrials
from relais_llm_worker.structured_outputs.specification import Specification

SLOTS = 2
MAX_WAITING_PER_KEY = 16
MAX_KNOWN = 4096

TryOut = Callable[[Specification], Awaitable[str | None]]


@dataclass(slots=True, eq=False)
class _Trial:
    """One specification and the requests that wait for its result.

    Attributes:
        result: why it is refused, or None.
        keys: number of waiting requests by key.
        owner: the key in whose turn it runs, once it does.
    """

    specification: Specification
    digest: bytes
    result: asyncio.Future[str | None]
    keys: dict[str, int] = field(default_factory=dict)
    owner: str | None = None


class Trials:
    """Tries each specification once, a few at a time.

    Keys take turns, and no key runs two trials at once: a client with many costly ones only delays itself.

    Args:
        try_out: runs a trial; cancelled when nobody waits for it any more.
    """

    def __init__(self, try_out: TryOut) -> None:
        self._try_out = try_out
        self._known: OrderedDict[bytes, str | None] = OrderedDict()
        self._trials: dict[bytes, _Trial] = {}
        self._lanes: OrderedDict[str, OrderedDict[bytes, _Trial]] = OrderedDict()
        self._running: dict[_Trial, asyncio.Task[None]] = {}

    async def check(self, specification: Specification, *, key_id: str) -> None:
        """Check that the specification is cheap to follow.

        Raises:
            EngineRefused: it is invalid, impossible or too costly.
            TooManyTrials: too many of this key wait already.
            EngineFailed: the trial failed.
        """
        digest = specification.digest
        if digest in self._known:
            self._known.move_to_end(digest)
            why_not = self._known[digest]
        else:
            why_not = await self._wait(digest, specification, key_id)
        if why_not is not None:
            raise EngineRefused(f"{specification.param}: {why_not}", param=specification.param)

    async def close(self) -> None:
        """Stop all trials; no more begin."""
        self._lanes.clear()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _wait(self, digest: bytes, specification: Specification, key_id: str) -> str | None:
        trial = self._trials.get(digest)
        is_new = trial is None or key_id not in trial.keys
        if is_new and len(self._lanes.get(key_id, ())) >= MAX_WAITING_PER_KEY:
            raise TooManyTrials(
                "too many structured outputs of this key wait for a trial",
                param=specification.param,
                retry_after_s=1,
            )
        if trial is None:
            result = asyncio.get_running_loop().create_future()
            trial = self._trials[digest] = _Trial(specification, digest, result)
        trial.keys[key_id] = trial.keys.get(key_id, 0) + 1
        if trial.owner is None:
            self._lanes.setdefault(key_id, OrderedDict())[digest] = trial
            self._begin_next()
        try:
            return await asyncio.shield(trial.result)
        finally:
            self._leave(trial, key_id)

    def _leave(self, trial: _Trial, key_id: str) -> None:
        trial.keys[key_id] -= 1
        if trial.keys[key_id] == 0:
            del trial.keys[key_id]
            self._unqueue(trial, key_id)
        if not trial.keys and not trial.result.done():
            del self._trials[trial.digest]
            trial.result.cancel()
            if task := self._running.get(trial):
                task.cancel()

    def _unqueue(self, trial: _Trial, key_id: str) -> None:
        lane = self._lanes.get(key_id)
        if lane is not None and lane.get(trial.digest) is trial:
            del lane[trial.digest]
            if not lane:
                del self._lanes[key_id]

    def _begin_next(self) -> None:
        while len(self._running) < SLOTS:
            busy = {trial.owner for trial in self._running}
            key_id = next((one for one in self._lanes if one not in busy), None)
            if key_id is None:
                return
            trial = next(iter(self._lanes[key_id].values()))
            trial.owner = key_id
            self._lanes.move_to_end(key_id)
            for waiting in trial.keys:
                self._unqueue(trial, waiting)
            self._running[trial] = asyncio.create_task(self._run(trial))

    async def _run(self, trial: _Trial) -> None:
        try:
            why_not = await self._try_out(trial.specification)
        except Exception as error:  # noqa: BLE001 - each that waits raises it
            if not trial.result.done():
                trial.result.set_exception(error)
        else:
            self._known[trial.digest] = why_not
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
            if not trial.result.done():
                trial.result.set_result(why_not)
        finally:
            del self._running[trial]
            if self._trials.get(trial.digest) is trial:
                del self._trials[trial.digest]
            self._begin_next()
