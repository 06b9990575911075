"""Is it ready? Asked over the network, as a client would, and never through a proxy."""

from __future__ import annotations

import http.client
import json
import socket

from stack import ports
from stack.model import Program, Run, Stage

_TIMEOUT_S = 2.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  to connect, not to bind


def reachable(host: str) -> str:
    """Where to connect for a server bound to `host`."""
    return _ANY_ADDRESS.get(host, host)


def why_not_ready(run: Run, program: Program, pid: int) -> str | None:
    """None when the program, which is process `pid`, is ready; else its reason in a few words."""
    reason = _answer(run, program)
    if reason is None and not ports.listens(pid, program.port):
        # Its own end, which is near, says why it could not have the port.
        return f"another program answers on port {program.port}"
    return reason


def _answer(run: Run, program: Program) -> str | None:
    if program.stage == Stage.MONGODB:
        return None if accepts(program.host, program.port) else "no answer"
    if not program.ready_path:
        return None if answers_ping(program.host, program.port, run.redis_password) else "no answer"
    connection = http.client.HTTPConnection(
        reachable(program.host), program.port, timeout=_TIMEOUT_S
    )
    try:
        connection.request("GET", program.ready_path)
        response = connection.getresponse()
        body = response.read(4096)
    except (OSError, http.client.HTTPException):
        return "no answer"
    finally:
        connection.close()
    return None if response.status == 200 else _reason(body) or f"HTTP {response.status}"


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["reason"])
    except (ValueError, TypeError, KeyError):
        return ""


def accepts(host: str, port: int) -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection((reachable(host), port), timeout=_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def answers_ping(host: str, port: int, password: str = "") -> bool:
    """Whether Redis is there and has read its append-only file."""
    try:
        with socket.create_connection((reachable(host), port), timeout=_TIMEOUT_S) as connection:
            if password:
                secret = password.encode()
                connection.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(secret), secret))
                if not connection.recv(64).startswith(b"+OK"):
                    return False
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
