"""`vllm serve` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.servers import Server
from benchmarks.serving.engine import Environment
from relais_testing.tcp_ports import HOST, free_port

COMMAND = (sys.executable, "-m", "benchmarks.serving.vllm_command")
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0


def inherited() -> Environment:
    """What a process of vLLM's needs of the caller's environment."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@contextmanager
def vllm_server(arguments: list[str], environment: Environment, log_path: Path) -> Iterator[Server]:
    """Up until the block ends, with all its processes. AssertionError, with its log, where it does not start."""
    port = free_port()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", *arguments, "--host", HOST, "--port", str(port)],
            env={**inherited(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://{HOST}:{port}"
    try:
        if not _answers(process, url):
            raise AssertionError(f"vllm serve: not ready\n{log_path.read_text()[-4000:]}")
        yield Server(url, {"server": process.pid})
    finally:
        _end(process)


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    every = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, left = psutil.wait_procs(every, timeout=STOP_TIMEOUT_S)
    for one in left:
        one.kill()
    process.wait(timeout=STOP_TIMEOUT_S)
