"""supervisord: its configuration, its start, and its XML-RPC interface over a unix socket."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.errors import StackError
from stack.model import Program, Run

_RPC_TIMEOUT_S = 10.0

# Paths come from the environment, after the file was parsed: a space, a % or a # in one cannot break it.
_HEAD = """\
[supervisord]
nodaemon=true
silent=true
logfile=%(ENV_RELAIS_RUN_DIR)s/logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=1
pidfile=%(ENV_RELAIS_RUN_DIR)s/supervisord.pid
childlogdir=%(ENV_RELAIS_RUN_DIR)s/logs
identifier=relais

[unix_http_server]
file=%(ENV_RELAIS_SUPERVISOR_SOCKET)s
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

# Started one by one by us, in order, so that a failure is seen where it happens; restarted by supervisord from then on.
_PROGRAM = """
[program:{name}]
command=sh -c '{command}'
environment={environment}
priority={priority}
autostart=false
autorestart=true
startsecs=1
startretries=100
stopsignal=TERM
stopwaitsecs={stop_wait_s}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile=%(ENV_RELAIS_LOGS_ESCAPED)s/{name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""


def render(programs: tuple[Program, ...]) -> str:
    return _HEAD + "".join(
        _PROGRAM.format(
            name=program.name,
            command=program.command.replace("%", "%%"),
            environment=",".join(f'{key}="{value}"' for key, value in program.environment.items()),
            priority=program.stage * 100,
            stop_wait_s=program.stop_wait_s,
        )
        for program in programs
    )


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What supervisord knows of one process. `state` is its word: RUNNING, STARTING, BACKOFF, EXITED, FATAL, ..."""

    name: str
    state: str
    pid: int
    uptime_s: int
    description: str

    @property
    def is_up(self) -> bool:
        return self.state in ("STARTING", "RUNNING")

    @property
    def is_stopped(self) -> bool:
        return self.state in ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


class Supervisor:
    """The supervisord of a run."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path

    def answers(self) -> bool:
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Fault):  # a fault: it is shutting down
            return False

    def states(self) -> dict[str, ProcessState]:
        return {
            info["name"]: ProcessState(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                uptime_s=max(0, info["now"] - info["start"]) if info["pid"] else 0,
                description=info["description"],
            )
            for info in self._call("getAllProcessInfo")
        }

    def start(self, name: str) -> None:
        # A fault means that it runs already, or could not be spawned: its state tells which.
        with suppress(xmlrpc.client.Fault):
            self._call("startProcess", name, False)

    def stop(self, name: str) -> None:
        with suppress(xmlrpc.client.Fault):
            self._call("stopProcess", name, False)

    def shut_down(self) -> None:
        with suppress(xmlrpc.client.Fault):
            self._call("shutdown")

    def _call(self, method: str, *arguments: Any) -> Any:
        proxy = xmlrpc.client.ServerProxy(
            "http://localhost/RPC2", transport=_UnixTransport(self._socket_path)
        )
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except (http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise ConnectionError(f"supervisord does not answer: {error}") from error


def launch(run: Run, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start supervisord in a session of its own: Ctrl-C is for us, who then stop it in order."""
    run_dir = Path(run.run_dir)
    config = run_dir / "supervisord.conf"
    config.write_text(render(run.programs))
    Path(run.socket).unlink(missing_ok=True)
    with (run.logs / "supervisord.out").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)],
            cwd=run.root,
            # This one value is expanded twice.
            env={**environment, "RELAIS_LOGS_ESCAPED": str(run.logs).replace("%", "%%")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    supervisor = Supervisor(run.socket)
    deadline = time.monotonic() + 20
    while not supervisor.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            lines = (run.logs / "supervisord.out").read_text(errors="replace").strip().splitlines()
            raise StackError(f"supervisord did not start: {lines[-1] if lines else 'no message'}")
        time.sleep(0.05)
    return process


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_RPC_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        del host  # the socket says where
        return _UnixConnection(self._path)
