"""Which ports are free."""

from __future__ import annotations

import atexit
import errno
import socket
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path

from stack.errors import StackError

_LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp has it


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
    """The first free port from `start` up that neither this run nor another one that is starting has given away."""
    for port in range(start, 65536):
        if port not in taken and is_free(host, port) and _reserve(port):
            return port
    raise StackError(f"no free port from {start} up on {host}")


def _reserve(port: int) -> bool:
    """Keep it from other starts on this machine until this process ends; by then a server listens there."""
    reservation = socket.socket(socket.AF_UNIX)
    try:
        # An abstract name (Linux): there is no file to clean up.
        reservation.bind(f"\0relais-port-{port}")
    except OSError as error:
        reservation.close()
        return error.errno != errno.EADDRINUSE
    atexit.register(reservation.close)
    return True


def listens(pid: int, port: int) -> bool:
    """Whether it is this process that listens there. True as well where the system does not tell."""
    inodes = set()
    try:
        for table in (Path(f"/proc/{pid}/net/tcp"), Path(f"/proc/{pid}/net/tcp6")):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return True
    for descriptor in descriptors:
        with suppress(OSError):
            if str(descriptor.readlink()) in inodes:
                return True
    return False
