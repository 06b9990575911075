"""Simulates a power loss: the end of an append-only file that was not yet on the disk is lost.

    mark = written(server)          # bytes so far
    ...
    lose_power(server, mark)        # kill -9, and the file as long as it was then
    server.start()

The server must not rewrite its file meanwhile; it does from 64 MB on.
"""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import block_until


def _file(server: ValkeyServer) -> Path:
    """The part of the append-only file that is written to."""
    (path,) = (server.data_dir / "appendonlydir").glob("*.incr.aof")
    return path


def written(server: ValkeyServer) -> int:
    """Return the bytes that the server has written, on the disk or not."""
    return _file(server).stat().st_size


def lose_power(server: ValkeyServer, size: int) -> int:
    """Kill the server, cut its file to `size` bytes, and return how many were lost, with a command cut in two."""
    server.kill()
    lost = written(server) - size
    assert lost >= 0
    with _file(server).open("r+b") as file:
        file.truncate(size)
    return lost


def wait_written(redis_url: str) -> None:
    """Wait until everything answered so far is written, so that a kill loses none of it."""
    with Redis.from_url(redis_url) as redis:
        block_until(lambda: redis.info("persistence")["aof_buffer_length"] == 0)
