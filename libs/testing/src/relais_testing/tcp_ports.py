"""Ports for servers that must be told theirs, such as one that a test kills and starts again at the same place."""

from __future__ import annotations

import atexit
import random
import socket

HOST = "127.0.0.1"
# Below what the kernel gives to outgoing connections and to whoever binds port 0 (Linux: from 32,768 on).
_RANGE = range(20_000, 32_000)


def free_port(*, in_a_row: int = 1) -> int:
    """A port on which nobody listens, and which no other test run of this machine gets while this one lives.

    With `in_a_row` the first of so many, for services that count up from the port they are given.
    """
    for first in random.sample(_RANGE, len(_RANGE)):
        reservations: list[socket.socket] = []
        for port in range(first, first + in_a_row):
            reservation = _reserve(port)
            if reservation is None:
                break
            reservations.append(reservation)
            if not _can_be_bound(port):
                break
        else:
            for reservation in reservations:
                atexit.register(reservation.close)
            return first
        for reservation in reservations:
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
