"""Taking a run down: senders before receivers, the stores last, and then a look for whatever is left."""

from __future__ import annotations

import math
import signal
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from stack import processes
from stack.model import Run
from stack.progress import Wait, say
from stack.supervisord import Supervisor

_POLL_S = 0.1
_SHUTDOWN_WAIT_S = 10.0
_STRAYS_WAIT_S = 2.0


def take_down(run: Run, *, patience_s: float = math.inf) -> int:
    """Stop everything that carries the mark of this run. Says how many processes had to be killed.

    Args:
        patience_s: how long they may take to drain, beside the bound that each has.
    """
    with _impatience(patience_s) as impatient, Wait() as wait:
        supervisor = Supervisor(run.socket)
        # The socket may be gone while processes are not, or its server be on its way out.
        with suppress(OSError, xmlrpc.client.Fault):
            _stop_in_order(run, supervisor, wait, impatient)
            supervisor.shut_down()
            _wait_until(lambda: not supervisor.answers() or impatient(), _SHUTDOWN_WAIT_S)
            _wait_until(lambda: not processes.of_run(run.run_id) or impatient(), _STRAYS_WAIT_S)
        killed = processes.end_all(run.run_id, grace_s=0.0 if impatient() else 3.0)
    run.forget()
    return killed


def say_stopped(killed: int) -> None:
    say(f"stopped; {killed} processes had to be killed" if killed else "stopped")


def _stop_in_order(
    run: Run, supervisor: Supervisor, wait: Wait, impatient: Callable[[], bool]
) -> None:
    for stage in sorted({program.stage for program in run.programs}, reverse=True):
        names = [program.name for program in run.programs if program.stage == stage]
        for name in names:
            supervisor.stop(name)
        while not impatient():
            states = supervisor.states()
            left = [name for name in names if name in states and not states[name].is_stopped]
            if not left:
                break
            wait.tick(f"stopping {', '.join(left)}")
            time.sleep(_POLL_S)


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


@contextmanager
def _impatience(patience_s: float) -> Iterator[Callable[[], bool]]:
    """While things drain, a further signal does not interrupt: it says that the rest may be killed."""
    end = time.monotonic() + patience_s
    asked = False

    def hurry(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    previous = {
        number: signal.signal(number, hurry)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield lambda: asked or time.monotonic() > end
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
