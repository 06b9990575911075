"""A real server that speaks MongoDB's protocol, one process per object, that a test may kill and bring back.

It is SecantusDB's `secantusd-rs`, from its wheel: no MongoDB itself can be had from a package registry.
"""

from __future__ import annotations

import socket
from importlib.metadata import distribution
from pathlib import Path

from relais_testing.store_process import StoreProcess
from relais_testing.tcp_ports import HOST


def binary_path() -> Path:
    """Return the server in the wheel."""
    return Path(str(distribution("secantusdb").locate_file("secantusdb.scripts/secantusd-rs")))


class MongoServer(StoreProcess):
    """`secantusd-rs`.

    Args:
        sync: write the journal to the disk at each commit, as MongoDB does for `j: true`, which this server does not
            heed: without it a kill may lose what was acknowledged, and it is some ten times faster.
    """

    def __init__(self, data_dir: Path, *, sync: bool = False) -> None:
        super().__init__(data_dir, data_dir / "mongo.log")
        self._sync = sync

    @property
    def url(self) -> str:
        """Return the address for `MONGODB_URL`."""
        return f"mongodb://{HOST}:{self.port}/?directConnection=true"

    def _command(self, port: int) -> list[str]:
        return [
            str(binary_path()),
            *("--host", HOST, "--port", str(port)),
            *("--storage-path", str(self.data_dir / "data")),
            *("--log-file-max", "128MB", "--cache-size", "256M"),
            *(("--sync-on-commit",) if self._sync else ()),
        ]

    def _is_ready(self, connection: socket.socket) -> bool:
        return True
