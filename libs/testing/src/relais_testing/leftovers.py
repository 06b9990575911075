"""No process outlives its test, nor the run: not after a failure, a timeout, Ctrl-C, or kill -9 of pytest.

Every process that a test starts inherits a mark in its environment, and so do that process's own children. A guardian
process watches the run's process and, once that has ended in whatever way, kills everything that carries the mark.

Servers that overwrite their environment (Valkey, nginx, sshd) start through `DIE_WITH_PARENT` instead.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "RELAIS_TEST_RUN"
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM")
"""Prefix of a command: the kernel sends it SIGTERM when its parent dies."""

GRACE_S = 30.0
"""How long processes that end may take, on a machine that may stand still."""

FORKED = "relais_testing.forked"
"""Audit event: a process was forked on request by another one."""

Processes = frozenset[tuple[int, str]]
"""Process ids with start times, so that a reused id is another process."""


def marked(mark: str, sessions: Collection[int] = ()) -> Processes:
    """Return the living processes that carry the mark, or one of a run within the run, and all their descendants.

    Args:
        sessions: whose processes count, too.
    """
    needles = [f"\0{MARK}={mark}{end}".encode() for end in ("\0", ".")]
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    started: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name in parentheses may hold anything; the fields after it are numbers and the state.
            state, parent, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if state == "Z":
                continue
            if not (entry / "cmdline").read_bytes():
                continue  # of the kernel, or on its way out: its memory is gone already
            pid = int(entry.name)
            started[pid] = fields[17]
            children.setdefault(int(parent), []).append(pid)
            environment = b"\0" + (entry / "environ").read_bytes()
            if int(fields[1]) in sessions or any(needle in environment for needle in needles):
                found.add(pid)
        except OSError:
            continue
    pending = list(found)
    while pending:
        below = [one for one in children.get(pending.pop(), []) if one not in found]
        found.update(below)
        pending.extend(below)
    found.discard(os.getpid())
    return frozenset((pid, started[pid]) for pid in found)


def kill(processes: Processes) -> None:
    """SIGKILL each of them."""
    for pid, _ in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def describe(processes: Processes) -> str:
    """Return their command lines, one per line."""
    lines = []
    for pid, _ in sorted(processes):
        try:
            command = (
                Path(f"/proc/{pid}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
            )
        except OSError:
            command = "(gone)"
        lines.append(f"{pid}: {command[:200]}")
    return "\n".join(lines)


class Run:
    """The processes that this run's tests start."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._known: Processes = frozenset()
        self._started_some = False
        # Looking at every process after each of thousands of tests would take a quarter of a minute.
        sys.addaudithook(self._note)

    def begin_test(self, sessions: Collection[int]) -> None:
        """Note the processes of fixtures with a wider scope.

        Args:
            sessions: of processes that were forked on request.
        """
        if self._started_some:
            self._known = marked(self._mark, sessions)
            self._started_some = False

    def end_test(self, of_run: Collection[int], sessions: Collection[int]) -> Processes:
        """Return and kill processes of the test that still run; ending ones get `GRACE_S` to exit.

        Args:
            of_run: processes that live as long as the run.
            sessions: of processes that were forked on request.
        """
        if not self._started_some:
            return frozenset()
        end = time.monotonic() + GRACE_S
        while (left := self._left(of_run, sessions)) and time.monotonic() < end:
            time.sleep(0.05)
        kill(left)
        return left

    def _left(self, of_run: Collection[int], sessions: Collection[int]) -> Processes:
        found = marked(self._mark, sessions) - self._known
        return frozenset(one for one in found if one[0] not in of_run)

    def _note(self, event: str, _: object) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", FORKED):
            self._started_some = True


@contextmanager
def guarded_run() -> Iterator[Run]:
    """Mark whatever this process starts, and have it killed when this process ends."""
    before = os.environ.get(MARK)
    mark = secrets.token_hex(8) if before is None else f"{before}.{secrets.token_hex(8)}"
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    guardian = subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, str(os.getpid()), mark],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )
    os.environ[MARK] = mark
    try:
        yield Run(mark)
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before
        kill(marked(mark))
        guardian.kill()
        guardian.wait()


def guard(pid: int, mark: str) -> None:
    """Wait until the process ends; then kill what carries the mark, until nothing more appears."""
    try:
        # The guardian holds it for as long as it lives.
        select.select([os.pidfd_open(pid)], [], [])
    except ProcessLookupError:
        pass
    quiet = 0
    while quiet < 5:
        left = marked(mark)
        kill(left)
        quiet = 0 if left else quiet + 1
        time.sleep(0.05)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2])
