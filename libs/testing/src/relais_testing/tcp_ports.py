"""Ports for servers that need a fixed one, for example because a test restarts them."""

from __future__ import annotations

import atexit
import random
import socket

HOST = "127.0.0.1"
# Below what the kernel gives to outgoing connections and to whoever binds port 0 (Linux: from 32,768 on).
_RANGE = range(20_000, 32_000)


def free_port(*, in_a_row: int = 1) -> int:
    """Return a free port that no other test run of this machine gets while this one lives.

    With `in_a_row`, return the first of this many consecutive ports.
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
    """Reserve a port by binding its name, which the kernel frees when the process ends."""
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
