"""The process that trials are forked from: `python -m relais_llm_worker.structured_outputs.trial_server WORKER_PID`.

It has the library and the tokenizer loaded and runs one thread, so a trial costs a fork. Each trial is a
separate child, which the kernel stops at its budget and which can be killed at any time.

Reads JSON lines: first `{"library", "budget"}`, then `{"id", "kind", "text", "allowed"}` to begin a trial
and `{"id"}` alone to kill it. Writes `{"id": null}` once it is ready, then `{"id", "outcome", "message"}`
for each trial that was not killed.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import sys
from pathlib import Path
from typing import Any

import orjson

from relais_llm_worker.parent_death import die_with
from relais_llm_worker.structured_outputs.specification import Budget, Library
from relais_llm_worker.structured_outputs.walk import (
    TOO_COSTLY,
    Compiler,
    Refused,
    follow,
    open_compiler,
)

FINE, REFUSED, UNDECIDED = "fine", "refused", "undecided"


class Lines:
    """Reads lines from a descriptor, without a buffer that a selector cannot see."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lines: list[bytes] = []
        self._rest: list[bytes] = []

    def read(self) -> list[bytes] | None:
        """Return the lines that one read completes; None at the end."""
        data = os.read(self.descriptor, 1 << 16)
        first, *others = data.split(b"\n")
        self._rest.append(first)
        if not others:
            return [] if data else None
        lines = [b"".join(self._rest), *others[:-1]]
        self._rest = [others[-1]]
        return lines

    def first(self) -> bytes:
        """Wait for the first line. Raises EOFError."""
        while not self._lines:
            lines = self.read()
            if lines is None:
                raise EOFError
            self._lines += lines
        return self._lines.pop(0)

    def whole(self) -> list[bytes]:
        """Return lines that came with the first one."""
        lines, self._lines = self._lines, []
        return lines


class TrialServer:
    """Forks trials and reports how they ended."""

    def __init__(self, compiler: Compiler, budget: Budget) -> None:
        self._compiler = compiler
        self._budget = budget
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, int] = {}  # trial id to process id
        self._heard: dict[int, bytes] = {}

    def run(self, requests: Lines) -> None:
        """Serve until the requests end, then kill what runs."""
        self._selector.register(requests.descriptor, selectors.EVENT_READ, None)
        lines: list[bytes] | None = requests.whole()
        while lines is not None:
            for line in lines:
                self._heed(orjson.loads(line))
            lines = []
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._hear(key.fd, key.data)
                else:
                    lines = requests.read()
        for pid in self._children.values():
            os.kill(pid, signal.SIGKILL)

    def _heed(self, request: dict[str, Any]) -> None:
        if "kind" in request:
            self._begin(request)
        elif pid := self._children.pop(request["id"], None):
            os.kill(pid, signal.SIGKILL)

    def _begin(self, request: dict[str, Any]) -> None:
        ours, theirs = os.pipe()
        server_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            die_with(server_pid)
            try:
                os.write(theirs, _tried(self._compiler, request, self._budget))
            finally:
                os._exit(0)
        os.close(theirs)
        self._children[request["id"]] = pid
        self._heard[ours] = b""
        self._selector.register(ours, selectors.EVENT_READ, (request["id"], pid))

    def _hear(self, descriptor: int, trial: tuple[int, int]) -> None:
        data = os.read(descriptor, 4096)
        self._heard[descriptor] += data
        if data:
            return
        self._selector.unregister(descriptor)
        os.close(descriptor)
        trial_id, pid = trial
        _, status = os.waitpid(pid, 0)
        said = self._heard.pop(descriptor)
        # A trial killed on request is no longer among the children: nobody waits for its end.
        if self._children.pop(trial_id, None) is not None:
            _say({"id": trial_id, **(orjson.loads(said) if said else _ended_by(status))})


def _tried(compiler: Compiler, request: dict[str, Any], budget: Budget) -> bytes:
    _limit(budget)
    try:
        follow(compiler, request, budget)
    except Refused as refused:
        return orjson.dumps({"outcome": REFUSED, "message": str(refused)})
    except MemoryError:
        return orjson.dumps({"outcome": REFUSED, "message": TOO_COSTLY})
    return orjson.dumps({"outcome": FINE, "message": ""})


def _limit(budget: Budget) -> None:
    """Have the kernel end this process if it exceeds its budget."""
    has_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most_bytes = has_bytes + budget.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Finer than RLIMIT_CPU, which counts whole seconds. Nothing here handles these signals, so they end the process.
    signal.setitimer(signal.ITIMER_PROF, budget.cpu_s)
    signal.setitimer(signal.ITIMER_REAL, budget.wall_s)


def _ended_by(status: int) -> dict[str, str]:
    """Return the verdict for a child's exit status. A crash here would have crashed the engine."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGKILL):
        return {"outcome": UNDECIDED, "message": ""}
    return {"outcome": REFUSED, "message": TOO_COSTLY}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the worker's to handle
    requests = Lines(sys.stdin.fileno())
    first = orjson.loads(requests.first())
    server = TrialServer(open_compiler(Library(**first["library"])), Budget(**first["budget"]))
    _say({"id": None})
    server.run(requests)


if __name__ == "__main__":
    main()
