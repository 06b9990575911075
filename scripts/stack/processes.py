"""The processes of a run, found by a mark in their environment.

Parents and process groups lose a process that was orphaned or made a session of its own; the mark stays.
Nothing is ever ended by name.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

MARK = "RELAIS_RUN_ID"


def of_run(run_id: str) -> list[int]:
    """The pids that carry the mark of this run, but for this very process."""
    wanted = f"{MARK}={run_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # Gone meanwhile, another user's, or already dead (a zombie has no environment).
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end_all(run_id: str, *, grace_s: float) -> int:
    """End what is left of a run: first by SIGTERM, after `grace_s` by SIGKILL. Says how many there were."""
    left = of_run(run_id)
    count = len(left)
    _send(left, signal.SIGTERM if grace_s > 0 else signal.SIGKILL)
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = of_run(run_id)
    while left:
        # A dying parent may still have started a child: look again until there is nothing.
        _send(left, signal.SIGKILL)
        time.sleep(0.05)
        left = of_run(run_id)
    return count


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
