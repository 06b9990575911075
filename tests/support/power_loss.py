"""What a machine without power does to an append-only file: its end, not yet on the disk, is gone.

    mark = written(server)          # bytes so far
    ...
    lose_power(server, mark)        # kill -9, and the file as long as it was then
    server.start()

The server must not rewrite its file meanwhile; it does from 64 MB on.
"""

from __future__ import annotations

from pathlib import Path

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from support.valkey import ValkeyServer


def _file(server: ValkeyServer) -> Path:
    """The part of the append-only file that is written to."""
    (path,) = (server.data_dir / "appendonlydir").glob("*.incr.aof")
    return path


def written(server: ValkeyServer) -> int:
    """Bytes that the server has handed to the system, on the disk or not."""
    return _file(server).stat().st_size


def lose_power(server: ValkeyServer, size: int) -> int:
    """Kill the server and cut its file to `size` bytes; how many were lost. A command cut in two counts as lost."""
    server.kill()
    lost = written(server) - size
    assert lost >= 0
    with _file(server).open("r+b") as file:
        file.truncate(size)
    return lost


def sync(redis_url: str) -> None:
    """Return once everything written so far is on the disk."""
    with Redis.from_url(redis_url) as redis:
        redis.set("support:sync", 1, ex=1)
        assert redis.waitaof(1, 0, 30_000)[0] == 1


class SyncedSize:
    """Bytes that are surely on the disk: `run` keeps asking the server what it has synchronised.

    Attributes:
        size: of the file, at the last moment known to be on the disk.
    """

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self.size = 0

    async def run(self) -> None:
        async with AsyncRedis.from_url(self._server.url) as redis:
            while True:
                await redis.set("support:sync", 1, ex=60)
                size = written(self._server)
                await redis.execute_command("WAITAOF", 1, 0, 0)
                self.size = size
