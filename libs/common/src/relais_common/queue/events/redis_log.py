"""`EventLog` over Redis."""

from __future__ import annotations

from typing import cast

from relais_common.queue import keys
from relais_common.queue.client.calls import Commands
from relais_common.queue.client.connection import store_errors
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.ports import Look
from relais_common.queue.script_values import read_state


class RedisEventLog:
    """Reading a channel's log."""

    def __init__(self, calls: Commands, scripts: Scripts) -> None:
        self._calls = calls
        self._scripts = scripts

    async def read(self, channel_id: str, *, after: int, limit: int) -> list[bytes]:
        if limit < 1:
            return []  # LRANGE would take the -1 that follows from it for the last element
        with store_errors():
            lines = await self._calls.send("LRANGE", keys.log(channel_id), after, after + limit - 1)
        return cast("list[bytes]", lines)

    async def look(self, channel_id: str, *, after: int, limit: int) -> Look | None:
        base = keys.channel_base(channel_id)
        answer = await self._scripts.run("state", base, channel_id, after, after + limit - 1)
        if answer is None:
            return None
        *fields, lines = answer
        return Look(read_state(channel_id, fields, None), lines)
