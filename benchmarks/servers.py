"""A server under measurement: where to ask, and the CPU time of whoever works for it."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

ENGINE = "engine"
"""What the processes below a service are called together."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask, with which key if any, and who works for it: pids by name."""

    url: str
    pids: dict[str, int]
    key: str = ""

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
