"""`EventLog` over Redis."""

from __future__ import annotations

from typing import cast

from relais_common.queue import keys
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.ports import Look
from relais_common.queue.script_values import read_state


class RedisEventLog:
    """Reads channels' logs."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def read(self, channel_id: str, *, after: int, limit: int) -> list[bytes]:
        if limit < 1:
            return []  # LRANGE would take the -1 that follows from it for the last element
        first, last = after, after + limit - 1
        with self._scripts.step("read"):
            lines = await self._scripts.calls.send("LRANGE", keys.log(channel_id), first, last)
        return cast("list[bytes]", lines)

    async def look(self, channel_id: str, *, after: int, limit: int) -> Look | None:
        base = keys.channel_base(channel_id)
        answer = await self._scripts.run(
            "state", base, channel_id, after, after + limit - 1, step="look"
        )
        if answer is None:
            return None
        *fields, lines = answer
        return Look(read_state(channel_id, fields, None), lines)
