"""Memory of large blocks goes back to the system, whatever lies between them."""

from __future__ import annotations

import subprocess
import sys

from relais_common.runtime.heap import SMALL_BYTES

PIECES_BETWEEN_SMALL_BLOCKS = """
import psutil
from relais_common.runtime import heap

heap.give_back()
process = psutil.Process()
before = process.memory_info().rss
kept, pieces = [], []
for number in range(1000):
    pieces.append(b"x" * (64 << 10))
    kept.append(bytes(1000))
peak = process.memory_info().rss
del pieces
print((peak - before) >> 20, (process.memory_info().rss - before) >> 20)
"""


def test_pieces_of_answers_leave_no_holes() -> None:
    assert SMALL_BYTES < 64 << 10
    command = [sys.executable, "-c", PIECES_BETWEEN_SMALL_BLOCKS]
    told = subprocess.run(command, capture_output=True, check=True, text=True)
    peak_mb, kept_mb = map(int, told.stdout.split())
    assert peak_mb >= 50
    assert kept_mb < peak_mb / 3
