"""A server under measurement: where to ask, the CPU time of whoever works for it, and the processes that ask it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer

ENGINE = "engine"
"""What the processes below a service are called together."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask, and who works for it: pids by name."""

    url: str
    pids: dict[str, int]

    def cpu_s(self) -> dict[str, float]:
        """User and system time so far: of each process, and of all below them."""
        spent = {}
        for name, pid in self.pids.items():
            process = psutil.Process(pid)
            spent[name] = _cpu_s(process)
            if below := process.children(recursive=True):
                spent[ENGINE] = sum(map(_cpu_s, below))
        return spent


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def end_with(stack: ExitStack, process: ServiceProcess) -> None:
    """End the process with the stack, and whatever an engine leaves running below it."""
    stack.push(process)
    stack.callback(_end_group, process.pid)


def _end_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def start_relais(
    stack: ExitStack, folder: Path, worker: str, common: dict[str, str], engine: dict[str, str]
) -> Server:
    """Redis, an orchestrator and a worker, which end with the stack.

    Args:
        worker: its module.
        common: settings of both services.
        engine: settings of the worker alone.
    """
    (folder / "redis").mkdir()
    redis = stack.enter_context(ValkeyServer(folder / "redis", appendonly=True))
    both = {"REDIS_URL": redis.url, "ENV": "dev", **common}
    front = ServiceProcess("relais_orchestrator", "API_PORT", folder / "front.log", both)
    working = ServiceProcess(worker, "HEALTH_PORT", folder / "worker.log", {**engine, **both})
    for process in (front, working):
        stack.enter_context(process)
    return Server(front.url, {"orchestrator": front.pid, "worker": working.pid, "redis": redis.pid})


async def prepared(module: str, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """A client process that has warmed up and waits for a line: see `measured`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        limit=1 << 30,
    )
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        await process.wait()
        raise RuntimeError(f"{module} {' '.join(arguments)} did not get ready")
    return process


async def measured(work: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """In a client process: wait for a line on stdin, then do the work. Returns wall clock and CPU seconds of it."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    usage, began_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await work()
    elapsed_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    return {"elapsed_s": elapsed_s, "cpu_s": cpu_s}
