"""Which ports are free."""

from __future__ import annotations

import errno
import socket
from collections.abc import Container, Mapping

from stack.errors import StackError


def of_setting(environment: Mapping[str, str], setting: str) -> int:
    """The port that a setting names."""
    value = environment[setting]
    if value.isascii() and value.isdigit() and 0 < int(value) < 65536:
        return int(value)
    raise StackError(f"{setting} is '{value}': set it to a port number")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def require_free(host: str, port: int, setting: str) -> None:
    try:
        if is_free(host, port):
            return
    except OSError as error:
        raise StackError(
            f"cannot listen on {host} port {port} ({error.strerror or error}): set {setting}"
        ) from None
    raise StackError(
        f"port {port} on {host} is taken: stop what listens there, or set {setting} to a free port"
    )


def first_free(host: str, start: int, taken: Container[int]) -> int:
    """The first free port from `start` up that this run has not given away."""
    for port in range(start, 65536):
        if port not in taken and is_free(host, port):
            return port
    raise StackError(f"no free port from {start} up on {host}")
