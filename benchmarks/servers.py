"""A server under measurement: where to ask, the CPU time of whoever works for it, and the processes that ask it."""

from __future__ import annotations

import asyncio
import os
import re
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

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
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


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had; 0 where it has ended, or begins."""
    found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) << 10 if found else 0


def peak_bytes_of_all(pid: int) -> int:
    """Return the sum of the peaks of a process and all below it; what they share counts for each."""
    process = psutil.Process(pid)
    return sum(peak_bytes(one.pid) for one in (process, *process.children(recursive=True)))


def forget_peak(pid: int) -> None:
    """Let a process's peak start anew from what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


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
