"""Services as real processes, started as a deployment starts them and stopped by their pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from relais_testing import leftovers
from relais_testing.prefork import Forked, mother_of
from relais_testing.tcp_ports import HOST, free_port
from relais_testing.waiting import LIVENESS_S


class ServiceProcess:
    """One service, its log file, and the port on which it says that it is ready.

    It is forked from a process that has imported it, where there is one.

    Args:
        module: what `python -m` runs.
        port_setting: the setting that gives it its port; where `settings` lacks it, a free one is chosen.
        arguments: of its command line.
        command: what runs in place of `python -m module`.
        ready_path: answers 200 once it is ready.
    """

    def __init__(
        self,
        module: str,
        port_setting: str,
        log_path: Path,
        settings: dict[str, str],
        *,
        arguments: Sequence[str] = (),
        command: Sequence[str] | None = None,
        ready_path: str = "/readyz",
    ) -> None:
        self._ready_path = ready_path
        self.port = int(settings[port_setting]) if port_setting in settings else free_port()
        self.log_path = log_path
        passed_on = ("PATH", "HOME", "LANG", leftovers.MARK)
        inherited = {key: os.environ[key] for key in passed_on if key in os.environ}
        environment = {**inherited, **settings, port_setting: str(self.port)}
        self._process: subprocess.Popen[bytes] | Forked
        mother = None if command else mother_of(module, settings)
        if mother is not None:
            self._process = mother.fork(module, arguments, environment, log_path)
            return
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*(command or (sys.executable, "-m", module)), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Return the exit code: None while it runs, minus the number of a signal that ended it."""
        return self._process.poll()

    def __enter__(self) -> ServiceProcess:
        self.wait_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def wait_ready(self) -> None:
        """Wait until it is ready. A process that ends before fails the test with its log."""
        end = time.monotonic() + LIVENESS_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}{self._ready_path}", timeout=LIVENESS_S):
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.05)
        raise AssertionError(f"not ready: exit {self._process.poll()}\n{self.log_tail()}")

    @property
    def alive(self) -> bool:
        """Return whether it still runs."""
        return self._process.poll() is None

    def descendants(self) -> list[psutil.Process]:
        """Return all descendants of this process, including an engine's."""
        return psutil.Process(self.pid).children(recursive=True)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def terminate(self, timeout_s: float = LIVENESS_S) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self._process.terminate()
        return self._process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """Send SIGKILL to this process alone; tests check what it leaves behind."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=LIVENESS_S)

    def wait(self, timeout_s: float = LIVENESS_S) -> int:
        return self._process.wait(timeout=timeout_s)

    def log_tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-4000:]
