"""Runs the Lua scripts by their digest, and times the steps of the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from relais_common.queue import scripts
from relais_common.queue.client.calls import Argument, Commands
from relais_common.queue.client.connection import store_errors

if TYPE_CHECKING:
    from relais_common.queue.metrics import StoreMetrics

_SOURCES = {name: scripts.source(name).encode() for name in scripts.NAMES}
_DIGESTS = {name: scripts.digest(name) for name in scripts.NAMES}


class Scripts:
    """Runs the scripts of the protocol.

    Attributes:
        calls: for steps that are not scripts.
        metrics: records durations and errors; None if they are not measured.
    """

    def __init__(self, calls: Commands, metrics: StoreMetrics | None = None) -> None:
        self.calls = calls
        self.metrics = metrics

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
        call: tuple[Argument, ...] = ("EVALSHA", _DIGESTS[name], 1, base, *arguments)
        try:
            return await self.calls.send(*call)
        except NoScriptError:
            return await self.calls.send("EVAL", _SOURCES[name], *call[2:])
