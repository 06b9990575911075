"""Makes engine processes die with their worker, even when the worker is killed with -9.

vLLM runs its engine in separate processes. Each asks the kernel to be killed when its parent dies: forked
ones by a hook at the fork, spawned ones because vLLM loads plugins in every process, and this is one.

The kernel watches the thread that created the child, which must live as long as the engine.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def guard_forks() -> None:
    """Make children that this process forks from now on die with it."""
    worker_pid = os.getpid()
    os.register_at_fork(after_in_child=lambda: die_with(worker_pid))


def die_with_worker() -> None:
    """The plugin: in a child process, die with the parent; in the worker itself, do nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with(parent.pid)


def die_with(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies."""
    if not sys.platform.startswith("linux") or os.getppid() != parent_pid:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the call took effect.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
