"""Ports for servers that must be told theirs, such as one that a test kills and starts again at the same place."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
# Below what the kernel gives to outgoing connections and to whoever binds port 0 (Linux: from 32,768 on).
_RANGE = range(20_000, 32_000)
_reservations: list[socket.socket] = []


def free_port() -> int:
    """A port on which nobody listens, and which no other test run of this machine gets while this one lives."""
    for port in random.sample(_RANGE, len(_RANGE)):
        reservation = _reserve(port)
        if reservation is None:
            continue
        if _can_be_bound(port):
            _reservations.append(reservation)
            return port
        reservation.close()
    raise RuntimeError(f"no port is free from {_RANGE.start} to {_RANGE.stop}")


def _reserve(port: int) -> socket.socket | None:
    """Whoever binds this name has the port; the kernel takes it back when the process ends, however it ends."""
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0relais-tests-port-{port}")
    except OSError:
        reservation.close()
        return None
    return reservation


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
