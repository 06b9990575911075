"""Running the scripts of `relais_common.wire` by their digest."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from redis.exceptions import NoScriptError

from relais_common.redis_store.calls import Argument, Calls
from relais_common.redis_store.connection import store_errors
from relais_common.wire import scripts

_SOURCES = {name: scripts.source(name).encode() for name in scripts.NAMES}
_DIGESTS = {
    name: hashlib.sha1(source, usedforsecurity=False).hexdigest()
    for name, source in _SOURCES.items()
}


class Scripts:
    """Every script of the protocol."""

    def __init__(self, calls: Calls) -> None:
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
                # In one message, so that no restart comes between the two unseen.
                load = self._calls.send("SCRIPT", "LOAD", _SOURCES[name])
                _, answer = await asyncio.gather(load, self._calls.send(*call))
                return answer
