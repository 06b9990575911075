"""`python -m relais_testing.mortal fork|spawn`: a process with a child that must not outlive it.

Prints the child's process id once the child has asked to die with it, then waits to be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection

from relais_llm_worker.parent_death import die_with_worker, guard_forks


def spawned(ready: Connection) -> None:
    """As a plugin in a process that vLLM spawned."""
    die_with_worker()
    ready.send(os.getpid())
    signal.pause()


def forked(ready: Connection) -> None:
    """Asks for nothing itself: the hook at the fork did."""
    ready.send(os.getpid())
    signal.pause()


def main(method: str) -> None:
    target = forked if method.startswith("fork") else spawned
    if method == "fork":
        guard_forks()
    here, there = multiprocessing.Pipe()
    if method == "spawn":
        multiprocessing.get_context("spawn").Process(target=target, args=(there,)).start()
    else:
        multiprocessing.get_context("fork").Process(target=target, args=(there,)).start()
    print(here.recv(), flush=True)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
