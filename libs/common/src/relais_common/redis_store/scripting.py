"""Running the scripts of `relais_common.wire` by their digest."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from relais_common.redis_store.connection import store_errors
from relais_common.wire import scripts

Argument = str | bytes | int | float


class Scripts:
    """Every script of the protocol, registered with one client."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._scripts: dict[str, AsyncScript] = {
            name: redis.register_script(scripts.source(name)) for name in scripts.NAMES
        }

    async def run(self, name: str, base: str, *arguments: Argument) -> Any:
        """Run one script on the model whose keys begin with `base`.

        Raises:
            StoreUnavailable: Redis cannot be reached; whether the step was done is unknown, so call again.
        """
        with store_errors():
            return await self._scripts[name](keys=[base], args=list(arguments))
