"""Services forked from a process that has imported them already: `python -m module` without the seconds of its imports.

The mother process imports, forks on request, and collects exit codes. It runs one thread and opens nothing, so a child
starts as a new interpreter would once its imports are done. All processes of a run of tests share it.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from relais_testing.leftovers import FORKED

LIGHT = (
    "relais_orchestrator.app",
    "relais_testing.forked_orchestrators",
    "relais_llm_worker.app",
    "relais_llm_worker.engines.engine_deterministic",
    "relais_embedding_worker.app",
    "uvloop",
)
HEAVY = (
    *LIGHT,
    "relais_llm_worker.engines.vllm.starting",
    "relais_embedding_worker.encoder_sentence_transformers",
    "vllm.entrypoints.openai.api_server",
    "relais_testing.forked_engines",
)
_MOST_BYTES = 1 << 18


class Forked:
    """A child of the mother process, with what tests need of `subprocess.Popen`."""

    def __init__(self, mother: Mother, pid: int) -> None:
        self._mother = mother
        self._end = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code after its end; minus the number of a signal that ended it."""
        if self.returncode is None and select.select([self._end], [], [], 0)[0]:
            self._collect()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self._collect()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal. Its id is not reused, because it was not collected yet."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._end, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _collect(self) -> None:
        self.returncode = self._mother.collect(self.pid)
        os.close(self._end)


class Mother:
    """The process from which others are forked. Whoever forks first starts it; it ends with the run.

    Args:
        modules: what it imports.
        environment: what must be in the environment when they are imported.
        address: of its socket.
    """

    def __init__(
        self, modules: Sequence[str], environment: Mapping[str, str], address: Path
    ) -> None:
        self._modules = modules
        self._environment = environment
        self._address = address
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ended: set[int] = set()
        self.pid: int | None = None
        """Its process id; None before this process's first fork."""
        self.sessions: set[int] = set()
        """Sessions of the children that this process asked for; of those that ended, until `forget_ended`."""

    def fork(
        self, module: str, arguments: Sequence[str], environment: dict[str, str], log: Path
    ) -> Forked:
        """Run a module as `python -m` does, its output in the log file, in a session of its own."""
        log.write_bytes(b"")  # there to be read from now on, however late the child opens it
        sys.audit(FORKED, module)
        request: dict[str, object] = {
            "module": module,
            "arguments": list(arguments),
            "environment": environment,
            "log": str(log),
        }
        pid = self._ask(request)
        self.sessions.add(pid)
        return Forked(self, pid)

    def collect(self, pid: int) -> int:
        """Return the exit code of an ended child."""
        self._ended.add(pid)
        return self._ask({"collect": pid})

    def forget_ended(self) -> None:
        """Let others have the ids of ended children."""
        self.sessions -= self._ended
        self._ended.clear()

    def close(self) -> None:
        """End the children that this process asked for."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, request: dict[str, object]) -> int:
        with self._lock:
            if self._socket is None:
                self._socket = self._connected()
                self.pid = self._received(self._socket)
            self._socket.send(json.dumps(request).encode())
            return self._received(self._socket)

    @staticmethod
    def _received(connection: socket.socket) -> int:
        answer = connection.recv(_MOST_BYTES)
        assert answer, "the mother process has ended"
        return int(answer)

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self._address.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._address.exists():
                self._start()
        connection.connect(str(self._address))
        return connection

    def _start(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(self._address))
            listener.listen(64)
            listener.set_inheritable(True)
            # No `subprocess.Popen`, which would have to wait for it: it may outlive this process.
            os.posix_spawn(
                sys.executable,
                [sys.executable, "-m", __spec__.name, str(listener.fileno()), *self._modules],
                {**os.environ, **self._environment},
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
            )


_mothers: list[Mother] = []


@contextmanager
def forking(light: Mother, heavy: Mother) -> Iterator[None]:
    """Let every service be forked by one of them, as long as it lasts; end all these services then."""
    _mothers.extend((light, heavy))
    try:
        yield
    finally:
        _mothers.clear()
        light.close()
        heavy.close()


def mother_of(module: str, settings: Mapping[str, str]) -> Mother | None:
    """The one that forks this module with these settings; None where none does."""
    if (
        not _mothers or "PYTHONPATH" in settings
    ):  # which may name another tree than the mothers import from
        return None
    light, heavy = _mothers
    encodes = module == "relais_embedding_worker" or "EMBEDDING_MODEL" in settings
    if (
        module == "relais_testing.vllm_command"
        or settings.get("ENGINE") == "vllm"
        or (encodes and settings.get("EMBEDDING_ENGINE") != "deterministic")
    ):
        return heavy
    return light


def _serve(listener: socket.socket) -> Callable[[], object]:
    """Answer requests for ever; return in each child, with what it is to run."""
    children: dict[socket.socket, set[int]] = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                asking = key.fileobj
                assert isinstance(asking, socket.socket)
                if asking is listener:
                    connection, _ = listener.accept()
                    children[connection] = set()
                    _answer(connection, os.getpid())
                    waiting.register(connection, selectors.EVENT_READ)
                    continue
                message = _message(asking)
                if not message:
                    waiting.unregister(asking)
                    asking.close()
                    for pid in children.pop(asking):
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                    continue
                request = json.loads(message)
                if "collect" in request:
                    _, status = os.waitpid(request["collect"], 0)
                    children[asking].discard(request["collect"])
                    _answer(asking, os.waitstatus_to_exitcode(status))
                    continue
                pid = os.fork()
                if pid == 0:
                    for one in (listener, *children):
                        one.close()
                    return _become(request)
                children[asking].add(pid)
                _answer(asking, pid)


def _message(connection: socket.socket) -> bytes:
    """Return the next request; nothing once nobody asks any more."""
    with suppress(ConnectionError):
        return connection.recv(_MOST_BYTES)
    return b""


def _answer(connection: socket.socket, number: int) -> None:
    """Send it, unless who asked has gone, which the next look at the connection tells."""
    with suppress(ConnectionError):
        connection.send(str(number).encode())


def _become(request: dict[str, object]) -> Callable[[], object]:
    os.setsid()
    log = os.open(str(request["log"]), os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    module = str(request["module"])
    sys.argv = [module, *request["arguments"]]  # type: ignore[misc]
    return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    descriptor, *modules = sys.argv[1:]
    for module in modules:
        import_module(module)
    # Pages that no collection writes to stay shared with the children.
    gc.collect()
    gc.freeze()
    run = _serve(socket.socket(fileno=int(descriptor)))
    # What it raises ends the child as it would end an interpreter.
    run()


if __name__ == "__main__":
    main()
