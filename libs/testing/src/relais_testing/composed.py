"""A project of Docker Compose that a test may stop, kill and scale."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relais_testing.manifests import ROOT
from relais_testing.waiting import LIVENESS_S


def free_port_range(count: int) -> int:
    """Return the first of this many consecutive free ports."""
    for first in range(18_080, 30_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as listener:
                    listener.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@dataclass(frozen=True)
class Composed:
    """`docker compose` over infra/compose with some files on top.

    Attributes:
        settings: the settings that this run adds to its env file.
    """

    project: str
    env_file: Path
    files: list[str]
    settings: Mapping[str, str]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run `docker compose ...` and return its output. A failure reports its output and the containers' logs."""
        done = self._compose(*arguments)
        if check and done.returncode:
            logs = self._compose("logs", "--no-color", "--tail", "15").stdout
            raise AssertionError(f"{arguments}: {done.stderr[-2000:]}{done.stdout[-2000:]}\n{logs}")
        return done.stdout

    def url(self, index: int = 1) -> str:
        """Return the published URL of an orchestrator."""
        return "http://" + self.run("port", "--index", str(index), "orchestrator", "8080").strip()

    def containers(self, service: str) -> list[str]:
        """Return the containers' ids, including ended ones."""
        return self.run("ps", "--all", "--quiet", service).split()

    def inspect(self, service: str) -> dict[str, Any]:
        """Return `docker inspect` of the service's first container."""
        done = subprocess.run(
            ["docker", "inspect", self.containers(service)[0]],
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    def shell(self, service: str, script: str) -> tuple[int, str]:
        """Run a script inside the service's container; return exit code and output."""
        done = self._compose("exec", "--no-TTY", service, "sh", "-c", script)
        return done.returncode, (done.stdout + done.stderr).strip()

    def _compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "--project-name", self.project]
        command += ["--env-file", str(self.env_file)]
        for file in ["infra/compose/compose.yaml", *self.files]:
            command += ["--file", str(ROOT / file)]
        return subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIVENESS_S,
            stdin=subprocess.DEVNULL,
        )
