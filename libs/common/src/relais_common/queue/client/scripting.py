"""Running the scripts of `relais_common.queue` by their digest."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoScriptError

from relais_common.queue import scripts
from relais_common.queue.client.calls import Argument, Commands
from relais_common.queue.client.connection import store_errors

_SOURCES = {name: scripts.source(name).encode() for name in scripts.NAMES}
_DIGESTS = {name: scripts.digest(name) for name in scripts.NAMES}


class Scripts:
    """Every script of the protocol."""

    def __init__(self, calls: Commands) -> None:
        self._calls = calls

    async def run(self, name: str, base: str, *arguments: Argument) -> Any:
        """Run one script on the model whose keys begin with `base`.

        Raises:
            StoreUnavailable: Redis cannot be reached; whether the step was done is unknown, so call again.
        """
        call: tuple[Argument, ...] = ("EVALSHA", _DIGESTS[name], 1, base, *arguments)
        with store_errors():
            try:
                return await self._calls.send(*call)
            except NoScriptError:
                return await self._calls.send("EVAL", _SOURCES[name], *call[2:])
