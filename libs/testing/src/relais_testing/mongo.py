"""A real server that speaks MongoDB's protocol, one process per object, that a test may kill and bring back.

It is SecantusDB's `secantusd-rs`, from its wheel: no MongoDB itself can be had from a package registry.
"""

from __future__ import annotations

import socket
import subprocess
import time
from importlib.metadata import distribution
from pathlib import Path
from types import TracebackType

from relais_testing.tcp_ports import HOST, free_port

START_TIMEOUT_S = 60.0


def binary_path() -> Path:
    """The server inside the wheel."""
    return Path(str(distribution("secantusdb").locate_file("secantusdb.scripts/secantusd-rs")))


class MongoServer:
    """`secantusd-rs` on its own port. It keeps its port and data over `stop`, `kill`, `restart`.

    Args:
        data_dir: where it runs, logs and persists; the caller removes it.
        sync: write the journal to the disk at each commit, as MongoDB does for `j: true`, which this server does not
            heed: without it a kill may lose what was acknowledged, and it is some ten times faster.
    """

    def __init__(self, data_dir: Path, *, sync: bool = False) -> None:
        self.port = 0
        self._data_dir = data_dir
        self._sync = sync
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, as `MONGODB_URL` takes it."""
        return f"mongodb://{HOST}:{self.port}/?directConnection=true"

    @property
    def pid(self) -> int:
        """Of the living process: for signals such as SIGSTOP."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def __enter__(self) -> MongoServer:
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
        """Start the process and wait until it takes connections. The port is chosen at the first start."""
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
                raise RuntimeError(f"secantusd-rs did not start:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """SIGTERM, and wait: it closes its files, which takes seconds."""
        self._end(kill=False)

    def kill(self) -> None:
        """SIGKILL: nothing is flushed that the system has not got already."""
        self._end(kill=True)

    def restart(self, *, kill: bool = True) -> None:
        """End the process and start another on the same port and data."""
        self._end(kill=kill)
        self.start()

    @property
    def _log(self) -> Path:
        return self._data_dir / "mongo.log"

    def _launch(self, port: int) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        command = [
            str(binary_path()),
            *("--host", HOST, "--port", str(port)),
            *("--storage-path", str(self._data_dir / "data")),
            *("--log-file-max", "128MB", "--cache-size", "256M"),
            *(("--sync-on-commit",) if self._sync else ()),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with socket.create_connection((HOST, port), timeout=1.0):
                    # Somebody else's server on this port would answer as well.
                    return self._process.poll() is None
            except OSError:
                time.sleep(0.02)
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
