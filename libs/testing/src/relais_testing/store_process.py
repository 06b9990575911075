"""A store's server as a process that a test can kill and restart: the common part of Valkey and MongoDB."""

from __future__ import annotations

import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from relais_testing.tcp_ports import HOST, free_port
from relais_testing.waiting import LIVENESS_S

ATTEMPTS = 5


class StoreProcess(ABC):
    """One process on its own port, which keeps port and data across `stop`, `kill` and `restart`.

    Args:
        data_dir: where it runs, logs and persists; the caller removes it.
        log_path: its log file.
    """

    def __init__(self, data_dir: Path, log_path: Path) -> None:
        self.host = HOST
        self.port = 0
        self.data_dir = data_dir
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self, port: int) -> list[str]:
        """Return its command line."""

    @abstractmethod
    def _is_ready(self, connection: socket.socket) -> bool:
        """Return whether a server that accepts connections is ready."""

    @property
    def pid(self) -> int:
        """Return its process id, for signals such as SIGSTOP."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def __enter__(self) -> Self:
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
        for _ in range(1 if self.port else ATTEMPTS):
            port = self.port or free_port()
            self._launch(port)
            if self._answers(port):
                self.port = port
                return
            self.kill()
        told = self._log_path.read_text()[-2000:] if self._log_path.exists() else "(no log)"
        raise RuntimeError(f"{type(self).__name__} did not start:\n{told}")

    def stop(self) -> None:
        """Send SIGTERM and wait; the server closes its files and connections."""
        self._end(kill=False)

    def kill(self) -> None:
        """Send SIGKILL; unwritten data is lost."""
        self._end(kill=True)

    def restart(self, *, kill: bool = True) -> None:
        """End the process and start another on the same port and data."""
        self._end(kill=kill)
        self.start()

    def _launch(self, port: int) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        end = time.monotonic() + LIVENESS_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with socket.create_connection((HOST, port), timeout=1.0) as connection:
                    if self._is_ready(connection):
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
        self._process.wait(timeout=LIVENESS_S)
        self._process = None
